//! The section `reservation`.

use serde::Deserialize;

/// Reservations.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// How long a hold lasts.
    pub hold_ttl_s: u64,
    /// Seats per account.
    pub seats_per_buyer: u32,
}
