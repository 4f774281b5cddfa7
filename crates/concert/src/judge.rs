//! Decides whether something is added to the catalogue, and whether a new seat map replaces the one before it. Pure: a
//! store reads the facts and writes the decision.

use usher_kernel::{KeyUse, Timestamp};

use crate::ports::AddOutcome;
use crate::{Performance, ReplaceSeatsOutcome};

/// Version of a seat that nobody has held yet. Each change of a seat's status or owner raises it by one.
pub const SEAT_VERSION_FIRST: u32 = 1;

/// Whether buyers have touched the present seats of a performance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatUse {
    /// Every seat has [`SEAT_VERSION_FIRST`].
    Untouched,
    /// A seat was held at least once, even if it is available again.
    Held,
}

/// Judges the addition of a concert, or of a performance to its parent, the concert. `earlier`: what was added under the
/// claim before.
pub fn add<T>(earlier: KeyUse<T>, has_parent: bool) -> AddOutcome<T> {
    match earlier {
        KeyUse::SameRequest(first) => AddOutcome::Replayed(first),
        KeyUse::OtherRequest => AddOutcome::KeyMismatch,
        KeyUse::Unused | KeyUse::Expired if has_parent => AddOutcome::Added,
        KeyUse::Unused | KeyUse::Expired => AddOutcome::ParentMissing,
    }
}

/// Judges a new seat map for a performance, which is `None` if the store has no such performance.
///
/// Seats stay as they are from the opening of the sale on. A seat that was held keeps its map too: the clock that `now`
/// comes from may be behind the clock of the server that sold it.
pub fn replace_seats(performance: Option<&Performance>, seats: SeatUse, now: Timestamp) -> ReplaceSeatsOutcome {
    match performance {
        None => ReplaceSeatsOutcome::NotFound,
        Some(performance) if seats == SeatUse::Held || now >= performance.sale.opens_at => ReplaceSeatsOutcome::Locked,
        Some(performance) => ReplaceSeatsOutcome::Replaced { map_version: performance.map_version + 1 },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use usher_kernel::{ConcertId, PerformanceId};

    use super::*;
    use crate::SaleTimes;

    #[test]
    fn a_repeated_request_is_answered_with_what_it_added_even_without_a_parent() {
        assert_eq!(add(KeyUse::SameRequest(1), false), AddOutcome::Replayed(1));
        assert_eq!(add(KeyUse::<()>::OtherRequest, true), AddOutcome::KeyMismatch);
    }

    #[test]
    fn only_a_performance_of_a_concert_is_added() {
        for earlier in [KeyUse::<()>::Unused, KeyUse::Expired] {
            assert_eq!(add(earlier, true), AddOutcome::Added);
            assert_eq!(add(earlier, false), AddOutcome::ParentMissing);
        }
    }

    const OPENS_AT: Timestamp = Timestamp::from_unix_ms(1_000);

    fn performance() -> Performance {
        Performance {
            id: PerformanceId::from_bytes([1; 16]),
            concert: ConcertId::from_bytes([2; 16]),
            starts_at: Timestamp::from_unix_ms(3_000),
            sale: SaleTimes { opens_at: OPENS_AT, closes_at: Timestamp::from_unix_ms(2_000) },
            seat_limit_per_buyer: 4,
            hold_ttl: Duration::from_secs(300),
            map_version: 6,
        }
    }

    #[test]
    fn a_map_replaces_another_until_just_before_the_sale_opens() {
        let judged = |now| replace_seats(Some(&performance()), SeatUse::Untouched, Timestamp::from_unix_ms(now));

        assert_eq!(judged(999), ReplaceSeatsOutcome::Replaced { map_version: 7 });
        assert_eq!(judged(1_000), ReplaceSeatsOutcome::Locked);
        assert_eq!(judged(2_000), ReplaceSeatsOutcome::Locked);
    }

    #[test]
    fn a_seat_that_was_held_locks_the_map_at_any_time() {
        let judged = replace_seats(Some(&performance()), SeatUse::Held, Timestamp::EPOCH);

        assert_eq!(judged, ReplaceSeatsOutcome::Locked);
    }

    #[test]
    fn a_missing_performance_is_not_found() {
        assert_eq!(replace_seats(None, SeatUse::Untouched, Timestamp::EPOCH), ReplaceSeatsOutcome::NotFound);
    }
}
