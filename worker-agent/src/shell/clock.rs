//! The machine's two clocks.

use std::time::Duration;

use chrono::Utc;

use crate::exec::boot_clock;
use crate::machine::{BootTime, Now};

/// Now, by both clocks. A boot clock that cannot be read proves nothing about silence, so it counts as far in the future: the session
/// ends, and nothing starts.
pub(super) fn now() -> Now {
    let since_boot = boot_clock::BootTime::now().map(|now| now.since(boot_clock::BootTime::from_millis(0)));
    Now { boot: BootTime(since_boot.unwrap_or(Duration::MAX)), wall: Utc::now() }
}

/// Now, by the boot clock.
pub(crate) fn boot_now() -> BootTime {
    now().boot
}

/// The same moment in the form that supervisors of programs use, rounded down to milliseconds.
pub(crate) fn for_supervisor(moment: BootTime) -> boot_clock::BootTime {
    boot_clock::BootTime::from_millis(u64::try_from(moment.0.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_of_the_agent_and_of_supervisors_agree() {
        let before = boot_clock::BootTime::now().unwrap();
        let mine = for_supervisor(now().boot);
        let after = boot_clock::BootTime::now().unwrap();
        assert!(mine.as_millis() >= before.as_millis() && mine.as_millis() <= after.as_millis());
    }
}
