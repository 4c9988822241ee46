//! A private Redis for BullMQ: its log is written to disk each second, on the disk where broker and database are.

use std::net::TcpListener;
use std::process::Command;

use anyhow::Context as _;

use super::stage::Stage;

/// The file that remembers the port on a stage.
const PORT_FILE: &str = "redis.port";

/// The port of the stage's Redis; chosen at the first call.
///
/// # Errors
/// When there is no free one.
pub fn port_of(stage: &Stage) -> anyhow::Result<u16> {
    let file = stage.path().join(PORT_FILE);
    if let Ok(text) = std::fs::read_to_string(&file) {
        return Ok(text.parse()?);
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    std::fs::write(&file, port.to_string())?;
    Ok(port)
}

/// How it is started.
///
/// # Errors
/// When its folder cannot be made.
pub fn command(stage: &Stage) -> anyhow::Result<Command> {
    let folder = std::env::current_exe()?.with_file_name("bench-redis");
    // What an earlier one has left: only one runs at a time.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).context("a folder for Redis")?;
    let log = format!("{}.aof", stage.path().file_name().unwrap_or_default().to_string_lossy());
    let mut command = Command::new("redis-server");
    command.args(["--port", &port_of(stage)?.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    command.args(["--maxmemory-policy", "noeviction", "--appenddirname", &log]).arg("--dir").arg(&folder);
    Ok(command)
}
