//! What signs of life, and their absence, change in the store.

use std::time::Duration;

use super::beat::Beat;
use super::sessions::Verdict;
use crate::store::presence::{self, Lost};
use crate::store::{Db, StoreError};

/// The part of the lost-timeout that an assignment may be on its way before its absence from a heartbeat counts.
const MARGINS_PER_LOST_TIMEOUT_COUNT: u32 = 4;

/// What is configured, and what the judge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A pool that nobody has registered may come into being by a hello.
    pub allow_new_pools: bool,
    /// Silence after which an agent is lost.
    pub lost_after: Duration,
    /// No outcome waits unread, so that an attempt that is not listed has not just been reported.
    pub silence_counts: bool,
}

/// Stores signs of life (the newest of each session): who lives, which session is current, what each has in hand. Gives what came of
/// each, and the restore epoch.
pub async fn store(db: &Db, beats: &[Beat], rules: Rules) -> Result<(Vec<Verdict>, i64), StoreError> {
    let (verdicts, epoch) = presence::record(db, beats, rules.allow_new_pools).await?;
    let accepted: Vec<&Beat> = beats
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| verdict.is_accepted())
        .map(|(beat, _)| beat)
        .collect();
    let margin = rules.lost_after / MARGINS_PER_LOST_TIMEOUT_COUNT;
    presence::compare_in_hand(db, &accepted, margin, rules.silence_counts).await?;
    Ok((verdicts, epoch))
}

/// Ends the sessions of silent agents. What they had in hand is found by the sweep for sessions that are not current.
pub async fn lose_silent(db: &Db, lost_after: Duration) -> Result<Vec<Lost>, StoreError> {
    presence::declare_lost(db, lost_after).await
}
