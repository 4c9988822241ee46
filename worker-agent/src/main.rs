//! worker-agent
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a supervisor has one thread and no runtime.
    if let Some(code) = switchyard_worker_agent::exec::supervisor::main_if_asked() {
        return code;
    }
    ExitCode::SUCCESS
}
