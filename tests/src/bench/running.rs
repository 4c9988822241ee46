//! A contender that runs on a stage: started, fed, watched until all is done, and measured meanwhile.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::Instant;
use tokio_postgres::Client;

use super::contender::{Contender, Done, Plan};
use super::probe::{Reader, Sample, now_ns};
use super::process::{Process, run_to_end};
use super::procfs::{Table, ended_children_cpu_seconds};
use super::publish::Flow;
use super::stage::{Stage, connect};
use super::stats::Latency;
use crate::harness::scenario::http;

/// Tasks that are run before anything is measured, to know that all are up and have connected.
const WARM_UP_COUNT: usize = 50;
/// Longest start of the front.
const READY_MAX: Duration = Duration::from_secs(60);
/// The HTTP status of a front that is ready.
const OK: u16 = 200;
/// Longest measurement.
const RUN_MAX: Duration = Duration::from_secs(600);
/// How often it is asked whether all is done: seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const NANOSECONDS_PER_SECOND: f64 = 1e9;
const TASKS_PER_CPU_FIGURE: f64 = 1_000.0;

/// CPU seconds by who used them.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Cpu {
    /// The front: dispatcher or forwarder.
    pub front: f64,
    /// The workers.
    pub workers: f64,
    /// The publisher, and what is behind the workers.
    pub clients: f64,
    /// RabbitMQ or Redis.
    pub broker: f64,
    /// PostgreSQL.
    pub database: f64,
}

impl Cpu {
    fn minus(self, before: Self) -> Self {
        Self {
            front: self.front - before.front,
            workers: self.workers - before.workers,
            clients: self.clients - before.clients,
            broker: self.broker - before.broker,
            database: self.database - before.database,
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            front: self.front * factor,
            workers: self.workers * factor,
            clients: self.clients * factor,
            broker: self.broker * factor,
            database: self.database * factor,
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(self) -> f64 {
        self.front + self.workers + self.clients + self.broker + self.database
    }
}

/// What one measurement gave.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measured {
    /// Tasks.
    pub count: usize,
    /// Tasks per second: from the first publish to the last end, or from the first start where all was published before.
    pub per_second: f64,
    /// From publish to handler start.
    pub latency: Option<Latency>,
    /// CPU seconds per 1,000 tasks.
    pub cpu: Cpu,
    /// Peak resident megabytes of the front and the workers, each process by itself.
    pub peak_mb: [f64; 2],
}

/// A contender that runs.
pub struct Running<'a> {
    contender: &'a dyn Contender,
    stage: &'a Stage,
    plan: Plan,
    last: Option<Reader>,
    database: Client,
    front: Vec<Process>,
    workers: Vec<Process>,
    behind: Vec<Process>,
    /// Tasks that have been done so far.
    done: usize,
}

