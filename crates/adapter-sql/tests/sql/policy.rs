//! The contract of [`PolicyRepository`] on SQLite.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;

use usher_adapter_sql::SqlPolicyRepository;
use usher_contract_tests::policy_repository::Fixture;
use usher_queue::ports::PolicyRepository;

mod sqlite_file;

use sqlite_file::SqliteFile;

struct Sqlite(SqliteFile);

impl Fixture for Sqlite {
    async fn fresh() -> Self {
        Self(SqliteFile::fresh().await)
    }

    fn repository(&self) -> Arc<dyn PolicyRepository> {
        Arc::new(SqlPolicyRepository::new(self.0.database.clone()))
    }
}

usher_contract_tests::policy_repository_contract!(Sqlite);
