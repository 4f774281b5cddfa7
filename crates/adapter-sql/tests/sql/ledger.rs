//! The contract of [`LineLedger`] on SQLite.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;

use usher_adapter_sql::SqlLineLedger;
use usher_contract_tests::line_ledger::Fixture;
use usher_queue::ports::LineLedger;

mod sqlite_file;

use sqlite_file::SqliteFile;

struct Sqlite(SqliteFile);

impl Fixture for Sqlite {
    async fn fresh() -> Self {
        Self(SqliteFile::fresh().await)
    }

    fn ledger(&self) -> Arc<dyn LineLedger> {
        Arc::new(SqlLineLedger::new(self.0.database.clone()))
    }
}

usher_contract_tests::line_ledger_contract!(Sqlite);
