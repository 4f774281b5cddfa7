//! The contract of [`LineLedger`].

use std::sync::Arc;

use usher_adapter_memory::MemoryLineLedger;
use usher_contract_tests::line_ledger::Fixture;
use usher_contract_tests::line_ledger_contract;
use usher_queue::ports::LineLedger;

use crate::Memory;

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn ledger(&self) -> Arc<dyn LineLedger> {
        Arc::new(MemoryLineLedger::new(self.0.clone()))
    }
}

line_ledger_contract!(Memory);
