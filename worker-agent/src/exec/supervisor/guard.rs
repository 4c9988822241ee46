//! When to send which signal: pure, so that every order of events can be tested without a process.

use std::time::Duration;

use super::super::boot_clock::BootTime;
use super::super::limits::KILL_REPEAT_MS;
use super::message::StopCause;

/// What the supervisor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before this moment, or before something happens.
    Wait(Option<BootTime>),
    /// TERM to the process group.
    Terminate,
    /// KILL to every descendant.
    Kill,
}

/// The decisions about one run.
#[derive(Debug)]
pub(crate) struct Guard {
    kill_grace: Duration,
    run_until: BootTime,
    dead_by: Option<BootTime>,
    stopping: Option<Stopping>,
}

#[derive(Debug)]
struct Stopping {
    cause: StopCause,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// TERM has to be sent; KILL follows at this moment.
    Asked { kill_at: BootTime },
    /// TERM was sent.
    Grace { kill_at: BootTime },
    /// KILL is sent, and repeated for what forked in between.
    Killing { again_at: BootTime },
}

impl Guard {
    /// A run that begins at `now`.
    pub(crate) fn new(
        now: BootTime,
        kill_grace: Duration,
        run_timeout: Duration,
        dead_by: Option<BootTime>,
    ) -> Self {
        Self { kill_grace, run_until: now.plus(run_timeout), dead_by, stopping: None }
    }

    /// Why signals were sent; None when none was, also when a stop came too late to send one.
    pub(crate) fn stopped(&self) -> Option<StopCause> {
        match self.stopping {
            None | Some(Stopping { phase: Phase::Asked { .. }, .. }) => None,
            Some(Stopping { cause, phase: Phase::Grace { .. } | Phase::Killing { .. } }) => Some(cause),
        }
    }

    /// The agent is heard: what must be dead by some moment may live longer. Never makes it shorter.
    pub(crate) fn extend(&mut self, dead_by: BootTime) {
        self.dead_by = self.dead_by.map(|known| known.max(dead_by));
    }

    /// Ends the run with a grace. The first cause stays.
    pub(crate) fn stop(&mut self, now: BootTime, cause: StopCause) {
        let kill_at = now.plus(self.kill_grace);
        self.stopping.get_or_insert(Stopping { cause, phase: Phase::Asked { kill_at } });
    }

    /// Ends the run at once, also one that was given a grace. The first cause stays.
    pub(crate) fn kill(&mut self, now: BootTime, cause: StopCause) {
        let phase = Phase::Killing { again_at: now };
        self.stopping.get_or_insert(Stopping { cause, phase }).phase = phase;
    }

    /// Decides. Called again after each step that it returns.
    pub(crate) fn step(&mut self, now: BootTime) -> Step {
        self.notice_deadlines(now);
        let Some(stopping) = &mut self.stopping else {
            return Step::Wait(Some(self.next_deadline()));
        };
        match stopping.phase {
            Phase::Asked { kill_at } => {
                stopping.phase = Phase::Grace { kill_at };
                Step::Terminate
            }
            Phase::Grace { kill_at } if now < kill_at => Step::Wait(Some(kill_at)),
            Phase::Killing { again_at } if now < again_at => Step::Wait(Some(again_at)),
            Phase::Grace { .. } | Phase::Killing { .. } => {
                stopping.phase = Phase::Killing { again_at: now.plus(Duration::from_millis(KILL_REPEAT_MS)) };
                Step::Kill
            }
        }
    }

    fn next_deadline(&self) -> BootTime {
        self.dead_by.map_or(self.run_until, |dead_by| dead_by.minus(self.kill_grace).min(self.run_until))
    }

    fn notice_deadlines(&mut self, now: BootTime) {
        if let Some(dead_by) = self.dead_by {
            if self.stopping.is_none() && now >= dead_by.minus(self.kill_grace) {
                self.stopping =
                    Some(Stopping { cause: StopCause::Silence, phase: Phase::Asked { kill_at: dead_by } });
            }
            self.shorten_grace(dead_by);
        }
        if self.stopping.is_none() && now >= self.run_until {
            self.stop(now, StopCause::RunTimeout);
        }
    }

