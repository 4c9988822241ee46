//! Ways around the matrix that a compromised pool may try.

use crate::acts::*;
use crate::stage::*;
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use switchyard_common::contract::access::Role;
use switchyard_common::contract::ids::AgentId;
use switchyard_common::contract::routing::ReportKind;

#[tokio::test]
async fn a_pool_may_report_under_its_own_name_and_under_no_other() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let session = stage.accounts.session(&Role::Pool(pool("blue"))).await?;
    let reports = stage.namespace.reports_exchange();
    for kind in ReportKind::ALL {
        let kind = kind.as_str();
        assert!(publish(&session, &reports, &format!("{kind}.blue.a-1")).await, "{kind}");
        assert!(
            publish(&session, &reports, &format!("{kind}.blue.another-agent-of-the-pool")).await,
            "{kind}"
        );
        for forged in [
            "red.a-1",
            "blue2.a-1",
            "blue",
            "blue.",
            "blue.a.b",
            "blue.A",
            "blue.a-1\n",
            "BLUE.a-1",
            ".a-1",
            "*.#",
        ] {
            assert!(!publish(&session, &reports, &format!("{kind}.{forged}")).await, "{kind}.{forged:?}");
        }
    }
    for forged in ["canary.r-1", "", "#", "outcome", "outcomes.blue.a-1", "x.outcome.blue.a-1"] {
        assert!(!publish(&session, &reports, forged).await, "{forged:?}");
    }
    for key in ["", "outcome.blue.a-1", "blue.a-1", "#"] {
        assert!(
            !publish(&session, &stage.namespace.dead_letters_exchange(), key).await,
            "a dead letter with {key:?}"
        );
    }
    stage.remove().await
}

#[tokio::test]
async fn a_pool_cannot_reach_the_reports_around_the_check_of_its_routing_keys() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let session = stage.accounts.session(&Role::Pool(pool("blue"))).await?;
    let reports = stage.namespace.reports_exchange();
    // An exchange under a name that it may declare, bound to the reports, would carry any key: but it may not publish there.
    let own = stage.namespace.control_queue(&pool("blue"), &AgentId::new("tunnel")?);
    let channel = open(&session).await;
    let declaring = channel.exchange_declare(
        own.as_str().into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions { auto_delete: false, ..ExchangeDeclareOptions::default() },
        FieldTable::default(),
    );
    session.request(declaring).await?;
    let binding = channel.exchange_bind(
        reports.as_str().into(),
        own.as_str().into(),
        "".into(),
        ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    session.request(binding).await?;
    assert!(!publish(&session, &own, "hello.red.a-1").await, "the tunnel carries forged reports");
    // Nor may anything of ours be bound into it.
    let sources =
        [reports.clone(), stage.namespace.events_exchange(), stage.namespace.notifications_exchange()];
    for source in &sources {
        let channel = open(&session).await;
        let binding = channel.exchange_bind(
            own.as_str().into(),
            source.as_str().into(),
            "#".into(),
            ExchangeBindOptions::default(),
            FieldTable::default(),
        );
        assert!(!allowed(session.request(binding).await), "{source} can be listened to");
    }
    let channel = open(&session).await;
    session.request(channel.exchange_delete(own.as_str().into(), ExchangeDeleteOptions::default())).await?;
    stage.remove().await
}

#[tokio::test]
async fn further_routing_keys_in_a_header_do_not_change_who_a_report_is_from() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let session = stage.accounts.session(&Role::Pool(pool("blue"))).await?;
    let channel = open(&session).await;
    session.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let mut headers = FieldTable::default();
    let others = vec![AMQPValue::LongString("outcome.red.a-1".into())];
    headers.insert("CC".into(), AMQPValue::FieldArray(others.into()));
    let properties = BasicProperties::default().with_headers(headers);
    let exchange = stage.namespace.reports_exchange();
    let publishing = channel.basic_publish(
        exchange.as_str().into(),
        "log.blue.a-1".into(),
        BasicPublishOptions::default(),
        b"x",
        properties,
    );
    session.request(session.request(publishing).await?).await?;
    // The broker routes by the header as well, but hands it over under the key that was checked.
    let channel = open(&stage.admin).await;
    let consuming = channel.basic_consume(
        stage.namespace.outcomes_queue().as_str().into(),
        "reader".into(),
        BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() },
        FieldTable::default(),
    );
    let mut deliveries = stage.admin.request(consuming).await?;
    let delivery = deliveries.next().await.expect("a delivery")?;
    assert_eq!(delivery.routing_key.as_str(), "log.blue.a-1");
    stage.remove().await
}
