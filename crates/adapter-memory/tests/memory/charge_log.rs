//! The contract of the simulated gateway, on the log in memory.

use std::sync::Arc;

use usher_adapter_memory::MemoryChargeLog;
use usher_contract_tests::simulated_gateway::Fixture;
use usher_contract_tests::simulated_gateway_contract;
use usher_reservation::ChargeLog;

use crate::Memory;

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn log(&self) -> Arc<dyn ChargeLog> {
        Arc::new(MemoryChargeLog::new(self.0.clone()))
    }
}

simulated_gateway_contract!(Memory);
