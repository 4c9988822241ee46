//! What operators do: an act and its audit row happen together or not at all.

use serde_json::json;
use switchyard_common::contract::ids::{Nonce, TaskId};
use switchyard_common::task::{Input, LossReason, ResolveTo};
use switchyard_dispatcher::dead_letters::replay::Drawn;
use switchyard_dispatcher::store::act::{Act, Acted, Asked, act};
use switchyard_dispatcher::store::letters::browse::{LetterFilter, list};
use switchyard_dispatcher::store::letters::resolve::{ReplayWish, discard, prepare_replay};
use switchyard_dispatcher::store::operate::{Pausable, fence, pause};
use switchyard_dispatcher::store::timeline::{Moment, timeline};
use switchyard_tests::harness::seed::{AgentSeed, TaskSeed};
use uuid::Uuid;

use crate::world::*;

/// Makes every audit row fail, as a full disk or a lost connection would between two transactions.
const REFUSE: &str = "CREATE FUNCTION refuse_audit() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'no audit today'; END $$; \
    CREATE TRIGGER refuse_audit BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_audit()";
const ALLOW: &str = "DROP TRIGGER refuse_audit ON audit_log; DROP FUNCTION refuse_audit()";

async fn batch(world: &World, sql: &str) {
    world.database.db.connection().await.unwrap().batch_execute(sql).await.unwrap();
}

fn asked(task: &TaskId, act: Act) -> Asked {
    Asked { task_id: task.clone(), act, by: "ann".into(), detail: json!({ "comment": "I looked at it" }) }
}

/// Every act on a task, each with a task that allows it.
async fn acts(world: &World) -> Vec<(TaskId, Act, &'static str)> {
    let agent = world.seed().agent("default", "worker-0").await;
    let approved = planned(world, "to-approve", &agent).await;
    let discarded = planned(world, "to-discard", &agent).await;
    let cancelled = world.seed().task(&TaskSeed::new("to-cancel", "w", "plan")).await;
    let later = TaskSeed {
        not_before: Some(chrono::Utc::now() + chrono::Duration::hours(1)),
        ..TaskSeed::new("to-hurry", "w", "plan")
    };
    let hurried = world.seed().task(&later).await;
    let uncertain = uncertain(world).await;
    let resolve = Act::Resolve { to: ResolveTo::Failed, override_reason: Some("the rack burned".into()) };
    vec![
        (approved, Act::Approve { digest: None }, "approved"),
        (discarded, Act::Discard, "discarded"),
        (cancelled, Act::Cancel { force: false }, "cancel requested"),
        (hurried, Act::RetryNow, "retry asked for"),
        (uncertain, resolve, "resolved"),
    ]
}

/// A task that waits for approval, in a workspace of its own.
async fn planned(world: &World, id: &str, agent: &AgentSeed) -> TaskId {
    world.seed().workspace(id, "default").await;
    let task = world.seed().task(&TaskSeed::new(id, id, "plan_and_apply")).await;
    let claim = world.seed().assign(&task, agent).await;
    let files = [("plan".to_owned(), b"change it".to_vec())].into();
    world.send_parts(agent, &claim, &files).await;
    world.report(agent, &claim, succeeded(&files)).await;
    task
}

/// A task whose agent was lost in the middle of its apply.
async fn uncertain(world: &World) -> TaskId {
    let agent = world.seed().agent("default", "worker-1").await;
    let task = planned(world, "to-resolve", &agent).await;
    world.seed().must(&task, Input::Approve { by: "bob".into(), digest: None }).await;
    let claim = world.seed().assign(&task, &agent).await;
    world.ask(&agent, &claim, Nonce(Uuid::from_u128(9))).await;
    let lost = Input::SessionEnded { session: agent.session, reason: LossReason::Silent };
    world.seed().must(&task, lost).await;
    task
}

async fn version(world: &World, task: &TaskId) -> i64 {
    world.seed().value("SELECT version::bigint FROM tasks WHERE task_id = $1", &[&task.as_str()]).await
}

