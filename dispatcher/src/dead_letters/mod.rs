//! Dead letters: what was nacked, why, and what an operator can do about it (design 9, protocol D).
//!
//! - [`event_ids`], [`kept`], [`arrival`]: what a letter keeps of a message, and what a nacked message is about; pure, for any bytes
//! - [`run()`]: consume the queue, complete letters ([`sweep`]), write their lines ([`log_line`])
//! - [`replay`]: the event that repeats what a letter tells of; pure
//! - [`operate`]: replay as an operator asks for it

pub mod arrival;
pub mod event_ids;
pub mod kept;
pub mod log_line;
pub(crate) mod named_secrets;
pub mod operate;
pub mod replay;
pub mod run;
mod scrub;
pub mod sweep;

pub use run::run;
