//! The store's schema: bringing it up to date, and finding out whether it is.

use usher_adapter_sql::Database;
use usher_migrations::{Migrator, MigratorTrait as _};

/// Why a schema cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database is behind this binary. Old servers may still use a shared one, so its operator decides when.
    #[error("the database lacks {} migration(s) ({}): run `usher migrate up` first", .0.len(), .0.join(", "))]
    Pending(Vec<String>),
    /// A migration failed.
    #[error("the schema cannot be read or changed: {0}")]
    Migration(String),
}

fn failed(error: impl std::fmt::Display) -> SchemaError {
    SchemaError::Migration(error.to_string())
}

/// Brings an embedded database up to date; of a shared one, makes sure that it is. One that is ahead of this binary is up
/// to date: migrations expand first, servers follow, and only then is anything taken away.
///
/// # Errors
/// See [`SchemaError`].
pub async fn bring_up_to_date(database: &Database) -> Result<(), SchemaError> {
    if database.is_embedded() { up(database).await.map(|_| ()) } else { require_up_to_date(database).await }
}

/// Makes sure that nothing is pending, and changes nothing.
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

/// Applies all pending migrations, and names them.
///
/// # Errors
/// See [`SchemaError`].
pub async fn up(database: &Database) -> Result<Vec<String>, SchemaError> {
    let names = pending(database).await?;
    // A database that is ahead lacks nothing, and the migrator would not touch it.
    if !names.is_empty() {
        Migrator::up(database.writer(), None).await.map_err(failed)?;
    }
    Ok(names)
}

/// Takes the latest migration back, and names it.
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
