//! Sessions, heartbeats and what agents have in hand.

use std::time::Duration;

use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId, SessionId};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{Refusal, ResolveTo};
use switchyard_dispatcher::pass;
use switchyard_dispatcher::presence::heard::{self, Rules, lose_silent};
use switchyard_dispatcher::presence::replicas::beat_once;
use switchyard_dispatcher::presence::sessions::Verdict;
use switchyard_dispatcher::store::act::{Act, Acted, Asked};
use switchyard_dispatcher::store::agents::{self, AgentAct};
use switchyard_dispatcher::store::presence::STILL_RUNNING_NOTE;
use switchyard_dispatcher::store::replicas;
use switchyard_dispatcher::store::route::orphaned;
use switchyard_tests::harness::seed::TaskSeed;
use uuid::Uuid;

use crate::world::*;

fn agent(name: &str) -> AgentRef {
    AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new(name).unwrap() }
}

fn session() -> SessionId {
    SessionId(Uuid::new_v4())
}

#[tokio::test]
async fn the_first_heartbeat_of_a_session_makes_its_agent_live_with_all_that_it_offers() {
    let world = World::new().await;
    let (agent, session) = (agent("worker-0"), session());
    let verdicts = world.beat(&world.database.db, &[heartbeat(&agent, session, 1, Vec::new())]).await;
    assert_eq!(verdicts, [Verdict::NewSession { supersedes: None }]);
    let offered = "agents WHERE live AND slots = 4 AND credit = 4 AND pod = 'worker-0-pod' AND node = 'node-1' \
        AND handlers = ARRAY['apply', 'plan']";
    assert_eq!(world.count(offered).await, 1);
    let verdicts = world.beat(&world.database.db, &[heartbeat(&agent, session, 2, Vec::new())]).await;
    assert_eq!(verdicts, [Verdict::Fresh]);
    let again = world.beat(&world.database.db, &[heartbeat(&agent, session, 2, Vec::new())]).await;
    assert_eq!(again, [Verdict::Stale], "the copy that another replica got");
}

#[tokio::test]
async fn a_new_session_supersedes_the_old_one_whose_attempts_are_lost() {
    let world = World::new().await;
    let old = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &old).await;
    world.started(&old, &claim).await;
    let new = session();
    let verdicts = world.beat(&world.database.db, &[heartbeat(&old.agent, new, 1, Vec::new())]).await;
    assert_eq!(verdicts, [Verdict::NewSession { supersedes: Some(old.session) }]);
    assert_eq!(world.sweeper(&world.database.db).agents().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "pending");
    let late = world.beat(&world.database.db, &[heartbeat(&old.agent, old.session, 99, Vec::new())]).await;
    assert_eq!(late, [Verdict::SessionOver], "an ended session is never accepted again");
    assert_eq!(world.count("agent_sessions WHERE ended_at IS NULL").await, 1);
}

#[tokio::test]
async fn incident_57_two_processes_with_one_id_never_both_have_the_current_session() {
    let world = World::new().await;
    let agent = agent("worker-0");
    let other = world.database.another_replica();
    for _ in 0..10 {
        let (one, two) =
            ([heartbeat(&agent, session(), 1, Vec::new())], [heartbeat(&agent, session(), 1, Vec::new())]);
        futures::join!(world.beat(&world.database.db, &one), world.beat(&other, &two));
        assert_eq!(world.count("agent_sessions WHERE ended_at IS NULL").await, 1);
        let agrees = "agents g JOIN agent_sessions s ON s.session = g.session AND s.ended_at IS NULL";
        assert_eq!(world.count(agrees).await, 1);
    }
}

#[tokio::test]
async fn the_same_heartbeat_at_two_replicas_at_once_begins_one_session() {
    let world = World::new().await;
    let other = world.database.another_replica();
    for n in 0..10 {
        let beat = [heartbeat(&agent(&format!("worker-{n}")), session(), 1, Vec::new())];
        let (one, two) = futures::join!(world.beat(&world.database.db, &beat), world.beat(&other, &beat));
        let mut verdicts = [one[0], two[0]];
        verdicts.sort_by_key(|verdict| verdict.as_str());
        assert_eq!(verdicts, [Verdict::NewSession { supersedes: None }, Verdict::Stale]);
    }
}

#[tokio::test]
async fn a_pool_comes_into_being_by_a_hello_only_where_that_is_allowed() {
    let world = World::new().await;
    let stranger = AgentRef { pool: PoolId::new("other").unwrap(), agent: AgentId::new("worker-0").unwrap() };
    let beat = [heartbeat(&stranger, session(), 1, Vec::new())];
    let rules = Rules { allow_new_pools: false, lost_after: LOST_AFTER, silence_counts: true };
    let (verdicts, _) = heard::store(&world.database.db, &beat, rules).await.unwrap();
    assert_eq!(verdicts, [Verdict::UnknownPool]);
    assert_eq!(world.count("pools").await, 1);
    assert_eq!(world.beat(&world.database.db, &beat).await, [Verdict::NewSession { supersedes: None }]);
    assert_eq!(world.count("pools").await, 2);
}