#[tokio::test]
async fn an_act_whose_audit_row_cannot_be_written_does_not_happen() {
    let world = World::new().await;
    let acts = acts(&world).await;
    batch(&world, REFUSE).await;
    for (task, what, _) in &acts {
        let (before, notes) = (version(&world, task).await, world.seed().notes(task).await);
        act(&world.database.db, &asked(task, what.clone())).await.unwrap_err();
        assert_eq!(version(&world, task).await, before, "{task} has changed without an audit row");
        assert_eq!(world.seed().notes(task).await, notes, "{task}");
    }
    batch(&world, ALLOW).await;
    for (task, what, told) in &acts {
        let acted = act(&world.database.db, &asked(task, what.clone())).await.unwrap();
        assert!(matches!(acted, Acted::Changed(_)), "{task}: {acted:?}");
        let audited = format!(
            "audit_log WHERE actor = 'ann' AND action = '{}' AND subject = 'task:{task}' \
            AND detail->>'comment' = 'I looked at it'",
            what.audited_as()
        );
        assert_eq!(world.count(&audited).await, 1, "{task}");
        told_once(&timeline(&world.database.db, task.as_str()).await.unwrap(), told);
    }
}

/// One act is one line, with who and why.
fn told_once(moments: &[Moment], told: &str) {
    let of_act: Vec<&Moment> = moments.iter().filter(|moment| moment.detail["by"] == "ann").collect();
    assert_eq!(of_act.len(), 1, "{of_act:?}");
    assert_eq!(of_act[0].what, told);
    assert_eq!(of_act[0].detail["comment"], "I looked at it");
}

#[tokio::test]
async fn an_approval_given_beforehand_is_one_line_too() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world
        .seed()
        .task(&TaskSeed { auto_approve: true, ..TaskSeed::new("t", "w", "plan_and_apply") })
        .await;
    let claim = world.seed().assign(&task, &agent).await;
    let files = [("plan".to_owned(), b"change it".to_vec())].into();
    world.send_parts(&agent, &claim, &files).await;
    world.report(&agent, &claim, succeeded(&files)).await;
    let moments = timeline(&world.database.db, "t").await.unwrap();
    assert_eq!(moments.iter().filter(|moment| moment.what == "approved").count(), 1, "{moments:?}");
}

#[tokio::test]
async fn a_pause_a_fence_a_discard_and_a_replay_do_not_happen_without_their_audit_row() {
    let world = World::new().await;
    let db = &world.database.db;
    let task = world.seed().task(&TaskSeed::new("t", "w", "plan")).await;
    world.seed().must(&task, Input::DeadlinePassed).await;
    let filter = LetterFilter { resolved: None, ..LetterFilter::default() };
    let letter = list(db, &filter).await.unwrap()[0].letter_id;
    batch(&world, REFUSE).await;
    for what in [Pausable::Pool("default".into()), Pausable::Workspace("w".into())] {
        pause(db, &what, "ann", Some("rest")).await.unwrap_err();
        pause(db, &what, "ann", None).await.unwrap_err();
    }
    assert_eq!(world.count("pools WHERE paused_at IS NOT NULL").await, 0);
    assert_eq!(world.count("workspaces WHERE paused_at IS NOT NULL").await, 0);
    let epoch: i64 = world.value("SELECT epoch FROM fence").await;
    fence(db, "ann", "restored").await.unwrap_err();
    assert_eq!(world.value::<i64>("SELECT epoch FROM fence").await, epoch);
    discard(db, &[letter], "ann", None).await.unwrap_err();
    let drawn = Drawn { event: Uuid::now_v7(), task: Uuid::now_v7() };
    let wish = ReplayWish { by: "ann".into(), force: false, edit: None, note: None, drawn };
    prepare_replay(db, letter, &wish).await.unwrap_err();
    assert_eq!(world.count("dead_letters WHERE resolved_at IS NOT NULL OR replays > 0").await, 0);
}
