//! Opens a database, and runs units of work in it.
//!
//! A unit is one transaction. It waits for nothing but the database. No statement is retried inside of a transaction: a
//! unit that loses a race is rolled back, and runs again as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use sea_orm::sqlx::mysql::MySqlConnectOptions;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor, MySql, MySqlConnection, SqliteConnection,
};
use sea_orm::{
    AccessMode, ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    IsolationLevel, RuntimeErr, SqliteTransactionMode, SqlxError, TransactionOptions, TransactionTrait,
};
use usher_kernel::StoreError;

use crate::error::{Failure, commit_failed, convert};
use crate::statements::PREPARED_MAX;

/// The database to open, and the limits of its connection pool.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite://path/to/file` or `mysql://user:password@host:port/database`.
    pub url: String,
    /// The most connections in the pool. SQLite has one more, for writing.
    pub max_connections: u32,
    /// How long a call on MySQL waits for a free connection before it is refused. On SQLite, calls wait longer for the
    /// only writer.
    pub acquire_timeout: Duration,
}

impl Settings {
    /// Settings with the shortest wait (1 s), so that calls fail fast while the database is down.
    #[must_use]
    pub fn new(url: impl Into<String>, max_connections: u32) -> Self {
        Self { url: url.into(), max_connections, acquire_timeout: Duration::from_secs(1) }
    }
}

// Leaves the URL out, which may hold a password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .finish_non_exhaustive()
    }
}

/// How long a migration waits for another one, in seconds.
const MIGRATION_LOCK_WAIT_S: u32 = 60;

/// The lock of migrations: one process at a time has it, for one database. Dropping it releases it.
#[derive(Debug)]
pub struct MigrationLock(
    #[expect(dead_code, reason = "the lock lives as long as the connection")] PoolConnection<MySql>,
);

/// An open database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Database {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    /// How long a write may wait for a connection. `reader_wait`: the same for a read.
    writer_wait: Duration,
    reader_wait: Duration,
}

/// A unit's transaction. In an `Arc`, so that a unit can be a plain closure. The unit drops it at its end.
pub(crate) type Transaction = Arc<DatabaseTransaction>;

const TRIES_MAX: u32 = 3;
/// The longest that a unit may run. Then it is rolled back, because its locks block other transactions.
const UNIT_MAX: Duration = Duration::from_secs(5);
/// The longest that a unit may run that writes a row for each seat of a hall, before the sale opens. 120,000 rows take
/// 5 to 10 s on two cores.
pub(crate) const LARGE_UNIT_MAX: Duration = Duration::from_secs(30);
/// The longest that a BEGIN may take. It waits for no lock. A database that takes longer does not respond, and callers
/// should not wait as long as for a unit.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// The longest that a snapshot may take. It blocks no other transaction, and may read the whole history of a
/// performance.
const SNAPSHOT_MAX: Duration = Duration::from_secs(30);
/// The longest that a rollback may take before its connection is replaced. Waiting for a database that does not respond
/// would occupy the place in the pool for ever.
const ROLLBACK_MAX: Duration = Duration::from_secs(1);
/// The longest that the first connection may take, when a server starts.
const FIRST_CONNECT_MAX: Duration = Duration::from_secs(5);
/// The longest that the replacement may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a connection may be idle before the pool pings it on its next use. Shorter than `UNIT_MAX`: a caller that
/// waited while a unit timed out on a silent database would otherwise get a connection that was last used just before
/// the silence, and wait for as long again.
const TRUSTED_FOR: Duration = Duration::from_secs(2);
const _: () = assert!(TRUSTED_FOR.as_secs() < UNIT_MAX.as_secs());
/// How long a connection may be idle before the pool closes it. `IDLE_MAX_MYSQL_S`: before MySQL closes it. Only then
/// does MySQL roll back the open transactions of a server that vanished, and release their locks.
const IDLE_MAX: Duration = Duration::from_secs(20);
const IDLE_MAX_MYSQL_S: u32 = 30;
const _: () = assert!(IDLE_MAX.as_secs() < IDLE_MAX_MYSQL_S as u64);
/// How long a statement waits for a lock on MySQL.
const LOCK_WAIT_S: u32 = 2;
const _: () = assert!((LOCK_WAIT_S as u64) < UNIT_MAX.as_secs());

