//! Durable state of one process, behind one lock.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};

use usher_kernel::StoreError;

use crate::account::Accounts;
use crate::catalogue::Catalogue;
use crate::charge_log::Charges;
use crate::claims::Claims;
use crate::ledger::{EndedPasses, Ledger};
use crate::policy::Policies;
use crate::reservation::{Payments, Reservations};
use crate::seats::{Events, Seats};

/// The state that the durable ports share. It lives as long as its clones, and is lost with the process.
///
/// A standard mutex, not an async one: each method of a port locks it once and never awaits under the lock. So each
/// method is atomic, and a read of several ports' data is a snapshot. Reads of a whole hall (120,000 seats) and of a
/// history hold the lock for some milliseconds, and a choice of best seats where no two free ones are side by side holds
/// it for seconds.
#[derive(Clone, Debug, Default)]
pub struct Database(Arc<Mutex<Tables>>);

/// The data of all repositories.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) accounts: Accounts,
    pub(crate) catalogue: Catalogue,
    pub(crate) charges: Charges,
    pub(crate) claims: Claims,
    pub(crate) ended_passes: EndedPasses,
    pub(crate) events: Events,
    pub(crate) ledger: Ledger,
    pub(crate) payments: Payments,
    pub(crate) policies: Policies,
    pub(crate) reservations: Reservations,
    pub(crate) seats: Seats,
}

impl Database {
    /// An empty database.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that the state is usable.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a panic left the state half changed.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.lock("database.ping").map(drop)
    }

    pub(crate) fn lock(&self, operation: &'static str) -> Result<MutexGuard<'_, Tables>, StoreError> {
        // No seat may be sold from state that a panic left half changed.
        self.0.lock().map_err(|_| corrupt(operation)(Contradiction("a panic left the state half changed")))
    }
}

/// Stored state that breaks an invariant, which is a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Contradiction(pub(crate) &'static str);

/// Converts a contradiction to the error of `operation`, which changed nothing.
pub(crate) fn corrupt<E: Error + Send + Sync + 'static>(operation: &'static str) -> impl Fn(E) -> StoreError {
    move |source| StoreError::Corrupt { operation, source: Box::new(source) }
}
