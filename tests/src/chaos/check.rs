//! What must hold of the evidence: pure, so that each rule is shown to catch what it is for.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::behaviour::Ends;
use super::book::{Purpose, Sent};
use super::evidence::{AttemptRow, Evidence, LetterRow, Life, SilentRow, TaskRow};
use super::fault::Silence;
use super::ledger::Run;
use super::world::{HEARTBEAT, LOST_AFTER};

/// The kind that holds its workspace.
const EXCLUSIVE_KIND: &str = "plan_and_apply";
/// The step that is started at most once.
const ONCE: &str = "apply";
/// An agent that was started this long ago has been heard, unless something keeps it from that, in milliseconds. It has cleared its working
/// directories by then, which takes longer only where a process cannot be killed.
const HEARD_AFTER_MS: i64 = 6_000;
/// An agent that was killed is declared silent this long after that at the earliest, in milliseconds: its last sign of life was one period
/// older at most, and clocks are read at different moments.
#[expect(clippy::cast_possible_truncation, reason = "some seconds")]
const SILENT_FOR_MS: i64 = LOST_AFTER.as_millis() as i64 - 2 * HEARTBEAT.as_millis() as i64;
// One that waits for the end of its old session is met.
const _: () = assert!(HEARD_AFTER_MS < SILENT_FOR_MS);

/// What was broken. One column of the table each, or one kind of the unexpected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A confirmed event had no effect, and no dead letter says why.
    Lost,
    /// Handlers of two exclusive tasks, or of two steps of one, ran in one workspace at a time.
    Overlap,
    /// A step that is not repeatable was started twice, or one attempt was run twice.
    Duplicated,
    /// A task neither ended nor waits for a stated reason.
    Unexplained,
    /// A task ended as nobody meant it to.
    Unexpected,
    /// A failure without its one whole dead letter.
    Letter,
    /// A cancel that nobody acknowledged, or that something was started after.
    Cancel,
    /// An agent was declared lost although nothing kept it from being heard.
    LostAgent,
    /// A handler of an exclusive task ran when its agent had been declared lost: what runs in its place could have met it.
    Outlived,
    /// `dispatcher audit`.
    Audit,
    /// A message was left in a queue.
    Queue,
    /// An agent has something in hand.
    Slot,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What was found, with the names that it takes to look further.
    pub text: String,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Times that an event was published.
    pub attempted: usize,
    /// Events that the broker confirmed.
    pub acknowledged: usize,
    /// Tasks that were submitted.
    pub tasks: usize,
    /// Tasks that ended, each in a way that is explained.
    pub ok: usize,
    /// Confirmed events without an effect.
    pub lost: usize,
    /// Runs that were one too many.
    pub duplicated: usize,
    /// Runs of a repeatable step after its first one: allowed.
    pub repeated: usize,
    /// Tasks that succeeded although an attempt of theirs did not.
    pub recovered: usize,
    /// Tasks that an operator had to resolve.
    pub uncertain: usize,
    /// Runs that met in a workspace.
    pub overlaps: usize,
    /// Runs of one repeatable step that met each other: allowed.
    pub own_overlaps: usize,
    /// Tasks that neither ended nor wait for a stated reason.
    pub unexplained: usize,
    /// Everything else that does not hold.
    pub unexpected: usize,
}

/// Holds the evidence against every rule.
#[must_use]
pub fn check(evidence: &Evidence) -> (Counts, Vec<Finding>) {
    let index = Index::of(evidence);
    let (overlapping, own_overlaps) = overlaps(&evidence.runs);
    let mut findings = lost(&index);
    findings.extend(overlapping);
    findings.extend(duplicated(&evidence.runs));
    findings.extend(evidence.tasks.iter().filter_map(|task| ended(task, &index)));
    findings.extend(evidence.attempts.iter().filter_map(|attempt| succeeded_without_doing(attempt, &index)));
    findings.extend(outlived(evidence));
    findings.extend(letters(&index));
    findings.extend(cancels(evidence));
    findings.extend(at_rest(evidence));
    let counts = count(&index, &findings, own_overlaps);
    (counts, findings)
}

fn finding(rule: Rule, text: String) -> Finding {
    Finding { rule, text }
}

/// The evidence, by what it is looked up by.
struct Index<'a> {
    evidence: &'a Evidence,
    tasks: BTreeMap<&'a str, &'a TaskRow>,
    letters_by_event: BTreeMap<&'a str, &'a LetterRow>,
    letters_by_key: BTreeMap<&'a str, &'a LetterRow>,
    letters_by_task: BTreeSet<&'a str>,
    told_to_end: BTreeSet<&'a str>,
    resolved: BTreeSet<&'a str>,
}