/// Whether units that write run one after the other (SQLite), and so need no row locks.
pub(crate) fn has_one_writer(db: &impl ConnectionTrait) -> bool {
    db.get_database_backend() == DbBackend::Sqlite
}

impl Database {
    /// Opens a database. Creates a SQLite file that does not exist.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        // Not `DbBackend::is_prefix_of`, which panics on a URL that it cannot parse.
        let opened =
            if settings.url.starts_with("sqlite:") { open_sqlite(settings).await } else { open_mysql(settings).await };
        opened.map_err(|error| convert("database.open", error.into()))
    }

    /// The connections that may write, for the migrations.
    #[must_use]
    pub const fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// Waits until no other process migrates the database, and keeps others from it for as long as the lock lives. An
    /// embedded database has one server, and no lock.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another process has the lock for longer than a minute.
    pub async fn lock_migrations(&self) -> Result<Option<MigrationLock>, StoreError> {
        const OPERATION: &str = "database.lock_migrations";
        if self.is_embedded() {
            return Ok(None);
        }
        let lock = async {
            let mut connection = self.writer.get_mysql_connection_pool().acquire().await?;
            // The lock ends with the connection, even if this process is killed.
            connection.close_on_drop();
            // MySQL would close the connection, which is idle while others migrate.
            connection.execute("SET SESSION wait_timeout = 28800").await?;
            let wait =
                format!("SELECT COALESCE(GET_LOCK(CONCAT('usher.migrate.', DATABASE()), {MIGRATION_LOCK_WAIT_S}), 0)");
            let has_lock: i64 = sea_orm::sqlx::query_scalar(AssertSqlSafe(wait)).fetch_one(&mut *connection).await?;
            Ok::<_, SqlxError>((has_lock == 1).then_some(MigrationLock(connection)))
        };
        let lock =
            lock.await.map_err(|error| convert(OPERATION, DbErr::Conn(RuntimeErr::SqlxError(error.into())).into()))?;
        let taken =
            || StoreError::Conflict { operation: OPERATION, source: "another process migrates the database".into() };
        lock.map(Some).ok_or_else(taken)
    }

    /// Whether the database is a file of this server alone (SQLite), and not shared by several servers.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        has_one_writer(&self.writer)
    }

    /// Checks that the database responds.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let result = within(self.reader_wait + UNIT_MAX, self.reader.ping()).await;
        result.map_err(|failure| convert("database.ping", failure))
    }

    /// Closes all connections. Waits for those in use, as long as a unit may take.
    ///
    /// # Errors
    /// [`StoreError`] if that fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        let closed = async {
            self.reader.close_by_ref().await?;
            self.writer.close_by_ref().await
        };
        within(UNIT_MAX, closed).await.map_err(|failure| convert("database.close", failure))
    }

    /// Runs a unit that writes, and commits it. A unit that loses a race is rolled back and runs again from the start,
    /// with three tries at most.
    pub(crate) async fn write<T, F, U>(&self, operation: &'static str, unit: F) -> Result<T, StoreError>
    where
        F: Fn(Transaction) -> U + Send + Sync,
        U: Future<Output = Result<T, Failure>> + Send,
        T: Send,
    {
        self.write_within(UNIT_MAX, operation, unit).await
    }

    /// Like [`write`](Self::write), for a unit that may take as long as `span`.
    pub(crate) async fn write_within<T, F, U>(
        &self,
        span: Duration,
        operation: &'static str,
        unit: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Transaction) -> U + Send + Sync,
        U: Future<Output = Result<T, Failure>> + Send,
        T: Send,
    {
        let mut tries = 1;
        loop {
            match self.write_once(span, operation, &unit).await? {
                Err(failure) if tries < TRIES_MAX && failure.is_transient() => pause(tries).await,
                result => return result.map_err(|failure| convert(operation, failure)),
            }
            tries += 1;
        }
    }

    async fn write_once<T, F, U>(
        &self,
        span: Duration,
        operation: &'static str,
        unit: F,
    ) -> Result<Result<T, Failure>, StoreError>
    where
        F: FnOnce(Transaction) -> U,
        U: Future<Output = Result<T, Failure>>,
    {
        let options = if has_one_writer(&self.writer) {
            // Takes the write lock at BEGIN: on SQLite, a transaction that reads first cannot wait for a lock that is
            // taken.
            let mode = Some(SqliteTransactionMode::Immediate);
            TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() }
        } else {
            TransactionOptions::default()
        };
        let begun = within(self.writer_wait + BEGIN_MAX, self.writer.begin_with_options(options)).await;
        let transaction = match begun {
            Ok(transaction) => Arc::new(transaction),
            Err(failure) => return Ok(Err(failure)),
        };
        let result = within(span, unit(transaction.clone())).await;
        let Some(transaction) = Arc::into_inner(transaction) else {
            // The clone that the unit kept rolls back when it is dropped.
            return Ok(Err(DbErr::Custom("a unit of work still holds its transaction after its end".into()).into()));
        };
        match result {
            Ok(value) => match within(UNIT_MAX, transaction.commit()).await {
                Ok(()) => Ok(Ok(value)),
                Err(failure) => commit_failed(operation, failure),
            },
            Err(failure) => {
                // If the rollback fails too, the connection is given up, and the database rolls back by itself.
                if let Err(error) = within(ROLLBACK_MAX, transaction.rollback()).await {
                    tracing::debug!(operation, %error, "a transaction was not rolled back");
                }
                Ok(Err(failure))
            }
        }
    }

    /// Runs a unit that reads. Each statement sees its own point in time.
    pub(crate) async fn read<'a, T, F, U>(&'a self, operation: &'static str, unit: F) -> Result<T, StoreError>
    where
        F: FnOnce(&'a DatabaseConnection) -> U,
        U: Future<Output = Result<T, Failure>>,
    {
        let result = within(self.reader_wait + UNIT_MAX, unit(&self.reader)).await;
        result.map_err(|failure| convert(operation, failure))
    }

    /// Runs a unit that reads. All statements see one snapshot.
    pub(crate) async fn snapshot<T, F, U>(&self, operation: &'static str, unit: F) -> Result<T, StoreError>
    where
        F: FnOnce(Transaction) -> U,
        U: Future<Output = Result<T, Failure>>,
    {
        let snapshot = async {
            let transaction = if has_one_writer(&self.reader) {
                self.reader.begin().await?
            } else {
                let (isolation, access) = (IsolationLevel::RepeatableRead, AccessMode::ReadOnly);
                self.reader.begin_with_config(Some(isolation), Some(access)).await?
            };
            // The transaction rolls back when the unit drops it: there is nothing to commit.
            unit(Arc::new(transaction)).await
        };
        let result = within(self.reader_wait + SNAPSHOT_MAX, snapshot).await;
        result.map_err(|failure| convert(operation, failure))
    }
}

/// Cancels work that takes longer than `span`: a silent database never responds. The pool cleans up the connection of
/// cancelled work when the connection returns to it.
async fn within<T, E: Into<Failure>>(span: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    match tokio::time::timeout(span, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Failure::Overdue),
    }
}

