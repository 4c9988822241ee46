//! A clock that counts while the machine sleeps and that agent and supervisor share.
//!
//! `CLOCK_BOOTTIME` has one value for all processes of a machine, so a deadline can be handed from one process to another.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// A moment, as time since the machine booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now, by `CLOCK_BOOTTIME`; by `CLOCK_MONOTONIC` where the kernel has no such clock.
    pub fn now() -> Result<Self, Errno> {
        let time =
            clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC))?;
        Ok(Self(Duration::from(time)))
    }

    /// The moment `ms` milliseconds after boot.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// Milliseconds since boot, rounded down.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// This moment and `later`.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }

    /// This moment less `earlier`, not before boot.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(earlier))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// For the kernel's absolute timers.
    pub(crate) fn as_timespec(self) -> TimeSpec {
        TimeSpec::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_runs_backwards_and_survives_the_way_through_milliseconds() {
        let first = BootTime::now().unwrap();
        let second = BootTime::now().unwrap();
        assert!(second >= first);
        let rounded = BootTime::from_millis(first.as_millis());
        assert!(first.since(rounded) < Duration::from_millis(1));
        assert_eq!(rounded.since(first), Duration::ZERO);
    }
}
