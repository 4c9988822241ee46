//! The one loop: inputs from everywhere into the machine, its effects to everywhere, nothing awaited in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use switchyard_common::broker::{BrokerConfigError, Incoming, Publisher};
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::control::Control;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::ids::RandomIds;
use super::limits::{
    CLOSE_MAX_MS, DRAIN_REPORT_MS, LOG_FLUSH_MAX_MS, LOG_QUEUE_MAX_LINES, SETTLE_FLUSH_MAX_MS, TURN_MAX_COUNT,
};
use super::link::{Link, LinkEvent};
use super::log_shipper::LogShipper;
use super::notes;
use super::outbox::Outbox;
use super::reports::ReportWriter;
use super::runner::Runner;
use super::settler::Settler;
use super::traces::Traces;
use crate::agent::{AgentConfig, AgentError};
use crate::handler::Handlers;
use crate::health::Vitals;
use crate::machine::limits::TICK_MS;
use crate::machine::{Effect, Input, Machine, Publish, Settings};

/// Names of the tasks under the loop.
const OUTBOX: &str = "agent-outbox";
const SHIPPER: &str = "agent-logs";
const SETTLER: &str = super::settler::TASK;

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Attempts that were still in hand: none after a drain in time. They are settled by the end of their session.
    pub left_count: usize,
}

/// An agent that runs.
pub(crate) struct Driver {
    machine: Machine,
    link: Link,
    settler: Settler,
    runner: Runner,
    publisher: Publisher,
    reports: mpsc::UnboundedSender<Publish>,
    inputs: mpsc::UnboundedReceiver<Input>,
    epoch: Arc<AtomicI64>,
    outbox: GuardedTask<()>,
    shipper: GuardedTask<()>,
    logs_closing: CancellationToken,
    traces: Traces,
    vitals: Vitals,
    shutdown: Shutdown,
    drained: bool,
}

/// How far the process's own shutdown has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    Requested,
    GraceOver,
}

impl Driver {
    /// Starts the connections and tasks of an agent. Must be called within a Tokio runtime.
    pub(crate) fn start(
        config: &AgentConfig,
        settings: Settings,
        handlers: Handlers,
        shutdown: Shutdown,
        vitals: Vitals,
    ) -> Result<Self, BrokerConfigError> {
        let publisher = Publisher::start(&config.broker, "publish")?;
        let link = Link::start(&config.broker, &config.namespace, &settings.agent, settings.prefetch())?;
        let traces = Traces::default();
        let writer = ReportWriter::new(&config.namespace, settings.agent.clone(), traces.clone());
        let (answers, inputs) = mpsc::unbounded_channel();
        let (reports, to_publish) = mpsc::unbounded_channel();
        let (lines, queued_lines) = mpsc::channel(LOG_QUEUE_MAX_LINES);
        let epoch = Arc::new(AtomicI64::new(0));
        let logs_closing = CancellationToken::new();
        let outbox =
            Outbox::new(publisher.clone(), writer.clone(), to_publish, answers.clone(), settings.heartbeat);
        let shipper = LogShipper {
            publisher: publisher.clone(),
            writer,
            lines: queued_lines,
            epoch: Arc::clone(&epoch),
            closing: logs_closing.clone(),
        };
        Ok(Self {
            machine: Machine::new(settings, Box::new(RandomIds)),
            link,
            settler: Settler::start(),
            runner: Runner::new(handlers, lines, answers),
            publisher,
            reports,
            inputs,
            epoch,
            outbox: spawn_guarded(OUTBOX, outbox.run()),
            shipper: spawn_guarded(SHIPPER, shipper.run()),
            logs_closing,
            traces,
            vitals,
            shutdown,
            drained: false,
        })
    }

    /// Runs until the shutdown is over.
    ///
    /// # Errors
    /// When one of its own tasks has panicked: without it nothing can be reported or settled, so the process has to start anew.
    pub(crate) async fn run(mut self) -> Result<Finished, AgentError> {
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain = Drain::No;
        let shutdown = self.shutdown.clone();
        let (mut requested, mut immediate) = (Box::pin(shutdown.requested()), Box::pin(shutdown.immediate()));
        let broken = loop {
            if self.drained {
                break None;
            }
            tokio::select! {
                biased;
                () = &mut immediate => break None,
                _ = &mut self.outbox => break Some(OUTBOX),
                _ = &mut self.shipper => break Some(SHIPPER),
                _ = self.settler.task() => break Some(SETTLER),
                () = &mut requested, if drain == Drain::No => {
                    drain = Drain::Requested;
                    self.give(Input::DrainRequested);
                }
                _ = tick.tick() => {
                    if drain == Drain::Requested && self.grace_is_over() {
                        drain = Drain::GraceOver;
                        self.give(Input::DrainGraceOver);
                    }
                    self.link.check();
                    self.give(Input::Tick);
                }
                Some(input) = self.inputs.recv() => self.answers(input),
                event = self.link.next() => self.link_event(event),
            }
        };
        match broken {
            None => Ok(self.finish().await),
            Some(task) => {
                self.runner.abort_all();
                Err(AgentError::Broken { task })
            }
        }
    }

