//! The peers, as data: what `tests/peers` has a program for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::contender::{About, Contender, Done, Plan};
use super::publish::Flow;
use super::redis;
use super::stage::Stage;
use crate::harness::scenario::binaries::repository;

/// What runs a peer's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runtime {
    Python,
    Node,
}

/// A peer.
#[derive(Debug)]
pub struct Peer {
    about: About,
    runtime: Runtime,
    /// In `tests/peers`.
    program: &'static str,
    has_setup: bool,
    /// Set for its processes.
    variable: Option<(&'static str, &'static str)>,
    needs_redis: bool,
    /// How many tasks are open, where its database tells.
    open: Option<&'static str>,
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Peer> {
    vec![
        celery(),
        Peer { variable: Some(("PEER_RESULTS", "1")), open: None, ..celery_with_results() },
        dramatiq(),
        procrastinate(),
        graphile(),
        bullmq(),
    ]
}

fn celery() -> Peer {
    Peer {
        about: About {
            id: "celery",
            title: "Celery, no results",
            guarantees: "at least once (quorum queue, confirms, acks_late); no state, no order per workspace",
            settings: "prefork 2, prefetch 32 each, one publisher that waits for each confirm",
            expected_per_second: [500.0, 2_000.0],
        },
        runtime: Runtime::Python,
        program: "celery_app.py",
        has_setup: false,
        variable: None,
        needs_redis: false,
        open: None,
    }
}

fn celery_with_results() -> Peer {
    let about = About {
        id: "celery-results",
        title: "Celery, results in PostgreSQL",
        guarantees: "the same, and a row per result; written before the ack",
        expected_per_second: [250.0, 330.0],
        ..celery().about
    };
    Peer { about, ..celery() }
}

fn dramatiq() -> Peer {
    Peer {
        about: About {
            id: "dramatiq",
            title: "Dramatiq",
            guarantees: "at least once (classic durable queue, confirms, late ack); no state, no order per workspace",
            settings: "2 processes of 8 threads, one publisher that waits for each confirm",
            expected_per_second: [950.0, 6_000.0],
        },
        program: "dramatiq_app.py",
        ..celery()
    }
}

fn procrastinate() -> Peer {
    Peer {
        about: About {
            id: "procrastinate",
            title: "procrastinate, lock per workspace",
            guarantees: "durable state in PostgreSQL; one at a time and in order per workspace: nearest to ours",
            settings: "1 worker of concurrency 8, publisher with 8 defers on their way",
            expected_per_second: [350.0, 450.0],
        },
        program: "procrastinate_app.py",
        has_setup: true,
        open: Some("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"),
        ..celery()
    }
}

fn graphile() -> Peer {
    Peer {
        about: About {
            id: "graphile-worker",
            title: "graphile-worker, queue per workspace",
            guarantees: "durable state in PostgreSQL until done; one at a time and in order per workspace; finished rows deleted",
            settings: "1 worker of concurrency 8, publisher with 8 adds on their way",
            expected_per_second: [430.0, 800.0],
        },
        runtime: Runtime::Node,
        program: "graphile.js",
        has_setup: true,
        open: Some("SELECT count(*) FROM graphile_worker._private_jobs"),
        ..celery()
    }
}

fn bullmq() -> Peer {
    Peer {
        about: About {
            id: "bullmq",
            title: "BullMQ",
            guarantees: "at least once while Redis lives; can lose a second (AOF each second); no order per workspace",
            settings: "1 worker of concurrency 8, publisher with 8 adds on their way",
            expected_per_second: [5_000.0, 7_000.0],
        },
        runtime: Runtime::Node,
        program: "bullmq.js",
        needs_redis: true,
        ..celery()
    }
}

impl Peer {
    fn command(&self, stage: &Stage, verb: &str) -> anyhow::Result<Command> {
        let (programs, installed) = (repository().join("tests/peers"), repository().join(".peers"));
        ensure!(installed.join("stamp").exists(), "the peers are not installed: run tests/peers/install");
        let mut command = match self.runtime {
            Runtime::Python => Command::new(installed.join("python/bin/python")),
            Runtime::Node => Command::new("node"),
        };
        command.env("NODE_PATH", installed.join("node/node_modules")).env("NODE_ENV", "production");
        command.env("PYTHONPATH", &programs).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PEER_AMQP_URL", &stage.amqp_url).env("PEER_DATABASE_URL", &stage.database_url);
        command.env("PEER_PROBE", stage.probe.path()).envs(self.variable).current_dir(stage.path());
        if self.needs_redis {
            command.env("PEER_REDIS_PORT", redis::port_of(stage)?.to_string());
        }
        let program: PathBuf = programs.join(self.program);
        if self.about.id == "dramatiq" && verb == "work" {
            command.args(["-m", "dramatiq", "dramatiq_app", "--processes", "2", "--threads", "8"]);
        } else {
            command.arg(program).arg(verb);
        }
        Ok(command)
    }
}

impl Contender for Peer {
    fn about(&self) -> &About {
        &self.about
    }

    fn plan(&self, stage: &Stage) -> anyhow::Result<Plan> {
        let front =
            if self.needs_redis { vec![("redis".to_owned(), redis::command(stage)?)] } else { vec![] };
        let setup = if self.has_setup { vec![self.command(stage, "setup")?] } else { vec![] };
        Ok(Plan {
            ready: None,
            setup,
            front,
            workers: vec![("worker".into(), self.command(stage, "work")?)],
            behind: Vec::new(),
            front_is_broker: self.needs_redis,
            done: self.open.map_or(Done::Probe, Done::ProbeAndQuery),
            stored: None,
        })
    }

    fn publisher(&self, stage: &Stage, flow: Flow) -> anyhow::Result<Command> {
        let mut command = self.command(stage, "publish").context("the publisher")?;
        let per_second = flow.per_second.unwrap_or(0.0);
        command.arg(flow.count.to_string()).arg(per_second.to_string());
        command.arg(flow.bytes.to_string()).arg(flow.workspaces.to_string());
        Ok(command)
    }
}
