//! What agent and supervisor say to each other: one JSON object per line.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// The subcommand of the executable.
pub(crate) const SUBCOMMAND: &str = "supervise";

/// From the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// End the program: TERM, then KILL after the grace.
    Stop {
        /// Why.
        cause: StopCause,
    },
    /// The program may live until this moment; earlier moments than the one known change nothing.
    DeadBy {
        /// Milliseconds since boot.
        boot_ms: u64,
    },
}

/// To the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Report {
    /// The program was executed.
    Started {
        /// Its process id, which is also its group's and its session's.
        pid: i32,
    },
    /// The program was not executed, because there was a reason to stop it before it began. Nothing has run.
    NotStarted {
        /// Why.
        cause: StopCause,
    },
    /// The program could not be executed. Nothing has run.
    StartFailed {
        /// Names the command and the reason.
        message: String,
    },
    /// The program has ended, but descendants that cannot be ended are left. Repeated while that is so.
    Waiting {
        /// Some of them, as `pid name`.
        processes: Vec<String>,
    },
    /// Everything has ended. The last report.
    Ended(Ended),
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ended {
    /// Its exit code, when it exited.
    pub(crate) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Why we sent it a signal before it ended, when we did.
    pub(crate) stopped: Option<StopCause>,
    /// Processes that outlived the program and were killed.
    pub(crate) stragglers: u32,
}

/// Why a program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopCause {
    /// The agent asked: cancelled or revoked.
    Cancelled,
    /// The agent asked: it has to go.
    Interrupted,
    /// The moment passed by which the program must be dead, or the agent asked for that reason.
    Silence,
    /// It ran too long.
    RunTimeout,
    /// The agent's end of the socket closed.
    AgentGone,
    /// Somebody sent the supervisor TERM, INT or HUP.
    SupervisorSignalled,
}

/// How a supervisor is told what to do: its command line, which makes `ps` show what each one guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunOptions {
    /// Time between TERM and KILL, in milliseconds.
    pub(crate) kill_grace_ms: u64,
    /// Longest run, in milliseconds.
    pub(crate) run_timeout_ms: u64,
    /// The moment by which the program must be dead, in milliseconds since boot; None for never.
    pub(crate) dead_by_boot_ms: Option<u64>,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
}
