//! One pass over one pool.

use std::collections::HashMap;
use std::time::Instant;

use switchyard_common::contract::ids::{LeaseToken, PoolId, TaskId};
use switchyard_common::task::Input;
use uuid::Uuid;

use super::narrate;
use crate::schedule::{AgentView, Detail, Placement, Plan, PoolView, Snapshot, classes_with_capacity, plan};
use crate::store::intake::AtOnce;
use crate::store::route::Committed;
use crate::store::{Applied, Applier, Db, Named, StoreError, Transaction, pass};

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// The snapshot was planned, and what could be placed was.
    Done,
    /// Another replica has the pool's lock: its pass may have begun before the wake-up, so this one must come back (protocol E3).
    Busy,
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq)]
pub struct PassReport {
    /// How it ended.
    pub end: PassEnd,
    /// Committed assignments, to be published now.
    pub assigned: Vec<Committed>,
    /// Candidates were cut at a limit: there may be more to place at once.
    pub more: bool,
    /// Nothing waits for a handler that a live agent has, and there is one: what comes next may be assigned at once (protocol E5).
    pub idle: bool,
}

/// Runs one pass. Begin and end are logged as an unconditional pair: the absence of "begins" is itself a diagnosis.
pub async fn run_once(db: &Db, pool: &PoolId) -> Result<PassReport, StoreError> {
    narrate::begins(pool);
    let began = Instant::now();
    let result = run(db, pool).await;
    metrics::histogram!("switchyard_pass_seconds").record(began.elapsed().as_secs_f64());
    match &result {
        Ok(outcome) => narrate::ends(pool, outcome),
        Err(error) => narrate::fails(pool, error),
    }
    result.map(Outcome::into_report)
}

/// Locks nothing, and so commits nothing, when nothing waits: at low load, that is most passes. Tasks in the middle of a transaction of
/// somebody else's are the business of the wake-up that follows it (protocol E3).
async fn run(db: &Db, pool: &PoolId) -> Result<Outcome, StoreError> {
    let waiting = pass::look_waiting(db, pool).await?;
    if !waiting.any {
        let (agents, idle) = (waiting.agents, waiting.live > 0);
        return Ok(Outcome { end: PassEnd::Done, agents, idle, ..Outcome::busy() });
    }
    db.transaction(|transaction| async move { in_transaction(db, &transaction, pool).await }).await
}

/// A pass with everything that its log lines tell.
pub(super) struct Outcome {
    pub(super) end: PassEnd,
    pub(super) plan: Plan,
    pub(super) assigned: Vec<(Placement, Committed)>,
    pub(super) refused: Vec<Applied>,
    pub(super) agents: usize,
    pub(super) more: bool,
    pub(super) idle: bool,
}

impl Outcome {
    /// What intake has assigned in its own transaction.
    pub(super) fn at_once(AtOnce { agents, plan, assigned, .. }: AtOnce) -> Self {
        Self { end: PassEnd::Done, plan, assigned, agents, ..Self::busy() }
    }

    fn busy() -> Self {
        Self {
            end: PassEnd::Busy,
            plan: Plan::default(),
            assigned: Vec::new(),
            refused: Vec::new(),
            agents: 0,
            more: false,
            idle: false,
        }
    }

    pub(super) fn into_report(self) -> PassReport {
        PassReport {
            end: self.end,
            assigned: self.assigned.into_iter().map(|(_, committed)| committed).collect(),
            more: self.more,
            idle: self.idle,
        }
    }
}

/// Rounds of one pass: each passes over what the database refused in those before it.
const ROUNDS_MAX_COUNT: usize = 32;

/// Plans and assigns; again as long as the database refuses tasks, without these: one that cannot be assigned stays first in line, and
/// must not keep a free place from the rest of the pool (incident 59).
async fn in_transaction(db: &Db, transaction: &Transaction, pool: &PoolId) -> Result<Outcome, StoreError> {
    // The agents are read after the lock is taken; what is read without it is dropped.
    let (view, mut agents) =
        futures::try_join!(pass::lock_pool(transaction, pool), pass::agents(transaction, pool))?;
    let Some(view) = view else {
        return Ok(Outcome::busy());
    };
    let mut passed_over: Vec<TaskId> = Vec::new();
    let mut outcome = Outcome { end: PassEnd::Done, ..Outcome::busy() };
    for _ in 0..ROUNDS_MAX_COUNT {
        let poison = round(db, transaction, (&view, agents), &passed_over, &mut outcome).await?;
        if poison.is_empty() {
            break;
        }
        passed_over.extend(poison);
        agents = pass::agents(transaction, pool).await?;
    }
    Ok(outcome)
}

