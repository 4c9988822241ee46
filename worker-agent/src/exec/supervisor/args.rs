//! The command line of `supervise`, written and read in one place.

use std::ffi::OsString;

use super::message::{RunOptions, SUBCOMMAND};

const KILL_GRACE: &str = "--kill-grace-ms";
const RUN_TIMEOUT: &str = "--run-timeout-ms";
const DEAD_BY: &str = "--dead-by-boot-ms";
const PARENT: &str = "--parent";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Guard a program.
    Run(RunOptions),
    /// Become the program.
    Launch {
        /// The supervisor's process id.
        parent: i32,
        /// The program and its arguments.
        command: Vec<OsString>,
    },
}

impl RunOptions {
    /// The arguments after the executable's name.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = [SUBCOMMAND, "run", KILL_GRACE].map(OsString::from).into();
        args.push(self.kill_grace_ms.to_string().into());
        args.push(RUN_TIMEOUT.into());
        args.push(self.run_timeout_ms.to_string().into());
        if let Some(moment) = self.dead_by_boot_ms {
            args.push(DEAD_BY.into());
            args.push(moment.to_string().into());
        }
        args.push("--".into());
        args.extend(self.command.iter().cloned());
        args
    }
}

/// The arguments after the executable's name that make it launch `command`.
pub(super) fn launch_args(parent: i32, command: &[OsString]) -> Vec<OsString> {
    let mut args: Vec<OsString> = [SUBCOMMAND, "launch", PARENT].map(OsString::from).into();
    args.push(parent.to_string().into());
    args.push("--".into());
    args.extend(command.iter().cloned());
    args
}

/// Reads the arguments that follow `supervise`.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Mode, String> {
    let mut args = args.into_iter();
    let mode = args.next().unwrap_or_default();
    let mut numbers = Numbers::default();
    loop {
        let name = args.next().ok_or("expected '--' and a command")?;
        if name == "--" {
            break;
        }
        numbers.set(&name, args.next())?;
    }
    let command: Vec<OsString> = args.collect();
    if command.is_empty() {
        return Err("expected a command after '--'".into());
    }
    match mode.to_str() {
        Some("run") => numbers.into_run(command).map(Mode::Run),
        Some("launch") => numbers.into_launch(command),
        Some(_) | None => Err(format!("unknown mode {mode:?}: expected 'run' or 'launch'")),
    }
}

#[derive(Default)]
struct Numbers {
    kill_grace_ms: Option<u64>,
    run_timeout_ms: Option<u64>,
    dead_by_boot_ms: Option<u64>,
    parent: Option<u64>,
}

impl Numbers {
    fn set(&mut self, name: &OsString, value: Option<OsString>) -> Result<(), String> {
        let slot = match name.to_str() {
            Some(KILL_GRACE) => &mut self.kill_grace_ms,
            Some(RUN_TIMEOUT) => &mut self.run_timeout_ms,
            Some(DEAD_BY) => &mut self.dead_by_boot_ms,
            Some(PARENT) => &mut self.parent,
            Some(_) | None => return Err(format!("unknown option {name:?}")),
        };
        let number = value.as_ref().and_then(|value| value.to_str()).and_then(|value| value.parse().ok());
        *slot = Some(number.ok_or_else(|| format!("{name:?} needs a number"))?);
        Ok(())
    }

    fn into_run(self, command: Vec<OsString>) -> Result<RunOptions, String> {
        Ok(RunOptions {
            kill_grace_ms: self.kill_grace_ms.ok_or_else(|| format!("{KILL_GRACE} is missing"))?,
            run_timeout_ms: self.run_timeout_ms.ok_or_else(|| format!("{RUN_TIMEOUT} is missing"))?,
            dead_by_boot_ms: self.dead_by_boot_ms,
            command,
        })
    }

    fn into_launch(self, command: Vec<OsString>) -> Result<Mode, String> {
        let parent = self.parent.and_then(|parent| i32::try_from(parent).ok());
        Ok(Mode::Launch { parent: parent.ok_or_else(|| format!("{PARENT} is missing"))?, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for dead_by_boot_ms in [None, Some(12)] {
            let command = words("sh -c -- --parent");
            let options = RunOptions { kill_grace_ms: 5, run_timeout_ms: 7, dead_by_boot_ms, command };
            let args = options.to_args();
            assert_eq!(args[0], SUBCOMMAND);
            assert_eq!(parse(args.into_iter().skip(1)), Ok(Mode::Run(options)));
        }
        let launch = launch_args(77, &words("true"));
        let read = parse(launch.into_iter().skip(1));
        assert_eq!(read, Ok(Mode::Launch { parent: 77, command: words("true") }));
    }

    #[test]
    fn a_wrong_command_line_is_refused_with_the_reason() {
        for (line, reason) in [
            ("run --kill-grace-ms 1 -- true", "--run-timeout-ms is missing"),
            ("run --kill-grace-ms x -- true", "needs a number"),
            ("run --colour 1 -- true", "unknown option"),
            ("run --kill-grace-ms 1 --run-timeout-ms 1 --", "expected a command"),
            ("walk --parent 1 -- true", "unknown mode"),
            ("launch --parent", "needs a number"),
        ] {
            let error = parse(words(line)).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
