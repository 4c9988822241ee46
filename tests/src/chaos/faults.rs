//! Breaking things, and mending them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchyard_common::broker::{Session, delete_queue};
use switchyard_common::contract::ids::{AgentId, PoolId};

use super::fault::{Fault, How, Link, Scope};
use super::ledger;
use super::load::POOL;
use super::plan::Strike;
use super::world::{Actor, HANDLER, World};

/// Memory that a broker of a few megabytes is over at once, as a share of the machine's.
const ALARMING_SHARE: &str = "0.00001";
/// The share that the local services set.
const USUAL_SHARE: &str = "0.3";
/// Longest wait for a service to come back before it is struck again.
const BACK_WITHIN: Duration = Duration::from_secs(12);
/// Node numbers start here.
const FIRST_NODE: usize = 1;

impl World {
    /// Breaks what the strike says, waits, mends it. What it did is in the answer.
    ///
    /// # Errors
    /// When the harness itself cannot do it.
    pub async fn strike(&self, strike: &Strike) -> anyhow::Result<String> {
        let service = match strike.fault.scope() {
            Scope::Broker | Scope::Node => Some(&self.mending.broker),
            Scope::Database => Some(&self.mending.database),
            Scope::Dispatcher | Scope::Agent | Scope::Handler => None,
        };
        let Some(service) = service else { return self.break_and_mend(strike).await };
        match tokio::time::timeout(BACK_WITHIN, service.lock()).await {
            Err(_) => Ok("it had not come back from the last strike".to_owned()),
            // Held until it is mended.
            Ok(_held) => self.break_and_mend(strike).await,
        }
    }

    async fn break_and_mend(&self, strike: &Strike) -> anyhow::Result<String> {
        let lasts = Duration::from_millis(strike.lasts_ms);
        let index = usize::from(strike.target);
        let node = FIRST_NODE + index;
        match strike.fault {
            Fault::KillDispatcher => self.kill_actor(self.dispatcher(index)?, lasts).await,
            Fault::KillAgent => self.kill_actor(self.agent(index)?, lasts).await,
            Fault::FreezeDispatcher => freeze_actor(self.dispatcher(index)?, lasts).await,
            Fault::FreezeAgent => freeze_actor(self.agent(index)?, lasts).await,
            Fault::KillHandler => Ok(self.strike_handler(strike.word, handler, Signal::SIGKILL)?.0),
            Fault::KillSupervisor => Ok(self.strike_handler(strike.word, parent, Signal::SIGKILL)?.0),
            Fault::FreezeHandler => self.freeze_handler(strike.word, lasts).await,
            Fault::KillBroker => {
                self.broker.kill().await?;
                tokio::time::sleep(lasts).await;
                self.broker.start_again().await?;
                self.trace().await?;
                Ok("killed the broker".to_owned())
            }
            Fault::StopBroker => {
                self.broker.stop().await?;
                tokio::time::sleep(lasts).await;
                self.broker.start_again().await?;
                self.trace().await?;
                Ok("stopped the broker".to_owned())
            }
            Fault::KillNode => {
                self.broker.kill_node(node).await?;
                tokio::time::sleep(lasts).await;
                self.broker.start_node(node).await?;
                self.trace().await?;
                Ok(format!("killed node {node}"))
            }
            Fault::RestartNode => {
                self.broker.stop_node(node).await?;
                tokio::time::sleep(lasts).await;
                self.broker.start_node(node).await?;
                self.trace().await?;
                Ok(format!("restarted node {node}"))
            }
            Fault::FreezeNode => {
                self.broker.signal_node(node, Signal::SIGSTOP)?;
                tokio::time::sleep(lasts).await;
                self.broker.signal_node(node, Signal::SIGCONT)?;
                Ok(format!("stopped node {node} with a signal"))
            }
            Fault::KillDatabase => {
                self.database.kill().await?;
                tokio::time::sleep(lasts).await;
                self.database.start_again().await?;
                Ok("killed the database".to_owned())
            }
            Fault::StopDatabase => {
                self.database.stop().await?;
                tokio::time::sleep(lasts).await;
                self.database.start_again().await?;
                Ok("stopped the database".to_owned())
            }
            Fault::Disturb(link, how) => self.disturb(link, how, index, lasts).await,
            Fault::MemoryAlarm => self.alarm(lasts).await,
            Fault::DeleteAgentQueue => self.delete_queue(self.agent(index)?).await,
            Fault::UnbindDeadLetters => self.unbind_dead_letters(lasts).await,
        }
    }

    fn dispatcher(&self, index: usize) -> anyhow::Result<&Actor> {
        self.dispatchers.get(index).context("there is no such dispatcher")
    }

    fn agent(&self, index: usize) -> anyhow::Result<&Actor> {
        self.agents.get(index).context("there is no such agent")
    }

    async fn kill_actor(&self, actor: &Actor, lasts: Duration) -> anyhow::Result<String> {
        let mut process = actor.process.lock().await;
        let running = process.as_mut().context("it does not run")?;
        let ended = running.ended()?;
        running.kill()?;
        actor.has_ended();
        tokio::time::sleep(lasts).await;
        *process = Some(self.begin(actor)?);
        match ended {
            Some(status) => bail!("{} had ended by itself: {status}", actor.name),
            None => Ok(format!("killed {}", actor.name)),
        }
    }