impl<'a> Index<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let letters = || evidence.letters.iter();
        let ends = |sent: &&Sent| matches!(sent.purpose, Purpose::Cancel | Purpose::Discard);
        Self {
            evidence,
            tasks: evidence.tasks.iter().map(|task| (task.task.as_str(), task)).collect(),
            letters_by_event: letters()
                .filter_map(|letter| Some((letter.event_id.as_deref()?, letter)))
                .collect(),
            letters_by_key: letters().map(|letter| (letter.key.as_str(), letter)).collect(),
            letters_by_task: letters().filter_map(|letter| letter.task.as_deref()).collect(),
            told_to_end: evidence.book.sent.iter().filter(ends).map(|sent| sent.task.as_str()).collect(),
            resolved: evidence.resolved.iter().map(|(task, _)| task.as_str()).collect(),
        }
    }
}

/// Every confirmed event had its effect, or a dead letter says why not; and nothing that is right was refused.
fn lost(index: &Index<'_>) -> Vec<Finding> {
    let one = |sent: &Sent| {
        let stored = index.evidence.events.contains(&sent.event_id);
        let letter = index.letters_by_event.get(sent.event_id.as_str());
        let what = format!("event {} ({:?} of {})", sent.event_id, sent.purpose, sent.task);
        if !stored && letter.is_none() {
            return Some(finding(Rule::Lost, format!("{what} was confirmed and is nowhere")));
        }
        let refused = letter.and_then(|letter| letter.failure_kind.as_deref()).unwrap_or("no reason");
        match sent.purpose {
            Purpose::Submit if !stored => {
                Some(finding(Rule::Unexpected, format!("{what} was refused: {refused}")))
            }
            Purpose::Submit if !index.tasks.contains_key(sent.task.as_str()) => {
                Some(finding(Rule::Lost, format!("{what} was stored, and its task is nowhere")))
            }
            Purpose::Conflict if refused != "id_conflict" => {
                Some(finding(Rule::Letter, format!("{what} was not refused as a conflict: {refused}")))
            }
            Purpose::Approve | Purpose::Discard | Purpose::Cancel
                if !stored && !matches!(refused, "rejected_transition" | "unknown_task") =>
            {
                Some(finding(Rule::Unexpected, format!("{what} was refused: {refused}")))
            }
            Purpose::Submit | Purpose::Conflict | Purpose::Approve | Purpose::Discard | Purpose::Cancel => {
                None
            }
        }
    };
    index.evidence.book.sent.iter().filter(|sent| sent.confirmed).filter_map(one).collect()
}

/// Runs that met in a workspace, and how many runs of one step met each other.
fn overlaps(runs: &[Run]) -> (Vec<Finding>, usize) {
    let mut by_workspace: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.kind == EXCLUSIVE_KIND) {
        by_workspace.entry(&run.workspace).or_default().push(run);
    }
    let (mut found, mut own) = (Vec::new(), 0);
    for runs in by_workspace.values() {
        for (number, run) in runs.iter().enumerate() {
            for other in runs[..number].iter().filter(|other| run.overlaps(other)) {
                if (&run.task, &run.step) == (&other.task, &other.step) && run.step != ONCE {
                    own += 1;
                } else {
                    let met = format!("{} met {} in {}", tell(run), tell(other), run.workspace);
                    found.push(finding(Rule::Overlap, met));
                }
            }
        }
    }
    (found, own)
}

/// An agent that is not heard has ended what may not run elsewhere before a dispatcher declares it lost (protocol C3). That nothing met
/// is luck if not.
fn outlived(evidence: &Evidence) -> Vec<Finding> {
    let silent: BTreeMap<&str, &SilentRow> =
        evidence.silent.iter().map(|silent| (silent.session.as_str(), silent)).collect();
    let lost: BTreeMap<(&str, u64), &SilentRow> = evidence
        .attempts
        .iter()
        .filter_map(|one| Some(((one.task.as_str(), one.attempt), *silent.get(one.session.as_str())?)))
        .collect();
    let one = |run: &Run| {
        let silent = lost.get(&(run.task.as_str(), run.attempt)).filter(|silent| run.to_ns > silent.at_ns)?;
        let (session, at_ns) = (&silent.session, silent.at_ns);
        let told = format!("{} ran on, its session {session} was declared silent at {at_ns}", tell(run));
        Some(finding(Rule::Outlived, told))
    };
    evidence.runs.iter().filter(|run| run.kind == EXCLUSIVE_KIND).filter_map(one).collect()
}