/// Waits for a random time (2 to 20 ms times `tries`), so that two units that collided do not collide again.
async fn pause(tries: u32) {
    let span = Duration::from_millis(rand::rng().random_range(2..=20)) * tries;
    #[expect(clippy::disallowed_methods, reason = "the jitter between retries waits for no condition")]
    tokio::time::sleep(span).await;
}

/// Opens a SQLite file. SQLite has one writer at a time. With a single connection for all writes, they queue in our
/// pool, in order, instead of polling for the lock.
async fn open_sqlite(settings: &Settings) -> Result<Database, DbErr> {
    if settings.url.contains(":memory:") || settings.url.contains("mode=memory") {
        return Err(DbErr::Custom("SQLite needs a file: in memory, each connection has its own database".into()));
    }
    // The server's load shedding bounds the queue of writers, not this wait.
    let (writer_wait, reader_wait) = (Duration::from_secs(30), Duration::from_secs(5));
    let mut writer = ConnectOptions::new(&settings.url);
    writer.max_connections(1).acquire_timeout(writer_wait).sqlx_logging(false).map_sqlx_sqlite_opts(|options| {
        options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With NORMAL, a power failure would lose acknowledged sales.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(2))
            .foreign_keys(true)
    });
    writer.map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(is_clean(connection))));
    let writer = sea_orm::Database::connect(writer).await?;
    let mut reader = ConnectOptions::new(&settings.url);
    reader
        .max_connections(settings.max_connections)
        .acquire_timeout(reader_wait)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|options| options.busy_timeout(Duration::from_secs(2)).pragma("query_only", "ON"));
    reader.map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(is_clean(connection))));
    let reader = sea_orm::Database::connect(reader).await?;
    Ok(Database { writer, reader, writer_wait, reader_wait })
}

