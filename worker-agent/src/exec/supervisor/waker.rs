//! What wakes the supervisor: the agent, a signal, or a moment of the boot clock.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::super::boot_clock::BootTime;

/// Signals become readable, so that there is one place to wait and no handler.
pub(super) struct Waker {
    signals: SignalFd,
    timer: TimerFd,
}

impl Waker {
    /// Blocks the signals that are read here instead.
    pub(super) fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)
            .or_else(|_| TimerFd::new(ClockId::CLOCK_MONOTONIC, flags))?;
        Ok(Self { signals, timer })
    }

    /// Waits for a signal, for `until`, or for `others` to be readable or closed. Says which of `others` are.
    ///
    /// The timer is one of the kernel's on the boot clock: a timeout of `poll` would not count the machine's sleep.
    pub(super) fn wait(&self, until: Option<BootTime>, others: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
        match until {
            // Zero would disarm the timer, and a moment in the past fires at once.
            Some(moment) => self.timer.set(
                Expiration::OneShot(moment.as_timespec().max(TimeSpec::new(0, 1))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?,
            None => self.timer.unset()?,
        }
        let own = [self.signals.as_fd(), self.timer.as_fd()];
        let mut polled: Vec<PollFd<'_>> =
            others.iter().copied().chain(own).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(vec![false; others.len()]),
            Err(error) => return Err(error.into()),
        }
        Ok(polled.iter().take(others.len()).map(|one| one.any().unwrap_or(true)).collect())
    }

    /// Whether somebody asked this process to end. Takes all signals that have arrived.
    pub(super) fn asked_to_end(&self) -> io::Result<bool> {
        let mut asked = false;
        while let Some(signal) = self.signals.read_signal()? {
            let child_ended =
                i32::try_from(signal.ssi_signo).is_ok_and(|number| number == Signal::SIGCHLD as i32);
            asked |= !child_ended;
        }
        Ok(asked)
    }
}
