//! The migrations on SQLite and on MariaDB or MySQL: up, down, up.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use sea_orm_migration::sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use usher_migrations::{Migrator, MigratorTrait};
use usher_test_servers::mysql_server::ScratchDatabase;

/// A database for one test.
struct Empty {
    db: DatabaseConnection,
    _kept: Option<ScratchDatabase>,
}

impl Empty {
    async fn sqlite() -> Self {
        Self { db: connect("sqlite::memory:").await, _kept: None }
    }

    async fn mysql() -> Self {
        let scratch = ScratchDatabase::fresh().await;
        Self { db: connect(scratch.url()).await, _kept: Some(scratch) }
    }

    /// The SQL of every table and index, as the database stores it, without those of the tools.
    async fn schema(&self) -> Vec<String> {
        match self.db.get_database_backend() {
            DbBackend::Sqlite => {
                let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' \
                           AND tbl_name <> 'seaql_migrations' ORDER BY type, name";
                self.texts(sql, 0).await
            }
            _ => {
                let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() \
                           AND table_name <> 'seaql_migrations' ORDER BY table_name";
                let mut schema = Vec::new();
                for table in self.texts(sql, 0).await {
                    schema.append(&mut self.texts(&format!("SHOW CREATE TABLE `{table}`"), 1).await);
                }
                schema
            }
        }
    }

    async fn texts(&self, sql: &str, column: usize) -> Vec<String> {
        let rows = self.db.query_all_raw(Statement::from_string(self.db.get_database_backend(), sql)).await.unwrap();
        rows.into_iter().map(|row| row.try_get_by(column).unwrap()).collect()
    }
}

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    // Each further connection to SQLite in memory would open another database.
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

async fn the_schema_goes_up_down_and_up_again(empty: Empty) {
    Migrator::up(&empty.db, None).await.unwrap();
    let first = empty.schema().await;
    Migrator::down(&empty.db, None).await.unwrap();
    let nothing = empty.schema().await;
    Migrator::up(&empty.db, None).await.unwrap();

    assert!(first.iter().any(|sql| sql.replace(['"', '`'], "").contains("CREATE TABLE seats ")), "{first:?}");
    assert_eq!(nothing, [""; 0], "down removes every table");
    assert_eq!(empty.schema().await, first);
}

async fn pending_migrations_are_seen_without_changing_anything(empty: Empty) {
    let all: Vec<_> = Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();

    assert_eq!(Migrator::pending(&empty.db).await.unwrap(), all);
    assert_eq!(Migrator::applied(&empty.db).await.unwrap(), [""; 0]);
    assert_eq!(empty.schema().await, [""; 0]);
    Migrator::up(&empty.db, None).await.unwrap();
    assert_eq!(Migrator::pending(&empty.db).await.unwrap(), [""; 0]);
    assert_eq!(Migrator::applied(&empty.db).await.unwrap(), all);
    Migrator::down(&empty.db, Some(1)).await.unwrap();
    assert_eq!(Migrator::pending(&empty.db).await.unwrap(), all[all.len() - 1..]);
}

async fn a_second_up_changes_nothing(empty: Empty) {
    Migrator::up(&empty.db, None).await.unwrap();
    let first = empty.schema().await;
    Migrator::up(&empty.db, None).await.unwrap();

    assert_eq!(empty.schema().await, first);
}

async fn a_database_that_is_ahead_has_no_pending_migrations(empty: Empty) {
    Migrator::up(&empty.db, None).await.unwrap();
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_of_a_newer_version', 0)";
    empty.db.execute_unprepared(newer).await.unwrap();

    assert_eq!(Migrator::pending(&empty.db).await.unwrap(), [""; 0]);
    assert_eq!(Migrator::applied(&empty.db).await.unwrap().last().unwrap(), "m9999_of_a_newer_version");
}

macro_rules! on_every_database {
    ($($test:ident)*) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::Empty::sqlite().await).await;
                }
            )*
        }

        mod mysql {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::Empty::mysql().await).await;
                }
            )*
        }
    };
}

on_every_database! {
    the_schema_goes_up_down_and_up_again
    pending_migrations_are_seen_without_changing_anything
    a_second_up_changes_nothing
    a_database_that_is_ahead_has_no_pending_migrations
}