#[tokio::test]
async fn incident_63_a_heartbeat_of_a_revoked_pool_is_not_heard() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    world.seed().execute("UPDATE pools SET revoked_at = now()", &[]).await;
    let beat = |sequence| [heartbeat(&agent.agent, agent.session, sequence, Vec::new())];
    assert_eq!(world.beat(&world.database.db, &beat(5)).await, [Verdict::PoolRevoked]);
    world.sweeper(&world.database.db).agents().await.unwrap();
    assert_eq!(
        world.beat(&world.database.db, &beat(6)).await,
        [Verdict::SessionOver],
        "told to stop what it has"
    );
}

#[tokio::test]
async fn incident_30_there_is_one_source_of_liveness_and_the_scheduler_reads_it() {
    let world = World::new().await;
    let agent = agent("worker-0");
    let first = session();
    world.beat(&world.database.db, &[heartbeat(&agent, first, 1, Vec::new())]).await;
    let task = world.seed().task(&TaskSeed::new("t", "w", "plan")).await;
    world.seed().execute("UPDATE agents SET last_seen = now() - interval '21 s'", &[]).await;
    assert_eq!(lose_silent(&world.database.db, LOST_AFTER).await.unwrap().len(), 1);
    let pool = PoolId::new("default").unwrap();
    assert!(pass::run_once(&world.database.db, &pool).await.unwrap().assigned.is_empty());
    world.beat(&world.database.db, &[heartbeat(&agent, session(), 1, Vec::new())]).await;
    assert_eq!(pass::run_once(&world.database.db, &pool).await.unwrap().assigned.len(), 1);
    assert_eq!(world.seed().status(&task).await, "assigned");
}

#[tokio::test]
async fn only_agents_that_are_silent_by_the_database_clock_are_lost() {
    let world = World::new().await;
    for (name, seconds) in [("worker-0", 10), ("worker-1", 21)] {
        world.seed().agent("default", name).await;
        let sql = "UPDATE agents SET last_seen = now() - $2::integer * interval '1 s' WHERE agent_id = $1";
        world.seed().execute(sql, &[&name, &seconds]).await;
    }
    let lost = lose_silent(&world.database.db, LOST_AFTER).await.unwrap();
    assert_eq!(lost.iter().map(|lost| lost.agent.to_string()).collect::<Vec<_>>(), ["default/worker-1"]);
    assert_eq!(world.count("agent_sessions WHERE end_reason = 'silent'").await, 1);
    assert!(lose_silent(&world.database.db, LOST_AFTER).await.unwrap().is_empty(), "each is lost once");
}

#[tokio::test]
async fn an_agent_that_drained_and_went_is_not_called_lost() {
    let world = World::new().await;
    world.seed().agent("default", "worker-0").await;
    world.seed().execute("UPDATE agents SET draining = true, last_seen = now() - interval '1 h'", &[]).await;
    let lost = lose_silent(&world.database.db, LOST_AFTER).await.unwrap();
    assert!(lost[0].drained);
    assert_eq!(world.count("agent_sessions WHERE end_reason = 'drained'").await, 1);
}

#[tokio::test]
async fn incident_68_another_replica_leaves_the_healthy_attempts_of_others_alone() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.started(&agent, &claim).await;
    let newcomer = world.database.another_replica();
    let sweeper = world.sweeper(&newcomer);
    for swept in
        [sweeper.agents().await, sweeper.attempts().await, sweeper.deadlines().await, sweeper.stops().await]
    {
        assert_eq!(swept.unwrap(), 0);
    }
    assert!(lose_silent(&newcomer, LOST_AFTER).await.unwrap().is_empty());
    assert_eq!(world.seed().status(&task).await, "running");
}

/// The attempt was confirmed, and started if it was, long ago.
async fn confirmed_long_ago(world: &World) {
    let sql = "UPDATE attempts SET confirmed_at = now() - interval '1 min', \
        started_at = CASE WHEN started_at IS NOT NULL THEN now() - interval '1 min' END";
    world.seed().execute(sql, &[]).await;
}

