//! Dead letters: what was nacked, why, and what an operator can do about it (design 9, protocol D).
//!
//! - [`kept`], [`arrival`]: what a letter keeps of a message, and what a nacked message is about; pure, for any bytes

pub mod arrival;
pub mod kept;
mod scrub;
