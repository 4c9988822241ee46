//! The work: drawn from the seed, published with confirms, and written down whatever becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher};
use switchyard_common::config::Secret;
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::spawn_guarded;
use uuid::Uuid;

use super::behaviour::{Behaviour, Ends};
use super::book::{Book, Intent, Purpose};
use super::mixes::Cancels;
use crate::sim::dice::Dice;

/// `source` of the events.
pub const SOURCE: &str = "/chaos/upstream";
/// The pool of every agent.
pub const POOL: &str = "default";
/// Workspaces: few, so that exclusive tasks meet in them.
const WORKSPACES: u64 = 12;
/// Wait before an event is published again that the broker has not confirmed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Longest wait before a copy of an event follows it, in milliseconds.
const COPY_AFTER_MAX_MS: u64 = 3_000;

/// Publishes, and keeps the book.
pub struct Load {
    publisher: Publisher,
    namespace: Namespace,
    book: Arc<Book>,
    cancels: Cancels,
    stopped: AtomicBool,
}

impl Load {
    /// A publisher by this way to the broker.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn start(
        amqp_url: &str,
        namespace: Namespace,
        book: Arc<Book>,
        cancels: Cancels,
    ) -> anyhow::Result<Arc<Self>> {
        let config = BrokerConfig::new(Secret::new(amqp_url), "chaos-upstream");
        let publisher = Publisher::start(&config, "publish")?;
        Ok(Arc::new(Self { publisher, namespace, book, cancels, stopped: AtomicBool::new(false) }))
    }

    /// Gives up what the broker has not confirmed by now.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Draws a task and publishes it, with what follows it: copies, a cancel.
    pub fn submit_drawn(self: &Arc<Self>, number: u64, dice: &mut Dice) {
        let intent = draw(number, dice);
        let event = submission(&intent);
        let task = intent.task.clone();
        self.book.intend(intent);
        self.publish(event.clone(), Purpose::Submit, &task, Duration::ZERO);
        if dice.chance(100) {
            self.publish(event.clone(), Purpose::Submit, &task, millis(dice.below(COPY_AFTER_MAX_MS)));
        }
        if dice.chance(20) {
            let mut other = event;
            other.data["payload"]["other"] = json!(true);
            self.publish(other, Purpose::Conflict, &task, millis(1_000 + dice.below(COPY_AFTER_MAX_MS)));
        }
        if dice.chance(self.cancels.per_mille) {
            self.cancel(&task, dice.chance(500), millis(dice.below(self.cancels.after_max_ms)));
        }
    }

    /// Publishes a task that was made for something.
    pub fn submit(self: &Arc<Self>, intent: Intent) {
        let (event, task) = (submission(&intent), intent.task.clone());
        self.book.intend(intent);
        self.publish(event, Purpose::Submit, &task, Duration::ZERO);
    }

    /// Approves what a task waits with.
    pub fn approve(self: &Arc<Self>, task: &str) {
        let data = json!({ "task_id": task, "approved_by": "chaos" });
        self.publish(event(EventType::TaskApproved, data), Purpose::Approve, task, Duration::ZERO);
    }

    /// Discards what a task waits with.
    pub fn discard(self: &Arc<Self>, task: &str) {
        let data = json!({ "task_id": task, "discarded_by": "chaos" });
        self.publish(event(EventType::TaskDiscarded, data), Purpose::Discard, task, Duration::ZERO);
    }

    fn cancel(self: &Arc<Self>, task: &str, force: bool, after: Duration) {
        let data = json!({ "task_id": task, "requested_by": "chaos", "force": force });
        self.publish(event(EventType::TaskCancelRequested, data), Purpose::Cancel, task, after);
    }

    fn publish(self: &Arc<Self>, event: CloudEvent, purpose: Purpose, task: &str, after: Duration) {
        let number = self.book.begin(&event.id, purpose, task);
        let load = Arc::clone(self);
        drop(spawn_guarded("chaos-publish", async move {
            tokio::time::sleep(after).await;
            load.until_confirmed(number, &event).await;
        }));
    }

    /// The same event again and again until the broker confirms it, as an upstream does that must not lose it.
    async fn until_confirmed(&self, number: usize, event: &CloudEvent) {
        while !self.stopped.load(Ordering::Relaxed) {
            let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
            properties.message_id = Some(event.id.clone());
            let body = serde_json::to_vec(event).unwrap_or_default();
            let exchange = self.namespace.events_exchange();
            let Ok(message) = Outgoing::new(&exchange, &event.event_type, properties, body, true) else {
                return;
            };
            self.book.tried(number);
            if self.publisher.publish(message).await.is_acked() {
                return self.book.confirmed(number);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

fn event(event_type: EventType, data: Value) -> CloudEvent {
    CloudEvent::new(Uuid::now_v7().to_string(), SOURCE, event_type.as_str(), data)
}

fn submission(intent: &Intent) -> CloudEvent {
    let mut payload = json!({ "plan": intent.plan });
    if let Some(apply) = &intent.apply {
        payload["apply"] = json!(apply);
    }
    let mut data = json!({
        "task_id": intent.task, "workspace_id": intent.workspace, "pool": POOL, "kind": intent.kind, "payload": payload,
        "priority": intent.priority,
    });
    if intent.auto_approve {
        data["auto_approve"] = json!(true);
    }
    event(EventType::TaskSubmitted, data)
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The task of a number.
fn draw(number: u64, dice: &mut Dice) -> Intent {
    let kind = dice.weighted(&[(45, "plan_and_apply"), (40, "plan"), (15, "drift_check")]).unwrap_or("plan");
    let plan = dice.weighted(&[
        (86, Ends::Succeeds),
        (5, Ends::FindsNothing),
        (4, Ends::FailsOnce),
        (3, Ends::Fails),
        (2, Ends::Crashes),
    ]);
    let apply = dice.weighted(&[(92, Ends::Succeeds), (5, Ends::Fails), (3, Ends::Crashes)]);
    let (plan_ms, apply_ms) = (dice.between(30, 900), dice.between(30, 900));
    // Long enough to outlive its agent's silence; quick when it is tried again, so that its successors would meet what should be dead.
    let long_ms = dice.between(20_000, 28_000);
    let plan_ms = if dice.chance(50) { long_ms } else { plan_ms };
    let apply_ms = if dice.chance(25) { long_ms / 4 } else { apply_ms };
    let exclusive = kind == "plan_and_apply";
    Intent {
        task: format!("t-{number}"),
        workspace: format!("w-{}", dice.below(WORKSPACES)),
        kind,
        priority: dice.below(10),
        auto_approve: exclusive && dice.chance(500),
        plan: Behaviour {
            first_ms: plan_ms,
            later_ms: plan_ms.min(300),
            ends: plan.unwrap_or(Ends::Succeeds),
        },
        apply: exclusive.then_some(Behaviour {
            first_ms: apply_ms,
            later_ms: apply_ms,
            ends: apply.unwrap_or(Ends::Succeeds),
        }),
    }
}

/// A plan that succeeds after so long, for the probes after the faults and for tasks that outlive the consumer timeout.
#[must_use]
pub fn plain(task: String, workspace: String, kind: &'static str, run_ms: u64) -> Intent {
    let behaviour = Behaviour { first_ms: run_ms, later_ms: run_ms, ends: Ends::Succeeds };
    let exclusive = kind == "plan_and_apply";
    let apply = exclusive.then_some(behaviour);
    Intent { task, workspace, kind, priority: 9, auto_approve: exclusive, plan: behaviour, apply }
}