#[tokio::test]
async fn an_attempt_that_two_heartbeats_do_not_list_is_asked_to_stop() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let silent = |sequence| [heartbeat(&agent.agent, agent.session, sequence, Vec::new())];
    world.beat(&world.database.db, &silent(2)).await;
    assert_eq!(world.count("attempts WHERE unlisted > 0").await, 0, "not confirmed: it may be on its way");
    world.seed().execute("UPDATE attempts SET confirmed_at = now()", &[]).await;
    world.beat(&world.database.db, &silent(3)).await;
    assert_eq!(
        world.count("attempts WHERE unlisted > 0").await,
        0,
        "confirmed just now: it may be on its way"
    );
    confirmed_long_ago(&world).await;
    let sweeper = world.sweeper(&world.database.db);
    world.beat(&world.database.db, &silent(4)).await;
    assert_eq!(sweeper.agents().await.unwrap(), 0, "one heartbeat is not enough");
    let listing = [heartbeat(&agent.agent, agent.session, 5, vec![in_hand(&claim, false)])];
    world.beat(&world.database.db, &listing).await;
    assert_eq!(
        world.count("attempts WHERE unlisted > 0").await,
        0,
        "one that lists it starts the count anew"
    );
    world.beat(&world.database.db, &silent(6)).await;
    world.beat(&world.database.db, &silent(7)).await;
    assert_eq!(sweeper.agents().await.unwrap(), 1);
    assert!(matches!(&world.told()[..], [Order::Revoke { claim: told, .. }] if *told == claim));
    assert_eq!(sweeper.agents().await.unwrap(), 0, "asked once; the request is durable");
}

#[tokio::test]
async fn an_apply_that_its_agent_does_not_list_any_more_is_uncertain() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, _) = world.applying("t", &agent).await;
    confirmed_long_ago(&world).await;
    for sequence in 2..4 {
        world.beat(&world.database.db, &[heartbeat(&agent.agent, agent.session, sequence, Vec::new())]).await;
    }
    assert_eq!(world.sweeper(&world.database.db).agents().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "uncertain");
}

#[tokio::test]
async fn nothing_is_held_against_an_attempt_while_outcomes_wait_unread() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    world.applying("t", &agent).await;
    confirmed_long_ago(&world).await;
    let rules = Rules { allow_new_pools: true, lost_after: LOST_AFTER, silence_counts: false };
    for sequence in 2..9 {
        let beat = [heartbeat(&agent.agent, agent.session, sequence, Vec::new())];
        heard::store(&world.database.db, &beat, rules).await.unwrap();
    }
    assert_eq!(world.sweeper(&world.database.db).agents().await.unwrap(), 0);
}

#[tokio::test]
async fn an_uncertain_task_shows_that_its_agent_still_runs_it() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.applying("t", &agent).await;
    world.seed().execute("UPDATE agents SET last_seen = now() - interval '21 s'", &[]).await;
    lose_silent(&world.database.db, LOST_AFTER).await.unwrap();
    world.sweeper(&world.database.db).agents().await.unwrap();
    assert_eq!(world.seed().status(&task).await, "uncertain");
    for sequence in 2..5 {
        let beat = [heartbeat(&agent.agent, agent.session, sequence, vec![in_hand(&claim, true)])];
        assert_eq!(world.beat(&world.database.db, &beat).await, [Verdict::SessionOver]);
    }
    assert_eq!(
        world.seed().status(&task).await,
        "uncertain",
        "it stays so until its outcome or an operator ends it"
    );
    let notes = world.seed().notes(&task).await;
    assert_eq!(notes.iter().filter(|note| *note == STILL_RUNNING_NOTE).count(), 1, "noted once");
}

#[tokio::test]
async fn incident_71_every_kind_counts_against_the_places_of_its_agent() {
    let world = World::new().await;
    let agent = agent("worker-0");
    let mut beat = heartbeat(&agent, session(), 1, Vec::new());
    (beat.presence.slots, beat.presence.credit) = (2, 1);
    world.beat(&world.database.db, &[beat]).await;
    for (n, kind) in ["plan", "drift_check", "plan", "drift_check", "plan_and_apply"].into_iter().enumerate()
    {
        world.seed().task(&TaskSeed::new(&format!("t{n}"), "w", kind)).await;
    }
    let pool = PoolId::new("default").unwrap();
    for _ in 0..3 {
        pass::run_once(&world.database.db, &pool).await.unwrap();
    }
    let open = world.count("attempts WHERE ended_at IS NULL").await;
    assert!((2..=3).contains(&open), "slots 2 and credit 1, whatever the kind: {open} are open");
}

