//! The contract of [`PolicyRepository`].

use std::sync::Arc;

use usher_adapter_sql::SqlPolicyRepository;
use usher_contract_tests::policy_repository::Fixture;
use usher_queue::ports::PolicyRepository;

use crate::backend::{Backend, On, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn repository(&self) -> Arc<dyn PolicyRepository> {
        Arc::new(SqlPolicyRepository::new(self.database.clone()))
    }
}

on_every_database!(policy_repository_contract!);
