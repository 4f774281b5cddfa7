//! The contract of [`AccountRepository`].

use std::sync::Arc;

use usher_account::AccountRepository;
use usher_adapter_memory::MemoryAccountRepository;
use usher_contract_tests::account_repository::Fixture;
use usher_contract_tests::account_repository_contract;

use crate::Memory;

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn repository(&self) -> Arc<dyn AccountRepository> {
        Arc::new(MemoryAccountRepository::new(self.0.clone()))
    }
}

account_repository_contract!(Memory);
