//! How attempts in hand are told apart.

use std::fmt;

use switchyard_common::contract::ids::LeaseToken;
use uuid::Uuid;

/// One attempt, by its lease: attempt numbers may come again after a restore, leases never do. As secret as the lease, so it
/// prints as `***`; unlike the lease it can be a key of a map, because nobody's right is checked by finding it there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(Uuid);

impl From<LeaseToken> for AttemptId {
    fn from(lease: LeaseToken) -> Self {
        Self(lease.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptId(***)")
    }
}
