//! A seat as the judge sees it, and the one rule that says whether a seat is free.

use usher_kernel::{Money, PerformanceId, ReservationId, SeatId, Timestamp};

use crate::SeatStatus;
use crate::model::has_lapsed;

/// Who has a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatHolding {
    /// Nobody.
    Nobody,
    /// A reservation holds it until a time.
    Held(ReservationId, Timestamp),
    /// A reservation owns it.
    Sold(ReservationId),
}

impl SeatHolding {
    /// The status as it reads at `now`: a seat whose hold has lapsed reads as available.
    #[must_use]
    pub fn status_at(self, now: Timestamp) -> SeatStatus {
        match self {
            Self::Held(_, until) if has_lapsed(until, now) => SeatStatus::Available,
            Self::Nobody | Self::Held(..) | Self::Sold(_) => self.status(),
        }
    }

    /// The status as it is stored: a hold that has lapsed is held until that is written down.
    #[must_use]
    pub const fn status(self) -> SeatStatus {
        match self {
            Self::Nobody => SeatStatus::Available,
            Self::Held(..) => SeatStatus::Held,
            Self::Sold(_) => SeatStatus::Sold,
        }
    }

    /// The reservation that has the seat.
    #[must_use]
    pub const fn owner(self) -> Option<ReservationId> {
        match self {
            Self::Nobody => None,
            Self::Held(owner, _) | Self::Sold(owner) => Some(owner),
        }
    }

    /// The time until which it is held.
    #[must_use]
    pub const fn held_until(self) -> Option<Timestamp> {
        match self {
            Self::Held(_, until) => Some(until),
            Self::Nobody | Self::Sold(_) => None,
        }
    }

    /// The holding that a store keeps as these values. `None` if they contradict each other.
    #[must_use]
    pub const fn from_stored(
        status: SeatStatus,
        owner: Option<ReservationId>,
        held_until: Option<Timestamp>,
    ) -> Option<Self> {
        match (status, owner, held_until) {
            (SeatStatus::Available, None, None) => Some(Self::Nobody),
            (SeatStatus::Held, Some(owner), Some(until)) => Some(Self::Held(owner, until)),
            (SeatStatus::Sold, Some(owner), None) => Some(Self::Sold(owner)),
            (SeatStatus::Available | SeatStatus::Held | SeatStatus::Sold, _, _) => None,
        }
    }
}

/// What of a seat decides who gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatState {
    /// The performance.
    pub performance: PerformanceId,
    /// The seat.
    pub seat: SeatId,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Who has it.
    pub holding: SeatHolding,
    /// +1 with each change of the holding.
    pub version: u32,
}

impl SeatState {
    /// Whether any buyer may take it: nobody has it, or the hold on it has lapsed.
    #[must_use]
    pub fn is_free(&self, now: Timestamp) -> bool {
        self.holding.status_at(now) == SeatStatus::Available
    }

    /// Whether this reservation holds it, lapsed or not.
    #[must_use]
    pub fn is_held_by(&self, reservation: ReservationId) -> bool {
        self.holding.status() == SeatStatus::Held && self.holding.owner() == Some(reservation)
    }

    /// Changes the holding; answers with the change to write.
    pub(super) fn change(&mut self, to: SeatHolding) -> SeatChange {
        let before = std::mem::replace(&mut self.holding, to);
        self.version += 1;
        SeatChange { performance: self.performance, seat: self.seat.clone(), before, after: to, version: self.version }
    }
}

/// One change of one seat: a write of its row, guarded by the version before, and one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatChange {
    /// The performance.
    pub performance: PerformanceId,
    /// The seat.
    pub seat: SeatId,
    /// Who had it before.
    pub before: SeatHolding,
    /// Who has it now.
    pub after: SeatHolding,
    /// The version after the change. The row must have the version below it.
    pub version: u32,
}
