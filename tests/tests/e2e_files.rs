//! Plan, approve and apply on real files, with the example's own programs.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::binaries::repository;
use switchyard_tests::harness::scenario::{Process, Scenario, Upstream};

/// The example as an agent's configuration: its commands are named by their whole path, because the file is written elsewhere.
fn handlers() -> anyhow::Result<String> {
    let examples = repository().join("deploy/examples");
    let toml = fs::read_to_string(examples.join("agent.toml"))?;
    Ok(toml.replace("files/", &format!("{}/", examples.join("files").display())))
}

struct Bench {
    scenario: Scenario,
    upstream: Upstream,
    dispatcher: Process,
    _agent: Process,
}

impl Bench {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::new(name).await?;
        for folder in ["desired", "target"] {
            fs::create_dir(scenario.folder.join(folder))?;
        }
        fs::write(scenario.folder.join("desired/sign.txt"), "open at nine\n")?;
        fs::write(scenario.folder.join("target/sign.txt"), "closed\n")?;
        fs::write(scenario.folder.join("target/old.txt"), "to be deleted\n")?;
        let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
        let agent = scenario.agent("agent-1").config(handlers()?).start().await?;
        let upstream = scenario.upstream().await?;
        Ok(Self { scenario, upstream, dispatcher, _agent: agent })
    }

    fn payload(&self) -> Value {
        json!({ "desired": self.scenario.folder.join("desired"), "target": self.scenario.folder.join("target") })
    }

    fn target(&self, name: &str) -> Option<String> {
        read(&self.scenario.folder.join("target").join(name))
    }

    /// Submits and waits for the question; gives the diff that is to be approved.
    async fn plan(&mut self, task_id: &str) -> anyhow::Result<String> {
        let payload = self.payload();
        self.upstream.submit(task_id, "shop", "plan_and_apply", payload).await?;
        self.scenario.until_status(task_id, Status::AwaitingApproval).await?;
        Ok(String::from_utf8(self.scenario.operator(&["tasks", "artifact", task_id, "plan.diff"])?)?)
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[tokio::test]
async fn what_is_approved_is_what_is_applied_whatever_is_edited_meanwhile() -> anyhow::Result<()> {
    let mut bench = Bench::new("files_apply").await?;
    let diff = bench.plan("t-1").await?;
    for part in ["-closed", "+open at nine", "-to be deleted"] {
        assert!(diff.contains(part), "{part:?} is not in {diff}");
    }
    assert_eq!(bench.target("sign.txt").as_deref(), Some("closed\n"), "a plan changes nothing");
    // The desired folder moves on between plan and apply.
    fs::write(bench.scenario.folder.join("desired/sign.txt"), "never approved\n")?;
    let approved = bench.upstream.approve("t-1", "ada").await?;
    let digest = bench.scenario.task("t-1").await?.artifact_digest;
    assert_eq!(approved.artifact_digest.map(|digest| digest.to_string()), digest);

    let task = bench.scenario.until_status("t-1", Status::Succeeded).await?;
    assert_eq!(task.approved_by.as_deref(), Some("ada"));
    assert_eq!(bench.target("sign.txt").as_deref(), Some("open at nine\n"));
    assert_eq!(bench.target("old.txt"), None);
    let applied = bench.scenario.attempts("t-1").await?;
    assert_eq!(applied[1].result, Some(json!({ "applied": 2 })));
    Ok(())
}

#[tokio::test]
async fn an_operator_reads_what_waits_before_approving_it_by_command_and_by_http() -> anyhow::Result<()> {
    let mut bench = Bench::new("files_read").await?;
    let diff = bench.plan("t-1").await?;
    let stored = bench.scenario.artifacts("t-1", 1).await?;
    assert_eq!(diff.as_bytes(), stored["plan.diff"], "byte for byte");

    let listed = bench.scenario.operator(&["tasks", "artifacts", "t-1", "--json"])?;
    let listed: Vec<Value> = serde_json::from_slice(&listed)?;
    let file = listed.iter().find(|file| file["name"] == "plan.diff").context("plan.diff is listed")?;
    assert_eq!(
        (&file["step"], &file["attempt"], &file["size"]),
        (&json!("plan"), &json!(1), &json!(diff.len()))
    );
    let digest = bench.scenario.task("t-1").await?.artifact_digest.context("a digest")?;
    assert_eq!(file["manifest_digest"], json!(digest));

    let shown = String::from_utf8(bench.scenario.operator(&["tasks", "show", "t-1"])?)?;
    assert!(shown.contains("plan.diff"), "{shown}");
    let path = bench.scenario.folder.join("copy.diff");
    let output = path.to_str().context("a path")?;
    bench.scenario.operator(&[
        "tasks",
        "artifact",
        "t-1",
        "plan.diff",
        "--step",
        "plan",
        "--output",
        output,
    ])?;
    assert_eq!(fs::read_to_string(&path)?, diff);
    for unknown in [["t-1", "nothing"], ["nobody", "plan.diff"]] {
        let [task, name] = unknown;
        bench.scenario.operator(&["tasks", "artifact", task, name]).unwrap_err();
    }

    let answer = bench.dispatcher.get("/api/v1/tasks/t-1/artifacts/plan.diff").await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, diff.as_str()));
    let answer = bench.dispatcher.get("/api/v1/tasks/t-1/artifacts").await?;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&answer.body)?, listed);
    assert_eq!(bench.dispatcher.get("/api/v1/tasks/t-1/artifacts/nothing").await?.status, 404);
    let answer = bench.dispatcher.get("/api/v1/tasks/nobody/artifacts").await?;
    assert_eq!((answer.status, answer.body.as_str()), (404, "there is no such task\n"));

    let approve = ["tasks", "approve", "t-1", "--by", "ada", "--comment", "read it", "--digest", &digest];
    let approved = String::from_utf8(bench.scenario.operator(&approve)?)?;
    assert!(approved.contains(&digest), "{approved}");
    bench.scenario.until_status("t-1", Status::Succeeded).await?;
    let shown = String::from_utf8(bench.scenario.operator(&["tasks", "show", "t-1"])?)?;
    let acts: Vec<&str> = shown.lines().filter(|line| line.contains("by ada")).collect();
    assert_eq!(acts.len(), 1, "one act is one line: {shown}");
    assert!(acts[0].contains("approved by ada: \"read it\""), "{acts:?}");
    Ok(())
}

