//! Statements that name attempts by their keys, for the test that holds how the database finds them.
//!
//! They say that an attempt is open by `outcome IS NULL`, which a CHECK makes the same as `ended_at IS NULL`: the latter is the condition of
//! partial indexes, and while a table is small the database takes one of those, reads all that is open, and compares it with each
//! key. That costs the square of a batch.

use super::{apply, route, save};

/// What each is for, and its text.
#[must_use]
pub fn statements() -> Vec<(&'static str, String)> {
    vec![
        ("locks attempts", apply::attempts_sql()),
        ("writes attempts", save::UPDATE_ATTEMPTS.to_owned()),
        ("reads assignments", route::CONTENT.to_owned()),
    ]
}
