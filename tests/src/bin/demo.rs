//! `make demo`: real work on a real broker and database, by real processes, in eight short acts. Every claim that is printed is checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use switchyard_common::contract::event::EventType;
use switchyard_common::task::Status;
use switchyard_dispatcher::store::letters::browse::LetterFilter;
use switchyard_dispatcher::store::letters::record::Letter;
use switchyard_dispatcher::store::view::TaskSummary;
use switchyard_tests::harness::scenario::{Process, Scenario, Upstream, repository};
use tokio::signal::unix::{SignalKind, signal};

/// Time between heartbeats of the demo's agents.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which the demo's agents are lost: shorter than the usual 20 s, so that nobody has to wait for it.
const LOST_AFTER: Duration = Duration::from_secs(8);
/// Longest wait for any one thing.
const WITHIN: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Kinds that try once or twice, so that the demo stays short.
const KINDS: &str = r#"
[kinds.check]
exclusive = false
[[kinds.check.steps]]
name = "plan"
handler = "plan"
repeatable = true
policy = { max_attempts = 1 }

[kinds.retried_check]
exclusive = false
[[kinds.retried_check.steps]]
name = "plan"
handler = "plan"
repeatable = true
policy = { max_attempts = 3, backoff_initial_ms = 200 }

[kinds.rust_check]
exclusive = false
[[kinds.rust_check.steps]]
name = "check"
handler = "rust"
repeatable = true
policy = { max_attempts = 1 }
"#;