fn tell(run: &Run) -> String {
    format!("{}#{} {} at {} ({} to {})", run.task, run.attempt, run.step, run.agent, run.from_ns, run.to_ns)
}

/// Nothing that may start once started twice, and no attempt was run twice.
fn duplicated(runs: &[Run]) -> Vec<Finding> {
    let mut seen: BTreeMap<(&str, &str, u64), &Run> = BTreeMap::new();
    let mut found = Vec::new();
    for run in runs {
        let attempt = if run.step == ONCE { 0 } else { run.attempt };
        if let Some(first) = seen.insert((&run.task, &run.step, attempt), run) {
            found.push(finding(Rule::Duplicated, format!("{} ran again as {}", tell(first), tell(run))));
        }
    }
    found
}

/// A task ended, in a way that somebody meant or a fault of the mix excuses; or it waits for a reason that can be read.
fn ended(task: &TaskRow, index: &Index<'_>) -> Option<Finding> {
    let excused = index.evidence.excused;
    let name = &task.task;
    if !task.terminal {
        let text =
            format!("{name} is {} at {}, and waits for {:?}", task.status, task.step, task.waiting_for);
        return Some(finding(Rule::Unexplained, text));
    }
    let intent = index.evidence.book.intents.get(name);
    let meant = intent.and_then(|intent| intent.ends(&task.step));
    let fails = matches!(meant, Some(Ends::Fails | Ends::FailsOnce));
    let explained = match (task.status.as_str(), task.failure_kind.as_deref().unwrap_or_default()) {
        _ if index.resolved.contains(name.as_str()) => true,
        ("succeeded", _) => meant.is_none_or(Ends::can_succeed),
        ("cancelled", _) => index.told_to_end.contains(name.as_str()),
        ("failed", "handler_failed") => fails || excused.handler_deaths,
        ("failed", "handler_panicked") => meant == Some(Ends::Crashes) || excused.handler_deaths,
        ("failed", "agent_lost" | "interrupted") => excused.losses || excused.handler_deaths,
        _ => false,
    };
    let why = task.failure_kind.as_deref().unwrap_or("no failure");
    let text = format!("{name} is {} at {} ({why}), but was meant to be {meant:?}", task.status, task.step);
    (!explained).then(|| finding(Rule::Unexpected, text))
}

/// What counts as done was done, by the handler's own word.
fn succeeded_without_doing(attempt: &AttemptRow, index: &Index<'_>) -> Option<Finding> {
    let done = |run: &&Run| {
        (run.task.as_str(), run.attempt) == (attempt.task.as_str(), attempt.attempt)
            && run.end.is_some_and(Ends::can_succeed)
    };
    let claimed = attempt.outcome.as_deref() == Some("succeeded");
    let text =
        || format!("{}#{} counts as succeeded, but its handler never said so", attempt.task, attempt.attempt);
    (claimed && !index.evidence.runs.iter().any(|run| done(&run))).then(|| finding(Rule::Unexpected, text()))
}

/// Every nack and every failed task has a dead letter, whole.
fn letters(index: &Index<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for attempt in index.evidence.attempts.iter().filter(|attempt| attempt.failed()) {
        let key = attempt.letter_key();
        match index.letters_by_key.get(key.as_str()) {
            None => found.push(finding(Rule::Letter, format!("{key} failed without a dead letter"))),
            Some(letter) if !letter.missing.is_empty() => {
                found.push(finding(
                    Rule::Letter,
                    format!("the letter {key} lacks {}", letter.missing.join(", ")),
                ));
            }
            Some(_) => {}
        }
    }
    let failed = index.evidence.tasks.iter().filter(|task| task.status == "failed");
    let silent = failed.filter(|task| !index.letters_by_task.contains(task.task.as_str()));
    found.extend(
        silent.map(|task| finding(Rule::Letter, format!("{} failed without any dead letter", task.task))),
    );
    found
}

/// Every cancel is answered for: nothing goes on that was asked to stop, and nothing starts after it.
fn cancels(evidence: &Evidence) -> Vec<Finding> {
    let one = |attempt: &AttemptRow| {
        let name = format!("{}#{}", attempt.task, attempt.attempt);
        if attempt.revoked && attempt.outcome.is_none() {
            return Some(finding(Rule::Cancel, format!("{name} was asked to stop, and nobody answered")));
        }
        attempt
            .after_cancel
            .then(|| finding(Rule::Cancel, format!("{name} was assigned after its task's cancel")))
    };
    evidence.attempts.iter().filter_map(one).collect()
}

