//! The supervisor's end of the socket to the agent: standard input.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::message::{Report, Request};

/// Longest request, in bytes. All are far shorter: more means that this is not our agent.
const REQUEST_MAX_BYTES: usize = 4_096;

/// Never blocks: a stopped agent must not stop its supervisor.
pub(super) struct Link {
    socket: UnixStream,
    unread: Vec<u8>,
    open: bool,
}

impl Link {
    /// Takes standard input.
    pub(super) fn from_stdin() -> io::Result<Self> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(true)?;
        Ok(Self { socket, unread: Vec::new(), open: true })
    }

    /// What to poll, while there is anything to hear.
    pub(super) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.socket.as_fd())
    }

    /// Sends. A report that cannot be sent is dropped: the agent has gone, or is stopped and far behind.
    pub(super) fn send(&mut self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            let _ = self.socket.write_all(&line);
        }
    }

    /// Every request that has arrived. None: the agent has gone.
    pub(super) fn receive(&mut self) -> io::Result<Option<Vec<Request>>> {
        let mut chunk = [0; 1_024];
        while self.open {
            match self.socket.read(&mut chunk) {
                Ok(0) => self.open = false,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reset by the peer is an end like any other.
                Err(_) => self.open = false,
            }
        }
        let requests = self.take_requests()?;
        Ok(if self.open { Some(requests) } else { None })
    }

    fn take_requests(&mut self) -> io::Result<Vec<Request>> {
        let mut requests = Vec::new();
        while let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            requests.push(serde_json::from_slice(&line).map_err(io::Error::other)?);
        }
        if self.unread.len() > REQUEST_MAX_BYTES {
            return Err(io::Error::other("a request is too long"));
        }
        Ok(requests)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("fd", &self.socket.as_raw_fd())
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
