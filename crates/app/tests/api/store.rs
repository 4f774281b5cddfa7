//! The data of a server, read without the server: its database file, and `usher verify`.

use std::path::Path;
use std::process::Output;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use usher_adapter_memory::{Database, MemoryReservationRepository};
use usher_reservation::audit::{self, History};
use usher_reservation::ports::ReservationHistory as _;

use crate::app::{TestApp, usher};

/// A store that needs no other process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// A file in the server's folder.
    Sqlite,
    /// The memory of the test's process.
    Memory,
}

/// Stamps tests on every [`Store`]. Each takes the store as its argument.
macro_rules! on_every_store {
    ($($test:ident)*) => {
        mod sqlite {
            crate::store::on_every_store!(Sqlite: $($test)*);
        }

        mod memory {
            crate::store::on_every_store!(Memory: $($test)*);
        }
    };
    ($store:ident: $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            super::$test(crate::store::Store::$store).await;
        }
    )*};
}
pub(crate) use on_every_store;

/// The database of the server that keeps its data in `folder`.
fn database(folder: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(folder.join("usher.db"))
}

/// The number that a query returns.
pub(crate) async fn number(folder: &Path, query: &'static str) -> i64 {
    let mut connection = database(folder).read_only(true).connect().await.unwrap();
    let number = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    number
}

/// Changes the database without the server. Returns the number of changed rows.
pub(crate) async fn tamper(folder: &Path, statement: &'static str) -> u64 {
    let mut connection: SqliteConnection = database(folder).foreign_keys(false).connect().await.unwrap();
    let done = sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    done.rows_affected()
}

/// Locks the database against other writers, until the connection is dropped.
pub(crate) async fn lock(folder: &Path) -> SqliteConnection {
    let mut connection = database(folder).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}

/// The number of captured payments.
pub(crate) async fn captures(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM simulated_charges WHERE outcome = 'captured'").await
}

/// The number of refunds.
pub(crate) async fn refunds(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM simulated_charges WHERE refunded_at IS NOT NULL").await
}

/// The number of paid reservations.
pub(crate) async fn sales(folder: &Path) -> i64 {
    number(folder, "SELECT count(*) FROM reservations WHERE state = 'confirmed'").await
}

/// Runs `usher verify` on the data in `folder`.
pub(crate) fn verify(folder: &Path) -> Output {
    usher(&["verify"], &[("DATA__DIR", folder.to_str().unwrap()), ("LOG__FILTER", "warn")])
}

/// Asserts that `usher verify` finds no contradiction, and that the gateway's own log agrees: it captured a payment for
/// each sale and each refund.
pub(crate) async fn assert_verified(folder: &Path) {
    let output = verify(folder);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(captures(folder).await, sales(folder).await + refunds(folder).await, "captures = sales + refunds");
}

/// The history of a performance's seats and payments in memory.
async fn history(database: &Database, performance: &str) -> History {
    let reservations = MemoryReservationRepository::new(database.clone());
    reservations.history(performance.parse().unwrap()).await.unwrap()
}

/// The number of captured payments, on a server with this performance only.
pub(crate) async fn captures_of(app: &TestApp, performance: &str) -> i64 {
    match app.memory() {
        Some(database) => {
            let charges = history(database, performance).await.charges;
            i64::try_from(charges.iter().filter(|charge| charge.is_captured).count()).unwrap()
        }
        None => captures(app.folder()).await,
    }
}

/// Asserts on any store that there is no contradiction, as [`assert_verified`] does on a database.
pub(crate) async fn assert_sound(app: &TestApp, performance: &str) {
    match app.memory() {
        Some(database) => {
            let history = history(database, performance).await;
            assert_eq!(audit::check(&history).contradictions, [""; 0]);
            assert_eq!(audit::check_charges(&history), [""; 0]);
        }
        None => assert_verified(app.folder()).await,
    }
}