/// One round, added to `outcome`. Gives the tasks that the database refused.
async fn round(
    db: &Db,
    transaction: &Transaction,
    (view, agents): (&PoolView, Vec<AgentView>),
    passed_over: &[TaskId],
    outcome: &mut Outcome,
) -> Result<Vec<TaskId>, StoreError> {
    let pool = &view.id;
    let classes = classes_with_capacity(&agents);
    let candidates = pass::candidates(transaction, pool, &classes, passed_over).await?;
    let found = candidates.len();
    let snapshot = Snapshot { pool: view.clone(), agents, candidates };
    let plan = plan(&snapshot, Detail::ExclusiveOnly);
    let Assigned { assigned, refused, poison } = assign(db, transaction, pool, &plan).await?;
    // A decision that was refused leaves its place free: look again. So does a candidate limit that was reached in full.
    let cut = classes.iter().any(|class| class.limit == crate::schedule::capacity::CANDIDATES_MAX_COUNT);
    outcome.more |= !refused.is_empty() || (cut && found > 0 && !assigned.is_empty());
    outcome.agents = snapshot.agents.len();
    outcome.plan = plan;
    outcome.assigned.extend(assigned);
    outcome.refused.extend(refused);
    Ok(poison)
}

/// What came of placements.
#[derive(Default)]
struct Assigned {
    /// Committed with the transaction.
    assigned: Vec<(Placement, Committed)>,
    /// Decisions that the transition function refused.
    refused: Vec<Applied>,
    /// Tasks that the database refused to read or to write.
    poison: Vec<TaskId>,
}

/// Assigns what was planned. A decision that the database refuses is skipped and reported; it never fails the pass (protocol E4).
async fn assign(
    db: &Db,
    transaction: &Transaction,
    pool: &PoolId,
    plan: &Plan,
) -> Result<Assigned, StoreError> {
    let Some(served) = plan.served_rank() else {
        return Ok(Assigned::default());
    };
    // The rank before the savepoint: a row that one transaction locks and its subtransaction changes is dear to read for everybody else.
    let opening = async {
        futures::try_join!(
            pass::advance_rank(transaction, pool, served),
            transaction.batch_execute("SAVEPOINT placements")
        )
        .map(drop)
    };
    match assign_together(db, transaction, pool, &plan.placements, opening).await {
        Err(error) if error.is_of_the_row() => {
            transaction.batch_execute("ROLLBACK TO SAVEPOINT placements").await?;
            tracing::warn!(%pool, %error, "a placement is refused by the database; each is tried alone");
            assign_alone(db, transaction, pool, &plan.placements).await
        }
        result => result,
    }
}

/// One after the other: what the database refuses is reported and skipped, so that it cannot hold up the pool (incident 59).
async fn assign_alone(
    db: &Db,
    transaction: &Transaction,
    pool: &PoolId,
    placements: &[Placement],
) -> Result<Assigned, StoreError> {
    let mut all = Assigned::default();
    for placement in placements {
        let opening = transaction.batch_execute("SAVEPOINT placement");
        match assign_together(db, transaction, pool, std::slice::from_ref(placement), opening).await {
            Ok(one) => {
                all.assigned.extend(one.assigned);
                all.refused.extend(one.refused);
            }
            Err(error) if error.is_of_the_row() => {
                transaction.batch_execute("ROLLBACK TO SAVEPOINT placement").await?;
                metrics::counter!("switchyard_poison_tasks_total").increment(1);
                tracing::error!(%pool, task_id = %placement.task_id, workspace_id = %placement.workspace, %error,
                    "the database refuses to assign this task; it is skipped");
                all.poison.push(placement.task_id.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// `opening` runs at the database ahead of everything else.
async fn assign_together(
    db: &Db,
    transaction: &Transaction,
    pool: &PoolId,
    placements: &[Placement],
    opening: impl Future<Output = Result<(), StoreError>>,
) -> Result<Assigned, StoreError> {
    let inputs: Vec<Named> = placements.iter().map(|placement| named(pool, placement)).collect();
    let loading =
        Applier::load_to_assign(db, transaction, placements.iter().map(|placement| &placement.task_id));
    let ((), (mut applier, mut said)) = futures::try_join!(opening, loading)?;
    let by_task: HashMap<&TaskId, &Placement> =
        placements.iter().map(|placement| (&placement.task_id, placement)).collect();
    let mut all = Assigned { assigned: Vec::with_capacity(inputs.len()), ..Assigned::default() };
    for input in &inputs {
        let applied = applier.decide(input);
        let said = said.remove(&input.task_id).flatten();
        let committed = applied.after().and_then(|subject| Committed::of(subject, said, transaction.since()));
        match (committed, by_task.get(&input.task_id)) {
            (Some(committed), Some(placement)) => all.assigned.push(((*placement).clone(), committed)),
            (Some(_) | None, _) => all.refused.push(applied),
        }
    }
    applier.finish().await?;
    Ok(all)
}

fn named(pool: &PoolId, placement: &Placement) -> Named {
    Named {
        task_id: placement.task_id.clone(),
        attempt: None,
        input: Input::Assign(placement.to(pool, LeaseToken(Uuid::new_v4()))),
    }
}