    /// Another cause's grace never reaches beyond the moment by which the program must be dead.
    fn shorten_grace(&mut self, dead_by: BootTime) {
        if let Some(Stopping { phase: Phase::Asked { kill_at } | Phase::Grace { kill_at }, .. }) =
            &mut self.stopping
        {
            *kill_at = (*kill_at).min(dead_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::from_millis(ms)
    }

    /// Began at 1000, grace 100, run timeout 10000.
    fn guard(dead_by: Option<u64>) -> Guard {
        Guard::new(at(1_000), Duration::from_millis(100), Duration::from_millis(10_000), dead_by.map(at))
    }

    #[test]
    fn a_stop_is_term_then_kill_after_the_grace_and_kill_again() {
        let mut guard = guard(None);
        assert_eq!(guard.step(at(1_500)), Step::Wait(Some(at(11_000))));
        guard.stop(at(2_000), StopCause::Cancelled);
        assert_eq!(guard.step(at(2_000)), Step::Terminate);
        assert_eq!(guard.step(at(2_099)), Step::Wait(Some(at(2_100))));
        assert_eq!(guard.step(at(2_100)), Step::Kill);
        assert_eq!(guard.step(at(2_100)), Step::Wait(Some(at(2_100 + KILL_REPEAT_MS))));
        assert_eq!(guard.step(at(2_100 + KILL_REPEAT_MS)), Step::Kill);
        assert_eq!(guard.stopped(), Some(StopCause::Cancelled));
    }

    #[test]
    fn a_stop_that_came_too_late_for_a_signal_did_not_stop_anything() {
        let mut guard = guard(None);
        guard.stop(at(2_000), StopCause::Cancelled);
        assert_eq!(guard.stopped(), None);
        assert_eq!(guard.step(at(2_000)), Step::Terminate);
        assert_eq!(guard.stopped(), Some(StopCause::Cancelled));
    }

    #[test]
    fn the_first_cause_stays_when_others_follow() {
        let mut guard = guard(Some(3_000));
        guard.stop(at(2_000), StopCause::Cancelled);
        guard.stop(at(2_001), StopCause::Interrupted);
        guard.kill(at(2_002), StopCause::AgentGone);
        assert_eq!(guard.step(at(20_000)), Step::Kill);
        assert_eq!(guard.stopped(), Some(StopCause::Cancelled));
    }

    #[test]
    fn an_agent_that_is_gone_means_kill_without_term() {
        let mut guard = guard(None);
        guard.kill(at(2_000), StopCause::AgentGone);
        assert_eq!(guard.step(at(2_000)), Step::Kill);
        assert_eq!(guard.stopped(), Some(StopCause::AgentGone));
    }

    #[test]
    fn the_run_timeout_is_a_stop() {
        let mut guard = guard(None);
        assert_eq!(guard.step(at(10_999)), Step::Wait(Some(at(11_000))));
        assert_eq!(guard.step(at(11_000)), Step::Terminate);
        assert_eq!(guard.step(at(11_100)), Step::Kill);
        assert_eq!(guard.stopped(), Some(StopCause::RunTimeout));
    }

    #[test]
    fn silence_is_term_one_grace_before_the_moment_and_kill_at_it() {
        let mut guard = guard(Some(5_000));
        assert_eq!(guard.step(at(4_899)), Step::Wait(Some(at(4_900))));
        assert_eq!(guard.step(at(4_900)), Step::Terminate);
        assert_eq!(guard.step(at(4_999)), Step::Wait(Some(at(5_000))));
        assert_eq!(guard.step(at(5_000)), Step::Kill);
        assert_eq!(guard.stopped(), Some(StopCause::Silence));
    }

    #[test]
    fn a_moment_that_slept_past_is_term_and_kill_at_once() {
        let mut guard = guard(Some(5_000));
        assert_eq!(guard.step(at(50_000)), Step::Terminate);
        assert_eq!(guard.step(at(50_000)), Step::Kill);
    }

    #[test]
    fn a_heard_agent_moves_the_moment_on_but_never_back() {
        let mut guard = guard(Some(5_000));
        guard.extend(at(6_000));
        guard.extend(at(4_000));
        assert_eq!(guard.step(at(5_899)), Step::Wait(Some(at(5_900))));
        assert_eq!(guard.step(at(5_900)), Step::Terminate);
    }

    #[test]
    fn being_heard_after_term_does_not_call_the_stop_back() {
        let mut guard = guard(Some(5_000));
        assert_eq!(guard.step(at(4_900)), Step::Terminate);
        guard.extend(at(60_000));
        assert_eq!(guard.step(at(5_000)), Step::Kill);
    }

    #[test]
    fn a_run_without_a_moment_is_not_given_one_by_a_sign_of_life() {
        let mut guard = guard(None);
        guard.extend(at(2_000));
        assert_eq!(guard.step(at(9_000)), Step::Wait(Some(at(11_000))));
    }

    #[test]
    fn the_grace_of_a_cancel_never_reaches_beyond_the_moment() {
        let mut guard = guard(Some(5_000));
        guard.stop(at(4_850), StopCause::Cancelled);
        assert_eq!(guard.step(at(4_850)), Step::Terminate);
        assert_eq!(guard.step(at(4_949)), Step::Wait(Some(at(4_950))));
    }
}
