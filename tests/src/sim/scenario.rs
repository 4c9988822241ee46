//! What a run is made of: agents, replicas, kinds of tasks, and how much goes wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use switchyard_common::contract::ids::{AgentId, AgentRef, HandlerName, IdError, KindName, PoolId, StepName};
use switchyard_common::task::{Kind, Step, StepPolicy};
use switchyard_worker_agent::machine::Settings;

use super::agenda::Millis;
use super::dice::Dice;

/// Silence after which an agent is lost, in milliseconds: the default of both sides.
pub const LOST_AFTER_MS: u64 = 20_000;
/// Time on top of a run timeout before the dispatcher revokes, in milliseconds.
pub const RUN_TIMEOUT_GRACE_MS: u64 = 10_000;
/// Longest time from TERM to KILL of a handler, in milliseconds.
pub const KILL_GRACE_MS: u64 = 4_000;
/// Longest run of a handler, in milliseconds: one or the other.
const RUN_TIMEOUTS_MS: (u64, u64) = (25_000, 90_000);

/// How handlers end, as weights.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// With success.
    pub succeeds: u64,
    /// With success and nothing to change.
    pub changes_nothing: u64,
    /// With a failure.
    pub fails: u64,
    /// With a panic.
    pub panics: u64,
    /// Not by itself before its timeout.
    pub overruns: u64,
    /// With the death of its agent.
    pub kills_agent: u64,
}

/// A run before it begins.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The only pool.
    pub pool: PoolId,
    /// Each agent's settings.
    pub agents: Vec<Settings>,
    /// Replicas of the dispatcher.
    pub replicas: usize,
    /// Kinds, by weight.
    pub kinds: Vec<(u64, Kind)>,
    /// Workspaces.
    pub workspaces: u64,
    /// Tasks.
    pub tasks: u64,
    /// Faults before the calm.
    pub faults: u64,
    /// Nothing breaks from here on, in milliseconds.
    pub calm_at: Millis,
    /// How handlers end.
    pub ends: Ends,
    /// Messages of each queue that the broker hands out to a replica ahead of their acks.
    pub prefetch: usize,
    /// Longest run of a handler that runs long, in milliseconds.
    pub long_max_ms: Millis,
    /// So many of a thousand handlers run long.
    pub long_per_mille: u64,
    /// So many of a thousand tasks are cancelled.
    pub cancel_per_mille: u64,
    /// So many of a thousand commits are not told to whoever asked for them.
    pub unknown_commit_per_mille: u64,
    /// So many of a thousand commits are the last thing that their replica does.
    pub crash_after_commit_per_mille: u64,
    /// So many of a thousand acks and nacks of agents are lost with their connection.
    pub lost_settle_per_mille: u64,
    /// So many of a thousand approved assignments carry other inputs than those that were approved.
    pub wrong_inputs_per_mille: u64,
    /// In so many of a thousand runs an event kills whoever handles it.
    pub deadly_per_mille: u64,
    /// So many of a thousand assignments are the last that their agent's queue takes before it is deleted, without an answer.
    pub torn_per_mille: u64,
    /// After so many of a thousand asks the agent is stopped before the answer comes.
    pub stop_after_ask_per_mille: u64,
    /// So many of a thousand acts after a commit are late.
    pub late_act_per_mille: u64,
}

