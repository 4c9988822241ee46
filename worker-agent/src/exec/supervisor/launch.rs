//! The last step before the program: a process of our own that prepares itself with safe calls and then becomes the program.
//!
//! Doing this in a process of its own, not between fork and exec, costs a millisecond and needs no unsafe code.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getppid, setsid};

/// What a shell exits with when a command is not found.
const NOT_EXECUTED_CODE: u8 = 127;

/// Becomes the program. Returns only when that failed, with the reason written to standard input, which is a pipe to the
/// supervisor. Its copy closes on exec, so a pipe that closes empty says that the program runs.
pub(super) fn launch(parent: i32, command: &[OsString]) -> ExitCode {
    // Copied first: a failed exec has already put /dev/null in the place of standard input.
    let pipe = io::stdin().as_fd().try_clone_to_owned();
    let message = match command.split_first() {
        None => "the command is empty".to_owned(),
        Some((program, args)) => become_program(parent, program, args),
    };
    if let Ok(pipe) = pipe {
        // Nobody is left to tell when this fails: the supervisor has gone, and the kernel kills us.
        let _ = File::from(pipe).write_all(message.as_bytes());
    }
    ExitCode::from(NOT_EXECUTED_CODE)
}

fn become_program(parent: i32, program: &OsString, args: &[OsString]) -> String {
    if let Err(error) = prepare(parent) {
        return format!("cannot prepare to execute {}: {error}", program.display());
    }
    let error = Command::new(program).args(args).stdin(Stdio::null()).exec();
    let hint = if error.kind() == io::ErrorKind::NotFound {
        ": no such file, not in PATH, or its interpreter is missing"
    } else {
        ""
    };
    format!("cannot execute {}{hint}: {error}", program.display())
}

fn prepare(parent: i32) -> io::Result<()> {
    setsid()?;
    set_pdeathsig(Signal::SIGKILL)?;
    // A supervisor that died before the line above sends no signal any more.
    if getppid().as_raw() != parent {
        return Err(io::Error::other("the supervisor has gone"));
    }
    // The supervisor reads its signals from a descriptor and has them blocked; the program must not inherit that.
    SigSet::empty().thread_set_mask()?;
    Ok(())
}
