//! The contract of [`PolicyRepository`].

use std::sync::Arc;

use usher_adapter_memory::MemoryPolicyRepository;
use usher_contract_tests::policy_repository::Fixture;
use usher_contract_tests::policy_repository_contract;
use usher_queue::ports::PolicyRepository;

use crate::Memory;

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn repository(&self) -> Arc<dyn PolicyRepository> {
        Arc::new(MemoryPolicyRepository::new(self.0.clone()))
    }
}

policy_repository_contract!(Memory);