#[tokio::test]
async fn publishes_of_a_replica_are_taken_over_only_when_its_own_sign_of_life_is_stale() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    world.assigned("t", "plan", &agent).await;
    let stale_after = Duration::from_millis(1_500);
    let other = world.database.another_replica();
    world.seed().execute("UPDATE attempts SET published_at = now() - interval '1 min'", &[]).await;
    beat_once(&world.database.db).await.unwrap();
    assert!(orphaned(&other, stale_after).await.unwrap().is_empty());
    world.seed().execute("UPDATE replicas SET heartbeat_at = now() - interval '2 s'", &[]).await;
    assert_eq!(orphaned(&other, stale_after).await.unwrap().len(), 1);
    beat_once(&world.database.db).await.unwrap();
    assert!(orphaned(&other, stale_after).await.unwrap().is_empty(), "it lives again");
    let beat = async |publishes| replicas::replica_beat(&world.database.db, "host", None, publishes).await;
    beat(false).await.unwrap();
    assert_eq!(orphaned(&other, stale_after).await.unwrap().len(), 1, "it lives, but cannot send");
    beat(true).await.unwrap();
    assert!(orphaned(&other, stale_after).await.unwrap().is_empty(), "it can send again");
    replicas::replica_ends(&world.database.db).await.unwrap();
    assert_eq!(orphaned(&other, stale_after).await.unwrap().len(), 1, "it has ended in order");
}

#[tokio::test]
async fn the_row_of_a_silent_replica_outlives_the_end_of_another_because_only_the_broker_knows_what_it_has_in_hand()
 {
    let world = World::new().await;
    let other = world.database.another_replica();
    beat_once(&world.database.db).await.unwrap();
    beat_once(&other).await.unwrap();
    let silent = "UPDATE replicas SET heartbeat_at = now() - interval '2 days' WHERE replica_id = $1";
    world.seed().execute(silent, &[&other.replica]).await;
    replicas::replica_ends(&world.database.db).await.unwrap();
    assert_eq!(world.count("replicas").await, 1, "the silent one");
    replicas::forget_replicas(&world.database.db, &[other.replica]).await.unwrap();
    assert_eq!(world.count("replicas").await, 0, "the broker was asked");
}

/// An uncertain task whose agent fell silent.
async fn uncertain(world: &World, agent: &switchyard_tests::harness::seed::AgentSeed) -> Claim {
    let (task, claim) = world.applying("t", agent).await;
    world.seed().execute("UPDATE agents SET last_seen = now() - interval '21 s'", &[]).await;
    lose_silent(&world.database.db, LOST_AFTER).await.unwrap();
    world.sweeper(&world.database.db).agents().await.unwrap();
    assert_eq!(world.seed().status(&task).await, "uncertain");
    claim
}

async fn resolve(world: &World, claim: &Claim) -> Acted {
    let act = Act::Resolve { to: ResolveTo::Failed, override_reason: None };
    let asked =
        Asked { task_id: claim.task_id.clone(), act, by: "eve".into(), detail: serde_json::json!({}) };
    switchyard_dispatcher::store::act::act(&world.database.db, &asked).await.unwrap()
}

#[tokio::test]
async fn neither_silence_nor_a_fence_proves_that_a_process_has_ended() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let claim = uncertain(&world, &agent).await;
    for reason in ["silent", "fenced", "drained"] {
        world.seed().execute("UPDATE agent_sessions SET end_reason = $1", &[&reason]).await;
        assert_eq!(resolve(&world, &claim).await, Acted::Refused(Refusal::SessionMayLive), "{reason}");
    }
}

#[tokio::test]
async fn an_uncertain_task_is_resolved_when_a_newer_session_of_its_agent_does_not_run_it() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let claim = uncertain(&world, &agent).await;
    let newer = session();
    for sequence in 1..4 {
        // The same process under a new session: it goes on with what it may not stop.
        let beat = [heartbeat(&agent.agent, newer, sequence, vec![in_hand(&claim, true)])];
        world.beat(&world.database.db, &beat).await;
        assert_eq!(resolve(&world, &claim).await, Acted::Refused(Refusal::SessionMayLive));
    }
    world.beat(&world.database.db, &[heartbeat(&agent.agent, newer, 4, Vec::new())]).await;
    assert!(matches!(resolve(&world, &claim).await, Acted::Changed(_)));
}

#[tokio::test]
async fn an_uncertain_task_is_resolved_when_the_container_of_its_session_terminated() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let claim = uncertain(&world, &agent).await;
    let db = &world.database.db;
    let other = AgentAct::Terminated(session());
    assert!(!agents::act(db, &agent.agent, other, "eve", None).await.unwrap(), "not a session of it");
    assert_eq!(resolve(&world, &claim).await, Acted::Refused(Refusal::SessionMayLive));
    let terminated = AgentAct::Terminated(agent.session);
    assert!(agents::act(db, &agent.agent, terminated, "eve", Some("exit code 137")).await.unwrap());
    assert!(matches!(resolve(&world, &claim).await, Acted::Changed(_)));
    assert_eq!(world.count("audit_log WHERE action = 'terminated' AND actor = 'eve'").await, 1);
}
