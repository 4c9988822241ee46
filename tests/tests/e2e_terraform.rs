//! The Terraform example on a real configuration: plan, read, approve, apply; by the resource type that is built into the program, so
//! that nothing is downloaded. Where neither Terraform nor OpenTofu is installed nothing is tested, and that is said.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::binaries::repository;
use switchyard_tests::harness::scenario::{Scenario, Upstream};

/// The program that the example will take; without one, says past the capture of the test runner that nothing was tested.
fn program() -> anyhow::Result<Option<&'static str>> {
    for name in ["tofu", "terraform"] {
        if Command::new(name).arg("version").output().is_ok_and(|output| output.status.success()) {
            return Ok(Some(name));
        }
    }
    writeln!(
        std::io::stderr(),
        "NOT TESTED: e2e_terraform needs tofu or terraform, and neither is installed"
    )?;
    Ok(None)
}

fn handlers() -> anyhow::Result<String> {
    let example = repository().join("deploy/examples/terraform");
    let toml = fs::read_to_string(example.join("agent.toml"))?;
    Ok(toml.replace("\"./", &format!("\"{}/", example.display())))
}

fn configuration(input: &str) -> String {
    format!(
        "resource \"terraform_data\" \"site\" {{\n  input = \"{input}\"\n}}\n\noutput \"site\" {{ value = terraform_data.site.output }}\n"
    )
}

struct Bench {
    scenario: Scenario,
    upstream: Upstream,
}

impl Bench {
    fn write(&self, input: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.scenario.folder.join("network/main.tf"), configuration(input))?)
    }

    async fn submit(&mut self, task_id: &str) -> anyhow::Result<()> {
        let payload = json!({ "configuration": self.scenario.folder.join("network") });
        self.upstream.submit(task_id, "network", "plan_and_apply", payload).await?;
        Ok(())
    }

    /// Waits for the question, and gives what the operator reads.
    async fn plan(&mut self, task_id: &str) -> anyhow::Result<String> {
        self.submit(task_id).await?;
        self.scenario.until_status(task_id, Status::AwaitingApproval).await?;
        Ok(String::from_utf8(self.scenario.operator(&["tasks", "artifact", task_id, "plan.txt"])?)?)
    }

    fn approve(&self, task_id: &str) -> anyhow::Result<()> {
        self.scenario.operator(&["tasks", "approve", task_id, "--by", "ada"]).map(drop)
    }

    /// What the state says now.
    fn applied(&self) -> anyhow::Result<Value> {
        let state = fs::read(self.scenario.folder.join("network/terraform.tfstate"))?;
        let state: Value = serde_json::from_slice(&state)?;
        state.pointer("/outputs/site/value").cloned().context("the state has no output")
    }
}

#[tokio::test]
async fn a_terraform_plan_is_read_approved_and_applied_and_a_stale_one_is_refused() -> anyhow::Result<()> {
    let Some(program) = program()? else { return Ok(()) };
    let scenario = Scenario::new("terraform").await?;
    fs::create_dir(scenario.folder.join("network"))?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into());
    let _agent = scenario.agent("agent-1").env("HOME", home).config(handlers()?).start().await?;
    let upstream = scenario.upstream().await?;
    let mut bench = Bench { scenario, upstream };

    bench.write("one")?;
    let plan = bench.plan("first").await?;
    assert!(plan.contains("terraform_data.site will be created"), "{program}: {plan}");
    // Edited between plan and apply: the approved plan is what counts.
    bench.write("never approved")?;
    bench.approve("first")?;
    bench.scenario.until_status("first", Status::Succeeded).await?;
    assert_eq!(bench.applied()?, json!("one"));

    // Nothing to change: no question, no apply.
    bench.write("one")?;
    bench.submit("same").await?;
    let same = bench.scenario.until_status("same", Status::Succeeded).await?;
    assert_eq!((same.attempts, same.approved_by), (1, None));

    // The state has moved on since the plan: the program refuses it, and the letter says so.
    bench.write("two")?;
    bench.plan("stale").await?;
    bench.write("by hand")?;
    let folder = bench.scenario.folder.join("network");
    let by_hand = Command::new(program)
        .arg("apply")
        .arg("-auto-approve")
        .arg("-no-color")
        .current_dir(&folder)
        .output()?;
    assert!(by_hand.status.success(), "{}", String::from_utf8_lossy(&by_hand.stderr));
    bench.approve("stale")?;
    bench.scenario.until_status("stale", Status::Failed).await?;
    assert_eq!(bench.applied()?, json!("by hand"));
    let told = bench.scenario.until_letter_of("stale").await?.log_tail().join("\n");
    assert!(told.contains("stale"), "{told}");

    // A configuration that cannot be planned fails with what the program said.
    fs::write(folder.join("main.tf"), "resource \"terraform_data\" {\n")?;
    bench.submit("broken").await?;
    bench.scenario.until_status("broken", Status::Failed).await?;
    Ok(())
}
