//! Statistics of a MariaDB or MySQL server: open transactions, connections that wait for a table, and deadlocks.

use std::time::Duration;

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, Row as _};

/// Pause before each read of InnoDB's transactions. InnoDB refreshes its answer only after 0.1 s without reads
/// (`CACHE_MIN_IDLE_TIME` in its `trx0i_s`), so more frequent reads get the first answer for ever.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(120);

/// Most tries of a read that fails.
const TRIES_MAX: u32 = 20;

/// A connection of one test, to watch the other connections to a database. Its table lock ends with it.
#[derive(Debug)]
pub struct Watcher(MySqlConnection);

/// A connection to the server, and its state.
struct Process {
    id: i64,
    state: String,
}

impl Watcher {
    /// Connects to a database.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn of(url: &str) -> Self {
        Self(MySqlConnection::connect(url).await.expect("the database accepts the connection"))
    }

    /// Runs a query whose result is one number.
    ///
    /// # Panics
    /// If the query fails, or its result is no number.
    pub async fn number(&mut self, query: impl Into<String>) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_one(&mut self.0).await.expect("the query has a number")
    }

    /// How many transactions other connections have open in this database, after a pause of some 0.1 s.
    ///
    /// # Panics
    /// If the read fails.
    pub async fn n_open(&mut self) -> usize {
        let mut tries = 1;
        let open: Vec<i64> = loop {
            #[expect(clippy::disallowed_methods, reason = "InnoDB refreshes its answer after this pause")]
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            let open = "SELECT CAST(trx_mysql_thread_id AS SIGNED) FROM information_schema.innodb_trx";
            match sqlx::query_scalar(open).fetch_all(&mut self.0).await {
                Ok(open) => break open,
                // In MySQL this read fails while another connection runs a statement with binary values.
                Err(_) if tries < TRIES_MAX => tries += 1,
                Err(error) => panic!("the open transactions cannot be read: {error}"),
            }
        };
        let others = self.others().await;
        others.iter().filter(|other| open.contains(&other.id)).count()
    }

    /// How many connections to this database wait for a locked table.
    ///
    /// # Panics
    /// If the read fails.
    pub async fn n_waiting_for_tables(&mut self) -> usize {
        let others = self.others().await;
        others.iter().filter(|other| other.state == "Waiting for table metadata lock").count()
    }

    /// The other connections to this database. `SHOW PROCESSLIST`, because reads of MySQL's tables fail while another
    /// connection runs a statement with binary values.
    async fn others(&mut self) -> Vec<Process> {
        let own = sqlx::query_as("SELECT DATABASE(), CAST(CONNECTION_ID() AS SIGNED)");
        let (database, id): (String, i64) = own.fetch_one(&mut self.0).await.expect("the connection has a database");
        let all = sqlx::raw_sql("SHOW PROCESSLIST").fetch_all(&mut self.0).await.expect("it lists connections");
        let in_database = all.iter().filter(|row| {
            row.try_get_unchecked::<Option<String>, _>("db").is_ok_and(|db| db.as_deref() == Some(&database))
        });
        let process = |row: &MySqlRow| Process {
            id: row.get_unchecked("Id"),
            state: row.get_unchecked::<Option<String>, _>("State").unwrap_or_default(),
        };
        in_database.map(process).filter(|process| process.id != id).collect()
    }

    /// How many deadlocks the server resolved since it started.
    ///
    /// # Panics
    /// If the read fails.
    pub async fn n_deadlocks(&mut self) -> i64 {
        self.number("SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'").await
    }

    /// Locks a table against all other connections, until [`Self::unlock`].
    ///
    /// # Panics
    /// If the lock fails.
    pub async fn lock(&mut self, table: &str) {
        self.0.execute(AssertSqlSafe(format!("LOCK TABLES {table} WRITE"))).await.expect("the table is locked");
    }

    /// Unlocks the table.
    ///
    /// # Panics
    /// If the unlock fails.
    pub async fn unlock(&mut self) {
        self.0.execute("UNLOCK TABLES").await.expect("the table is free");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql_server::ScratchDatabase;

    async fn connection(url: &str) -> MySqlConnection {
        let mut connection = MySqlConnection::connect(url).await.unwrap();
        connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
        connection
    }

    async fn run(connection: &mut MySqlConnection, statement: &'static str) -> Result<(), sqlx::Error> {
        connection.execute(statement).await.map(drop)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_open_is_seen_until_it_is_over_and_deadlocks_are_counted() {
        let database = ScratchDatabase::fresh().await;
        let mut watcher = Watcher::of(database.url()).await;
        database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) ENGINE = InnoDB").await;
        database.execute("INSERT INTO notes VALUES (1, 0), (2, 0)").await;
        let n_deadlocks = watcher.n_deadlocks().await;
        let (mut one, mut other) = (connection(database.url()).await, connection(database.url()).await);
        assert_eq!(watcher.n_open().await, 0);

        for (connection, change) in [
            (&mut one, "UPDATE notes SET n = n + 1 WHERE id = 1"),
            (&mut other, "UPDATE notes SET n = n + 1 WHERE id = 2"),
        ] {
            run(connection, "BEGIN").await.unwrap();
            run(connection, change).await.unwrap();
        }
        assert_eq!(watcher.n_open().await, 2);
        let (first, second) = tokio::join!(
            run(&mut one, "UPDATE notes SET n = n + 1 WHERE id = 2"),
            run(&mut other, "UPDATE notes SET n = n + 1 WHERE id = 1"),
        );
        assert_ne!(first.is_ok(), second.is_ok(), "one of them is rolled back: {first:?}, {second:?}");
        assert_eq!(watcher.n_open().await, 1);
        run(if first.is_ok() { &mut one } else { &mut other }, "COMMIT").await.unwrap();

        assert_eq!(watcher.n_open().await, 0);
        // Other tests may cause deadlocks on the same server.
        assert!(watcher.n_deadlocks().await > n_deadlocks);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_a_locked_table_is_seen_until_it_is_free() {
        let database = ScratchDatabase::fresh().await;
        database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY) ENGINE = InnoDB").await;
        let (mut holder, mut watcher) = (Watcher::of(database.url()).await, Watcher::of(database.url()).await);
        holder.lock("notes").await;
        assert_eq!(watcher.n_waiting_for_tables().await, 0);

        let mut waiting = Watcher::of(database.url()).await;
        let counted = waiting.number("SELECT COUNT(*) FROM notes");
        let released = async {
            while watcher.n_waiting_for_tables().await != 1 {
                tokio::task::yield_now().await;
            }
            holder.unlock().await;
        };
        let both = async { tokio::join!(counted, released) };
        let (count, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();

        assert_eq!((count, watcher.n_waiting_for_tables().await), (0, 0));
    }
}
