//! The log of the simulated payment gateway in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{AttemptId, StoreError, Timestamp};
use usher_reservation::simulated::{Charge, ChargeLog};

use crate::Database;

/// Charges by attempt.
pub(crate) type Charges = BTreeMap<AttemptId, Charge>;

/// The log of the simulated payment gateway in memory.
#[derive(Clone, Debug)]
pub struct MemoryChargeLog {
    database: Database,
}

impl MemoryChargeLog {
    /// The log in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl ChargeLog for MemoryChargeLog {
    async fn find(&self, attempt: AttemptId) -> Result<Option<Charge>, StoreError> {
        Ok(self.database.lock("gateway.find")?.charges.get(&attempt).copied())
    }

    async fn record(&self, charge: Charge) -> Result<Charge, StoreError> {
        let charges = &mut self.database.lock("gateway.record")?.charges;
        Ok(*charges.entry(charge.attempt).or_insert(charge))
    }

    async fn refund(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        if let Some(charge) = self.database.lock("gateway.refund")?.charges.get_mut(&attempt) {
            charge.refunded_at.get_or_insert(now);
        }
        Ok(())
    }

    async fn pause(&self, span: Duration) {
        #[expect(clippy::disallowed_methods, reason = "the wait is what the gateway simulates")]
        tokio::time::sleep(span).await;
    }
}
