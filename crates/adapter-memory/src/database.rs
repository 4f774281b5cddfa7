//! Durable state of one process, behind one lock.

use std::sync::{Arc, Mutex, MutexGuard};

use usher_kernel::StoreError;

use crate::account::Accounts;
use crate::charge_log::Charges;
use crate::ledger::{EndedPasses, Ledger};
use crate::policy::Policies;

/// State that the durable ports share. It lives as long as its clones, and is lost with the process.
///
/// A standard mutex, not an async one: each method of a port takes it once and never waits for anything under it, so
/// that the method is atomic, and a read across several ports' data is a snapshot. The longest holds are those of a
/// whole hall (120,000 seats) and of a history, some milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Database(Arc<Mutex<Tables>>);

/// What the repositories keep.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) accounts: Accounts,
    pub(crate) charges: Charges,
    pub(crate) ended_passes: EndedPasses,
    pub(crate) ledger: Ledger,
    pub(crate) policies: Policies,
}

impl Database {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn lock(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>, StoreError> {
        // State that a panic left half changed must not sell anything.
        self.0.lock().map_err(|_| contradiction(operation, "a panic left the state half changed"))
    }
}

/// Reports state that cannot be.
pub(crate) fn contradiction(operation: &'static str, what: &'static str) -> StoreError {
    StoreError::Corrupt { operation, source: what.into() }
}
