//! Tables that grow, and plans that were made while they were small.
//!
//! The database makes the plan of a prepared statement once and keeps it ([`super::Plans::ByIndex`]). Of a table that was analyzed while
//! it was empty it rightly reads all rows for each batch, and would still do so when there are a hundred thousand, until autovacuum counts
//! them anew: a minute or two into the first load of an installation. So it is told to forget its plans whenever a table has become twice
//! as large: it then takes the pages that the table has, at the rows per page that it counted, or that fit where it counted none.
//!
//! What that does not help: a table of many pages in which few rows were counted, as after retention, is planned for as a small one
//! until autovacuum has counted again.

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_common::shutdown::Shutdown;

use super::db::Db;
use super::error::StoreError;

/// How often is looked. A plan that is no good costs as much as there are rows, and in this time there come a few thousand.
const PERIOD: Duration = Duration::from_secs(1);
/// Tables below this size count as this large: to read eight pages costs less than to find ten rows.
const SMALL_BYTES: u64 = 8 * 8_192;
/// A table that is this many times as large as it was is another table to whoever plans.
const GROWTH_FACTOR: u64 = 2;

/// Sizes by the table's name, in bytes.
pub type Sizes = BTreeMap<String, u64>;

/// Since when plans are what they are: by table, the least size that any of them can have been made for.
#[derive(Debug, Default)]
pub struct Planned(Sizes);

impl Planned {
    /// Whether any table has outgrown the plans. They are then taken to be made anew.
    pub fn outgrown(&mut self, now: &Sizes) -> bool {
        let outgrown = |(table, bytes): (&String, &u64)| {
            let planned = self.0.get(table).copied().unwrap_or_default().max(SMALL_BYTES);
            *bytes >= planned.saturating_mul(GROWTH_FACTOR)
        };
        if now.iter().any(outgrown) {
            self.0.clone_from(now);
            return true;
        }
        for (table, bytes) in now {
            // New connections plan for what has become smaller.
            let planned = self.0.entry(table.clone()).or_insert(*bytes);
            *planned = (*planned).min(*bytes);
        }
        false
    }
}

/// Looks until shutdown.
pub async fn follow(db: Db, shutdown: Shutdown) {
    let (mut planned, mut told) = (Planned::default(), false);
    loop {
        match look(&db, &mut planned).await {
            Ok(()) => told = false,
            // A database that is away has no plans either, and whoever probes it tells of it.
            Err(error) if error.is_transient() || told => {
                tracing::debug!(%error, "sizes of tables cannot be read now")
            }
            Err(error) => {
                told = true;
                tracing::warn!(%error, "sizes of tables cannot be read: plans are kept until autovacuum has counted");
            }
        }
        if !shutdown.sleep(PERIOD).await {
            return;
        }
    }
}

/// Looks once.
///
/// # Errors
/// When the database does not answer.
pub async fn look(db: &Db, planned: &mut Planned) -> Result<(), StoreError> {
    let now = sizes(db).await?;
    if planned.outgrown(&now) {
        db.plan_anew();
        metrics::counter!("switchyard_store_planned_anew_total").increment(1);
        tracing::debug!("a table has grown: plans are made anew");
    }
    Ok(())
}

async fn sizes(db: &Db) -> Result<Sizes, StoreError> {
    const SIZES: &str = "SELECT relname::text, pg_relation_size(oid) FROM pg_class \
        WHERE relkind = 'r' AND relnamespace <> 'pg_catalog'::regnamespace AND pg_table_is_visible(oid)";
    let client = db.connection().await?;
    let rows = client.query(&client.prepare_cached(SIZES).await?, &[]).await?;
    // A table that is being dropped has no size.
    let size = |row: &tokio_postgres::Row| row.get::<_, Option<i64>>(1).map_or(0, i64::unsigned_abs);
    Ok(rows.iter().map(|row| (row.get(0), size(row))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: u64) -> Sizes {
        Sizes::from([("tasks".to_owned(), bytes)])
    }

    #[test]
    fn plans_are_outgrown_when_a_table_is_twice_as_large_as_it_was_at_the_last_time() {
        let mut planned = Planned::default();
        assert!(planned.outgrown(&one(1_000_000)), "nothing is known of plans before the first look");
        assert!(!planned.outgrown(&one(1_999_999)));
        assert!(planned.outgrown(&one(2_000_000)));
        assert!(!planned.outgrown(&one(3_999_999)));
        assert!(planned.outgrown(&one(4_000_000)));
    }

    #[test]
    fn a_small_table_counts_as_one_of_eight_pages() {
        let mut planned = Planned::default();
        assert!(!planned.outgrown(&one(0)));
        assert!(!planned.outgrown(&one(2 * SMALL_BYTES - 1)));
        assert!(planned.outgrown(&one(2 * SMALL_BYTES)));
    }

    #[test]
    fn what_is_planned_for_a_table_that_has_shrunk_is_outgrown_when_it_grows_again() {
        let mut planned = Planned::default();
        assert!(planned.outgrown(&one(1_000_000)));
        assert!(!planned.outgrown(&one(0)));
        assert!(planned.outgrown(&one(500_000)));
    }
}