/// Whether the driver knows of no open transaction on a connection that returns to the pool. Otherwise the pool closes the
/// connection, which rolls back.
///
/// When a disk is full, SQLite may roll back a transaction by itself. The driver (sqlx 0.9) does not learn of it: its own
/// ROLLBACK fails, and it takes every later transaction of the connection for a savepoint in the one that ended. After
/// the next rollback, which leaves the outermost savepoint open, it would commit none of them.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, SqlxError> {
    if connection.is_in_transaction() {
        // Waits for a rollback that the driver may have sent to the connection's thread.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

async fn open_mysql(settings: &Settings) -> Result<Database, DbErr> {
    let driver: Result<MySqlConnectOptions, _> = settings.url.parse();
    let driver = driver.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))?;
    let driver = Arc::new(driver.disable_statement_logging());
    // The pool would report only that it got no connection in time.
    let connect =
        async { driver.connect().await.map(drop).map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(error.into()))) };
    if let Err(failure) = within(FIRST_CONNECT_MAX, connect).await {
        let (host, port) = (driver.get_host(), driver.get_port());
        return Err(DbErr::Conn(RuntimeErr::Internal(format!("cannot connect to {host}:{port}: {failure}"))));
    }
    let mut options = ConnectOptions::new(&settings.url);
    options
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire_if_idle_for(TRUSTED_FOR)
        .idle_timeout(IDLE_MAX)
        .sqlx_logging(false)
        .map_sqlx_mysql_opts(|options| options.statement_cache_capacity(PREPARED_MAX))
        .map_sqlx_mysql_pool_opts(move |pool| {
            let driver = Arc::clone(&driver);
            pool.after_connect(|connection, _| Box::pin(begin_session(connection))).after_release(
                move |connection, _| {
                    let driver = Arc::clone(&driver);
                    Box::pin(async move { clean_up(connection, &driver).await.map(|()| true) })
                },
            )
        });
    let connection = sea_orm::Database::connect(options).await?;
    let wait = settings.acquire_timeout;
    Ok(Database { writer: connection.clone(), reader: connection, writer_wait: wait, reader_wait: wait })
}

async fn begin_session(connection: &mut MySqlConnection) -> Result<(), SqlxError> {
    // READ COMMITTED: after a lock wait, a unit sees what the winner committed, and there are no gap locks.
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    let waits =
        format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}, SESSION wait_timeout = {IDLE_MAX_MYSQL_S}");
    connection.execute(AssertSqlSafe(waits)).await?;
    Ok(())
}

