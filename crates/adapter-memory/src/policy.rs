//! Admission policies in memory. Only the values that operators changed are stored.

use std::collections::HashMap;

use async_trait::async_trait;
use usher_kernel::{PerformanceId, StoreError, Violation};
use usher_queue::ports::PolicyRepository;
use usher_queue::{AdmissionPolicy, PolicyPatch};

use crate::Database;

/// The changed values of each line's policy.
pub(crate) type Policies = HashMap<PerformanceId, PolicyPatch>;

/// Admission policies in memory.
#[derive(Clone, Debug)]
pub struct MemoryPolicyRepository {
    database: Database,
}

impl MemoryPolicyRepository {
    /// A repository of the policies in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl PolicyRepository for MemoryPolicyRepository {
    async fn find(&self, performance: PerformanceId, default: &AdmissionPolicy) -> Result<AdmissionPolicy, StoreError> {
        let policies = &self.database.lock("policy.find")?.policies;
        Ok(policies.get(&performance).map_or(*default, |changed| default.with(changed)))
    }

    async fn patch(
        &self,
        performance: PerformanceId,
        default: &AdmissionPolicy,
        patch: &PolicyPatch,
    ) -> Result<Result<AdmissionPolicy, Vec<Violation>>, StoreError> {
        let policies = &mut self.database.lock("policy.patch")?.policies;
        let before = policies.get(&performance).copied().unwrap_or_default();
        Ok(default.patched(before, patch).map(|(after, policy)| {
            policies.insert(performance, after);
            policy
        }))
    }
}