/// What must be so when nothing is left to do.
fn at_rest(evidence: &Evidence) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(evidence.audit.iter().map(|text| finding(Rule::Audit, text.clone())));
    let left = evidence.queues.iter().filter(|(_, count)| *count > 0);
    found.extend(
        left.map(|(queue, count)| finding(Rule::Queue, format!("{count} messages are left in {queue}"))),
    );
    let busy = evidence.in_hand.iter().filter(|(_, count)| *count > 0);
    found
        .extend(busy.map(|(agent, count)| finding(Rule::Slot, format!("{agent} still has {count} in hand"))));
    let lost = evidence.silent.iter().filter(|silent| !is_excused(silent, evidence));
    found.extend(lost.map(|silent| {
        let at = DateTime::from_timestamp_millis(silent.at_ms).unwrap_or_default();
        let text = format!(
            "session {} of {} was declared silent at {at:?} for nothing",
            silent.session, silent.agent
        );
        finding(Rule::LostAgent, text)
    }));
    found.extend(evidence.surprises.iter().map(|text| finding(Rule::Unexpected, text.clone())));
    let unread = evidence.resolved.iter().filter(|(_, reason)| reason.is_empty());
    found.extend(
        unread.map(|(task, _)| finding(Rule::Unexplained, format!("{task} was uncertain without a reason"))),
    );
    found
}

/// Whether a fault excuses that this session was declared silent.
fn is_excused(silent: &SilentRow, evidence: &Evidence) -> bool {
    let lives = || evidence.lives.iter().filter(|life| life.agent == silent.agent);
    // The session that was declared silent is that process's own, or an older one that should have made way for it.
    let should_be_heard = |life: &Life| {
        let runs = life.from_ms <= silent.at_ms && life.to_ms.is_none_or(|to_ms| silent.at_ms < to_ms);
        runs && (life.from_ms <= silent.seen_ms || life.from_ms + HEARD_AFTER_MS <= silent.at_ms)
    };
    // Nobody could speak for it for as long as it may be silent.
    let silent_for_long = || {
        let last = lives().filter_map(|life| life.to_ms).filter(|to_ms| *to_ms <= silent.at_ms).max();
        last.is_some_and(|to_ms| to_ms + SILENT_FOR_MS <= silent.at_ms)
    };
    match evidence.excused.silence {
        Silence::Never => false,
        Silence::Killed => !lives().any(should_be_heard) && silent_for_long(),
        Silence::Always => true,
    }
}

fn count(index: &Index<'_>, findings: &[Finding], own_overlaps: usize) -> Counts {
    let evidence = index.evidence;
    let of = |rules: &[Rule]| findings.iter().filter(|finding| rules.contains(&finding.rule)).count();
    let mut first_runs = BTreeSet::new();
    let repeated = evidence.runs.iter().filter(|run| !first_runs.insert((&run.task, &run.step))).count();
    let unwell =
        |attempt: &&AttemptRow| !matches!(attempt.outcome.as_deref(), Some("succeeded" | "not_started"));
    let troubled: BTreeSet<&str> =
        evidence.attempts.iter().filter(unwell).map(|attempt| attempt.task.as_str()).collect();
    let ended = || evidence.tasks.iter().filter(|task| task.terminal);
    let known = of(&[Rule::Lost, Rule::Overlap, Rule::Duplicated, Rule::Unexplained]);
    Counts {
        attempted: evidence.book.sent.iter().map(|sent| usize::try_from(sent.tries).unwrap_or(0)).sum(),
        acknowledged: evidence.book.sent.iter().filter(|sent| sent.confirmed).count(),
        tasks: evidence.book.intents.len(),
        ok: ended().filter(|task| super::check::ended(task, index).is_none()).count(),
        lost: of(&[Rule::Lost]),
        duplicated: of(&[Rule::Duplicated]),
        repeated: repeated - of(&[Rule::Duplicated]).min(repeated),
        recovered: ended()
            .filter(|task| task.status == "succeeded" && troubled.contains(task.task.as_str()))
            .count(),
        uncertain: evidence.resolved.len(),
        overlaps: of(&[Rule::Overlap]),
        own_overlaps,
        unexplained: of(&[Rule::Unexplained]),
        unexpected: findings.len() - known,
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
