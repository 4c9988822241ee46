//! `dispatcher serve`.

use std::process::ExitCode;

use switchyard_common::export;
use switchyard_common::shutdown::Shutdown;

use crate::config::{Config, Needs};

pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let config = Config::from_process(Needs::Both)?;
    let shutdown = Shutdown::new(config.drain_for);
    shutdown.listen_for_signals()?;
    let exports = export::start("switchyard-dispatcher")?;
    let served = crate::serve::serve(config, shutdown).await;
    exports.finish().await;
    served?;
    Ok(ExitCode::SUCCESS)
}
