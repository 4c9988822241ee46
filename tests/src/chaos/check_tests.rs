//! Each rule catches what it is for, and nothing that is right.

use super::*;
use crate::chaos::behaviour::Behaviour;
use crate::chaos::book::Intent;
use crate::chaos::evidence::Excused;

use uuid::Uuid;

const SECOND_NS: u64 = 1_000_000_000;

fn behaviour(ends: Ends) -> Behaviour {
    Behaviour { first_ms: 1, later_ms: 1, ends }
}

/// A change of workspace `w`, planned and applied by `agent-1` one second after the other, and everything that belongs to it.
fn good() -> Evidence {
    let mut evidence = Evidence::default();
    add(&mut evidence, "a", 10);
    add(&mut evidence, "b", 20);
    evidence
}

fn add(evidence: &mut Evidence, task: &str, at_s: u64) {
    let intent = Intent {
        task: task.into(),
        workspace: "w".into(),
        kind: EXCLUSIVE_KIND,
        priority: 1,
        auto_approve: true,
        plan: behaviour(Ends::Succeeds),
        apply: Some(behaviour(Ends::Succeeds)),
    };
    evidence.book.intents.insert(task.into(), intent);
    send(evidence, &format!("submit-{task}"), Purpose::Submit, task);
    evidence.events.insert(format!("submit-{task}"));
    evidence.tasks.push(TaskRow {
        task: task.into(),
        status: "succeeded".into(),
        terminal: true,
        step: ONCE.into(),
        failure_kind: None,
        waiting_for: String::new(),
        cancel_requested: false,
    });
    evidence.attempts.extend([attempt(task, 1, "plan"), attempt(task, 2, ONCE)]);
    evidence.runs.extend([run(task, 1, "plan", at_s), run(task, 2, ONCE, at_s + 2)]);
}

fn send(evidence: &mut Evidence, event_id: &str, purpose: Purpose, task: &str) {
    let (event_id, task) = (event_id.to_owned(), task.to_owned());
    evidence.book.sent.push(Sent { event_id, purpose, task, tries: 2, confirmed: true });
}

fn attempt(task: &str, number: u64, step: &str) -> AttemptRow {
    AttemptRow {
        task: task.into(),
        attempt: number,
        step: step.into(),
        session: format!("of {task}#{number}"),
        repeatable: step != ONCE,
        outcome: Some("succeeded".into()),
        revoked: false,
        after_cancel: false,
    }
}

/// It lasts a second.
fn run(task: &str, number: u64, step: &str, at_s: u64) -> Run {
    Run {
        run: Uuid::new_v4(),
        task: task.into(),
        workspace: "w".into(),
        kind: EXCLUSIVE_KIND.into(),
        step: step.into(),
        attempt: number,
        agent: "agent-1".into(),
        pid: 7,
        from_ns: at_s * SECOND_NS,
        to_ns: (at_s + 1) * SECOND_NS,
        end: Some(Ends::Succeeds),
    }
}

fn letter(key: &str, kind: &str) -> LetterRow {
    LetterRow { key: key.into(), failure_kind: Some(kind.into()), ..LetterRow::default() }
}

/// The one rule that is broken.
fn broken(evidence: &Evidence) -> Rule {
    let (_, findings) = check(evidence);
    let rules: BTreeSet<Rule> = findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules.len(), 1, "{findings:?}");
    findings[0].rule
}

#[test]
fn nothing_is_found_where_everything_is_right_and_all_is_counted() {
    let (counts, findings) = check(&good());
    assert_eq!(findings, []);
    assert_eq!((counts.attempted, counts.acknowledged, counts.tasks, counts.ok), (4, 2, 2, 2));
}

#[test]
fn a_confirmed_event_that_is_nowhere_is_lost_and_an_unconfirmed_one_is_not() {
    let mut evidence = good();
    send(&mut evidence, "gone", Purpose::Approve, "a");
    assert_eq!(broken(&evidence), Rule::Lost);
    evidence.book.sent[2].confirmed = false;
    assert_eq!(check(&evidence).1, []);
}

#[test]
fn a_stored_submission_without_its_task_is_lost() {
    let mut evidence = good();
    evidence.tasks.remove(1);
    assert_eq!(broken(&evidence), Rule::Lost);
}

