//! The matrix itself: the trust model by hand, and everything tried against it.

use std::collections::{BTreeMap, BTreeSet};

use crate::acts::*;
use crate::stage::*;
use lapin::ExchangeKind;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use switchyard_common::broker::Session;
use switchyard_common::contract::access::Role;

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Try {
    Declare,
    Delete,
    Read,
    Purge,
    BindTo,
    Publish,
    BindFrom,
}

impl Try {
    const QUEUE: [Self; 5] = [Self::Declare, Self::Delete, Self::Read, Self::Purge, Self::BindTo];
    const EXCHANGE: [Self; 4] = [Self::Declare, Self::Delete, Self::Publish, Self::BindFrom];

    const fn letter(self) -> char {
        match self {
            Self::Declare => 'c',
            Self::Delete => 'd',
            Self::Read => 'r',
            Self::Purge => 'p',
            Self::BindTo => 't',
            Self::Publish => 'w',
            Self::BindFrom => 'f',
        }
    }
}

/// The trust model for queues, by hand.
fn queue_allowed(role: &Role, queue: &str, what: Try) -> bool {
    let full = [Try::Declare, Try::Delete, Try::Read, Try::Purge, Try::BindTo];
    let allowed: &[Try] = match role {
        Role::Dispatcher if queue == FOREIGN_QUEUE => &[],
        Role::Dispatcher => &full,
        Role::Upstream => match queue {
            // A queue's name is not told from an exchange's: it may write to the exchange `events`. It has nothing to bind it to.
            "events" => &[Try::BindTo],
            _ => &[],
        },
        Role::Pool(_) => match queue {
            "agent.blue.a-1" | "control.blue.a-1" => &[Try::Declare, Try::Delete, Try::Read, Try::Purge],
            // As above, with the exchange of that name.
            "dead-letters" => &[Try::BindTo],
            _ => &[],
        },
        Role::Subscriber(_) => match queue {
            "subscriber.billing.q" => &full,
            _ => &[],
        },
    };
    allowed.contains(&what)
}

/// The trust model for exchanges, by hand.
fn exchange_allowed(role: &Role, exchange: &str, what: Try) -> bool {
    let allowed: &[Try] = match (role, exchange) {
        (Role::Dispatcher, "") => &[Try::Publish],
        (Role::Dispatcher, FOREIGN_EXCHANGE) => &[],
        (Role::Dispatcher, _) => &[Try::Declare, Try::Delete, Try::Publish, Try::BindFrom],
        (Role::Upstream, "events") | (Role::Pool(_), "reports") => &[Try::Publish],
        (Role::Subscriber(_), "notifications") => &[Try::BindFrom],
        (Role::Upstream | Role::Pool(_) | Role::Subscriber(_), _) => &[],
    };
    allowed.contains(&what)
}

async fn try_queue(session: &Session, queue: &str, what: Try) -> bool {
    let channel = open(session).await;
    let none = FieldTable::default();
    match what {
        Try::Declare => {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            allowed(session.request(channel.queue_declare(queue.into(), options, none)).await)
        }
        Try::Delete => {
            allowed(session.request(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await)
        }
        Try::Read => {
            let getting = channel.basic_get(queue.into(), BasicGetOptions::default());
            allowed(session.request(getting).await)
        }
        Try::Purge => {
            allowed(session.request(channel.queue_purge(queue.into(), QueuePurgeOptions::default())).await)
        }
        Try::BindTo | Try::Publish | Try::BindFrom => unreachable!("tried in pairs"),
    }
}

async fn try_exchange(session: &Session, exchange: &str, what: Try) -> bool {
    let channel = open(session).await;
    match what {
        Try::Declare => {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declaring = channel.exchange_declare(
                exchange.into(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            );
            allowed(session.request(declaring).await)
        }
        Try::Delete => {
            let options = ExchangeDeleteOptions { if_unused: true, ..ExchangeDeleteOptions::default() };
            allowed(session.request(channel.exchange_delete(exchange.into(), options)).await)
        }
        Try::Publish | Try::BindFrom | Try::Read | Try::Purge | Try::BindTo => {
            unreachable!("tried elsewhere")
        }
    }
}

/// Every pair of queue and exchange, bound: the queues that something could be bound to, and the exchanges that anything could be bound from.
async fn bindings(stage: &Stage, session: &Session) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for queue in &stage.queues {
        // Everything is bound to the default exchange already, and cannot be bound to it again.
        for exchange in stage.exchanges.iter().filter(|name| !name.is_empty()) {
            if bind(session, queue, exchange, "x.y.z").await {
                found.insert((stage.local(queue).to_owned(), stage.local(exchange).to_owned()));
            }
        }
    }
    found
}

/// A key that the role may publish with, where it may at all.
fn good_key(role: &Role, exchange: &str) -> &'static str {
    match (role, exchange) {
        (Role::Pool(_), "reports") => "outcome.blue.a-1",
        (Role::Dispatcher | Role::Upstream | Role::Pool(_) | Role::Subscriber(_), _) => {
            "switchyard.task.submitted.v1"
        }
    }
}

