//! `dispatcher audit`.

use std::process::ExitCode;

use clap::Args;

use super::connect;
use super::output;
use crate::audit;

/// Run every invariant as a query, in one snapshot.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Exits non-zero when any invariant is broken.
pub(super) async fn run(arguments: Audit) -> anyhow::Result<ExitCode> {
    let findings = audit::run(&connect::database()?).await?;
    if arguments.json {
        output::json(&findings)?;
    } else if findings.is_empty() {
        output::line("audit: every invariant holds");
    }
    if !arguments.json {
        for finding in &findings {
            let more = finding.count - i64::try_from(finding.offenders.len()).unwrap_or(i64::MAX);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            output::line(&format!(
                "invariant {}, {}: {} ({})\n  {}{rest}",
                finding.invariant,
                finding.name,
                finding.explanation,
                finding.count,
                finding.offenders.join(", ")
            ));
        }
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
