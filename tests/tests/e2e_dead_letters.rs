//! Dead letters on a real broker: whatever is nacked is joined with its reason, logged once, and can be replayed; whatever somebody
//! forges onto the dead-letter queue is stored and harms nobody.

use serde_json::json;
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher, declare, queue_counts};
use switchyard_common::config::Secret;
use switchyard_common::contract::topology::DEFAULT_EXCHANGE;
use switchyard_common::task::Status;
use switchyard_dispatcher::dead_letters::kept::LETTER_PAYLOAD_MAX_BYTES;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::wait::{Look, until};

#[tokio::test]
async fn a_failed_handler_leaves_one_letter_with_both_halves_one_line_and_a_replay() -> anyhow::Result<()> {
    let scenario = Scenario::new("dead_letters_failed_handler").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    upstream.submit("t-1", "shop", "once", json!({ "do": "fail", "log_lines": 2 })).await?;
    scenario.until_status("t-1", Status::Failed).await?;
    let letter = scenario.until_letter_of("t-1").await?;
    assert_eq!(letter.letter_key, "attempt:t-1#1");
    assert_eq!(letter.failure_kind.as_deref(), Some("handler_failed"));
    let queue = format!("{}.agent.default.agent-1", scenario.namespace);
    assert_eq!(letter.queue.as_deref(), Some(queue.as_str()), "{:?}", letter.remark);
    let exchange = letter.exchange.as_deref();
    assert_eq!(exchange, Some(DEFAULT_EXCHANGE), "where it was published, not where it was dead-lettered");
    assert_eq!(letter.x_death.as_ref().map(|deaths| deaths[0]["reason"].clone()), Some(json!("rejected")));
    let lines = dispatcher.log().with_message("dead letter", &[("task_id", "t-1")])?;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].level(), lines[0].text("agent_id")), ("ERROR", "agent-1"));

    let number = letter.letter_id.to_string();
    let payload = json!({ "do": "succeed" }).to_string();
    let command = ["dead-letters", "replay", &number, "--payload", &payload, "--by", "ada"];
    let ended = scenario.dispatcher("command").run(&command)?;
    assert!(ended.status.success(), "{}{}", show(&ended.stdout), show(&ended.stderr));
    let replayed = scenario.letters_of("t-1").await?;
    let again = replayed[0].replay_task_id.clone().unwrap_or_default();
    assert!(show(&ended.stdout).contains(&again), "{}", show(&ended.stdout));
    scenario.until_status(&again, Status::Succeeded).await?;
    let audit = scenario.dispatcher("command").run(&["audit"])?;
    assert!(audit.status.success(), "{}", show(&audit.stdout));
    Ok(())
}

#[tokio::test]
async fn anything_on_the_dead_letter_queue_is_stored_and_the_queue_runs_empty() -> anyhow::Result<()> {
    let scenario = Scenario::new("dead_letters_forged").await?;
    let mut dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let session = scenario.session("forger").await?;
    // The same as the dispatcher declares, which may not have come to it yet.
    declare(&session, &scenario.namespace.dispatcher_topology()).await?;
    let url = std::env::var("SWITCHYARD_AMQP_URL")?;
    let publisher = Publisher::start(&BrokerConfig::new(Secret::new(url), "forger"), "forger")?;
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0xff, 0x00, 0xfe],
        b"{\"type\":\"assignment\"}".to_vec(),
        b"[".repeat(10_000),
        vec![b'x'; LETTER_PAYLOAD_MAX_BYTES + 1],
        br#"{"id":"e","source":"s"}"#.to_vec(),
    ];
    let count = i64::try_from(bodies.len())?;
    for (number, body) in bodies.into_iter().enumerate() {
        let mut properties = Properties::persistent("text/plain");
        properties.headers.insert("x-death".into(), format!("forged {number}").as_str().into());
        let exchange = scenario.namespace.dead_letters_exchange();
        let outcome = publisher.publish(Outgoing::new(&exchange, "forged", properties, body, true)?).await;
        assert!(outcome.is_acked(), "{outcome:?}");
    }
    until("every forged message to be stored", MOVE_WITHIN, async || {
        let stored = scenario.count("SELECT count(*) FROM dead_letters WHERE origin = 'message'").await?;
        Ok(Look::holds(stored == count, || format!("{stored} of {count}")))
    })
    .await?;
    // What was not acked would go back to the queue now.
    dispatcher.stop().await?;
    let left = queue_counts(&session, &scenario.namespace.dead_letters_queue()).await?;
    assert_eq!(left.map(|counts| counts.messages), Some(0));
    Ok(())
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