/// Cleans up a connection that returns to the pool, because its call may have been cancelled at any point:
/// - during BEGIN: it has an open transaction that the driver does not know of;
/// - during SET TRANSACTION: the mode of the cancelled transaction would apply to the next one;
/// - during any other statement: the driver may wait for a response that never comes.
async fn clean_up(connection: &mut MySqlConnection, driver: &MySqlConnectOptions) -> Result<(), SqlxError> {
    match tokio::time::timeout(ROLLBACK_MAX, connection.execute("ROLLBACK")).await {
        Ok(Ok(_)) => return Ok(()),
        // The connection is closed, so the pool can drop it.
        Ok(Err(error @ SqlxError::Io(_))) => return Err(error),
        Ok(Err(_)) | Err(_) => {}
    }
    // Replaces the connection in place. If the pool dropped it, it would close it first, and over TLS that waits for a
    // response, too (sqlx 0.9): the place in the pool would be lost. An overwritten connection closes without waiting.
    // The loop occupies a place that is of no use while the database is down.
    loop {
        let replacement = async {
            let mut replacement = driver.connect().await?;
            begin_session(&mut replacement).await.map(|()| replacement)
        };
        if let Ok(Ok(replacement)) = tokio::time::timeout(CONNECT_MAX, replacement).await {
            *connection = replacement;
            return Ok(());
        }
        // Waits longer than after a lost race, because the database is down.
        pause(10 * TRIES_MAX).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use sea_orm::{ConnectionTrait, Statement};

    use super::*;
    use crate::error::CorruptRow;

    async fn with_a_table() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let database = Database::open(&Settings::new(url, 2)).await.unwrap();
        database.writer().execute_unprepared("CREATE TABLE notes (id INTEGER PRIMARY KEY)").await.unwrap();
        (folder, database)
    }

    async fn note(tx: &DatabaseTransaction, id: u32) -> Result<(), Failure> {
        tx.execute_unprepared(&format!("INSERT INTO notes (id) VALUES ({id})")).await?;
        Ok(())
    }

    async fn count(database: &Database) -> i64 {
        let count = Statement::from_string(DbBackend::Sqlite, "SELECT COUNT(*) FROM notes");
        let count = database.read("count", |db| async move { Ok(db.query_one_raw(count).await?) });
        count.await.unwrap().unwrap().try_get_by(0).unwrap()
    }

    /// A COMMIT that fails leaves its transaction open.
    #[tokio::test]
    async fn after_a_failed_commit_the_next_unit_has_a_transaction_of_its_own() {
        let (_folder, database) = with_a_table().await;
        let references = "CREATE TABLE parts (note INTEGER REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)";
        database.writer().execute_unprepared(references).await.unwrap();

        let refused = database
            .write("test", |tx| async {
                let tx = tx;
                note(&tx, 1).await?;
                tx.execute_unprepared("INSERT INTO parts (note) VALUES (7)").await?;
                Ok(())
            })
            .await;
        database.write("test", |tx| async move { note(&tx, 2).await }).await.unwrap();

        refused.unwrap_err();
        // Read by another connection, which sees only what is committed.
        assert_eq!(count(&database).await, 1);
    }

    /// When a disk is full, SQLite may roll back a transaction by itself, and the driver does not know.
    #[tokio::test]
    async fn after_a_transaction_that_the_database_ended_the_next_units_are_committed() {
        let (_folder, database) = with_a_table().await;
        let ended = database.write("test", |tx| async {
            let tx = tx;
            note(&tx, 1).await?;
            tx.execute_unprepared("ROLLBACK").await?;
            Err::<(), _>(CorruptRow::new("notes", "id", 1).into())
        });
        ended.await.unwrap_err();

        let refused = database.write("test", |_| async { Err::<(), _>(CorruptRow::new("notes", "id", 2).into()) });
        refused.await.unwrap_err();
        database.write("test", |tx| async move { note(&tx, 3).await }).await.unwrap();

        // Read by another connection, which sees only what is committed.
        assert_eq!(count(&database).await, 1);
    }

    #[tokio::test]
    async fn a_unit_that_lost_a_race_is_rolled_back_and_runs_again() {
        let (_folder, database) = with_a_table().await;
        let runs = AtomicU32::new(0);

        let written = database.write("test", |tx| async {
            let tx = tx;
            note(&tx, 1).await?;
            if runs.fetch_add(1, Ordering::SeqCst) < 2 { Err(Failure::Conflict { table: "notes" }) } else { Ok("done") }
        });

        assert_eq!(written.await.unwrap(), "done");
        assert_eq!((runs.into_inner(), count(&database).await), (3, 1));
    }

    #[tokio::test]
    async fn a_unit_is_given_up_after_three_lost_races() {
        let (_folder, database) = with_a_table().await;
        let runs = AtomicU32::new(0);

        let lost: Result<(), _> = database
            .write("test", |tx| async {
                let tx = tx;
                note(&tx, 1).await?;
                runs.fetch_add(1, Ordering::SeqCst);
                Err(Failure::Conflict { table: "notes" })
            })
            .await;

        assert!(matches!(lost, Err(StoreError::Conflict { operation: "test", .. })), "{lost:?}");
        assert_eq!((runs.into_inner(), count(&database).await), (3, 0));
    }

    #[tokio::test]
    async fn a_failure_that_a_retry_cannot_help_is_not_retried() {
        let (_folder, database) = with_a_table().await;
        let runs = AtomicU32::new(0);

        let corrupt: Result<(), _> = database
            .write("test", |tx| async {
                let tx = tx;
                note(&tx, 1).await?;
                runs.fetch_add(1, Ordering::SeqCst);
                Err(CorruptRow::new("notes", "id", 1).into())
            })
            .await;
        let twice = database.write("test", |tx| async move {
            note(&tx, 1).await?;
            note(&tx, 1).await
        });

        assert!(matches!(corrupt, Err(StoreError::Corrupt { .. })), "{corrupt:?}");
        assert!(matches!(twice.await, Err(StoreError::Corrupt { .. })));
        assert_eq!((runs.into_inner(), count(&database).await), (1, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dropped_unit_is_rolled_back_and_blocks_no_other() {
        let (_folder, database) = with_a_table().await;
        let has_written = Arc::new(tokio::sync::Notify::new());
        let dropped = {
            let (database, has_written) = (database.clone(), Arc::clone(&has_written));
            let unit = async move {
                database
                    .write("test", |tx| {
                        let has_written = Arc::clone(&has_written);
                        async move {
                            note(&tx, 1).await?;
                            has_written.notify_one();
                            std::future::pending::<Result<(), Failure>>().await
                        }
                    })
                    .await
            };
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(unit);
            tasks
        };
        has_written.notified().await;

        drop(dropped);

        let next = database.write("test", |tx| async move { note(&tx, 2).await });
        assert!(next.await.is_ok());
        assert_eq!(count(&database).await, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_are_not_blocked_by_a_writer_and_cannot_write() {
        let (_folder, database) = with_a_table().await;

        let seen = database.write("test", |tx| {
            let database = database.clone();
            async move {
                note(&tx, 1).await?;
                Ok(count(&database).await)
            }
        });
        assert_eq!(seen.await.unwrap(), 0, "uncommitted rows are invisible");
        assert_eq!(count(&database).await, 1);

        let written = database.snapshot("test", |tx| async move { note(&tx, 2).await });
        assert!(written.await.is_err());
        assert_eq!(count(&database).await, 1);
    }

    #[tokio::test]
    async fn a_commit_is_on_the_disk_when_it_returns() {
        let (_folder, database) = with_a_table().await;
        let pragma = async |name: &str| {
            let pragma = Statement::from_string(DbBackend::Sqlite, format!("PRAGMA {name}"));
            database.writer().query_one_raw(pragma).await.unwrap().unwrap()
        };

        let synchronous: i32 = pragma("synchronous").await.try_get_by(0).unwrap();
        let journal_mode: String = pragma("journal_mode").await.try_get_by(0).unwrap();

        assert_eq!((synchronous, journal_mode.as_str()), (2, "wal"), "2 is FULL");
    }

    #[tokio::test]
    async fn a_database_in_memory_is_refused() {
        for url in ["sqlite::memory:", "sqlite://usher?mode=memory"] {
            let opened = Database::open(&Settings::new(url, 2)).await;

            assert!(matches!(opened, Err(StoreError::Corrupt { operation: "database.open", .. })), "{url}");
        }
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_parsed_is_refused_without_its_password() {
        for url in [
            "mysql://usher:hunter2@127.0.0.1:99999/usher",
            "mysql://usher:hunter2#@db/usher",
            "mysql://usher:hunter2/@db/usher",
            "mysql://usher:hunter2@[::1",
            "sqlite://:memory:",
        ] {
            let refused = Database::open(&Settings::new(url, 2)).await.unwrap_err();

            let causes = std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source());
            let text: Vec<_> = causes.map(ToString::to_string).collect();
            assert!(!text.concat().contains("hunter2"), "{text:?}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_printed() {
        let settings = Settings::new("mysql://usher:secret@db/usher", 2);

        assert!(!format!("{settings:?}").contains("secret"));
    }
}
