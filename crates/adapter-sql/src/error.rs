//! The failures of a unit of work, and their conversion to the [`StoreError`] of a port.

use sea_orm::{DbErr, RuntimeErr, SqlErr, SqlxError};
use usher_kernel::StoreError;
use usher_reservation::judge::FactsError;

/// Why a unit of work failed. A failed unit has no effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// A row holds an invalid value.
    #[error(transparent)]
    Corrupt(#[from] CorruptRow),
    /// Rows contradict each other.
    #[error(transparent)]
    Contradiction(FactsError),
    /// A row changed between reading and writing, or another unit wrote it first.
    #[error("a row of `{table}` was changed by another transaction")]
    Conflict {
        /// The table of the row.
        table: &'static str,
    },
    /// The unit ran out of time.
    #[error("the transaction took too long")]
    Overdue,
}

/// Stale facts become a conflict, so that the unit runs again and reads them anew.
impl From<FactsError> for Failure {
    fn from(error: FactsError) -> Self {
        match error {
            FactsError::Stale(_) => Self::Conflict { table: "seats" },
            FactsError::Contradiction { .. } => Self::Contradiction(error),
        }
    }
}

/// A row with an invalid value.
#[derive(Debug, thiserror::Error)]
#[error("invalid value in column `{column}` of `{table}`, row {row}")]
pub(crate) struct CorruptRow {
    /// The table.
    pub(crate) table: &'static str,
    /// The column.
    pub(crate) column: &'static str,
    /// The row's primary key.
    pub(crate) row: String,
}

impl CorruptRow {
    /// An invalid value in `column` of the row with this primary key.
    #[expect(clippy::needless_pass_by_value, reason = "keys are small, and most are built for this call")]
    pub(crate) fn new(table: &'static str, column: &'static str, row: impl ToString) -> Self {
        Self { table, column, row: row.to_string() }
    }
}

impl Failure {
    /// Whether an immediate retry of the whole unit may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // A broken connection took its transaction with it. Another connection may work.
            Self::Database(error) if matches!(driver_error(error), Some(SqlxError::Io(_))) => true,
            Self::Database(_) | Self::Conflict { .. } | Self::Corrupt(_) | Self::Contradiction(_) | Self::Overdue => {
                self.is_lost_race()
            }
        }
    }

    /// Whether the unit lost a race with another one.
    fn is_lost_race(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::Database(error) => is_lost_race(error),
            Self::Corrupt(_) | Self::Contradiction(_) | Self::Overdue => false,
        }
    }
}

/// Converts a unique violation to a conflict: another unit inserted the row first, and a retry sees it.
pub(crate) fn inserted_first(table: &'static str) -> impl Fn(DbErr) -> Failure {
    move |error| match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => Failure::Conflict { table },
        _ => Failure::Database(error),
    }
}

/// The error of `operation` for a unit that failed without effect.
pub(crate) fn convert(operation: &'static str, failure: Failure) -> StoreError {
    let is_bug = match &failure {
        Failure::Corrupt(_) | Failure::Contradiction(_) => true,
        Failure::Database(error) => is_contradiction(error),
        Failure::Conflict { .. } | Failure::Overdue => false,
    };
    let (is_lost_race, source) = (failure.is_lost_race(), Box::new(failure));
    if is_lost_race {
        StoreError::Conflict { operation, source }
    } else if is_bug {
        StoreError::Corrupt { operation, source }
    } else {
        StoreError::Unavailable { operation, source }
    }
}

/// Converts a failed commit. If the database refused it, it had no effect. Otherwise its effect is unknown.
pub(crate) fn commit_failed<T>(operation: &'static str, failure: Failure) -> Result<Result<T, Failure>, StoreError> {
    match &failure {
        Failure::Database(error) if matches!(driver_error(error), Some(SqlxError::Database(_))) => Ok(Err(failure)),
        _ => Err(StoreError::Timeout { operation, source: Box::new(failure) }),
    }
}

/// Whether the code means a lost race: MySQL 1205 (lock wait timeout), 1213 (deadlock), MariaDB 1020 (record has
/// changed); SQLite 5 (busy), 6 (locked).
fn is_lost_race(error: &DbErr) -> bool {
    let Some(SqlxError::Database(error)) = driver_error(error) else { return false };
    if let Some(error) = error.try_downcast_ref::<sea_orm::SqlxMySqlError>() {
        return matches!(error.number(), 1205 | 1213 | 1020);
    }
    // The low byte of an extended result code is the primary code.
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    error.try_downcast_ref::<sea_orm::SqlxSqliteError>().is_some()
        && code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Whether a retry cannot help: a violated constraint, or a value of the wrong type.
fn is_contradiction(error: &DbErr) -> bool {
    match driver_error(error) {
        Some(SqlxError::Database(error)) => !matches!(error.kind(), sea_orm::sqlx::error::ErrorKind::Other),
        Some(error) => matches!(error, SqlxError::ColumnDecode { .. } | SqlxError::ColumnNotFound(_)),
        None => !matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)),
    }
}

fn driver_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}
