//! A scenario: Switchyard as it is run, in a namespace of its own on the real broker, on a database of its own.
//!
//! ```ignore
//! let scenario = Scenario::new("a_plan_runs").await?;
//! let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
//! let _agent = scenario.agent("agent-1").start().await?;
//! scenario.upstream().await?.submit("t-1", "w-1", "plan", json!({})).await?;
//! scenario.ends_as("t-1", Status::Succeeded).await?;
//! ```
//!
//! - [`binaries`]: finds the programs, and refuses stale ones
//! - [`process`]: a running program: its log, signals, its end
//! - [`log_file`]: the JSON log of a program, as values
//! - [`launch`]: how dispatchers and agents are started
//! - [`upstream`]: publishes events and hears the answers
//! - [`look`]: what the database says: tasks, attempts, letters, artifacts; and waiting for it
//! - [`crowd`]: many tasks at once, and what must be true of them in the end
//! - `stuck`: what is known of tasks that did not get where a test waited for them
//! - [`http`]: a plain GET, for `/readyz` and the like
//! - [`world`]: [`Scenario`] itself: what is made at its beginning and removed at its end
//!
//! Everything fails with an error that says what was expected, what was there instead, and where the logs are; a test returns it.
//! Drop order matters: declare the scenario first, so that its processes end before its queues and its database go.

pub mod binaries;
pub mod crowd;
pub mod http;
pub mod launch;
pub mod log_file;
pub mod look;
pub mod process;
mod stuck;
pub mod upstream;
pub mod world;

pub use binaries::repository;
pub use launch::{DISPATCHER_ENV_KEPT, Launch};
pub use log_file::{LogFile, LogLine};
pub use process::Process;
pub use upstream::Upstream;
pub use world::Scenario;