    /// The grace ends early enough for handlers to be stopped and reported before the shutdown becomes immediate.
    fn grace_is_over(&self) -> bool {
        let reserve = self.machine.settings().kill_grace + Duration::from_millis(DRAIN_REPORT_MS);
        self.shutdown.drain_deadline().is_some_and(|deadline| Instant::now() + reserve >= deadline)
    }

    /// One answer and what waits behind it.
    fn answers(&mut self, first: Input) {
        self.answer(first);
        for _ in 0..TURN_MAX_COUNT {
            match self.inputs.try_recv() {
                Ok(input) => self.answer(input),
                Err(_) => break,
            }
        }
    }

    fn answer(&mut self, input: Input) {
        if let Input::HandlerEnded { attempt, end, .. } = &input {
            metrics::counter!("switchyard_agent_handlers_ended_total", "end" => end.name()).increment(1);
            self.runner.forget(*attempt);
        }
        self.give(input);
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Ready => self.give(Input::ConsumeReady),
            LinkEvent::Lost => {
                self.settler.forget();
                self.give(Input::ConsumeLost);
            }
            LinkEvent::Control(incoming) => self.control(&incoming),
            LinkEvent::Delivery(incoming) => {
                self.delivery(*incoming);
                for _ in 0..TURN_MAX_COUNT {
                    match self.link.try_delivery() {
                        Some(incoming) => self.delivery(*incoming),
                        None => break,
                    }
                }
            }
        }
    }

    fn delivery(&mut self, incoming: Incoming) {
        let Incoming { message, acker, .. } = incoming;
        let tag = self.settler.keep(acker);
        match serde_json::from_slice::<AgentMessage>(&message.body) {
            Ok(message) => {
                if let AgentMessage::Assignment(work) = &message {
                    self.traces.remember(work);
                }
                self.give(Input::Delivery { tag, message });
            }
            Err(error) => {
                // Nobody can answer for it: the broker dead-letters it, and the dispatcher finds out whose it was.
                let message_id = message.properties.message_id;
                tracing::error!(message_id, %error, "a message on the agent's queue is not of the contract: nacked");
                metrics::counter!("switchyard_agent_malformed_messages_total").increment(1);
                self.settler.nack(tag);
            }
        }
    }

    fn control(&mut self, incoming: &Incoming) {
        match serde_json::from_slice::<Control>(&incoming.message.body) {
            Ok(control) => self.give(Input::Control(control)),
            Err(error) => {
                tracing::error!(%error, "a control message is not of the contract: ignored");
                metrics::counter!("switchyard_agent_malformed_messages_total").increment(1);
            }
        }
    }

    fn give(&mut self, input: Input) {
        let now = clock::now();
        let effects = self.machine.handle(now, input);
        self.vitals.turned(now.boot, &self.machine);
        // Before the handler that an assignment starts writes its first line, which would be refused under an older epoch.
        self.epoch.store(self.machine.epoch(), Ordering::Relaxed);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(publish) => {
                // The outbox outlives the loop; were it gone, silence would end the session.
                let _ = self.reports.send(publish);
            }
            Effect::Ack(tag) => self.settler.ack(tag),
            Effect::Nack(tag) => self.settler.nack(tag),
            Effect::Start(start) => self.runner.start(*start),
            Effect::Stop { attempt, why } => self.runner.stop(attempt, why),
            Effect::KeepAlive { dead_by } => self.runner.keep_alive(dead_by),
            Effect::SessionStarted(_) => {
                metrics::counter!("switchyard_agent_sessions_lost_total").increment(1);
            }
            Effect::StopConsuming => self.link.pause(),
            Effect::Drained => self.drained = true,
            Effect::Note(note) => notes::log(&note),
        }
    }

    /// Writes what is left to write, bounded in time, and closes the connections.
    async fn finish(mut self) -> Finished {
        let left_count = self.machine.in_hand();
        if left_count > 0 {
            tracing::warn!(left_count, "attempts are left in hand: the end of their session settles them");
        }
        self.runner.abort_all();
        self.logs_closing.cancel();
        within(LOG_FLUSH_MAX_MS, self.shipper).await;
        within(SETTLE_FLUSH_MAX_MS, self.settler.finish()).await;
        drop(self.reports);
        if left_count > 0 {
            self.outbox.abort();
        }
        within(CLOSE_MAX_MS, self.outbox).await;
        self.publisher.close(Duration::from_millis(CLOSE_MAX_MS)).await;
        self.link.close().await;
        Finished { left_count }
    }
}

/// Waits for a task, but not for ever.
async fn within(limit_ms: u64, mut task: GuardedTask<()>) {
    if tokio::time::timeout(Duration::from_millis(limit_ms), &mut task).await.is_err() {
        tracing::warn!(task = task.name(), limit_ms, "did not end in time and is dropped");
        task.abort();
    }
}
