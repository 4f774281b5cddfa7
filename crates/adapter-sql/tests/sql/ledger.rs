//! The contract of [`LineLedger`].

use std::sync::Arc;

use usher_adapter_sql::SqlLineLedger;
use usher_contract_tests::line_ledger::Fixture;
use usher_queue::ports::LineLedger;

use crate::backend::{Backend, On, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn ledger(&self) -> Arc<dyn LineLedger> {
        Arc::new(SqlLineLedger::new(self.database.clone()))
    }
}

on_every_database!(line_ledger_contract!);
