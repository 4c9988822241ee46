//! What was measured on: the machine and the versions of everything.

use std::process::Command;

use super::stage::Services;
use crate::harness::scenario::binaries::{build_folder, repository};

/// Facts as pairs of a name and what it is.
pub async fn facts(services: &Services) -> Vec<(&'static str, String)> {
    let build = build_folder().unwrap_or_default();
    let mut facts = vec![
        ("processors", processors()),
        ("memory", memory()),
        ("kernel", first_line("uname", &["-sr"])),
        (
            "commit",
            first_line("git", &["-C", &repository().to_string_lossy(), "rev-parse", "--short", "HEAD"]),
        ),
        ("build", build.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        ("Rust", first_line("rustc", &["--version"])),
        ("RabbitMQ", services.ctl(&["version"]).unwrap_or_default().trim().to_owned()),
        ("PostgreSQL", postgres(services).await.unwrap_or_default()),
        ("Redis", first_line("redis-server", &["--version"])),
        ("Node", first_line("node", &["--version"])),
    ];
    facts.push(("peers", peers()));
    facts.retain(|(_, what)| !what.is_empty());
    facts
}

fn processors() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> =
        info.lines().filter(|line| line.starts_with("model name")).filter_map(value).collect();
    format!("{} x {}", models.len(), models.first().copied().unwrap_or_default())
}

fn memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    info.lines().next().and_then(value).unwrap_or_default().to_owned()
}

fn value(line: &str) -> Option<&str> {
    Some(line.split_once(':')?.1.trim())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

async fn postgres(services: &Services) -> anyhow::Result<String> {
    const SETTINGS: &str = "SELECT 'version ' || current_setting('server_version') || ', fsync ' || current_setting('fsync') \
        || ', synchronous_commit ' || current_setting('synchronous_commit') || ', shared_buffers ' || current_setting('shared_buffers')";
    Ok(services.connect().await?.query_one(SETTINGS, &[]).await?.get(0))
}

/// The versions that are pinned.
fn peers() -> String {
    const NAMES: [&str; 3] = ["celery", "dramatiq", "procrastinate"];
    let folder = repository().join("tests/peers");
    let python = std::fs::read_to_string(folder.join("requirements.txt")).unwrap_or_default();
    let python =
        python.lines().filter_map(|line| line.split_once("==")).filter(|(name, _)| NAMES.contains(name));
    let mut peers: Vec<String> = python.map(|(name, version)| format!("{name} {version}")).collect();
    let node = std::fs::read_to_string(folder.join("package.json")).unwrap_or_default();
    let node: serde_json::Value = serde_json::from_str(&node).unwrap_or_default();
    for (name, version) in node["dependencies"].as_object().into_iter().flatten() {
        peers.push(format!("{name} {}", version.as_str().unwrap_or_default()));
    }
    peers.join(", ")
}
