//! Runs the test of a mutant, and says what killed it.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::switched;
use super::tree::Tree;

/// A test that runs longer than this hangs, which proves nothing.
const HANGS_AFTER: Duration = Duration::from_secs(900);

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its test failed: the seed, or the test.
    Killed(String),
    /// Its test passed.
    Survived,
    /// Nothing was proven: it did not compile, or hung.
    Broken(String),
}

impl Verdict {
    /// Whether the guard is held by its test.
    #[must_use]
    pub const fn is_killed(&self) -> bool {
        matches!(self, Self::Killed(_))
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Killed(by) => write!(f, "killed by {by}"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::Broken(why) => write!(f, "BROKEN: {why}"),
        }
    }
}

/// A test to run in the copy.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// The copy.
    pub tree: &'a Tree,
    /// What follows `cargo test`.
    pub arguments: &'a str,
    /// The guard that is removed by switch; 0 = none.
    pub switched: u32,
}

impl Check<'_> {
    /// Compiles what the check needs, so that what follows measures the test alone.
    ///
    /// # Errors
    /// The compiler's own words.
    pub fn build(&self) -> anyhow::Result<()> {
        let output = self.command().arg("--no-run").output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}", errors_in(&told));
        Ok(())
    }

    /// Runs it.
    ///
    /// # Errors
    /// When cargo cannot be run.
    pub fn run(&self) -> anyhow::Result<Verdict> {
        let mut child =
            self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err, status) = std::thread::scope(|scope| {
            let (out, err) = (scope.spawn(|| text_of(out)), scope.spawn(|| text_of(err)));
            let status = ended(&mut child);
            (out.join().unwrap_or_default(), err.join().unwrap_or_default(), status)
        });
        let status = status?;
        Ok(match status {
            None => Verdict::Broken(format!("no end after {} s", HANGS_AFTER.as_secs())),
            Some(_) if out.contains("test result: FAILED") => Verdict::Killed(killer(&out)),
            Some(status) if status.success() && ran_something(&out) => Verdict::Survived,
            Some(status) if status.success() => Verdict::Broken("no test has this name".to_owned()),
            Some(_) => Verdict::Broken(errors_in(&err)),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        command
            .current_dir(self.tree.root())
            .env("CARGO_TARGET_DIR", self.tree.target())
            .env(switched::VARIABLE, self.switched.to_string())
            // Not `--locked`: one patch adds a dependency. Offline, it can only be one that is here already.
            .args(["test", "--offline", "--quiet"])
            .args(self.arguments.split_whitespace())
            .stdin(Stdio::null());
        command
    }
}

/// Waits for the end; none when it hangs, and is killed with all that it started.
fn ended(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > HANGS_AFTER {
            let _gone_already = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text_of(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _as_far_as_it_goes = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The seed that failed with what it found, or the first test that failed.
fn killer(out: &str) -> String {
    const MAX_CHARS: usize = 160;
    let seed = out.lines().find(|line| line.starts_with("seed ") && line.contains(": "));
    let test = || {
        let panicked = out.lines().find_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
        panicked.unwrap_or("its test").to_owned()
    };
    seed.map_or_else(test, |line| line.chars().take(MAX_CHARS).collect())
}

fn ran_something(out: &str) -> bool {
    out.lines()
        .any(|line| line.starts_with("test result: ok. ") && !line.starts_with("test result: ok. 0 passed"))
}

/// The compiler's first errors.
#[must_use]
pub fn errors_in(err: &str) -> String {
    const LINES_MAX_COUNT: usize = 12;
    let from = err.lines().skip_while(|line| !line.starts_with("error"));
    from.take(LINES_MAX_COUNT).collect::<Vec<_>>().join("\n")
}
