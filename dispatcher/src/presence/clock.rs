//! The clock of windows: it counts while the machine sleeps, and is never set.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine booted (`CLOCK_BOOTTIME`). After a suspend it shows the gap, which the monotonic clock would hide.
///
/// # Errors
/// When the kernel has no such clock.
pub fn since_boot() -> std::io::Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_forward() {
        let first = since_boot().unwrap();
        assert!(since_boot().unwrap() >= first);
    }
}
