//! Presence: which agents live, which session of each is current, and when silence is a loss (protocol A2, C).
//!
//! - [`judge`]: may this replica declare losses now? [`sessions`]: which session is current? [`beat`]: is this a sign of life at all?
//!   [`settled`], [`drained`]: were all outcomes settled at some moment, in whosever hands they were? All pure.
//! - [`run`]: the presence queue, and the declaration of losses; [`heard`]: what they change in the store.
//! - [`replicas`]: this replica's own sign of life. [`retire`]: agents that will not come back.

pub mod beat;
pub mod clock;
pub mod drained;
pub mod heard;
pub mod judge;
mod narrate;
pub mod replicas;
pub mod retire;
pub mod run;
pub mod sessions;
pub mod settled;
