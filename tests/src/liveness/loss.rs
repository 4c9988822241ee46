//! An agent is killed: from the kill to the moment at which its session is recorded as silent.

use std::time::Duration;

use chrono::Utc;

use super::figure::Figure;
use super::work::{MEASURED_WITHIN, first, seconds};
use crate::harness::scenario::Scenario;

/// A loss is noticed within the lost timeout and this.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// The shortest lost timeout that is promised.
const SHORT_LOST_AFTER: Duration = Duration::from_secs(3);
/// Two heartbeats, the kill grace of [`QUICK_HANDLERS`] and the margin of 0.75 s fit into [`SHORT_LOST_AFTER`].
const SHORT_HEARTBEAT: Duration = Duration::from_millis(500);
/// The defaults.
const LONG_LOST_AFTER: Duration = Duration::from_secs(20);
const LONG_HEARTBEAT: Duration = Duration::from_secs(5);

/// Handlers that are dead a second after they were told to stop.
pub const QUICK_HANDLERS: &str = r#"
[handlers.plan]
builtin = "test"
kill_grace_ms = 1000
[handlers.apply]
builtin = "test"
kill_grace_ms = 1000
"#;

/// One of two agents, and the only one; with the short timeout, and with the default one.
///
/// # Errors
/// When a program does not start, or a loss is never noticed.
pub async fn measure(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (heartbeat, lost_after) in [(SHORT_HEARTBEAT, SHORT_LOST_AFTER), (LONG_HEARTBEAT, LONG_LOST_AFTER)] {
        for beside_another in [true, false] {
            figures.push(losses(heartbeat, lost_after, beside_another, rounds).await?);
        }
    }
    Ok(figures)
}

async fn losses(
    heartbeat: Duration,
    lost_after: Duration,
    beside_another: bool,
    rounds: usize,
) -> anyhow::Result<Figure> {
    let which = if beside_another { "one of two agents" } else { "the only agent" };
    let bound = (lost_after + NOTICED_WITHIN).as_secs_f64();
    let mut figure = Figure::seconds(
        format!("loss of {which} is noticed, lost after {} s", lost_after.as_secs()),
        Some(bound),
    );
    let name = format!("liveness_loss_{}_{}", lost_after.as_secs(), u8::from(beside_another));
    let scenario = Scenario::new(&name).await?.with_pace(heartbeat, lost_after);
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _other = match beside_another {
        true => Some(scenario.agent("stays").config(QUICK_HANDLERS).start().await?),
        false => None,
    };
    for round in 1..=rounds {
        let id = format!("dies-{round}");
        let mut dies = scenario.agent(&id).config(QUICK_HANDLERS).start().await?;
        let killed_at = Utc::now();
        dies.kill()?;
        let noticed = format!(
            "SELECT min(ended_at) FROM agent_sessions WHERE agent_id = '{id}' AND end_reason = 'silent' AND ended_at > $1"
        );
        let noticed_at = first(&scenario, &noticed, killed_at, MEASURED_WITHIN).await?;
        figure.values.push(seconds(killed_at, noticed_at));
    }
    Ok(figure)
}
