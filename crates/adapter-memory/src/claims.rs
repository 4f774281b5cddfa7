//! Claims in memory: idempotency keys, with the ids that were created under them.

use std::collections::HashMap;

use usher_kernel::{AccountId, Claim, IdempotencyKey, KeyUse, Operation, StoredClaim, Timestamp};

/// The id of the concert, performance, reservation or attempt that a request created.
pub(crate) type Subject = [u8; 16];

/// Claims by account and key.
#[derive(Debug, Default)]
pub(crate) struct Claims(HashMap<AccountId, HashMap<IdempotencyKey, StoredClaim<Subject>>>);

impl Claims {
    /// Looks up how the key of a claim was used before.
    pub(crate) fn find(&self, claim: &Claim, operation: Operation, now: Timestamp) -> KeyUse<Subject> {
        let stored = self.0.get(&claim.account).and_then(|claims| claims.get(&claim.key));
        claim.compare(operation, stored.copied(), now)
    }

    /// Stores a claim whose key is unused or expired.
    pub(crate) fn keep(&mut self, claim: &Claim, operation: Operation, subject: Subject, now: Timestamp) {
        let stored =
            StoredClaim { fingerprint: claim.fingerprint, operation: Some(operation), subject, stored_at: now };
        self.0.entry(claim.account).or_default().insert(claim.key.clone(), stored);
    }

    /// Frees the key under which a subject was created.
    pub(crate) fn forget(&mut self, account: AccountId, operation: Operation, subject: Subject) {
        if let Some(claims) = self.0.get_mut(&account) {
            claims.retain(|_, stored| stored.operation != Some(operation) || stored.subject != subject);
        }
    }
}
