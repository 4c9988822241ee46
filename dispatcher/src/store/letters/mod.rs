//! Dead letters: a failure joined with the broker's copy of the message (protocol D2).
//!
//! - [`attempts`]: failures of attempts and tasks, written in the transaction that decides them
//! - [`messages`]: failures of events and reports, written before their nack; and the broker's copies of nacked messages
//! - `upsert`: the one statement behind both, whichever half comes first
//! - [`completion`]: letters whose other half does not come
//! - [`logging`]: the one log line of each letter
//! - [`browse`], [`resolve`]: what operators see and do; [`record`] is a letter as they read it

pub mod attempts;
pub mod browse;
pub mod completion;
mod json;
pub mod logging;
pub mod messages;
pub mod record;
pub mod resolve;
mod upsert;

pub use attempts::AttemptLetter;
pub(crate) use attempts::{record_attempts, resolve_succeeded};
pub use messages::{About, EventLetter, ReportLetter, record_event, record_report, store_arrivals};
pub use record::Letter;
pub use upsert::{EVIDENCE_MAX_COUNT, LETTER_TEXT_MAX_CHARS, Origin};
