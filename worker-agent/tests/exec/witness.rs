//! Proof that processes have gone: a FIFO that they all hold open. Its end of file comes when the last of them has ended,
//! however far it has run from its parent. No polling of process tables, no sleeping.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// The beginning of a script: everything started after it holds descriptor 9.
pub(crate) const HOLD: &str = "exec 9>\"$OUT/witness\"\n";

pub(crate) struct Witness {
    fifo: File,
    unread: Vec<u8>,
}

impl Witness {
    /// Makes the FIFO in `out`, the directory that scripts know as `$OUT`.
    pub(crate) fn new(out: &Path) -> Self {
        Self::named(out, "witness")
    }

    /// The same with another name than the one in [`HOLD`].
    pub(crate) fn named(out: &Path, name: &str) -> Self {
        let path = out.join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let fifo = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).unwrap();
        Self { fifo, unread: Vec::new() }
    }

    /// The next line that a process writes to descriptor 9.
    pub(crate) fn line(&mut self) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            assert!(
                matches!(self.next(until), Next::Bytes),
                "no line in time, or everything ended before it"
            );
        }
    }

    /// Whether every process that held the FIFO ends within `limit`. At least one must have been heard before.
    pub(crate) fn all_gone_within(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            match self.next(until) {
                Next::Bytes => {}
                Next::AllGone => return true,
                Next::TooLate => return false,
            }
        }
    }

    fn next(&mut self, until: Instant) -> Next {
        let mut polled = [PollFd::new(self.fifo.as_fd(), PollFlags::POLLIN)];
        let left = until.saturating_duration_since(Instant::now());
        if poll(&mut polled, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
            return Next::TooLate;
        }
        let mut chunk = [0; 1_024];
        let count = self.fifo.read(&mut chunk).unwrap();
        self.unread.extend_from_slice(&chunk[..count]);
        if count == 0 { Next::AllGone } else { Next::Bytes }
    }
}

enum Next {
    Bytes,
    AllGone,
    TooLate,
}