#[test]
fn a_submission_that_is_right_must_not_be_refused_and_one_with_a_used_id_must() {
    let mut evidence = good();
    evidence.events.remove("submit-a");
    let refused = LetterRow { event_id: Some("submit-a".into()), ..letter("event:s#submit-a", "poison") };
    evidence.letters.push(refused);
    assert_eq!(broken(&evidence), Rule::Unexpected);
    let mut evidence = good();
    send(&mut evidence, "submit-a", Purpose::Conflict, "a");
    assert_eq!(broken(&evidence), Rule::Letter);
    let refused =
        LetterRow { event_id: Some("submit-a".into()), ..letter("event:s#submit-a", "id_conflict") };
    evidence.letters.push(refused);
    assert_eq!(check(&evidence).1, []);
}

#[test]
fn runs_of_two_tasks_or_two_steps_that_meet_in_a_workspace_are_overlaps() {
    let mut evidence = good();
    evidence.runs[2].from_ns = evidence.runs[1].to_ns - 1;
    assert_eq!(broken(&evidence), Rule::Overlap);
    let mut evidence = good();
    evidence.runs[1].from_ns = evidence.runs[0].to_ns - 1;
    assert_eq!(broken(&evidence), Rule::Overlap);
}

#[test]
fn an_exclusive_handler_that_runs_when_its_agent_was_declared_lost_has_outlived_it() {
    let mut evidence = good();
    evidence.excused.silence = Silence::Always;
    let ended_ns = evidence.runs[0].to_ns;
    let session = evidence.attempts[0].session.clone();
    evidence.silent = vec![SilentRow { session, at_ns: ended_ns, ..silent(1) }];
    assert_eq!(check(&evidence).1, [], "it had ended");
    evidence.silent[0].at_ns = ended_ns - 1;
    assert_eq!(broken(&evidence), Rule::Outlived);
    evidence.runs[0].kind = "plan".into();
    assert_eq!(check(&evidence).1, [], "it may run beside others");
}

#[test]
fn attempts_of_one_repeatable_step_that_meet_are_counted_and_allowed() {
    let mut evidence = good();
    evidence.runs.push(Run { end: None, ..run("a", 9, "plan", 10) });
    evidence.attempts.push(AttemptRow { outcome: Some("lost".into()), ..attempt("a", 9, "plan") });
    let (counts, findings) = check(&evidence);
    assert_eq!(findings, []);
    assert_eq!((counts.own_overlaps, counts.repeated, counts.recovered), (1, 1, 1));
}

#[test]
fn an_apply_that_starts_twice_and_an_attempt_that_runs_twice_are_duplicated() {
    let mut evidence = good();
    evidence.runs.push(run("a", 3, ONCE, 30));
    assert_eq!(broken(&evidence), Rule::Duplicated);
    let mut evidence = good();
    evidence.runs.push(run("a", 1, "plan", 30));
    assert_eq!(broken(&evidence), Rule::Duplicated);
}

#[test]
fn a_task_that_has_not_ended_is_unexplained_and_so_is_one_that_was_uncertain_without_a_reason() {
    let mut evidence = good();
    (evidence.tasks[0].terminal, evidence.tasks[0].status) = (false, "running".into());
    assert_eq!(broken(&evidence), Rule::Unexplained);
    let mut evidence = good();
    evidence.resolved.push(("a".into(), String::new()));
    assert_eq!(broken(&evidence), Rule::Unexplained);
}

#[test]
fn a_failure_that_nobody_meant_is_unexpected_unless_the_faults_excuse_it() {
    for (kind, excused) in [
        ("handler_failed", Excused { handler_deaths: true, ..Excused::default() }),
        ("agent_lost", Excused { losses: true, ..Excused::default() }),
    ] {
        let mut evidence = good();
        evidence.tasks[0].status = "failed".into();
        evidence.tasks[0].failure_kind = Some(kind.into());
        evidence.letters.push(LetterRow { task: Some("a".into()), ..letter("attempt:a#2", kind) });
        assert_eq!(broken(&evidence), Rule::Unexpected, "{kind}");
        evidence.excused = excused;
        assert_eq!(check(&evidence).1, [], "{kind}");
    }
}

