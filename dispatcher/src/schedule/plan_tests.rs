//! Tests of [`super::plan`].

use std::collections::BTreeSet;

use chrono::DateTime;
use switchyard_common::contract::ids::{AgentId, HandlerName, PoolId, SessionId, TaskId, WorkspaceId};
use uuid::Uuid;

use super::super::capacity::classes_with_capacity;
use super::super::snapshot::{AgentView, Candidate, Class, Pause, PoolView, SkipReason, Snapshot};
use super::{Detail, Plan, plan};

fn agent(name: &str) -> AgentView {
    AgentView {
        id: AgentId::new(name).unwrap(),
        session: SessionId(Uuid::from_u128(1)),
        pod: name.to_owned(),
        slots: 4,
        credit: 4,
        max_exclusive: 1,
        handlers: BTreeSet::from([HandlerName::new("plan").unwrap(), HandlerName::new("apply").unwrap()]),
        live: true,
        draining: false,
        paused: None,
        open: 0,
        open_exclusive: 0,
    }
}

fn candidate(name: &str, handler: &str, exclusive: bool, repeatable: bool, rank: i64) -> Candidate {
    Candidate {
        task_id: TaskId::new(name).unwrap(),
        workspace: WorkspaceId::new(format!("ws-{name}")).unwrap(),
        class: Class { handler: HandlerName::new(handler).unwrap(), exclusive, repeatable },
        rank,
        priority: 0,
        seq: rank,
    }
}

fn snapshot(agents: Vec<AgentView>, candidates: Vec<Candidate>) -> Snapshot {
    let pool =
        PoolView { id: PoolId::new("default").unwrap(), paused: None, revoked: false, quiet_until: None };
    Snapshot { pool, agents, candidates }
}

fn placed(plan: &Plan) -> Vec<(&str, &str)> {
    plan.placements.iter().map(|p| (p.task_id.as_str(), p.agent.as_str())).collect()
}

#[test]
fn candidates_go_by_rank_then_priority_then_age() {
    let mut urgent = candidate("urgent", "plan", false, true, 2);
    urgent.priority = 9;
    let mut one = agent("a");
    one.slots = 1;
    one.credit = 2;
    let plan = plan(
        &snapshot(
            vec![one],
            vec![
                candidate("late", "plan", false, true, 2),
                urgent,
                candidate("first", "plan", false, true, 1),
            ],
        ),
        Detail::ExclusiveOnly,
    );
    assert_eq!(placed(&plan), [("first", "a"), ("urgent", "a"), ("late", "a")]);
    assert_eq!(plan.served_rank(), Some(2));
}

#[test]
fn work_goes_to_the_least_loaded_agent() {
    let mut busy = agent("a");
    busy.open = 2;
    let tasks = (0..4).map(|n| candidate(&format!("t{n}"), "plan", false, true, n)).collect();
    let plan = plan(&snapshot(vec![busy, agent("b")], tasks), Detail::ExclusiveOnly);
    assert_eq!(placed(&plan), [("t0", "b"), ("t1", "b"), ("t2", "a"), ("t3", "b")]);
}

#[test]
fn only_shared_repeatable_work_may_queue_at_an_agent_beyond_its_slots() {
    let full = |exclusive, repeatable| {
        let mut full = agent("a");
        full.open = full.slots;
        let plan = plan(
            &snapshot(vec![full], vec![candidate("t", "plan", exclusive, repeatable, 1)]),
            Detail::ExclusiveOnly,
        );
        plan.placements.len()
    };
    assert_eq!(full(false, true), 1);
    assert_eq!(full(false, false), 0);
    assert_eq!(full(true, true), 0);
    assert_eq!(full(true, false), 0);
}

#[test]
fn an_agent_is_never_given_more_than_its_slots_and_credit() {
    let tasks: Vec<Candidate> =
        (0..100).map(|n| candidate(&format!("t{n}"), "plan", false, true, n)).collect();
    let plan = plan(&snapshot(vec![agent("a"), agent("b")], tasks), Detail::ExclusiveOnly);
    assert_eq!(plan.placements.len(), 16);
    assert_eq!(plan.unplaced.len(), 84);
}

