//! What a server wrote down, seen past it: its database file, and what `usher verify` says of it.

use std::path::Path;
use std::process::{Command, Output};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

/// The database of the server that keeps its data in `folder`.
fn database(folder: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(folder.join("usher.db"))
}

/// The number that a query answers.
pub(crate) async fn number(folder: &Path, query: &'static str) -> i64 {
    let mut connection = database(folder).read_only(true).connect().await.unwrap();
    let number = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    number
}

/// Changes the database behind the server's back. Answers how many rows were changed.
pub(crate) async fn tamper(folder: &Path, statement: &'static str) -> u64 {
    let mut connection: SqliteConnection = database(folder).foreign_keys(false).connect().await.unwrap();
    let done = sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    done.rows_affected()
}

/// Keeps everybody else from writing, for as long as the answer lives.
pub(crate) async fn lock(folder: &Path) -> SqliteConnection {
    let mut connection = database(folder).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}

/// How often the gateway took money.
pub(crate) async fn captures(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM simulated_charges WHERE outcome = 'captured'").await
}

/// How often the gateway gave money back.
pub(crate) async fn refunds(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM simulated_charges WHERE refunded_at IS NOT NULL").await
}

/// How many reservations are paid.
pub(crate) async fn sales(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM reservations WHERE state = 'confirmed'").await
}

/// Runs `usher verify` on the data in `folder`.
pub(crate) fn verify(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.arg("verify").env("USHER__DATA__DIR", folder).env("USHER__LOG__FILTER", "warn");
    command.output().unwrap()
}

/// Insists that `usher verify` finds no contradiction, and that the gateway's own log agrees: what it took is what was
/// sold, or went back.
pub(crate) async fn assert_verified(folder: &Path) {
    let output = verify(folder);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(captures(folder).await, sales(folder).await + refunds(folder).await, "captures = sales + refunds");
}
