//! Concerts and performances.

use std::time::Duration;

use usher_kernel::{ConcertId, PerformanceId, Timestamp, Violation, Violations};

/// A show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concert {
    /// The concert's id.
    pub id: ConcertId,
    /// Its title.
    pub title: String,
    /// Its description; may be empty.
    pub description: String,
    /// Where it takes place.
    pub venue: String,
    /// How long it runs, in minutes.
    pub running_time_min: u32,
}

/// A validated request for a new concert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConcert {
    title: String,
    description: String,
    venue: String,
    running_time_min: u32,
}

impl NewConcert {
    /// Validates a request for a new concert.
    ///
    /// # Errors
    /// A violation for each field that breaks a rule.
    pub fn new(title: &str, description: &str, venue: &str, running_time_min: u32) -> Result<Self, Vec<Violation>> {
        let (title, venue) = (title.trim(), venue.trim());
        let mut violations = Violations::none();
        violations.check_length("title", title, 1..=200);
        violations.check_length("description", description, 0..=4_000);
        violations.check_length("venue", venue, 1..=200);
        let fine = (1..=1_440).contains(&running_time_min);
        violations.check(fine, "running_time_min", "must be 1 to 1440");
        violations.into_result()?;
        Ok(Self { title: title.into(), description: description.into(), venue: venue.into(), running_time_min })
    }

    pub(crate) fn into_concert(self, id: ConcertId) -> Concert {
        let Self { title, description, venue, running_time_min } = self;
        Concert { id, title, description, venue, running_time_min }
    }
}

/// When seats can be bought: from `opens_at` on, until just before `closes_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaleTimes {
    /// The first moment of the sale.
    pub opens_at: Timestamp,
    /// The first moment after the sale.
    pub closes_at: Timestamp,
}

impl SaleTimes {
    /// Whether the line is open at `now`: from `lobby` before the sale opens until it closes.
    #[must_use]
    pub fn has_line(self, now: Timestamp, lobby: Duration) -> bool {
        self.opens_at <= now.plus(lobby) && now < self.closes_at
    }
}

/// One date of a concert at one venue: the unit that has a line and seats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performance {
    /// The performance's id.
    pub id: PerformanceId,
    /// The concert it is a date of.
    pub concert: ConcertId,
    /// When the performance starts.
    pub starts_at: Timestamp,
    /// When seats can be bought.
    pub sale: SaleTimes,
    /// How many seats one account may own or hold.
    pub seat_limit_per_buyer: u32,
    /// How long a hold lasts before it lapses.
    pub hold_ttl: Duration,
    /// The version of its seat map: 0 before the first map, raised by one with each.
    pub map_version: u32,
}

/// Defaults for values that an operator leaves out of a new performance.
#[derive(Clone, Copy, Debug)]
pub struct SaleDefaults {
    /// Seats per account.
    pub seat_limit_per_buyer: u32,
    /// How long a hold lasts.
    pub hold_ttl: Duration,
}

/// A validated request for a new performance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPerformance {
    starts_at: Timestamp,
    sale: SaleTimes,
    seat_limit_per_buyer: u32,
    hold_ttl: Duration,
}

impl NewPerformance {
    /// The bounds of a hold's duration, in seconds: long enough to pay, short enough for abandoned seats to come back.
    pub const HOLD_TTL_S: std::ops::RangeInclusive<u64> = 1..=3_600;
    /// The bounds of the seats per account.
    pub const SEATS_PER_BUYER: std::ops::RangeInclusive<u32> = 1..=100;

    /// Validates a request for a new performance.
    ///
    /// # Errors
    /// A violation for each field that breaks a rule.
    pub fn new(
        starts_at: Timestamp,
        sale: SaleTimes,
        seat_limit_per_buyer: u32,
        hold_ttl: Duration,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Violations::none();
        violations.check(sale.opens_at < sale.closes_at, "sale_closes_at", "must be after sale_opens_at");
        violations.check(sale.opens_at <= starts_at, "starts_at", "must not be before sale_opens_at");
        let limit_is_fine = Self::SEATS_PER_BUYER.contains(&seat_limit_per_buyer);
        violations.check(limit_is_fine, "seat_limit_per_buyer", "must be 1 to 100");
        let ttl_is_fine = Self::HOLD_TTL_S.contains(&hold_ttl.as_secs());
        violations.check(ttl_is_fine, "hold_ttl_s", "must be 1 to 3600");
        violations.into_result()?;
        Ok(Self { starts_at, sale, seat_limit_per_buyer, hold_ttl })
    }

    pub(crate) fn into_performance(self, id: PerformanceId, concert: ConcertId) -> Performance {
        let Self { starts_at, sale, seat_limit_per_buyer, hold_ttl } = self;
        Performance { id, concert, starts_at, sale, seat_limit_per_buyer, hold_ttl, map_version: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_of_a_concert_is_named() {
        let violations = NewConcert::new(" ", &"d".repeat(4_001), "", 0).unwrap_err();

        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["title", "description", "venue", "running_time_min"]);
    }

    #[test]
    fn a_line_is_open_from_the_lobby_until_the_sale_closes() {
        let at = Timestamp::from_unix_ms;
        let sale = SaleTimes { opens_at: at(1_000), closes_at: at(2_000) };
        let has_line = |now, lobby_ms| sale.has_line(at(now), Duration::from_millis(lobby_ms));

        assert_eq!([899, 900, 1_999, 2_000].map(|now| has_line(now, 100)), [false, true, true, false]);
        assert_eq!([999, 1_000].map(|now| has_line(now, 0)), [false, true]);
    }

    #[test]
    fn a_sale_opens_before_it_closes_and_before_the_performance_starts() {
        let at = Timestamp::from_unix_ms;
        let sale = SaleTimes { opens_at: at(10), closes_at: at(10) };

        let violations = NewPerformance::new(at(9), sale, 0, Duration::ZERO).unwrap_err();

        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["sale_closes_at", "starts_at", "seat_limit_per_buyer", "hold_ttl_s"]);
    }
}