#[tokio::main]
async fn main() -> ExitCode {
    let started = Instant::now();
    let ended = tokio::select! {
        ended = play() => ended,
        signal = interrupted() => Err(signal.map_or_else(Into::into, |name| anyhow::anyhow!("stopped by {name}"))),
    };
    match ended {
        Ok(()) => {
            say(&format!("\nEverything shown was checked. {} s.", started.elapsed().as_secs()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("\nThe demo FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Waits for a signal that asks to stop, and gives its name. The play is dropped then, and with it every process that it has started.
async fn interrupted() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The stage: the processes and what was shown of each task.
struct Demo {
    scenario: Scenario,
    upstream: Upstream,
    shown: BTreeMap<String, (Status, String, String)>,
    desired: PathBuf,
    target: PathBuf,
}

async fn play() -> anyhow::Result<()> {
    let scenario = Scenario::new("demo").await?.with_pace(HEARTBEAT, LOST_AFTER);
    title("Curtain: a dispatcher and two agents start, each a process of its own");
    let dispatcher = scenario
        .dispatcher("dispatcher")
        .config(KINDS)
        .start()
        .await
        .context("the dispatcher does not start")?;
    let handlers = handlers()?;
    let mut agents = BTreeMap::new();
    for name in ["agent-1", "agent-2"] {
        let agent =
            scenario.agent(name).config(&handlers).start().await.context("an agent does not start")?;
        say(&format!("  {name} is live, process {}", agent.pid()));
        agents.insert(name.to_owned(), agent);
    }
    let folder = scenario.folder.join("site");
    let (desired, target) = (folder.join("desired"), folder.join("target"));
    let upstream = scenario.upstream().await?;
    let mut demo = Demo { scenario, upstream, shown: BTreeMap::new(), desired, target };
    demo.plan_and_apply().await?;
    demo.failures().await?;
    demo.malformed().await?;
    demo.lost_agent(&mut agents).await?;
    demo.dead_letters().await?;
    demo.audit()?;
    what_next(&demo.scenario);
    drop((dispatcher, agents));
    Ok(())
}

/// The handlers of the files example, and one in Rust that does as its payload says.
fn handlers() -> anyhow::Result<String> {
    let examples = repository().join("deploy/examples");
    let toml = fs::read_to_string(examples.join("agent.toml")).context("deploy/examples/agent.toml")?;
    let toml = toml.replace("\"files/", &format!("\"{}/files/", examples.display()));
    let toml = toml.replace("run_timeout_ms", "kill_grace_ms = 500\nrun_timeout_ms");
    Ok(format!("{toml}\n[handlers.rust]\nbuiltin = \"test\"\n"))
}

impl Demo {
    /// Plan, approval and apply on real files; a second change of the same workspace waits behind the first.
    async fn plan_and_apply(&mut self) -> anyhow::Result<()> {
        title("1. A change is planned, and waits for a person");
        say(
            "  Two changes of the workspace \"site\" are submitted: make the folder `target` like the folder `desired`.",
        );
        fs::create_dir_all(&self.desired)?;
        fs::create_dir_all(&self.target)?;
        fs::write(self.desired.join("index.html"), "<h1>Hello</h1>\n<p>New and improved.</p>\n")?;
        fs::write(self.target.join("index.html"), "<h1>Hello</h1>\n")?;
        fs::write(self.target.join("old.html"), "obsolete\n")?;
        let payload = json!({ "desired": self.desired, "target": self.target });
        self.upstream.submit("site-1", "site", "plan_and_apply", payload.clone()).await?;
        self.upstream.submit("site-2", "site", "plan_and_apply", payload).await?;
        let waiting = self.until("site-1", Status::AwaitingApproval).await?;
        let second = self.scenario.task("site-2").await?;
        ensure!(second.status == Status::Blocked, "site-2 should be blocked but is {}", second.status);
        say("\n  What waits for approval, as the operator reads it:");
        self.operator(&["tasks", "artifact", "site-1", "plan.diff"])?;
        let unchanged = fs::read_to_string(self.target.join("index.html"))? == "<h1>Hello</h1>\n";
        ensure!(unchanged, "a plan must change nothing");

        title("2. It is approved; exactly the approved bytes are applied");
        let digest = waiting.artifact_digest.context("what waits has no digest")?;
        let said = self.operator(&["tasks", "approve", "site-1", "--by", "you", "--comment", "reviewed"])?;
        ensure!(said.contains(&digest), "the approval should say that it binds {digest}");
        self.until("site-1", Status::Succeeded).await?;
        let applied = fs::read(self.target.join("index.html"))? == fs::read(self.desired.join("index.html"))?;
        ensure!(applied && !self.target.join("old.html").exists(), "the target folder is not as approved");
        say("  checked: the folder `target` is now like `desired`");

        title(
            "3. The change behind it was held back until now; it finds nothing to do, and ends without an approval",
        );
        let second = self.until("site-2", Status::Succeeded).await?;
        ensure!(second.approved_by.is_none(), "site-2 was approved by somebody");
        Ok(())
    }

    /// Types what an operator would, shows it with what it prints, and gives that.
    fn operator(&self, arguments: &[&str]) -> anyhow::Result<String> {
        say(&format!("  $ dispatcher {}", arguments.join(" ")));
        let said = String::from_utf8_lossy(&self.scenario.operator(arguments)?).into_owned();
        said.lines().for_each(|line| say(&format!("      {line}")));
        Ok(said)
    }

    /// A handler fails, one crashes, one panics.
    async fn failures(&mut self) -> anyhow::Result<()> {
        title("4. Handlers fail in three ways: an error, a crash of a program, a panic in Rust");
        self.upstream.submit("fails", "shop", "check", json!({ "trouble": { "plan": "fail" } })).await?;
        self.upstream.submit("crashes", "shop", "check", json!({ "trouble": { "plan": "crash" } })).await?;
        let panic = json!({ "do": "panic", "message": "index out of bounds: the demo asked for it" });
        self.upstream.submit("panics", "shop", "rust_check", panic).await?;
        for task in ["fails", "crashes", "panics"] {
            self.until(task, Status::Failed).await?;
        }
        for (task, kind) in
            [("fails", "handler_failed"), ("crashes", "handler_panicked"), ("panics", "handler_panicked")]
        {
            let letter = self.letter(task).await?;
            ensure!(
                letter.failure_kind.as_deref() == Some(kind),
                "{task}: {:?} instead of {kind}",
                letter.failure_kind
            );
        }
        say("  checked: the agents live on, and each failure has its dead letter");
        Ok(())
    }

    /// An event that makes no sense.
    async fn malformed(&mut self) -> anyhow::Result<()> {
        title("5. An event makes no sense: its publisher is told at once, and it is kept");
        let data = json!({ "workspace_id": "site", "kind": "destory", "payload": {} });
        let rejected = self.upstream.rejected(EventType::TaskSubmitted, data).await?;
        say(&format!("  rejected: {}", rejected.message));
        say(&format!("  what to do: {}", rejected.what_to_do));
        Ok(())
    }

    /// An agent is killed while it works; another does the work.
    async fn lost_agent(&mut self, agents: &mut BTreeMap<String, Process>) -> anyhow::Result<()> {
        title("6. An agent is killed in the middle of its work");
        let payload = json!({ "trouble": { "plan": 3 }, "desired": self.desired, "target": self.target });
        self.upstream.submit("survivor", "shop", "retried_check", payload).await?;
        let running = self.until("survivor", Status::Running).await?;
        let name = running.agent.context("a running task has an agent")?;
        let agent = agents.get_mut(&name).context("a known agent")?;
        say(&format!(
            "  kill -9 {} ({name}); it counts as lost after {} s of silence here, 20 s by default",
            agent.pid(),
            LOST_AFTER.as_secs()
        ));
        agent.kill()?;
        let done = self.until("survivor", Status::Succeeded).await?;
        let attempts = self.scenario.attempts("survivor").await?;
        let last = attempts.last().context("an attempt")?;
        ensure!(
            done.attempts == 2 && last.agent != name,
            "another agent should have done it, in a second attempt"
        );
        say(&format!("  checked: {} did the work in attempt 2; the loss is on record", last.agent));
        let lost = self.letter("survivor").await?;
        ensure!(
            lost.failure_kind.as_deref() == Some("agent_lost"),
            "{:?} instead of agent_lost",
            lost.failure_kind
        );
        Ok(())
    }

    /// What operators find in the morning.
    async fn dead_letters(&mut self) -> anyhow::Result<()> {
        title("7. What the operator finds: one dead letter for each failure, each with its whole story");
        let filter = LetterFilter { resolved: None, ..LetterFilter::default() };
        let letters = self.scenario.letters(&filter).await?;
        for letter in letters.iter().rev() {
            let subject = letter.task_id.as_deref().or(letter.event_id.as_deref()).unwrap_or("a message");
            let message =
                letter.failure_message.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
            let kind = letter.failure_kind.as_deref().unwrap_or_default();
            say(&format!("  letter {:<2} {kind:17} {subject:38} {message}", letter.letter_id));
        }
        ensure!(letters.len() == 5, "{} dead letters instead of 5", letters.len());
        let panic = self.letter("panics").await?;
        say(&format!("\n  Letter {} in full, shortened here:", panic.letter_id));
        tell(&panic);
        let located =
            panic.failure.as_ref().and_then(|failure| failure.get("location")).is_some_and(Value::is_string);
        ensure!(located, "the letter of a panic does not say where it happened");
        Ok(())
    }

    fn audit(&self) -> anyhow::Result<()> {
        title("8. The books are audited: every invariant, as queries over one snapshot");
        let output = self.scenario.dispatcher("audit").run(&["audit"])?;
        ensure!(
            output.status.success(),
            "the audit found something: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        say(&format!("  {}", String::from_utf8_lossy(&output.stdout).trim()));
        Ok(())
    }

    /// Waits until a task has a status, printing every move of every task meanwhile.
    async fn until(&mut self, task_id: &str, wanted: Status) -> anyhow::Result<TaskSummary> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let tasks = self.scenario.tasks().await?;
            self.show_moves(&tasks);
            let task = tasks.into_iter().find(|task| task.task_id == task_id);
            match task {
                Some(task) if task.status == wanted => return Ok(task),
                Some(task) if task.status.is_terminal() => {
                    bail!(
                        "task {task_id} should become {wanted} but is {}; logs: {}",
                        task.status,
                        self.scenario.folder.display()
                    );
                }
                Some(_) | None if Instant::now() > deadline => {
                    bail!(
                        "task {task_id} is not {wanted} after {WITHIN:?}; logs: {}",
                        self.scenario.folder.display()
                    );
                }
                Some(_) | None => tokio::time::sleep(LOOK_PERIOD).await,
            }
        }
    }

    fn show_moves(&mut self, tasks: &[TaskSummary]) {
        for task in tasks {
            let now = (task.status, task.step.clone(), task.waiting_for.clone());
            if self.shown.insert(task.task_id.clone(), now.clone()).as_ref() == Some(&now) {
                continue;
            }
            let waits = match task.status.is_terminal() {
                true => task
                    .failure_message
                    .as_deref()
                    .and_then(|text| text.lines().next())
                    .unwrap_or_default()
                    .to_owned(),
                false => format!("waits for {}", task.waiting_for),
            };
            let at = task.since.format("%H:%M:%S");
            say(&format!("  {at}  {:9} {:6} {:18} {waits}", task.task_id, task.step, task.status.as_str()));
        }
    }

    /// The newest letter of a task.
    async fn letter(&self, task_id: &str) -> anyhow::Result<Letter> {
        self.scenario.until_letter_of(task_id).await
    }
}

/// A letter for people, without its long parts.
fn tell(letter: &Letter) {
    let failure = letter.failure.clone().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let fields = [
        (
            "task",
            format!(
                "{} of workspace {}, attempt {}",
                text(&letter.task_id),
                text(&letter.workspace_id),
                letter.attempt.unwrap_or(0)
            ),
        ),
        ("ran at", format!("agent {}, pod {}", text(&letter.agent_id), text(&letter.pod))),
        ("failure", format!("{}: {}", text(&letter.failure_kind), text(&letter.failure_message))),
        ("panicked at", failure.get("location").and_then(Value::as_str).unwrap_or_default().to_owned()),
        ("left queue", text(&letter.queue)),
        ("payload", text(&letter.payload)),
    ];
    for (name, value) in fields {
        say(&format!("    {name:12} {value}"));
    }
    let backtrace = failure.get("backtrace").and_then(Value::as_str).map_or(0, |text| text.lines().count());
    say(&format!("    {:12} {backtrace} lines", "backtrace"));
}

fn title(text: &str) {
    say(&format!("\n{text}"));
}

fn what_next(scenario: &Scenario) {
    say("\nWhat to try next:");
    say(
        "  make run                        a dispatcher and two agents to play with; then, in another terminal:",
    );
    say("  eval \"$(make -s env)\"           join them");
    say(
        "  target/debug/dispatcher --help  publish, tasks, dead-letters (list, show, replay), pause, audit ...",
    );
    say("  deploy/examples                 handlers for files, Ansible and Terraform");
    say(&format!("The logs of this demo: {}", scenario.folder.display()));
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}
