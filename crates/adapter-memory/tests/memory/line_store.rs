//! The contract of [`LineStore`].

use std::sync::Arc;

use usher_adapter_memory::MemoryLineStore;
use usher_contract_tests::line_store::Fixture;
use usher_contract_tests::line_store_contract;
use usher_queue::ports::LineStore;

use crate::Memory;

impl Fixture for Memory {
    async fn store() -> Arc<dyn LineStore> {
        Arc::new(MemoryLineStore::new())
    }
}

line_store_contract!(Memory);
