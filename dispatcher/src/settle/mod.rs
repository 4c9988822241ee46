//! Settle: what agents report becomes the state of tasks (design 6.6).
//!
//! - [`read`]: bytes to a report and its sender; [`refusal`], [`manifest`], [`batch`]: small decisions. All pure.

pub mod batch;
pub mod manifest;
pub mod read;
pub mod refusal;
