//! The contract of [`AccountRepository`] on SQLite.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;

use usher_account::AccountRepository;
use usher_adapter_sql::SqlAccountRepository;
use usher_contract_tests::account_repository::Fixture;

mod sqlite_file;

use sqlite_file::SqliteFile;

struct Sqlite(SqliteFile);

impl Fixture for Sqlite {
    async fn fresh() -> Self {
        Self(SqliteFile::fresh().await)
    }

    fn repository(&self) -> Arc<dyn AccountRepository> {
        Arc::new(SqlAccountRepository::new(self.0.database.clone()))
    }
}

usher_contract_tests::account_repository_contract!(Sqlite);
