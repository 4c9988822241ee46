//! Time as the machine sees it: handed in with every input, never read.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A moment, as time since the machine booted (`CLOCK_BOOTTIME`: it counts while the machine sleeps, and is never set).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// This moment and `later`.
    #[must_use]
    pub const fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The two clocks of one input. Windows and timeouts use `boot`; `wall` is only shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For everything that is measured.
    pub boot: BootTime,
    /// For `started_at` and `ended_at` of outcomes.
    pub wall: DateTime<Utc>,
}
