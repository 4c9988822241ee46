//! Plan, approve and apply of an Ansible playbook, with the example's own programs. Needs ansible-core, which `make test` installs.

use std::fs;

use serde_json::{Value, json};
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::binaries::repository;

#[tokio::test]
async fn an_ansible_playbook_is_checked_approved_and_run_as_it_was_approved() -> anyhow::Result<()> {
    let scenario = Scenario::new("ansible").await?;
    let example = repository().join("deploy/examples/ansible");
    let handlers =
        fs::read_to_string(example.join("agent.toml"))?.replace("\"./", &format!("\"{}/", example.display()));
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").config(handlers).start().await?;
    let mut upstream = scenario.upstream().await?;

    let folder = scenario.folder.join("greeted");
    let playbook = scenario.write("site.yml", &fs::read_to_string(example.join("site.yml"))?)?;
    let payload = |greeting: &str| -> Value {
        json!({ "playbook": playbook, "variables": { "folder": folder, "greeting": greeting } })
    };
    upstream.submit("t-1", "hosts", "plan_and_apply", payload("good morning")).await?;
    scenario.until_status("t-1", Status::AwaitingApproval).await?;
    let artifacts = scenario.artifacts("t-1", 1).await?;
    let diff = String::from_utf8(artifacts["plan.diff"].clone())?;
    assert!(diff.contains("+good morning"), "{diff}");
    assert!(!folder.exists(), "the check mode changes nothing");

    // Edited after the plan: what was approved runs all the same.
    fs::write(&playbook, "- this is not the playbook that was approved\n")?;
    upstream.approve("t-1", "ada").await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    assert_eq!(fs::read_to_string(folder.join("greeting.txt"))?, "good morning\n");

    fs::write(&playbook, &artifacts["playbook.yml"])?;
    upstream.submit("t-2", "hosts", "plan_and_apply", payload("good morning")).await?;
    let again = scenario.until_status("t-2", Status::Succeeded).await?;
    assert_eq!(again.attempts, 1, "a play that would change nothing needs no approval and no run");
    Ok(())
}
