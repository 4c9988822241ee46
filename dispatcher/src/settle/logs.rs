//! The logs consumer: append-only, checked against the claim, never near a task row (incident 75).

use switchyard_common::contract::report::ReportBody;
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::shutdown::Shutdown;

use super::consume::{Fate, Settler, consume};
use super::narrate;
use super::read::Heard;
use crate::context::Context;
use crate::store::logs::{self, LinesEnd, SentLines};
use crate::store::{Db, StoreError};

/// Reports that the broker hands out ahead of their acks, in messages.
pub const PREFETCH_COUNT: u16 = 256;

/// Consumes log lines until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    let logs = Logs { db: context.db.clone() };
    let queue = context.namespace.logs_queue();
    consume(logs, context.db, &context.consumers, queue, PREFETCH_COUNT, shutdown).await;
}

/// Appends log lines.
#[derive(Clone)]
pub struct Logs {
    /// The store.
    pub db: Db,
}

impl Settler for Logs {
    const NAME: &'static str = "logs";
    const KINDS: &'static [ReportKind] = &[ReportKind::Log];

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        let reports: Vec<SentLines<'_>> = batch
            .iter()
            .filter_map(|heard| match &heard.body {
                ReportBody::Log(lines) => {
                    Some(SentLines { sender: &heard.sender, epoch: heard.epoch, lines })
                }
                ReportBody::Hello(_)
                | ReportBody::Heartbeat(_)
                | ReportBody::Ask(_)
                | ReportBody::Started(_)
                | ReportBody::Outcome(_)
                | ReportBody::Artifact(_) => None,
            })
            .collect();
        let ends = logs::append(&self.db, &reports).await?;
        for (report, end) in reports.iter().zip(ends) {
            match end {
                LinesEnd::Stored => {}
                LinesEnd::Refused(why) => narrate::refused("log", report.sender, &report.lines.claim, &why),
            }
        }
        Ok(vec![Fate::Done; batch.len()])
    }
}
