//! TLS to the real broker and the real database, with certificates made in the test: what is verified, what is refused, and that each refusal
//! says what to do. The same instance has the management API, through which a revoked pool is thrown out.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

mod broker;
mod database;
mod impostor;
mod revoke;
mod whole;

/// The name of the instance.
const INSTANCE: &str = "security-tls";
