//! The section `reservation`.

use std::time::Duration;

use serde::Deserialize;
use usher_concert::{NewPerformance, SaleDefaults};

use super::error::ConfigError;

/// Reservations.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// How long a hold lasts.
    pub hold_ttl_s: u64,
    /// Seats per account.
    pub seats_per_buyer: u32,
}

impl Reservation {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let require = ConfigError::require;
        let ttl_is_fine = NewPerformance::HOLD_TTL_S.contains(&self.hold_ttl_s);
        require(ttl_is_fine, "reservation.hold_ttl_s", "must be 1 to 3600")?;
        let limit_is_fine = NewPerformance::SEATS_PER_BUYER.contains(&self.seats_per_buyer);
        require(limit_is_fine, "reservation.seats_per_buyer", "must be 1 to 100")
    }

    /// Terms of performances whose operator names none.
    #[must_use]
    pub const fn sale_defaults(&self) -> SaleDefaults {
        SaleDefaults { seat_limit_per_buyer: self.seats_per_buyer, hold_ttl: Duration::from_secs(self.hold_ttl_s) }
    }
}