    async fn disturb(&self, link: Link, how: How, index: usize, lasts: Duration) -> anyhow::Result<String> {
        let (actor, way) = match link {
            Link::AgentBroker => (self.agent(index)?, &self.agent(index)?.broker),
            Link::DispatcherBroker => (self.dispatcher(index)?, &self.dispatcher(index)?.broker),
            Link::DispatcherDatabase => {
                let actor = self.dispatcher(index)?;
                (actor, actor.database.as_ref().context("a dispatcher has a database")?)
            }
        };
        way.disturb(how);
        tokio::time::sleep(lasts).await;
        way.heal();
        Ok(format!("{how:?} way of {}: {link:?}", actor.name))
    }

    /// A handler that runs now, by the ledger, or its supervisor.
    fn strike_handler(
        &self,
        word: u64,
        which: fn(Pid) -> Option<Pid>,
        signal: Signal,
    ) -> anyhow::Result<(String, Option<Pid>)> {
        let mut alive: Vec<ledger::Run> = ledger::read(&self.ledger)?;
        alive.retain(|run| run.end.is_none() && handler(Pid::from_raw(run.pid)).is_some());
        let chosen = usize::try_from(word).unwrap_or_default().checked_rem(alive.len());
        let Some(run) = chosen.map(|index| &alive[index]) else {
            return Ok(("no handler ran".to_owned(), None));
        };
        let Some(pid) = which(Pid::from_raw(run.pid)) else {
            return Ok((format!("{} of {} was gone", run.step, run.task), None));
        };
        // It may end at this moment.
        let sent = kill(pid, signal);
        let said =
            format!("{signal} to process {pid} of {} of {}#{}: {sent:?}", run.step, run.task, run.attempt);
        Ok((said, Some(pid)))
    }

    async fn freeze_handler(&self, word: u64, lasts: Duration) -> anyhow::Result<String> {
        let (said, pid) = self.strike_handler(word, handler, Signal::SIGSTOP)?;
        tokio::time::sleep(lasts).await;
        if let Some(pid) = pid.and_then(handler) {
            let _ended_meanwhile = kill(pid, Signal::SIGCONT);
        }
        Ok(said)
    }

    async fn alarm(&self, lasts: Duration) -> anyhow::Result<String> {
        self.broker.ctl(&["set_vm_memory_high_watermark", ALARMING_SHARE]).await?;
        tokio::time::sleep(lasts).await;
        self.broker.ctl(&["set_vm_memory_high_watermark", USUAL_SHARE]).await?;
        Ok("memory alarm".to_owned())
    }

    async fn delete_queue(&self, agent: &Actor) -> anyhow::Result<String> {
        let queue = self.scenario.namespace.agent_queue(&PoolId::new(POOL)?, &AgentId::new(&agent.name)?);
        let session = self.scenario.session("chaos").await?;
        let messages = delete_queue(&session, &queue).await?;
        session.close().await;
        Ok(format!("deleted the queue of {} with {messages} messages", agent.name))
    }

    async fn unbind_dead_letters(&self, lasts: Duration) -> anyhow::Result<String> {
        let namespace = &self.scenario.namespace;
        let (queue, exchange) = (namespace.dead_letters_queue(), namespace.dead_letters_exchange());
        let session = self.scenario.session("chaos").await?;
        unbind(&session, &queue, &exchange).await?;
        session.close().await;
        tokio::time::sleep(lasts).await;
        let session = self.scenario.session("chaos").await?;
        let channel = session.channel().await?;
        let options = QueueBindOptions::default();
        let binding =
            channel.queue_bind(queue.into(), exchange.into(), "#".into(), options, FieldTable::default());
        session.request(binding).await?;
        session.close().await;
        Ok("unbound the dead-letter queue".to_owned())
    }
}

async fn unbind(session: &Session, queue: &str, exchange: &str) -> anyhow::Result<()> {
    let channel = session.channel().await?;
    let unbinding = channel.queue_unbind(queue.into(), exchange.into(), "#".into(), FieldTable::default());
    Ok(session.request(unbinding).await?)
}

async fn freeze_actor(actor: &Actor, lasts: Duration) -> anyhow::Result<String> {
    let process = actor.process.lock().await;
    let running = process.as_ref().context("it does not run")?;
    running.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(lasts).await;
    running.signal(Signal::SIGCONT)?;
    Ok(format!("stopped {} with a signal", actor.name))
}

/// The process, if it still is a handler: numbers are used again.
fn handler(pid: Pid) -> Option<Pid> {
    is_running(pid, HANDLER).then_some(pid)
}

/// The supervisor above a handler.
fn parent(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    let parent = Pid::from_raw(line.trim().parse().ok()?);
    is_running(parent, "supervise").then_some(parent)
}

fn is_running(pid: Pid, word: &str) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.windows(word.len()).any(|part| part == word.as_bytes())
}
