//! Settle: what agents report becomes the state of tasks (design 6.6).
//!
//! One consumer per queue: [`outcomes`], [`starts`], [`logs`]. Each turns a batch of reports into one transaction; [`consume`] is the
//! loop that they share. [`read`], [`refusal`], [`manifest`], [`batch`], [`held`], [`outcome`], [`quiet`] decide without I/O.

pub mod batch;
pub mod consume;
pub mod held;
pub mod logs;
pub mod manifest;
mod narrate;
pub mod outcome;
pub mod outcomes;
pub mod put_back;
pub mod quiet;
pub mod reach;
pub mod read;
pub mod refusal;
pub mod starts;
mod woken;

pub use consume::{Fate, Settler};
pub use read::Heard;
pub(crate) use woken::wake;
