//! A SQLite file of its own for each test, with several connections.

use tempfile::TempDir;
use usher_adapter_sql::{Database, Settings};
use usher_migrations::{Migrator, MigratorTrait};

/// A migrated database that is gone with the test.
pub(crate) struct SqliteFile {
    /// The open database.
    pub(crate) database: Database,
    _folder: TempDir,
}

impl SqliteFile {
    /// Makes one.
    pub(crate) async fn fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let database = Database::open(&Settings { url, max_connections: 4 }).await.unwrap();
        Migrator::up(database.writer(), None).await.unwrap();
        Self { database, _folder: folder }
    }
}
