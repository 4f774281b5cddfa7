//! The databases for the tests: one for each test, migrated, and removed at its end.

use std::time::Duration;

use tempfile::TempDir;
use usher_adapter_sql::{Database, Settings};
use usher_migrations::{Migrator, MigratorTrait};
use usher_test_servers::mysql_server::ScratchDatabase;

/// A kind of database. A value of it keeps one database alive.
pub(crate) trait Backend: Send + Sync + Sized + 'static {
    /// Creates an empty database. Answers its URL, too.
    fn empty() -> impl Future<Output = (Self, String)> + Send;
}

/// A SQLite file.
pub(crate) struct Sqlite(#[expect(dead_code, reason = "it is removed when this is dropped")] TempDir);

impl Backend for Sqlite {
    async fn empty() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        (Self(folder), url)
    }
}

/// A database on a MariaDB or MySQL server.
pub(crate) struct Mysql(#[expect(dead_code, reason = "it is removed when this is dropped")] ScratchDatabase);

impl Backend for Mysql {
    async fn empty() -> (Self, String) {
        let scratch = ScratchDatabase::fresh().await;
        let url = scratch.url().to_owned();
        (Self(scratch), url)
    }
}

/// A migrated database of this kind, with several connections.
pub(crate) struct On<B> {
    /// The open database.
    pub(crate) database: Database,
    _kept: B,
}

impl<B: Backend> On<B> {
    /// Creates and migrates a database.
    pub(crate) async fn new() -> Self {
        let (kept, url) = B::empty().await;
        // Races bring a thousand calls to these few connections, and none of them may be refused.
        let settings = Settings { acquire_timeout: Duration::from_secs(30), ..Settings::new(url, 8) };
        let database = Database::open(&settings).await.unwrap();
        Migrator::up(database.writer(), None).await.unwrap();
        Self { database, _kept: kept }
    }
}

/// Stamps a port's suite and further tests, which are generic over their [`Backend`], on every kind of database.
macro_rules! on_every_database {
    ($contract:ident! $($test:ident)*) => {
        mod sqlite {
            use crate::backend::{On, Sqlite};

            usher_contract_tests::$contract!(On<Sqlite>);
            crate::backend::on_every_database!(Sqlite: $($test)*);
        }

        mod mysql {
            use crate::backend::{Mysql, On};

            usher_contract_tests::$contract!(On<Mysql>);
            crate::backend::on_every_database!(Mysql: $($test)*);
        }
    };
    ($($test:ident)*) => {
        mod sqlite {
            use crate::backend::Sqlite;

            crate::backend::on_every_database!(Sqlite: $($test)*);
        }

        mod mysql {
            use crate::backend::Mysql;

            crate::backend::on_every_database!(Mysql: $($test)*);
        }
    };
    ($backend:ident: $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            super::$test::<$backend>().await;
        }
    )*};
}
pub(crate) use on_every_database;
