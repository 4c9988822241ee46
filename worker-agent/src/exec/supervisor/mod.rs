//! The process between the agent and a handler program (protocol C4): the same executable, run as `worker-agent supervise`.
//!
//! ```text
//! agent ──socket──► supervise run ──fork──► supervise launch ──exec──► program, in its own session
//!   ◄────────────── reports                  (session, PDEATHSIG)        stdout and stderr straight to the agent
//! ```
//!
//! It has one thread and no runtime. Standard input is one end of a socket pair whose other end only the agent holds.
//!
//! # What is guaranteed
//! - The agent ends for any reason, SIGKILL too: the socket closes, and everything the program started is killed at once.
//! - The agent is stopped (SIGSTOP, a frozen machine) and the step is exclusive and repeatable: everything is dead by the moment
//!   that the agent named last, TERM one kill grace earlier. The time is `CLOCK_BOOTTIME`, so sleep counts.
//! - The end is reported only after every descendant has gone, also those that left the process group and the session:
//!   orphans reparent to this process (PR_SET_CHILD_SUBREAPER), and the kernel's "no child left" is the proof.
//! - This process itself is killed: the kernel kills the program (PDEATHSIG; one thread, so the thread that it follows is the
//!   process), and the agent, which sees the socket close without an end, hunts the rest ([`orphans`](super::orphans)).
//!
//! # What is not
//! When agent and supervisor are killed in the same moment and nothing else ends the container, children of the program
//! may live on: only the program itself has PDEATHSIG. A starting agent kills what it finds of them before it takes work
//! ([`workdir::WorkRoot`](super::workdir::WorkRoot)). A descendant with other user rights (setuid) may be out of reach of our
//! signals: the end is then not reported, and the processes waited for are named every few seconds.

mod args;
mod children;
pub(crate) mod guard;
mod launch;
mod link;
pub(crate) mod message;
mod run;
mod waker;

pub use run::{main, main_if_asked};
