//! SQLSTATE mapped to what the callers must do, once (protocol D5).

use tokio_postgres::error::SqlState;

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or overloaded: stop consuming, back off, resume. Never a reason to nack.
    #[error("the database is away or busy: {0}")]
    Transient(String),
    /// Two transactions met (deadlock, serialization): repeat the batch.
    #[error("transactions met: {0}")]
    Contention(String),
    /// The database refuses this row (SQLSTATE classes 22, 23, 54): isolate it and report it.
    #[error("the database refuses a row: {message}")]
    PoisonRow {
        /// The SQLSTATE.
        code: String,
        /// The constraint, where one was named.
        constraint: Option<String>,
        /// The database's message, without the row's values.
        message: String,
    },
    /// A fenced write matched fewer rows than were loaded under lock (incident 55).
    #[error("a fenced write of {table} matched {matched} of {expected} rows")]
    FenceMiss {
        /// The table.
        table: &'static str,
        /// Rows that matched.
        matched: u64,
        /// Rows that should have.
        expected: u64,
    },
    /// A stored value cannot be read: a newer schema, or a hand in the tables.
    #[error("stored value cannot be read: {0}")]
    Unreadable(String),
    /// The schema is newer or older than this program knows.
    #[error("{0}")]
    Schema(String),
    /// The work inside a transaction panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Anything else: a mistake in a statement.
    #[error("statement failed: {0}")]
    Statement(String),
}

impl StoreError {
    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Transient(_) | Self::Contention(_) | Self::FenceMiss { .. } => true,
            Self::PoisonRow { .. }
            | Self::Unreadable(_)
            | Self::Schema(_)
            | Self::Panicked(_)
            | Self::Statement(_) => false,
        }
    }

    /// Whether the rows at hand are to blame: alone, they would fail again, and others would not.
    #[must_use]
    pub const fn is_of_the_row(&self) -> bool {
        match self {
            Self::PoisonRow { .. } | Self::Unreadable(_) | Self::Panicked(_) => true,
            Self::Transient(_)
            | Self::Contention(_)
            | Self::FenceMiss { .. }
            | Self::Schema(_)
            | Self::Statement(_) => false,
        }
    }

    /// Whether the batch should be repeated at once.
    #[must_use]
    pub const fn is_contention(&self) -> bool {
        match self {
            Self::Contention(_) | Self::FenceMiss { .. } => true,
            Self::Transient(_)
            | Self::PoisonRow { .. }
            | Self::Unreadable(_)
            | Self::Schema(_)
            | Self::Panicked(_)
            | Self::Statement(_) => false,
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // No answer from the server: closed, refused, timed out; or a value that does not fit its parameter.
            return if error.is_closed() || std::error::Error::source(&error).is_some_and(is_io) {
                Self::Transient(describe(&error))
            } else {
                Self::Statement(describe(&error))
            };
        };
        let code = db.code();
        if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE {
            return Self::Contention(db.message().to_owned());
        }
        match &code.code()[..2] {
            // 25: a server that takes no writes, as a standby before it is promoted; 55: a lock that was not free in time; 58: a disk.
            "08" | "25" | "40" | "53" | "55" | "57" | "58" => {
                Self::Transient(format!("{} ({})", db.message(), code.code()))
            }
            "22" | "23" | "54" => Self::PoisonRow {
                code: code.code().to_owned(),
                constraint: db.constraint().map(ToOwned::to_owned),
                message: db.message().to_owned(),
            },
            _ if is_of_the_schema(code) => Self::Statement(format!(
                "{} ({}): is the schema up to date? run `dispatcher migrate`",
                db.message(),
                code.code()
            )),
            _ => Self::Statement(format!("{} ({})", db.message(), code.code())),
        }
    }
}

/// A table or column is not there: the database was never migrated, or by another version.
fn is_of_the_schema(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN].contains(code)
}

fn is_io(source: &(dyn std::error::Error + 'static)) -> bool {
    source.downcast_ref::<std::io::Error>().is_some()
}

fn describe(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        let deadpool_postgres::PoolError::Backend(error) = error else {
            return Self::Transient(error.to_string());
        };
        let error = Self::from(error);
        // A connection that cannot be made is the database being away, whatever the words.
        if let Self::Statement(message) = error { Self::Transient(message) } else { error }
    }
}
