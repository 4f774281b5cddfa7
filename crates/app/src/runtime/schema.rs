//! The schema of the database: checks, applies and reverts migrations.

use usher_adapter_sql::Database;
use usher_kernel::StoreError;
use usher_migrations::{Migrator, MigratorTrait as _};

/// Why a schema cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database lacks migrations. Old servers may still use a shared database, so its operator decides when to
    /// migrate it.
    #[error("the database lacks {} migration(s) ({}): run `usher migrate up` first", .0.len(), .0.join(", "))]
    Pending(Vec<String>),
    /// Another process migrates the database.
    #[error("the database cannot be locked for migrations: {0}")]
    Locked(#[source] StoreError),
    /// A migration failed.
    #[error("the schema cannot be read or changed: {0}")]
    Migration(String),
}

fn failed(error: impl std::fmt::Display) -> SchemaError {
    SchemaError::Migration(error.to_string())
}

/// Applies the pending migrations to an embedded database, and checks that a shared one has none. A database that is
/// ahead of this binary is up to date: migrations remove nothing that a running server may use.
///
/// # Errors
/// See [`SchemaError`].
pub async fn bring_up_to_date(database: &Database) -> Result<(), SchemaError> {
    if database.is_embedded() { up(database).await.map(|_| ()) } else { require_up_to_date(database).await }
}

/// Checks that no migration is pending, and changes nothing.
///
/// # Errors
/// See [`SchemaError`].
pub async fn require_up_to_date(database: &Database) -> Result<(), SchemaError> {
    match pending(database).await? {
        names if names.is_empty() => Ok(()),
        names => Err(SchemaError::Pending(names)),
    }
}

/// The names of this binary's migrations that were not applied, oldest first.
///
/// # Errors
/// See [`SchemaError`].
pub async fn pending(database: &Database) -> Result<Vec<String>, SchemaError> {
    Migrator::pending(database.writer()).await.map_err(failed)
}

/// The names of the migrations that were applied, oldest first; those of a newer binary are among them.
///
/// # Errors
/// See [`SchemaError`].
pub async fn applied(database: &Database) -> Result<Vec<String>, SchemaError> {
    Migrator::applied(database.writer()).await.map_err(failed)
}

/// Applies all pending migrations, and returns their names.
///
/// # Errors
/// See [`SchemaError`].
pub async fn up(database: &Database) -> Result<Vec<String>, SchemaError> {
    // Of two processes that migrate at once, the second finds nothing left to do.
    let _lock = database.lock_migrations().await.map_err(SchemaError::Locked)?;
    let names = pending(database).await?;
    // The migrator refuses a database that is ahead of this binary, which lacks nothing.
    if !names.is_empty() {
        Migrator::up(database.writer(), None).await.map_err(failed)?;
    }
    Ok(names)
}

/// Reverts the latest migration, and returns its name.
///
/// # Errors
/// See [`SchemaError`].
pub async fn down(database: &Database) -> Result<Option<String>, SchemaError> {
    let latest = applied(database).await?.pop();
    if latest.is_some() {
        Migrator::down(database.writer(), Some(1)).await.map_err(failed)?;
    }
    Ok(latest)
}
