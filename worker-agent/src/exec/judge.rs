//! From what the supervisor saw to how the run ended: pure.
//!
//! A program that we signalled is judged by why we did, whatever its exit code: many programs exit with 0 when they are asked
//! to end, and a step that was broken off must not count as done. The exit code is still told.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::connection::Verdict;
use super::result::{FailedBecause, ProgramEnd, ProgramResult, StartFailedBecause};
use super::spec::{ExitMeaning, ProgramSpec};
use super::supervisor::message::{Ended, StopCause};

/// Shells report a child that signal N ended as exit code 128 + N.
const SHELL_SIGNAL_BASE_CODE: i32 = 128;

/// An end before anything was executed.
pub(crate) fn not_started(end: ProgramEnd, message: String) -> ProgramResult {
    ProgramResult {
        end,
        message,
        started: false,
        exit_code: None,
        signal: None,
        artifacts: BTreeMap::new(),
        result: None,
        log_tail: Vec::new(),
        lines: 0,
        log_fault: None,
        stragglers: 0,
        workdir_fault: None,
        ran_for: Duration::ZERO,
    }
}

/// How the run ended, before what it left is looked at.
pub(crate) fn judge(spec: &ProgramSpec, verdict: Verdict) -> ProgramResult {
    match verdict {
        Verdict::StartFailed(message) => {
            not_started(ProgramEnd::StartFailed(StartFailedBecause::Command), message)
        }
        Verdict::NotStarted(cause) => {
            let (end, why) = judge_stop(cause);
            not_started(end, format!("{why}, before it began"))
        }
        Verdict::Lost { how, session: _ } => {
            let message =
                format!("the supervisor of the program was lost: {how}; nobody saw how the program ended");
            let end = ProgramEnd::Failed(FailedBecause::SupervisorLost);
            ProgramResult { started: true, ..not_started(end, message) }
        }
        Verdict::Ended(ended) => {
            let (end, message) = judge_end(spec, &ended);
            ProgramResult {
                started: true,
                exit_code: ended.exit_code,
                signal: ended.signal,
                stragglers: ended.stragglers,
                ..not_started(end, message)
            }
        }
    }
}

fn judge_end(spec: &ProgramSpec, ended: &Ended) -> (ProgramEnd, String) {
    let how = how_it_ended(ended);
    if let Some(cause) = ended.stopped {
        let (end, why) = judge_stop(cause);
        return (end, format!("{why}; {how}"));
    }
    if let Some(signal) = ended.signal {
        return (ProgramEnd::Panicked { signal }, format!("{how}, which the agent did not send"));
    }
    let end = match spec.meaning(ended.exit_code.unwrap_or(-1)) {
        ExitMeaning::Succeeded => ProgramEnd::Succeeded,
        ExitMeaning::NoChanges => ProgramEnd::NoChanges,
        ExitMeaning::Failed => ProgramEnd::Failed(FailedBecause::ExitCode),
    };
    (end, how)
}

fn judge_stop(cause: StopCause) -> (ProgramEnd, &'static str) {
    match cause {
        StopCause::Cancelled => (ProgramEnd::Cancelled, "stopped because it was cancelled"),
        StopCause::Interrupted => (ProgramEnd::Interrupted, "stopped because the agent had to go"),
        StopCause::AgentGone => (ProgramEnd::Interrupted, "stopped because its agent had gone"),
        StopCause::SupervisorSignalled => {
            (ProgramEnd::Interrupted, "stopped because somebody sent its supervisor a signal")
        }
        StopCause::Silence => {
            (ProgramEnd::KilledBySilence, "stopped because the agent was silent for too long")
        }
        StopCause::RunTimeout => (ProgramEnd::TimedOut, "stopped because it ran longer than its run timeout"),
    }
}

fn how_it_ended(ended: &Ended) -> String {
    match (ended.exit_code, ended.signal) {
        (_, Some(signal)) => format!("the program was ended by signal {}", signal_name(signal)),
        (Some(code), None) => match Signal::try_from(code - SHELL_SIGNAL_BASE_CODE) {
            Ok(signal) => {
                format!("the program exited with code {code} (a shell says so when {signal} ended its child)")
            }
            Err(_) => format!("the program exited with code {code}"),
        },
        (None, None) => "nobody saw how the program ended".into(),
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| format!("{number} ({signal})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ProgramSpec {
        ProgramSpec {
            command: vec!["true".into()],
            env_pass: [].into(),
            env: [].into(),
            mask: [].into(),
            run_timeout: None,
            kill_grace: Duration::ZERO,
            exit_codes: [(0, ExitMeaning::NoChanges), (2, ExitMeaning::Succeeded)].into(),
            max_artifact_bytes: 0,
        }
    }

    fn ended(exit_code: Option<i32>, signal: Option<i32>, stopped: Option<StopCause>) -> ProgramResult {
        judge(&spec(), Verdict::Ended(Ended { exit_code, signal, stopped, stragglers: 0 }))
    }

    #[test]
    fn an_exit_code_means_what_the_table_says_and_all_others_but_0_mean_failure() {
        assert_eq!(ended(Some(0), None, None).end, ProgramEnd::NoChanges);
        assert_eq!(ended(Some(2), None, None).end, ProgramEnd::Succeeded);
        for code in [1, 3, 255] {
            assert_eq!(ended(Some(code), None, None).end, ProgramEnd::Failed(FailedBecause::ExitCode));
        }
        let plain = ProgramSpec { exit_codes: BTreeMap::new(), ..spec() };
        assert_eq!(plain.meaning(0), ExitMeaning::Succeeded);
    }

    #[test]
    fn every_cause_of_a_stop_is_its_own_end_even_when_the_program_says_success() {
        for (cause, end) in [
            (StopCause::Cancelled, ProgramEnd::Cancelled),
            (StopCause::Interrupted, ProgramEnd::Interrupted),
            (StopCause::AgentGone, ProgramEnd::Interrupted),
            (StopCause::SupervisorSignalled, ProgramEnd::Interrupted),
            (StopCause::Silence, ProgramEnd::KilledBySilence),
            (StopCause::RunTimeout, ProgramEnd::TimedOut),
        ] {
            assert_eq!(ended(Some(2), None, Some(cause)).end, end);
            assert_eq!(ended(None, Some(9), Some(cause)).end, end);
        }
    }

    #[test]
    fn a_signal_that_is_not_ours_is_a_panic_and_is_named() {
        let result = ended(None, Some(11), None);
        assert_eq!(result.end, ProgramEnd::Panicked { signal: 11 });
        assert!(result.message.contains("11 (SIGSEGV)"), "{}", result.message);
        assert!(ended(None, Some(40), None).message.contains("signal 40"));
    }

    #[test]
    fn a_shells_way_of_reporting_a_signal_is_explained() {
        assert!(ended(Some(137), None, None).message.contains("SIGKILL"));
    }

    #[test]
    fn a_lost_supervisor_is_a_failure_that_may_have_run() {
        let result = judge(&spec(), Verdict::Lost { how: "signal: 9".into(), session: None });
        assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::SupervisorLost));
        assert!(result.started);
    }
}