#[test]
fn a_task_that_is_cancelled_without_a_cancel_is_unexpected() {
    let mut evidence = good();
    evidence.tasks[0].status = "cancelled".into();
    assert_eq!(broken(&evidence), Rule::Unexpected);
    send(&mut evidence, "cancel-a", Purpose::Cancel, "a");
    evidence.events.insert("cancel-a".into());
    assert_eq!(check(&evidence).1, []);
}

#[test]
fn what_counts_as_succeeded_must_have_been_done() {
    let mut evidence = good();
    evidence.runs[0].end = None;
    assert_eq!(broken(&evidence), Rule::Unexpected);
}

#[test]
fn a_failed_attempt_needs_its_letter_with_all_of_its_context() {
    let mut evidence = good();
    evidence.attempts.push(AttemptRow { outcome: Some("panicked".into()), ..attempt("a", 3, "plan") });
    assert_eq!(broken(&evidence), Rule::Letter);
    evidence
        .letters
        .push(LetterRow { missing: vec!["timeline".into()], ..letter("attempt:a#3", "handler_panicked") });
    assert_eq!(broken(&evidence), Rule::Letter);
    evidence.letters[0].missing.clear();
    assert_eq!(check(&evidence).1, []);
}

#[test]
fn a_cancel_must_be_answered_and_nothing_may_start_after_it() {
    let mut evidence = good();
    evidence.attempts.push(AttemptRow { revoked: true, outcome: None, ..attempt("a", 3, "plan") });
    assert_eq!(broken(&evidence), Rule::Cancel);
    let mut evidence = good();
    evidence.attempts[1].after_cancel = true;
    assert_eq!(broken(&evidence), Rule::Cancel);
}

#[test]
fn at_rest_nothing_may_be_left_anywhere_and_no_agent_have_been_lost_for_nothing() {
    type Spoil = fn(&mut Evidence);
    let spoil: [(Rule, Spoil); 5] = [
        (Rule::Audit, |evidence| evidence.audit.push("over_capacity".into())),
        (Rule::Queue, |evidence| evidence.queues.push(("outcomes".into(), 1))),
        (Rule::Slot, |evidence| evidence.in_hand.push(("agent-1".into(), 1))),
        (Rule::LostAgent, |evidence| evidence.silent.push(silent(1))),
        (Rule::Unexpected, |evidence| evidence.surprises.push("agent-1 ended by itself".into())),
    ];
    for (rule, spoil) in spoil {
        let mut evidence = good();
        spoil(&mut evidence);
        assert_eq!(broken(&evidence), rule);
    }
}

fn silent(at_ms: i64) -> SilentRow {
    SilentRow { session: "s".into(), agent: "agent-1".into(), seen_ms: 0, at_ms, at_ns: 0 }
}

#[test]
fn a_killed_agent_is_silent_only_until_it_was_started_again_for_long_enough_to_be_heard() {
    let life = |from_ms, to_ms| Life { agent: "agent-1".into(), from_ms, to_ms };
    let mut evidence = good();
    evidence.excused.silence = Silence::Killed;
    evidence.lives = vec![life(0, Some(10_000)), life(20_000, Some(21_000)), life(40_000, None)];
    for excused in [10_000 + SILENT_FOR_MS, 21_000 + SILENT_FOR_MS, 39_999, 40_000 + HEARD_AFTER_MS - 1] {
        evidence.silent = vec![SilentRow { seen_ms: -1, ..silent(excused) }];
        assert_eq!(check(&evidence).1, [], "{excused}");
    }
    for not_excused in [HEARD_AFTER_MS, 9_999, 40_000 + HEARD_AFTER_MS] {
        evidence.silent = vec![silent(not_excused)];
        assert_eq!(broken(&evidence), Rule::LostAgent, "{not_excused}");
    }
    evidence.silent = vec![SilentRow { seen_ms: 40_000, ..silent(40_001) }];
    assert_eq!(broken(&evidence), Rule::LostAgent, "it was heard, and its process lives");
    evidence.silent = vec![silent(10_000 + SILENT_FOR_MS - 1)];
    assert_eq!(broken(&evidence), Rule::LostAgent, "it had not been silent for long enough");
    evidence.silent = vec![silent(HEARD_AFTER_MS)];
    evidence.excused.silence = Silence::Always;
    assert_eq!(check(&evidence).1, []);
}
