//! The tickers of the sweeps: each has its own period, so that a slow one does not hold up the others.

use std::time::Duration;

use futures::future::join_all;
use switchyard_common::guard::catch_panic;
use switchyard_common::shutdown::Shutdown;

use super::Sweeper;
use super::once::is_full;
use crate::context::Context;
use crate::control::Orders;
use crate::readiness::{Condition, Readiness};
use crate::store::StoreError;

/// What is ticked. Closed: every sweep is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    Due,
    Stops,
    Deadlines,
    Waits,
    Attempts,
    Agents,
    Waiters,
    Pauses,
}

impl Sweep {
    const ALL: [Self; 8] = [
        Self::Due,
        Self::Stops,
        Self::Deadlines,
        Self::Waits,
        Self::Attempts,
        Self::Agents,
        Self::Waiters,
        Self::Pauses,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Stops => "stops",
            Self::Deadlines => "deadlines",
            Self::Waits => "waits",
            Self::Attempts => "attempts",
            Self::Agents => "agents",
            Self::Waiters => "waiters",
            Self::Pauses => "pauses",
        }
    }

    /// How often it runs: as late as it may be noticed.
    const fn period(self) -> Duration {
        match self {
            Self::Due | Self::Stops => Duration::from_millis(250),
            Self::Deadlines | Self::Waits | Self::Attempts | Self::Agents => Duration::from_secs(1),
            Self::Waiters | Self::Pauses => Duration::from_secs(5),
        }
    }

    async fn run_once(self, sweeper: &Sweeper) -> Result<usize, StoreError> {
        match self {
            Self::Due => sweeper.due().await,
            Self::Stops => sweeper.stops().await,
            Self::Deadlines => sweeper.deadlines().await,
            Self::Waits => sweeper.waits().await,
            Self::Attempts => sweeper.attempts().await,
            Self::Agents => sweeper.agents().await,
            Self::Waiters => sweeper.waiters().await,
            Self::Pauses => sweeper.pauses().await,
        }
    }
}

/// Sweeps until shutdown. The first round takes up whatever an earlier process left; only then is the replica ready (incident 8).
pub async fn run(context: Context, shutdown: Shutdown) {
    let sweeper = Sweeper {
        orders: Orders::start(context.publisher.clone(), &context.namespace),
        db: context.db,
        wake: context.wake,
        run_timeout_grace: context.config.run_timeout_grace,
    };
    // The tickers do not wait for recovery: one sweep that fails must not keep the others from running.
    tokio::join!(
        recover(&sweeper, &context.readiness, &shutdown),
        join_all(Sweep::ALL.map(|sweep| tick(sweep, &sweeper, &shutdown))),
    );
}

/// Wait before recovery is tried again.
const RECOVERY_WAIT: Duration = Duration::from_millis(500);

async fn recover(sweeper: &Sweeper, readiness: &Readiness, shutdown: &Shutdown) {
    for sweep in Sweep::ALL {
        loop {
            let run = catch_panic(sweep.run_once(sweeper)).await;
            match run
                .map_err(|panic| panic.to_string())
                .and_then(|run| run.map_err(|error| error.to_string()))
            {
                Ok(changed) if is_full(changed) => {}
                Ok(_) => break,
                Err(error) => {
                    readiness.set(Condition::Recovery, Err(format!("sweep {} fails: {error}", sweep.name())));
                    if !shutdown.sleep(RECOVERY_WAIT).await {
                        return;
                    }
                }
            }
        }
    }
    readiness.set(Condition::Recovery, Ok(()));
    tracing::info!("recovery has run");
}

async fn tick(sweep: Sweep, sweeper: &Sweeper, shutdown: &Shutdown) {
    let mut failing = false;
    let mut more = false;
    while more || shutdown.sleep(sweep.period()).await {
        if shutdown.is_requested() {
            return;
        }
        let run = catch_panic(sweep.run_once(sweeper)).await;
        more = matches!(run, Ok(Ok(changed)) if is_full(changed));
        failing = match run {
            Ok(Ok(_)) => {
                if failing {
                    tracing::info!(sweep = sweep.name(), "the sweep works again");
                }
                false
            }
            Ok(Err(error)) => {
                if !failing {
                    tracing::warn!(sweep = sweep.name(), %error, "the sweep fails; it is tried again");
                }
                true
            }
            Err(panic) => {
                tracing::error!(sweep = sweep.name(), %panic, backtrace = panic.backtrace, "the sweep panicked; it is tried again");
                true
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sweep_has_its_own_name_and_is_ticked_once() {
        let names: std::collections::BTreeSet<_> = Sweep::ALL.iter().map(|sweep| sweep.name()).collect();
        assert_eq!(names.len(), Sweep::ALL.len());
    }
}
