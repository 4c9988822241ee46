//! Handlers that come with the agent: for load tests and demonstrations, never for real work.
//!
//! ```toml
//! [handlers.noop]
//! builtin = "noop"    # succeeds at once, and says that there is something to change
//!
//! [handlers.plan]
//! builtin = "test"    # does what the payload says, see `TestHandler`
//! kill_grace_ms = 500 # between the wish to stop and the end by force, 5000 unless set
//! ```

mod graced;
mod noop;
mod test_handler;

use std::sync::Arc;

pub(crate) use graced::Graced;
pub use noop::Noop;
pub use test_handler::TestHandler;

use crate::handler::Handler;

/// The names that `builtin = ` may have.
pub const NAMES: [&str; 2] = ["noop", "test"];

/// Finds a builtin handler by name.
#[must_use]
pub fn find(name: &str) -> Option<Arc<dyn Handler>> {
    match name {
        "noop" => Some(Arc::new(Noop)),
        "test" => Some(Arc::new(TestHandler)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        assert!(NAMES.iter().all(|name| find(name).is_some()));
        assert!(find("shell").is_none());
    }
}