#[tokio::test]
async fn a_target_that_has_changed_since_its_plan_is_left_alone() -> anyhow::Result<()> {
    let mut bench = Bench::new("files_drift").await?;
    bench.plan("t-1").await?;
    fs::write(bench.scenario.folder.join("target/sign.txt"), "by somebody else\n")?;
    bench.upstream.approve("t-1", "ada").await?;
    bench.scenario.until_status("t-1", Status::Failed).await?;
    assert_eq!(bench.target("sign.txt").as_deref(), Some("by somebody else\n"));
    assert_eq!(bench.target("old.txt").as_deref(), Some("to be deleted\n"));
    let letter = bench.scenario.until_letter_of("t-1").await?;
    let told = letter.log_tail().join("\n");
    assert!(told.contains("has changed since the plan was made"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_second_change_of_a_workspace_waits_for_the_first_and_a_plan_without_changes_ends_at_once()
-> anyhow::Result<()> {
    let mut bench = Bench::new("files_queue").await?;
    bench.plan("t-1").await?;
    let payload = bench.payload();
    bench.upstream.submit("t-2", "shop", "plan_and_apply", payload).await?;
    let waiting = bench.scenario.task("t-2").await?;
    assert_eq!(waiting.status, Status::Blocked);
    assert!(waiting.waiting_for.contains("t-1"), "{}", waiting.waiting_for);

    bench.upstream.approve("t-1", "ada").await?;
    bench.scenario.until_status("t-1", Status::Succeeded).await?;
    let second = bench.scenario.until_status("t-2", Status::Succeeded).await?;
    assert_eq!((second.attempts, second.approved_by), (1, None), "nothing was left to approve or apply");
    Ok(())
}
