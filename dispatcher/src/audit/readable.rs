//! Rows that this program cannot read: no query finds them, because only the program knows what it can read.

use super::run::{Finding, OFFENDERS_MAX_COUNT};
use crate::store::{Db, StoreError, Transaction, rows};

/// Rows that are in memory at the same time.
const PAGE_ROWS: usize = 1_000;

/// Reads every task and every attempt; gives those that cannot be read, each with the reason.
pub(super) async fn unreadable(db: &Db, transaction: &Transaction) -> Result<Option<Finding>, StoreError> {
    let tasks = format!("SELECT {} FROM tasks t ORDER BY t.task_id", rows::TASK_COLUMNS);
    let attempts = format!("SELECT {} FROM attempts a ORDER BY a.task_id, a.attempt", rows::ATTEMPT_COLUMNS);
    let mut found = Found::default();
    each(transaction, "every_task", &tasks, |row| found.note(rows::task(row, &db.steps))).await?;
    each(transaction, "every_attempt", &attempts, |row| found.note(rows::named_attempt(row))).await?;
    Ok(found.finding())
}

/// Calls `look` with each row of a query, page by page.
async fn each(
    transaction: &Transaction,
    cursor: &str,
    sql: &str,
    mut look: impl FnMut(&tokio_postgres::Row),
) -> Result<(), StoreError> {
    transaction.batch_execute(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {sql}")).await?;
    let next = format!("FETCH {PAGE_ROWS} FROM {cursor}");
    loop {
        let page = transaction.query(&next, &[]).await?;
        if page.is_empty() {
            return transaction.batch_execute(&format!("CLOSE {cursor}")).await;
        }
        page.iter().for_each(&mut look);
    }
}

#[derive(Default)]
struct Found {
    count: i64,
    offenders: Vec<String>,
}

impl Found {
    fn note<T>(&mut self, read: Result<T, StoreError>) {
        let Err(error) = read else { return };
        self.count += 1;
        if self.offenders.len() < OFFENDERS_MAX_COUNT {
            let why = if let StoreError::Unreadable(why) = error { why } else { error.to_string() };
            self.offenders.push(why);
        }
    }

    fn finding(self) -> Option<Finding> {
        (self.count > 0).then_some(Finding {
            invariant: 2,
            name: "row_that_cannot_be_read",
            explanation: "A task or an attempt that this program cannot read: a newer one has written it, or a hand in the tables. \
                Nothing is decided about it.",
            count: self.count,
            offenders: self.offenders,
        })
    }
}
