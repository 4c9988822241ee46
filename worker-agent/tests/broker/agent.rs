//! The agent on a real broker, with a stand-in for the dispatcher.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use switchyard_common::contract::artifact::{Manifest, split};
use switchyard_common::contract::assignment::{AgentMessage, AssignedApproval, Assignment, InputPart};
use switchyard_common::contract::control::Order;
use switchyard_common::contract::report::{InHand, NotStarted, OutcomeEnd, ReportBody, StoppedBy};
use switchyard_common::failure::FailureKind;
use switchyard_worker_agent::agent::FRAME_MAX_BYTES;
use switchyard_worker_agent::{AgentConfig, Finished};

use super::support::proxy::Proxy;
use super::support::{Bench, claim, is_assignment, url};

#[tokio::test]
async fn an_agent_says_hello_runs_what_it_is_assigned_and_acks_after_the_outcome() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let hello = bench.hello().await;
    assert_eq!((hello.slots, hello.credit, hello.sequence), (4, 4, 1));
    let work = bench.work(hello.session, json!({ "log_lines": 3, "artifact_bytes": 10 }));
    bench.assign(&work).await;
    let part = bench
        .report(|body| if let ReportBody::Artifact(part) = body { Some(part.clone()) } else { None })
        .await;
    assert_eq!((part.claim, part.part.bytes.len()), (claim(&work), 10));
    let outcome = bench.outcome(&work).await;
    let OutcomeEnd::Succeeded { changes: true, artifacts, .. } = outcome.end else { panic!("{outcome:?}") };
    assert_eq!((artifacts.0.len(), outcome.log_lines), (1, 3));
    let log =
        bench.report(|body| if let ReportBody::Log(log) = body { Some(log.clone()) } else { None }).await;
    assert_eq!(log.lines.iter().map(|line| line.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(agent.stop().await, Finished { left_count: 0 });
    // What was not acked would be back in the queue.
    assert_eq!(bench.waiting().await, 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn what_is_larger_than_many_frames_arrives_whole_both_ways() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let bytes = 20 * FRAME_MAX_BYTES;
    let filler = "x".repeat(usize::try_from(bytes).unwrap());
    let work = bench.work(session, json!({ "artifact_bytes": bytes, "filler": filler }));
    bench.assign(&work).await;
    let part = bench
        .report(|body| if let ReportBody::Artifact(part) = body { Some(part.clone()) } else { None })
        .await;
    assert_eq!(part.part.bytes.len(), filler.len());
    assert!(matches!(bench.outcome(&work).await.end, OutcomeEnd::Succeeded { .. }));
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_failure_is_reported_and_its_delivery_is_dead_lettered() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = bench.work(session, json!({ "do": "fail", "message": "out of eggs" }));
    bench.assign(&work).await;
    let outcome = bench.outcome(&work).await;
    let failure = outcome.end.failure().expect("a failure");
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::HandlerFailed, "out of eggs"));
    let letter = bench.letter(|letter| is_assignment(letter, &work)).await;
    assert!(letter.properties.headers.contains_key("x-death"), "{letter:?}");
    agent.stop().await;
    assert_eq!(bench.waiting().await, 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn incident_02_a_panic_ends_only_its_own_attempt_and_says_where_it_happened() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let other = bench.work(session, json!({ "do": "hang" }));
    bench.assign(&other).await;
    let work = bench.work(session, json!({ "do": "panic", "message": "empty checksum sliced" }));
    bench.assign(&work).await;
    let OutcomeEnd::Panicked { failure } = bench.outcome(&work).await.end else { panic!("not panicked") };
    assert_eq!(failure.message, "empty checksum sliced");
    assert!(failure.location.is_some_and(|location| location.contains("test_handler.rs")));
    assert!(failure.backtrace.is_some_and(|backtrace| backtrace.contains("test_handler")));
    bench.letter(|letter| is_assignment(letter, &work)).await;
    bench.heartbeat(|presence| lists_running(&presence.in_hand, &other)).await;
    bench.order(Order::Cancel { claim: claim(&other), force: false }).await;
    assert_eq!(bench.outcome(&other).await.end, OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher });
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_second_process_with_the_same_id_waits_until_the_first_is_gone() {
    let mut bench = Bench::new().await;
    let first = bench.start();
    let first_session = bench.hello().await.session;
    let second = bench.start();
    // Two further heartbeats of the first are time enough for the second to have said hello, were it wrong.
    for _ in 0..2 {
        bench.heartbeat(|presence| presence.session == first_session).await;
    }
    assert_eq!(bench.count(|body| matches!(body, ReportBody::Hello(_))), 0);
    first.stop().await;
    let second_session = bench.hello().await.session;
    assert_ne!(first_session, second_session);
    second.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_step_that_is_not_repeatable_runs_after_go_with_the_inputs_that_were_approved() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let files = BTreeMap::from([("plan".to_owned(), vec![7; 1_000])]);
    let mut work = once(&bench, session);
    work.inputs = Manifest::of(&files).unwrap();
    work.approval = Some(AssignedApproval {
        approved_by: "somebody".to_owned(),
        approved_at: Utc::now(),
        digest: work.inputs.digest(),
    });
    for part in split(&files) {
        let part = InputPart { key: work.key(), session, part };
        bench.send_part(&AgentMessage::InputPart(part)).await;
    }
    bench.assign(&work).await;
    let ask =
        bench.report(|body| if let ReportBody::Ask(ask) = body { Some(ask.clone()) } else { None }).await;
    assert_eq!(ask.claim, claim(&work));
    assert_eq!(bench.count(|body| matches!(body, ReportBody::Outcome(_))), 0);
    bench.order(Order::Go { key: work.key(), nonce: ask.nonce }).await;
    let end = bench.outcome(&work).await.end;
    let OutcomeEnd::Succeeded { result, .. } = end else { panic!("{end:?}") };
    assert_eq!(result, Some(json!({ "inputs": ["plan"] })));
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_no_go_is_answered_and_the_step_never_runs() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = once(&bench, session);
    bench.assign(&work).await;
    let ask =
        bench.report(|body| if let ReportBody::Ask(ask) = body { Some(ask.clone()) } else { None }).await;
    bench.order(Order::NoGo { key: work.key(), nonce: ask.nonce, reason: "test".to_owned() }).await;
    assert_eq!(bench.outcome(&work).await.end, OutcomeEnd::NotStarted { reason: NotStarted::NoGo });
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_revoke_for_an_assignment_that_never_came_is_answered() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = bench.work(session, json!({}));
    bench.order(Order::Revoke { claim: claim(&work), reason: "test".to_owned(), force: false }).await;
    assert_eq!(bench.outcome(&work).await.end, OutcomeEnd::NotStarted { reason: NotStarted::Revoked });
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_what_waits() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let running: Vec<Assignment> = (0..4).map(|_| bench.gated(session, json!({}))).collect();
    let waiting = bench.work(session, json!({}));
    for work in running.iter().chain([&waiting]) {
        bench.assign(work).await;
    }
    bench.heartbeat(|presence| presence.in_hand.len() == 5).await;
    agent.shutdown.trigger("test");
    bench.heartbeat(|presence| presence.draining).await;
    assert_eq!(bench.outcome(&waiting).await.end, OutcomeEnd::NotStarted { reason: NotStarted::Draining });
    bench.gate.add_permits(running.len());
    for work in &running {
        assert_eq!(bench.outcome(work).await.end.name(), "succeeded");
    }
    assert_eq!(agent.ended().await, Finished { left_count: 0 });
    assert_eq!(bench.waiting().await, 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn a_drain_stops_what_does_not_end_in_its_grace() {
    let mut bench = Bench::new().await;
    // Five seconds of grace for the handlers and three for the reports leave two.
    let agent = bench.start_with(bench.config(&url()), Duration::from_secs(10));
    let session = bench.hello().await.session;
    let work = bench.work(session, json!({ "do": "hang" }));
    bench.assign(&work).await;
    bench.heartbeat(|presence| lists_running(&presence.in_hand, &work)).await;
    agent.shutdown.trigger("test");
    assert_eq!(bench.outcome(&work).await.end, OutcomeEnd::Cancelled { by: StoppedBy::Drain });
    assert_eq!(agent.ended().await, Finished { left_count: 0 });
    bench.tear_down().await;
}

#[tokio::test]
async fn an_immediate_shutdown_leaves_what_runs() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = bench.work(session, json!({ "do": "hang" }));
    bench.assign(&work).await;
    bench.heartbeat(|presence| lists_running(&presence.in_hand, &work)).await;
    agent.shutdown.trigger_immediate("test");
    assert_eq!(agent.ended().await, Finished { left_count: 1 });
    bench.tear_down().await;
}

#[tokio::test]
async fn a_lost_connection_does_not_run_anything_twice_and_nothing_is_left_behind() {
    let mut bench = Bench::new().await;
    let proxy = Proxy::start(&url()).await;
    let agent = bench.start_with(bench.config(proxy.url()), Duration::from_secs(20));
    let session = bench.hello().await.session;
    let works: Vec<Assignment> =
        (0..4).map(|n| bench.gated(session, json!({ "fail": n % 2 == 1 }))).collect();
    for work in &works {
        bench.assign(work).await;
    }
    bench.heartbeat(|presence| presence.in_hand.len() == 4).await;
    proxy.cut();
    bench.heartbeat(|presence| presence.session == session && presence.in_hand.len() == 4).await;
    bench.gate.add_permits(works.len());
    for (n, work) in works.iter().enumerate() {
        let end = bench.outcome(work).await.end;
        assert_eq!(end.failure().is_some(), n % 2 == 1, "{end:?}");
    }
    for work in works.iter().skip(1).step_by(2) {
        bench.letter(|letter| is_assignment(letter, work)).await;
    }
    agent.stop().await;
    assert_eq!(bench.waiting().await, 0);
    assert_eq!(bench.count(|body| matches!(body, ReportBody::Outcome(_))), 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn a_message_that_is_not_of_the_contract_is_dead_lettered_and_disturbs_nothing() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    bench.to_agent(b"{\"type\":\"assignment\"}").await;
    let work = bench.work(session, json!({}));
    bench.assign(&work).await;
    assert_eq!(bench.outcome(&work).await.end.name(), "succeeded");
    bench.letter(|letter| letter.body == b"{\"type\":\"assignment\"}").await;
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn a_handler_that_runs_longer_than_its_timeout_is_stopped_and_nacked() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = Assignment { run_timeout_ms: 300, ..bench.work(session, json!({ "do": "hang" })) };
    bench.assign(&work).await;
    let end = bench.outcome(&work).await.end;
    assert_eq!(end.failure().map(|failure| failure.kind), Some(FailureKind::RunTimeout));
    bench.letter(|letter| is_assignment(letter, &work)).await;
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn an_agent_queue_that_was_deleted_is_declared_anew_and_work_in_hand_goes_on() {
    let mut bench = Bench::new().await;
    let agent = bench.start();
    let session = bench.hello().await.session;
    let work = bench.gated(session, json!({}));
    bench.assign(&work).await;
    bench.heartbeat(|presence| lists_running(&presence.in_hand, &work)).await;
    let queue = bench.namespace.agent_queue(&bench.agent.pool, &bench.agent.agent);
    switchyard_common::broker::delete_queue(&bench.session, &queue).await.unwrap();
    bench.heartbeat(|presence| presence.session == session && presence.sequence > 1).await;
    let next = bench.work(session, json!({}));
    bench.assign_when_possible(&next).await;
    assert_eq!(bench.outcome(&next).await.end.name(), "succeeded");
    bench.gate.add_permits(1);
    assert_eq!(bench.outcome(&work).await.end.name(), "succeeded");
    agent.stop().await;
    bench.tear_down().await;
}

#[tokio::test]
async fn an_agent_that_cannot_be_heard_ends_its_session_and_comes_back_with_a_new_one() {
    let mut bench = Bench::new().await;
    let proxy = Proxy::start(&url()).await;
    let config = AgentConfig { lost_timeout: Duration::from_millis(8_500), ..bench.config(proxy.url()) };
    let agent = bench.start_with(config, Duration::from_secs(20));
    let session = bench.hello().await.session;
    let exclusive = Assignment { exclusive: true, ..bench.gated(session, json!({})) };
    let shared = bench.gated(session, json!({}));
    for work in [&exclusive, &shared] {
        bench.assign(work).await;
    }
    bench.heartbeat(|presence| presence.in_hand.iter().filter(|one| one.running).count() == 2).await;
    proxy.refuse(true);
    proxy.cut();
    // Not a wait for something to happen: the silence itself, longer than the 6.5 s that end the session.
    tokio::time::sleep(Duration::from_secs(7)).await;
    proxy.refuse(false);
    let next = bench.hello().await.session;
    assert_ne!(next, session);
    assert_eq!(bench.outcome(&exclusive).await.end, OutcomeEnd::Cancelled { by: StoppedBy::Silence });
    bench.gate.add_permits(1);
    let outcome = bench.outcome(&shared).await;
    assert_eq!((outcome.end.name(), outcome.claim.session), ("succeeded", session));
    agent.stop().await;
    bench.tear_down().await;
}

fn once(bench: &Bench, session: switchyard_common::contract::ids::SessionId) -> Assignment {
    Assignment { exclusive: true, repeatable: false, ..bench.work(session, json!({})) }
}

fn lists_running(in_hand: &[InHand], work: &Assignment) -> bool {
    in_hand.iter().any(|one| one.key == work.key() && one.running)
}