#[test]
fn incident_71_every_kind_counts_against_the_slots_and_exclusive_ones_against_their_own_limit_too() {
    let tasks = vec![candidate("x1", "plan", true, true, 1), candidate("x2", "plan", true, true, 2)];
    let plan = plan(&snapshot(vec![agent("a")], tasks), Detail::ExclusiveOnly);
    assert_eq!(placed(&plan), [("x1", "a")]);
    assert_eq!(
        plan.unplaced[0].skipped,
        [(AgentId::new("a").unwrap(), SkipReason::ExclusiveLimit { open: 1, of: 1 })]
    );
}

#[test]
fn incident_29_an_agent_that_is_not_heard_has_no_capacity() {
    let mut silent = agent("a");
    silent.live = false;
    assert_eq!(classes_with_capacity(std::slice::from_ref(&silent)), []);
    let plan =
        plan(&snapshot(vec![silent], vec![candidate("t", "plan", true, true, 1)]), Detail::ExclusiveOnly);
    assert_eq!(plan.placements, []);
    assert_eq!(plan.unplaced[0].skipped[0].1, SkipReason::NotLive);
}

#[test]
fn incident_63_a_revoked_or_paused_pool_gets_nothing() {
    let mut revoked = snapshot(vec![agent("a")], vec![candidate("t", "plan", false, true, 1)]);
    revoked.pool.revoked = true;
    assert_eq!(plan(&revoked, Detail::Everything).placements, []);
    revoked.pool.revoked = false;
    revoked.pool.paused = Some(Pause { by: "eve".into(), why: "upgrade".into(), at: DateTime::UNIX_EPOCH });
    assert_eq!(plan(&revoked, Detail::Everything).placements, []);
}

#[test]
fn every_agent_that_is_passed_over_is_named_with_its_reason() {
    let mut draining = agent("a");
    draining.draining = true;
    let mut paused = agent("b");
    paused.paused = Some(Pause { by: "eve".into(), why: "disk".into(), at: DateTime::UNIX_EPOCH });
    let mut other = agent("c");
    other.handlers = BTreeSet::new();
    let mut busy = agent("d");
    busy.open = 3;
    let plan = plan(
        &snapshot(
            vec![draining, paused, other, busy, agent("e")],
            vec![candidate("t", "apply", true, false, 1)],
        ),
        Detail::ExclusiveOnly,
    );
    assert_eq!(placed(&plan), [("t", "e")]);
    let reasons: Vec<&SkipReason> = plan.placements[0].skipped.iter().map(|(_, reason)| reason).collect();
    assert_eq!(
        reasons,
        [
            &SkipReason::Draining,
            &SkipReason::Paused { by: "eve".into(), why: "disk".into() },
            &SkipReason::NoHandler { handler: "apply".into() },
            &SkipReason::MoreLoaded,
        ]
    );
}

#[test]
fn candidates_are_looked_for_only_in_classes_that_have_capacity() {
    let mut full = agent("a");
    full.open = full.slots;
    let classes = classes_with_capacity(&[full]);
    assert!(classes.iter().all(|limit| limit.class.may_queue_at_agent() && limit.limit == 4));
    assert_eq!(classes.len(), 2);
}

#[test]
fn after_a_fence_exclusive_tasks_wait_until_the_handlers_of_before_are_gone_and_others_go_on() {
    let candidates =
        vec![candidate("apply", "apply", true, false, 1), candidate("plan", "plan", false, true, 2)];
    let mut snapshot = snapshot(vec![agent("a")], candidates);
    snapshot.pool.quiet_until = Some(DateTime::default());
    assert_eq!(placed(&plan(&snapshot, Detail::ExclusiveOnly)), [("plan", "a")]);
    snapshot.pool.quiet_until = None;
    assert_eq!(placed(&plan(&snapshot, Detail::ExclusiveOnly)), [("apply", "a"), ("plan", "a")]);
}
