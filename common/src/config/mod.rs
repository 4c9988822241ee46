//! Typed configuration: values that must not be shown, units, and a loader that reports all errors at once.

mod secret;

pub use secret::{MASK, Secret, mask_url};
