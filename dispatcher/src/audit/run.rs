//! All checks in one snapshot (protocol H): what they see belongs together.

use serde::Serialize;

use super::checks::{Check, all};
use super::readable::unreadable;
use crate::store::{Db, StoreError};

/// Most offenders that are named; the number of all is given.
pub const OFFENDERS_MAX_COUNT: usize = 100;

/// A check that found something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The invariant of design 10.
    pub invariant: u8,
    /// The check.
    pub name: &'static str,
    /// What it means.
    pub explanation: &'static str,
    /// How many offenders there are.
    pub count: i64,
    /// Their names, the first ones.
    pub offenders: Vec<String>,
}

/// Runs every check; nothing found means that every invariant holds.
pub async fn run(db: &Db) -> Result<Vec<Finding>, StoreError> {
    const SNAPSHOT: &str =
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '10min'";
    db.transaction(|transaction| async move {
        transaction.batch_execute(SNAPSHOT).await?;
        let mut findings = Vec::new();
        for check in all() {
            let sql = format!(
                "SELECT q.offender, count(*) OVER () AS total FROM ({}) q ORDER BY q.offender LIMIT {OFFENDERS_MAX_COUNT}",
                check.sql
            );
            let rows = transaction.query(&sql, &[]).await?;
            findings.extend(finding(&check, &rows));
        }
        findings.extend(unreadable(db, &transaction).await?);
        findings.sort_by_key(|finding| (finding.invariant, finding.name));
        Ok(findings)
    })
    .await
}

fn finding(check: &Check, rows: &[tokio_postgres::Row]) -> Option<Finding> {
    let count = rows.first()?.get("total");
    // A name that is missing must not hide the row (incident 59).
    let name = |row: &tokio_postgres::Row| {
        row.get::<_, Option<String>>("offender").unwrap_or_else(|| "(null)".into())
    };
    Some(Finding {
        invariant: check.invariant,
        name: check.name,
        explanation: check.explanation,
        count,
        offenders: rows.iter().map(name).collect(),
    })
}
