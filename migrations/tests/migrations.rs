//! The migrations on SQLite: up, down, up.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use sea_orm_migration::sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use usher_migrations::{Migrator, MigratorTrait};

/// A database of this test's own.
async fn empty() -> DatabaseConnection {
    let mut options = ConnectOptions::new("sqlite::memory:");
    // Each further connection would see a database of its own.
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

/// Every table and index, as SQLite has it written down; without those of the tools.
async fn schema(db: &DatabaseConnection) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' \
               AND tbl_name <> 'seaql_migrations' ORDER BY type, name";
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    rows.into_iter().map(|row| row.try_get_by(0).unwrap()).collect()
}

async fn n_pending(db: &DatabaseConnection) -> usize {
    Migrator::get_pending_migrations_read_only(db).await.unwrap().len()
}

#[tokio::test]
async fn the_schema_goes_up_down_and_up_again() {
    let db = empty().await;

    Migrator::up(&db, None).await.unwrap();
    let first = schema(&db).await;
    Migrator::down(&db, None).await.unwrap();
    let nothing = schema(&db).await;
    Migrator::up(&db, None).await.unwrap();

    assert!(first.iter().any(|sql| sql.contains(r#"CREATE TABLE "seats""#)), "{first:?}");
    assert_eq!(nothing, [""; 0], "down takes everything away");
    assert_eq!(schema(&db).await, first);
}

#[tokio::test]
async fn pending_migrations_are_seen_without_changing_anything() {
    let db = empty().await;
    let all = Migrator::migrations().len();

    assert_eq!(n_pending(&db).await, all);
    assert_eq!(schema(&db).await, [""; 0]);
    Migrator::up(&db, None).await.unwrap();
    assert_eq!(n_pending(&db).await, 0);
    Migrator::down(&db, Some(1)).await.unwrap();
    assert_eq!(n_pending(&db).await, 1);
}

#[tokio::test]
async fn going_up_twice_is_going_up_once() {
    let db = empty().await;

    Migrator::up(&db, None).await.unwrap();
    let first = schema(&db).await;
    Migrator::up(&db, None).await.unwrap();

    assert_eq!(schema(&db).await, first);
}
