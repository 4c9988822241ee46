//! TLS to the broker and to the database: rustls with files that the operator names, and errors that say what to do.
//!
//! Certificates are always verified, name and all. With a CA file only that CA is trusted, without one whatever the machine trusts. The files are
//! read at every connection, so that renewed ones are used from the next connection on, without a restart.

mod explain;
mod files;

pub use explain::{explained, explained_unheard};
pub use files::{TlsError, TlsFiles};
