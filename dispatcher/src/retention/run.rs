//! The ticker.

use std::time::Duration;

use switchyard_common::shutdown::Shutdown;

use super::policy::RetentionPolicy;
use super::prune::Pruner;
use crate::context::Context;

/// How often what is old is looked for.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause between two rounds while there is more: the rest goes first.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Prunes until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    let policy = RetentionPolicy::of(&context.config);
    if let Err(error) = policy.check() {
        tracing::error!(%error, "the retention periods are refused; nothing is pruned");
        shutdown.requested().await;
        return;
    }
    let mut pruner = Pruner::new(context.db, policy);
    loop {
        let wait = match pruner.run_once().await {
            Ok(report) => {
                if (report.tasks, report.logs, report.letters, report.events) != (0, 0, 0, 0) {
                    tracing::info!(
                        tasks = report.tasks,
                        logs = report.logs,
                        letters = report.letters,
                        events = report.events,
                        audit = report.audit,
                        trials = report.trials,
                        "pruned"
                    );
                }
                if report.more { ROUND_PAUSE } else { PERIOD }
            }
            Err(error) => {
                tracing::warn!(%error, "pruning failed; it goes on later");
                PERIOD
            }
        };
        if !shutdown.sleep(wait).await {
            return;
        }
    }
}
