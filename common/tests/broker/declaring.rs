//! Declaring, locks, dead-lettering, and connections that fail to open.

use std::sync::Arc;
use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::*;
use switchyard_common::broker::headers::{HeaderValue, deaths};
use switchyard_common::broker::topology::{
    ArgumentValue, BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, QueueKind,
};
use switchyard_common::broker::{
    AckResult, ConnectionState, ConsumeConnection, DeclareError, Outgoing, Properties, Session, Setup,
    Subscription, declare, delete_queue, queue_counts,
};

#[tokio::test]
async fn an_exclusive_queue_is_declared_again_by_the_setup_of_each_connection() {
    let exclusive = exclusive_queue(&name("exclusive"));
    let proxy = Proxy::start(&url()).await;
    let connection =
        ConsumeConnection::start(&config_for(proxy.url()), "test-consume", setup_with(&exclusive)).unwrap();
    let mut events = connection.subscribe(Subscription::new(&exclusive.name, 5).no_ack());
    next_ready(&mut events).await;
    proxy.cut();
    next_lost(&mut events).await;
    next_ready(&mut events).await;
    let publisher = publisher(&config()).await;
    assert!(publisher.publish(to_queue(&exclusive.name, "hello")).await.is_acked());
    assert_eq!(body(&next_delivery(&mut events).await), "hello");
}

#[tokio::test]
async fn a_setup_that_meets_a_lock_says_so_and_succeeds_when_the_lock_is_gone() {
    let exclusive = exclusive_queue(&name("lock"));
    let owner = Session::open(&config(), "owner").await.unwrap();
    declare(&owner, &topology(exclusive.clone())).await.unwrap();

    let other = Session::open(&config(), "other").await.unwrap();
    let error = declare(&other, &topology(exclusive.clone())).await.unwrap_err();
    assert!(matches!(&error, DeclareError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains(&exclusive.name) && error.to_string().contains("locked"), "{error}");
    let error = queue_counts(&other, &exclusive.name).await.unwrap_err();
    assert!(matches!(&error, DeclareError::Locked { .. }), "{error:?}");

    let connection = ConsumeConnection::start(&config(), "test-consume", setup_with(&exclusive)).unwrap();
    let down = |state: &ConnectionState| matches!(state, ConnectionState::Down { reason, .. } if reason.contains("locked"));
    wait_for(connection.state(), down).await;
    owner.close().await;
    wait_up(connection.state()).await;
}

#[tokio::test]
async fn a_queue_with_other_settings_is_named_with_what_to_do() {
    let queue = Queue::new("differs").await;
    let other = classic(&queue.name, [("x-max-length", ArgumentValue::Integer(5))]);
    let error = declare(&queue.session, &topology(other)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, DeclareError::Differs { .. }), "{error:?}");
    for expected in [queue.name.as_str(), "x-max-length", "inequivalent", "delete it"] {
        assert!(text.contains(expected), "`{expected}` is missing in: {text}");
    }
    // Declaring the same again changes nothing.
    declare(&queue.session, &topology(classic(&queue.name, []))).await.unwrap();
    queue.delete().await;
}

#[tokio::test]
async fn a_nacked_message_reaches_the_dead_letter_queue_with_its_headers_and_its_death() {
    let session = Session::open(&config(), "test").await.unwrap();
    let (exchange, dead, work) = (name("dlx"), name("dead"), name("work"));
    let mut all =
        topology(classic(&work, [("x-dead-letter-exchange", ArgumentValue::Text(exchange.clone()))]));
    all.exchanges.push(ExchangeDecl { name: exchange.clone(), kind: ExchangeKind::Topic });
    all.queues.push(classic(&dead, []));
    all.bindings.push(BindingDecl { exchange, queue: dead.clone(), routing_key: "#".into() });
    declare(&session, &all).await.unwrap();

    let mut properties =
        Properties { message_id: Some("m-1".into()), ..Properties::persistent("text/plain") };
    properties.headers.insert("traceparent".into(), HeaderValue::from("00-trace"));
    let message = Outgoing::new("", &work, properties, b"work".to_vec(), true).unwrap();
    assert!(publisher(&config()).await.publish(message).await.is_acked());

    let connection = consumer(&config());
    let mut at_work = connection.subscribe(Subscription::new(&work, 1));
    next_ready(&mut at_work).await;
    assert_eq!(next_delivery(&mut at_work).await.acker.nack(false).await, AckResult::Sent);
    let mut at_dead = connection.subscribe(Subscription::new(&dead, 1));
    next_ready(&mut at_dead).await;
    let letter = next_delivery(&mut at_dead).await;
    let headers = &letter.message.properties.headers;
    assert_eq!(letter.message.properties.message_id.as_deref(), Some("m-1"));
    assert_eq!(headers.get("traceparent").and_then(HeaderValue::as_text), Some("00-trace"));
    let death = &deaths(headers)[0];
    assert_eq!((death.queue.as_str(), death.reason.as_str(), death.count), (work.as_str(), "rejected", 1));
    delete_queue(&session, &work).await.unwrap();
    delete_queue(&session, &dead).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_given_up_in_time() {
    // It accepts and then says nothing, like a broken load balancer.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut config = config_for(&format!("amqp://user:password@127.0.0.1:{port}/%2f"));
    config.connect_timeout = Duration::from_millis(200);
    let error = within(Session::open(&config, "test")).await.unwrap_err();
    assert!(error.to_string().contains("handshake"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_reported_without_showing_it() {
    let (scheme, rest) = url().split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).unwrap();
    let place = rest.rsplit_once('@').unwrap().1.to_owned();
    let config = config_for(&format!("{scheme}://nobody:hunter2@{place}"));
    let error = within(Session::open(&config, "test")).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("403") && !shown.contains("hunter2"), "{shown}");
}

fn exclusive_queue(name: &str) -> QueueDecl {
    QueueDecl {
        name: name.to_owned(),
        kind: QueueKind::Classic,
        durable: false,
        exclusive: true,
        auto_delete: false,
        arguments: [].into(),
    }
}

fn setup_with(queue: &QueueDecl) -> Setup {
    let topology = Arc::new(topology(queue.clone()));
    Arc::new(move |session| {
        let topology = Arc::clone(&topology);
        Box::pin(async move { declare(&session, &topology).await })
    })
}