impl<'a> Running<'a> {
    /// Sets the contender up and starts its front.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(contender: &'a dyn Contender, stage: &'a Stage) -> anyhow::Result<Self> {
        let mut plan = contender.plan(stage)?;
        for command in plan.setup.drain(..) {
            run_to_end(command)?;
        }
        let last = match &plan.done {
            Done::Last(path) => Some(Reader::create(path.clone())?),
            Done::Probe | Done::ProbeAndQuery(_) | Done::Queries { .. } => None,
        };
        let start = |(name, command): (String, _)| Process::start(&name, command, stage.path());
        let front = plan.front.drain(..).map(start).collect::<anyhow::Result<_>>()?;
        let behind = plan.behind.drain(..).map(start).collect::<anyhow::Result<_>>()?;
        let database = connect(&stage.database_url).await?;
        let mut running =
            Self { contender, stage, plan, last, database, front, workers: Vec::new(), behind, done: 0 };
        running.until_ready().await?;
        Ok(running)
    }

    /// What is published before the front has declared its queues would come back.
    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let Some(address) = self.plan.ready.take() else { return Ok(()) };
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let port: u16 = port.with_context(|| format!("{address} has no port"))?;
        let deadline = Instant::now() + READY_MAX;
        while !http::get(port, "/readyz").await.is_ok_and(|answer| answer.status == OK) {
            self.wait(deadline, "getting ready").await?;
        }
        Ok(())
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_workers(&mut self) -> anyhow::Result<()> {
        for (name, command) in self.plan.workers.drain(..) {
            self.workers.push(Process::start(&name, command, self.stage.path())?);
        }
        Ok(())
    }

    /// The processes of the workers.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        pids(&self.workers)
    }

    /// Runs a few tasks, so that everybody is known to be up.
    ///
    /// # Errors
    /// When they do not end.
    pub async fn warm_up(&mut self, flow: Flow) -> anyhow::Result<()> {
        let flow = Flow { count: WARM_UP_COUNT, per_second: None, ..flow };
        self.measure(flow).await.context("warming up").map(drop)
    }

    /// Publishes and runs tasks at the same time.
    ///
    /// # Errors
    /// When they do not all succeed in time.
    pub async fn measure(&mut self, flow: Flow) -> anyhow::Result<Measured> {
        let (cpu, began_ns, skipped) = (self.cpu(), now_ns(), self.stage.probe.count()?);
        let mut publisher = self.publisher(flow)?;
        let ended_ns = self.until_done(Some(&mut publisher), flow.count).await?;
        drop(publisher);
        let cpu = self.cpu().minus(cpu);
        let samples = self.samples(began_ns, skipped).await?;
        let sent_ns = samples.iter().map(|sample| sample.sent_ns).min().unwrap_or(began_ns);
        Ok(self.measured(flow.count, samples, (sent_ns, ended_ns), cpu))
    }

    /// Publishes tasks first, and then starts the workers: their own limit.
    ///
    /// # Errors
    /// When they do not all succeed in time.
    pub async fn measure_preloaded(&mut self, flow: Flow) -> anyhow::Result<Measured> {
        let published_ns = now_ns();
        let mut publisher = self.publisher(flow)?;
        let deadline = Instant::now() + RUN_MAX;
        while !(publisher.has_ended()? && self.is_stored(flow.count).await?) {
            self.wait(deadline, "publishing").await?;
        }
        let (cpu, began_ns) = (self.cpu(), now_ns());
        self.start_workers()?;
        let ended_ns = self.until_done(None, flow.count).await?;
        let cpu = self.cpu().minus(cpu);
        let samples = self.samples(published_ns, 0).await?;
        let started_ns = samples.iter().map(|sample| sample.started_ns).min().unwrap_or(began_ns);
        let measured = self.measured(flow.count, samples, (started_ns, ended_ns), cpu);
        // Waiting in the backlog is no latency of the contender.
        Ok(Measured { latency: None, ..measured })
    }

    fn measured(
        &mut self,
        count: usize,
        samples: Vec<Sample>,
        (from_ns, to_ns): (u64, u64),
        cpu: Cpu,
    ) -> Measured {
        self.done += count;
        let table = Table::read();
        let seconds = to_ns.saturating_sub(from_ns) as f64 / NANOSECONDS_PER_SECOND;
        Measured {
            count,
            per_second: count as f64 / seconds,
            latency: Latency::of(samples.into_iter().map(Sample::latency_ms).collect()),
            cpu: cpu.times(TASKS_PER_CPU_FIGURE / count as f64),
            peak_mb: [table.peak_megabytes(&pids(&self.front)), table.peak_megabytes(&pids(&self.workers))],
        }
    }

    fn publisher(&self, flow: Flow) -> anyhow::Result<Process> {
        let command = self.contender.publisher(self.stage, flow)?;
        Process::start("publisher", command, self.stage.path())
    }

    /// Waits until `count` more tasks are done; gives the time of the last end.
    async fn until_done(&mut self, mut publisher: Option<&mut Process>, count: usize) -> anyhow::Result<u64> {
        let deadline = Instant::now() + RUN_MAX;
        let mut published = publisher.is_none();
        loop {
            if let Some(publisher) = publisher.as_deref_mut() {
                published = published || publisher.has_ended()?;
            }
            if published && let Some(ended_ns) = self.all_done(self.done + count).await? {
                return Ok(ended_ns);
            }
            self.wait(deadline, "the tasks").await?;
        }
    }

    /// That no process has ended, which none does by itself.
    ///
    /// # Errors
    /// When one has; the message has the end of its log.
    pub fn all_must_run(&mut self) -> anyhow::Result<()> {
        self.front.iter_mut().chain(&mut self.workers).chain(&mut self.behind).try_for_each(Process::must_run)
    }

    async fn wait(&mut self, deadline: Instant, what: &str) -> anyhow::Result<()> {
        self.all_must_run()?;
        ensure!(Instant::now() < deadline, "{what} took too long");
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }

    /// The time of the last end, when `count` tasks are done.
    async fn all_done(&self, count: usize) -> anyhow::Result<Option<u64>> {
        let started = self.stage.probe.count()? >= count as u64;
        match &self.plan.done {
            Done::Probe if started => Ok(last_start(&self.stage.probe, count)?),
            Done::ProbeAndQuery(open) if started => {
                let open: i64 = self.database.query_one(*open, &[]).await?.get(0);
                Ok((open == 0).then(now_ns))
            }
            Done::Last(_) => match &self.last {
                Some(last) if last.count()? >= count as u64 => Ok(last_start(last, count)?),
                Some(_) | None => Ok(None),
            },
            Done::Queries { open, succeeded, .. } => {
                if self.database.query_one(*open, &[]).await?.get(0) {
                    return Ok(None);
                }
                let at = now_ns();
                let succeeded: i64 = self.database.query_one(*succeeded, &[]).await?.get(0);
                Ok((usize::try_from(succeeded)? >= count).then_some(at))
            }
            Done::Probe | Done::ProbeAndQuery(_) => Ok(None),
        }
    }

    async fn is_stored(&self, count: usize) -> anyhow::Result<bool> {
        let Some(query) = self.plan.stored else { return Ok(true) };
        let stored: i64 = self.database.query_one(query, &[]).await?.get(0);
        Ok(usize::try_from(stored)? >= count)
    }

    /// What handlers said since `began_ns`, or behind the first `skipped` samples.
    async fn samples(&self, began_ns: u64, skipped: u64) -> anyhow::Result<Vec<Sample>> {
        let Done::Queries { samples, .. } = &self.plan.done else {
            return Ok(self.stage.probe.samples(skipped)?);
        };
        let rows = self.database.query(*samples, &[&i64::try_from(began_ns)?]).await?;
        let sample = |row: &tokio_postgres::Row| -> anyhow::Result<Sample> {
            Ok(Sample {
                sent_ns: row.get::<_, i64>(0).try_into()?,
                started_ns: row.get::<_, i64>(1).try_into()?,
            })
        };
        let samples: Vec<Sample> = rows.iter().map(sample).collect::<anyhow::Result<_>>()?;
        if samples.is_empty() {
            bail!("no handler said when it started");
        }
        Ok(samples)
    }

    fn cpu(&self) -> Cpu {
        let table = Table::read();
        let of = |processes: &[Process]| table.cpu_seconds(&pids(processes));
        let services = &self.stage.services;
        let (mut front, mut broker) = (of(&self.front), table.cpu_seconds(&[services.broker]));
        if self.plan.front_is_broker {
            broker += std::mem::take(&mut front);
        }
        Cpu {
            front,
            workers: of(&self.workers),
            clients: ended_children_cpu_seconds() + of(&self.behind),
            broker,
            database: table.cpu_seconds(&[services.database]),
        }
    }
}

fn pids(processes: &[Process]) -> Vec<u32> {
    processes.iter().map(Process::pid).collect()
}

fn last_start(probe: &Reader, count: usize) -> anyhow::Result<Option<u64>> {
    // Samples of concurrent writers are nearly in order: the last of the last few is the last.
    const LAST_COUNT: usize = 1_000;
    let samples = probe.samples(count.saturating_sub(LAST_COUNT) as u64)?;
    Ok(samples.iter().map(|sample| sample.started_ns).max())
}