impl Scenario {
    /// Draws a scenario: from nearly quiet to a storm.
    ///
    /// # Errors
    /// Never: the names are labels.
    pub fn draw(dice: &mut Dice) -> Result<Self, IdError> {
        let pool = PoolId::new("default")?;
        let agents =
            (0..dice.between(1, 3)).map(|index| settings(&pool, index, dice)).collect::<Result<_, _>>()?;
        let storm = dice.below(4);
        let run_timeout_ms = if dice.chance(300) { RUN_TIMEOUTS_MS.1 } else { RUN_TIMEOUTS_MS.0 };
        Ok(Self {
            agents,
            pool,
            replicas: if dice.chance(250) { 1 } else { 2 },
            kinds: kinds(dice, run_timeout_ms)?,
            prefetch: if dice.chance(300) { 1 } else { 64 },
            long_max_ms: run_timeout_ms - 5_000,
            workspaces: dice.between(1, 3),
            tasks: dice.between(3, 12),
            faults: storm * dice.between(1, 5),
            calm_at: dice.between(30, 110) * 1_000,
            ends: ends(dice),
            long_per_mille: dice.below(300),
            cancel_per_mille: dice.below(250),
            unknown_commit_per_mille: storm * 8,
            crash_after_commit_per_mille: storm * 3,
            late_act_per_mille: storm * 12,
            lost_settle_per_mille: storm * 8,
            deadly_per_mille: storm * 40,
            stop_after_ask_per_mille: storm * 6,
            torn_per_mille: storm * 8,
            wrong_inputs_per_mille: storm * 10,
        })
    }
}

fn ends(dice: &mut Dice) -> Ends {
    let wild = dice.below(3);
    Ends {
        succeeds: 80,
        changes_nothing: 6,
        fails: 6 * wild,
        panics: 3 * wild,
        overruns: 3 * wild,
        kills_agent: 3 * wild,
    }
}

fn settings(pool: &PoolId, index: u64, dice: &mut Dice) -> Result<Settings, IdError> {
    let slots = u32::try_from(dice.between(1, 3)).unwrap_or(1);
    let credit = u32::try_from(dice.below(4)).unwrap_or_default();
    let handlers = ["plan", "apply", "deploy", "once"].into_iter().map(HandlerName::new);
    Ok(Settings {
        agent: AgentRef { pool: pool.clone(), agent: AgentId::new(format!("worker-{index}"))? },
        pod: format!("worker-{index}"),
        node: None,
        version: "0".to_owned(),
        slots,
        credit,
        max_exclusive: if dice.chance(300) { slots } else { 1 },
        handlers: handlers.collect::<Result<BTreeSet<_>, _>>()?,
        heartbeat: Duration::from_secs(5),
        lost_timeout: Duration::from_millis(LOST_AFTER_MS),
        silence_margin: Duration::from_secs(2),
        kill_grace: Duration::from_millis(KILL_GRACE_MS),
        start_window: Duration::from_secs(dice.between(2, 15)),
    })
}

fn kinds(dice: &mut Dice, run_timeout_ms: u64) -> Result<Vec<(u64, Kind)>, IdError> {
    let policy = StepPolicy {
        max_attempts: 3,
        backoff_initial_ms: 300,
        backoff_max_ms: 2_000,
        run_timeout_ms,
        start_timeout_ms: dice.chance(300).then_some(30_000),
        queue_timeout_ms: dice.chance(100).then_some(60_000),
        approval_timeout_ms: dice.chance(100).then_some(60_000),
    };
    let step = |name: &str, handler: &str, repeatable: bool, approval: bool| -> Result<Step, IdError> {
        Ok(Step {
            name: StepName::new(name)?,
            handler: HandlerName::new(handler)?,
            approval,
            repeatable,
            parameters: json!({}),
            policy,
        })
    };
    let kind = |name: &str, exclusive: bool, steps: Vec<Step>| -> Result<Kind, IdError> {
        Ok(Kind {
            name: KindName::new(name)?,
            exclusive,
            auto_approve_allowed: exclusive,
            default_priority: 1,
            steps: steps.into(),
        })
    };
    Ok(vec![
        (3, kind("plan", false, vec![step("plan", "plan", true, false)?])?),
        (
            5,
            kind(
                "plan_and_apply",
                true,
                vec![step("plan", "plan", true, false)?, step("apply", "apply", false, true)?],
            )?,
        ),
        (3, kind("deploy", true, vec![step("deploy", "deploy", true, false)?])?),
        (
            2,
            kind(
                "migrate",
                true,
                vec![step("prepare", "plan", true, false)?, step("migrate", "once", false, false)?],
            )?,
        ),
        (1, kind("once", false, vec![step("once", "once", false, false)?])?),
    ])
}
