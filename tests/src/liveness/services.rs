//! The broker or the database goes away and comes back: from the first login that it accepts to the next end of a task, and how many
//! agents were declared lost meanwhile.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use switchyard_common::guard::spawn_guarded;
use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::NoTls;

use super::figure::Figure;
use super::work::{Backlog, MEASURED_WITHIN, first, seconds};
use crate::harness::scenario::{Process, Scenario};
use crate::harness::services::{Part, Services};
use crate::harness::wait::{Look, until};

/// Work resumes within this after the return.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// An outage of minutes.
const OUTAGE: Duration = Duration::from_secs(125);
/// Rounds that are away side by side: their programs go on trying, which takes a part of the machine.
const AWAY_TOGETHER_MAX_COUNT: usize = 5;
/// The default, which the outages are measured with.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// A loss is in the database this long after the lost timeout at the latest.
const LOSS_SEEN_WITHIN: Duration = Duration::from_secs(5);
/// A login that takes longer is none.
const LOGIN_WITHIN: Duration = Duration::from_secs(1);

/// The first end of a task whose last attempt was assigned after a moment.
const FIRST_END: &str = "SELECT min(t.finished_at) FROM tasks t JOIN attempts a ON a.task_id = t.task_id AND a.attempt = t.attempts \
    WHERE a.assigned_at > $1";

/// How a service goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

/// A service of its own, with a dispatcher, two agents and work on it.
struct Stage {
    scenario: Scenario,
    services: Services,
    part: Part,
    backlog: Backlog,
}

/// The broker and the database, killed and stopped, back at once.
///
/// # Errors
/// When something does not start, or work never resumes.
pub async fn returns(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (part, what) in [(Part::Broker, "broker"), (Part::Database, "database")] {
        let mut stage = Stage::set(&format!("liveness_{what}_returns"), part).await?;
        let _programs = stage.start().await?;
        for (end, how) in [(End::Killed, "kill"), (End::Stopped, "stop")] {
            let name = format!("work resumes after {how} and return of the {what}");
            let mut figure = Figure::seconds(name, Some(RESUMES_WITHIN.as_secs_f64()));
            for _ in 0..rounds {
                stage.flows().await?;
                stage.end(end).await?;
                figure.values.push(stage.resumes().await?);
            }
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// The broker and the database, away for minutes: each round on a service of its own, with programs of its own. Some rounds are away side
/// by side. What is measured is not: one at a time starts, or comes back.
///
/// # Errors
/// As [`returns`].
pub async fn outages(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let (minutes, bound) = (OUTAGE.as_secs(), RESUMES_WITHIN.as_secs_f64());
    let turns = Turns { away: Semaphore::new(AWAY_TOGETHER_MAX_COUNT), one: Mutex::new(()) };
    let both = [(Part::Broker, "broker"), (Part::Database, "database")];
    let all = both.iter().flat_map(|both| (0..rounds).map(move |round| (both, round)));
    let measured = try_join_all(all.map(|(&(part, what), round)| outage(part, what, round, &turns))).await?;
    let mut figures = Vec::new();
    for ((_, what), rounds) in both.into_iter().zip(measured.chunks(rounds)) {
        let mut lost =
            Figure::none_of(format!("agents declared lost by {minutes} s or more without the {what}"));
        let name = format!("work resumes after {minutes} s or more without the {what}");
        let mut back = Figure::seconds(name, Some(bound));
        for outage in rounds {
            lost.values.push(outage.agents_lost);
            back.values.push(outage.resumed_after);
        }
        figures.extend([lost, back]);
    }
    Ok(figures)
}

/// Who may be away, and who may be busy.
struct Turns {
    away: Semaphore,
    one: Mutex<()>,
}

/// What a round without a service showed.
struct Outage {
    agents_lost: f64,
    /// Seconds.
    resumed_after: f64,
}

/// One round. It has its turn for the start and for the return: waiting for the second makes an outage longer, never shorter.
async fn outage(part: Part, what: &str, round: usize, turns: &Turns) -> anyhow::Result<Outage> {
    let _away = turns.away.acquire().await?;
    let starts = turns.one.lock().await;
    let mut stage = Stage::set(&format!("liveness_{what}_outage_{round}"), part).await?;
    let _programs = stage.start().await?;
    stage.flows().await?;
    stage.end(End::Stopped).await?;
    drop(starts);
    // What is measured is what happens in this time, not whether something has.
    tokio::time::sleep(OUTAGE).await;
    let returns = turns.one.lock().await;
    let resumed_after = stage.resumes().await?;
    drop(returns);
    // Nobody is declared lost before dispatchers have heard for a whole lost timeout: who never came back would be lost by then.
    tokio::time::sleep(LOST_AFTER + LOSS_SEEN_WITHIN).await;
    let _ends = turns.one.lock().await;
    let lost =
        stage.scenario.count("SELECT count(*) FROM agent_sessions WHERE end_reason = 'silent'").await?;
    Ok(Outage { agents_lost: lost as f64, resumed_after })
}

impl Stage {
    async fn set(name: &str, part: Part) -> anyhow::Result<Self> {
        let services = Services::start(name, part).await?;
        let scenario = Scenario::on(name, &services).await?;
        Ok(Self { scenario, services, part, backlog: Backlog::default() })
    }

    async fn start(&self) -> anyhow::Result<Vec<Process>> {
        let scenario = &self.scenario;
        let programs = vec![
            scenario.dispatcher("dispatcher-1").start().await?,
            scenario.agent("agent-1").start().await?,
            scenario.agent("agent-2").start().await?,
        ];
        if self.part == Part::Broker {
            // Before, a kill would measure how a queue that the broker forgot is made anew.
            for queue in scenario.namespace.dispatcher_topology().queues {
                self.services.until_on_disk(&queue.name).await?;
            }
            for agent in ["agent-1", "agent-2"] {
                self.services.until_on_disk(&format!("{}.agent.default.{agent}", scenario.namespace)).await?;
            }
        }
        Ok(programs)
    }

    async fn flows(&mut self) -> anyhow::Result<()> {
        self.backlog.flows(&self.scenario).await
    }

    async fn end(&self, end: End) -> anyhow::Result<()> {
        match end {
            End::Killed => self.services.kill().await,
            End::Stopped => self.services.stop().await,
        }
    }

    /// Starts the service again, and gives the seconds from its first login to the first end of a task that was assigned after it: the whole
    /// way, to an agent and back.
    async fn resumes(&self) -> anyhow::Result<f64> {
        let (started, accepts_at) = tokio::join!(self.services.start_again(), self.first_login());
        started?;
        let accepts_at = accepts_at?;
        let resumed_at = first(&self.scenario, FIRST_END, accepts_at, MEASURED_WITHIN).await?;
        Ok(seconds(accepts_at, resumed_at))
    }

    async fn first_login(&self) -> anyhow::Result<DateTime<Utc>> {
        until("the first login", MEASURED_WITHIN, async || {
            let login = async {
                match self.part {
                    Part::Broker => self.scenario.session("login").await.map(drop),
                    Part::Database => log_in(&self.scenario.database.url).await,
                }
            };
            let began = Utc::now();
            let login = tokio::time::timeout(LOGIN_WITHIN, login).await.context("no answer");
            Ok(match login.and_then(|login| login) {
                Ok(()) => Look::There(began),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
        .await
    }
}

async fn log_in(url: &str) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driver = spawn_guarded("liveness-login", connection);
    let answered = client.simple_query("SELECT 1").await;
    driver.abort();
    answered.map(drop).map_err(Into::into)
}