#[tokio::test]
async fn every_role_may_do_what_the_trust_model_says_and_nothing_else() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let mut wrong = Vec::new();
    let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for role in roles() {
        let session = stage.accounts.session(&role).await?;
        let bound = bindings(&stage, &session).await;
        for queue in &stage.queues {
            let name = stage.local(queue);
            let mut cell = String::new();
            for what in Try::QUEUE.into_iter().filter(|what| *what != Try::BindTo) {
                let expected = queue_allowed(&role, name, what);
                // It would be gone; the right is the same as to declare, which is tried.
                if what == Try::Delete && expected {
                    cell.push(what.letter());
                    continue;
                }
                if try_queue(&session, queue, what).await != expected {
                    wrong.push(format!("{role}: {what:?} queue {name} should be allowed: {expected}"));
                }
                cell.push(if expected { what.letter() } else { '-' });
            }
            cell.push(if bound.iter().any(|(to, _)| to == name) { 't' } else { '-' });
            table.entry(format!("queue {name}")).or_default().push(cell);
        }
        for exchange in stage.exchanges.iter() {
            let name = stage.local(exchange);
            let mut cell = String::new();
            for what in Try::EXCHANGE {
                let expected = exchange_allowed(&role, name, what);
                let found = match what {
                    Try::Publish => publish(&session, exchange, good_key(&role, name)).await,
                    Try::BindFrom => bound.iter().any(|(_, from)| from == name),
                    // As with queues.
                    Try::Delete if expected => expected,
                    // Predeclared ones can be declared and deleted by nobody.
                    Try::Declare | Try::Delete if exchange.is_empty() => false,
                    Try::Declare | Try::Delete | Try::Read | Try::Purge | Try::BindTo => {
                        try_exchange(&session, exchange, what).await
                    }
                };
                if found != expected {
                    wrong.push(format!("{role}: {what:?} exchange {name:?} should be allowed: {expected}"));
                }
                cell.push(if expected { what.letter() } else { '-' });
            }
            table
                .entry(format!("exchange {}", if name.is_empty() { "(default)" } else { name }))
                .or_default()
                .push(cell);
        }
        // A binding needs both ends: write on the queue, read on the exchange.
        for queue in stage.queues.iter().map(|queue| stage.local(queue)) {
            for exchange in
                stage.exchanges.iter().map(|name| stage.local(name)).filter(|name| !name.is_empty())
            {
                let expected = queue_allowed(&role, queue, Try::BindTo)
                    && exchange_allowed(&role, exchange, Try::BindFrom);
                if bound.contains(&(queue.to_owned(), exchange.to_owned())) != expected {
                    wrong.push(format!(
                        "{role}: bind queue {queue} to {exchange} should be allowed: {expected}"
                    ));
                }
            }
        }
    }
    print(&table);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.remove().await
}

#[expect(clippy::print_stdout, reason = "the matrix is for whoever runs the test")]
fn print(table: &BTreeMap<String, Vec<String>>) {
    println!(
        "c declare, d delete, r read, p purge, t be bound to an exchange, w publish, f have something bound to it; - refused"
    );
    let roles = roles().map(|role| role.to_string());
    println!("{:34} {:12} {:12} {:12} {:12}", "", roles[0], roles[1], roles[2], roles[3]);
    for (name, cells) in table {
        println!("{name:34} {:12} {:12} {:12} {:12}", cells[0], cells[1], cells[2], cells[3]);
    }
}
