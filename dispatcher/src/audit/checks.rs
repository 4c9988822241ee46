//! The list of checks.

use super::{agents, letters, tasks};

/// One query. It gives a row per offender, in the column `offender`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The invariant of design 10 that it states, or a part of it.
    pub invariant: u8,
    /// Its name: stable, for scripts.
    pub name: &'static str,
    /// What a row means.
    pub explanation: &'static str,
    /// The query.
    pub sql: &'static str,
}

/// Every check, by invariant.
#[must_use]
pub fn all() -> Vec<Check> {
    let mut checks: Vec<Check> =
        [tasks::CHECKS, agents::CHECKS, letters::CHECKS].into_iter().flatten().copied().collect();
    checks.sort_by_key(|check| (check.invariant, check.name));
    checks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_invariant_has_a_check_and_every_check_a_name_of_its_own() {
        let checks = all();
        let invariants: BTreeSet<u8> = checks.iter().map(|check| check.invariant).collect();
        assert_eq!(invariants, (1..=10).collect());
        let names: BTreeSet<&str> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len());
        assert!(checks.iter().all(|check| check.sql.contains("AS offender")));
    }
}
