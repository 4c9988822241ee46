//! Sessions that begin, are superseded, and try to come back.

use std::collections::BTreeSet;

use switchyard_common::contract::ids::AgentId;
use switchyard_common::contract::report::Presence;
use uuid::Uuid;

use super::*;

fn agent(name: &str) -> AgentRef {
    AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new(name).unwrap() }
}

fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

fn beat(name: &str, number: u128, sequence: u64) -> Beat {
    let presence = Presence {
        session: session(number),
        sequence,
        pod: "pod".into(),
        node: None,
        version: "1".into(),
        slots: 4,
        credit: 4,
        max_exclusive: 1,
        handlers: BTreeSet::new(),
        draining: false,
        in_hand: Vec::new(),
    };
    Beat { agent: agent(name), epoch: 0, presence }
}

fn known() -> Known {
    Known { pools: BTreeMap::from([(PoolId::new("default").unwrap(), Grant::Live)]), ..Known::default() }
}

fn after(beats: &[Beat]) -> (Known, Vec<Verdict>, Changes) {
    let mut known = known();
    let (verdicts, changes) = judge(&mut known, beats);
    (known, verdicts, changes)
}

#[test]
fn a_session_never_seen_supersedes_the_current_one_and_the_old_one_is_never_accepted_again() {
    let beats = [beat("a", 1, 1), beat("a", 2, 1), beat("a", 1, 99), beat("a", 2, 2)];
    let (_, verdicts, changes) = after(&beats);
    let expected = [
        Verdict::NewSession { supersedes: None },
        Verdict::NewSession { supersedes: Some(session(1)) },
        Verdict::SessionOver,
        Verdict::Fresh,
    ];
    assert_eq!(verdicts, expected);
    assert_eq!(changes.superseded, BTreeSet::from([session(1)]));
    assert_eq!(changes.begun.len(), 2);
}

#[test]
fn reordered_and_repeated_signs_are_stale() {
    let (known, verdicts, _) = after(&[beat("a", 1, 5), beat("a", 1, 4), beat("a", 1, 5), beat("a", 1, 6)]);
    assert_eq!(verdicts[1..], [Verdict::Stale, Verdict::Stale, Verdict::Fresh]);
    assert_eq!(known.agents[&agent("a")].sequence, 6);
}

#[test]
fn a_session_that_was_declared_lost_is_told_so_when_it_returns() {
    let mut known = known();
    known.sessions.insert(session(1), Seen { agent: agent("a"), ended: true });
    let (verdicts, changes) = judge(&mut known, &[beat("a", 1, 9)]);
    assert_eq!(verdicts, [Verdict::SessionOver]);
    assert_eq!(changes, Changes::default());
}

#[test]
fn a_session_of_another_agent_cannot_be_taken_over() {
    let (_, verdicts, changes) = after(&[beat("a", 1, 1), beat("b", 1, 2)]);
    assert_eq!(verdicts[1], Verdict::ForeignSession);
    assert!(changes.superseded.is_empty());
}

#[test]
fn incident_57_two_agents_that_start_in_the_same_moment_keep_their_own_identities() {
    let (known, verdicts, _) = after(&[beat("a", 1, 1), beat("b", 2, 1)]);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::NewSession { supersedes: None }));
    assert_eq!(known.agents[&agent("a")].session, session(1));
    assert_eq!(known.agents[&agent("b")].session, session(2));
}

#[test]
fn incident_63_agents_of_a_revoked_pool_are_not_heard() {
    let mut known = known();
    known.pools.insert(PoolId::new("default").unwrap(), Grant::Revoked);
    assert_eq!(judge(&mut known, &[beat("a", 1, 1)]).0, [Verdict::PoolRevoked]);
    known.sessions.insert(session(2), Seen { agent: agent("a"), ended: true });
    assert_eq!(
        judge(&mut known, &[beat("a", 2, 1)]).0,
        [Verdict::SessionOver],
        "so that it stops what it has"
    );
    known.pools.clear();
    assert_eq!(judge(&mut known, &[beat("a", 1, 1)]).0, [Verdict::UnknownPool]);
    assert!(known.agents.is_empty());
}
