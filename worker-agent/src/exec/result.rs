//! What became of a program: a closed set of ends, and the evidence.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramEnd {
    /// An exit code that means success, and everything it left is in order.
    Succeeded,
    /// An exit code that means "nothing to change".
    NoChanges,
    /// The program, or what it left, or the machinery around it failed.
    Failed(FailedBecause),
    /// A signal that we did not send ended it.
    Panicked {
        /// The signal's number.
        signal: i32,
    },
    /// It ran longer than its run timeout, and was stopped.
    TimedOut,
    /// It was stopped because the task was cancelled. Also when that came before the start.
    Cancelled,
    /// The program was never executed.
    StartFailed(StartFailedBecause),
    /// It was stopped because the agent, or its connection, was silent for too long. Also when that came before the start.
    KilledBySilence,
    /// It was stopped because the agent had to go. Also when that came before the start.
    Interrupted,
}

/// Why a run counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedBecause {
    /// Its exit code means failure.
    ExitCode,
    /// What it left in the artifact directory is refused.
    Artifacts,
    /// Its result file is refused.
    Result,
    /// Its supervisor was killed, so nobody saw the end. Every process of the attempt was then killed.
    SupervisorLost,
}

/// Why a program was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFailedBecause {
    /// The command cannot be executed: missing, not executable.
    Command,
    /// An input artifact is not what the manifest says.
    Inputs,
    /// The working directory cannot be made.
    Workdir,
    /// The supervisor could not be started.
    Supervisor,
}

/// Everything that is known of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgramResult {
    /// How it ended.
    pub end: ProgramEnd,
    /// What happened, in one or two sentences for a person.
    pub message: String,
    /// Whether the program may have been executed. False is a proof that nothing has run.
    pub started: bool,
    /// The exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, ours or not.
    pub signal: Option<i32>,
    /// What it left, by name; only of a success.
    pub artifacts: BTreeMap<String, Vec<u8>>,
    /// Its JSON result, secrets masked.
    pub result: Option<Value>,
    /// Its last log lines, oldest first, secrets masked.
    pub log_tail: Vec<String>,
    /// Log lines that the sink was given: the last sequence number.
    pub lines: u64,
    /// Why log lines are missing, when they are (incident 4).
    pub log_fault: Option<String>,
    /// Processes that outlived the program and were killed.
    pub stragglers: u32,
    /// Why the working directory is still there, when it is.
    pub workdir_fault: Option<String>,
    /// From the start to the end of the last process.
    pub ran_for: Duration,
}
