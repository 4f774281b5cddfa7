//! The contract of [`AccountRepository`].

use std::sync::Arc;

use usher_account::AccountRepository;
use usher_adapter_sql::SqlAccountRepository;
use usher_contract_tests::account_repository::Fixture;

use crate::backend::{Backend, On, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn repository(&self) -> Arc<dyn AccountRepository> {
        Arc::new(SqlAccountRepository::new(self.database.clone()))
    }
}

on_every_database!(account_repository_contract!);
