//! Reservations as a state machine, and seats.

use std::time::Duration;

use usher_kernel::{AccountId, AttemptId, Money, PerformanceId, ReservationId, SeatId, TicketId, Timestamp};

/// The number of a pass. A pass allows one live reservation at a time, and the first confirmed one uses it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassNumber(pub u64);

/// A seat in a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedSeat {
    /// The seat.
    pub seat: SeatId,
    /// Its grade.
    pub grade: String,
    /// Its price at the time of the hold.
    pub price: Money,
}

/// The right to a seat, which the buyer gets with the confirmation.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The ticket's id.
    pub id: TicketId,
    /// The seat it is for.
    pub seat: SeatId,
    /// The secret code that the venue checks.
    pub code: String,
}

// The code is worth as much as the ticket, so it stays out of logs.
impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// A payment under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The attempt's id, also at the gateway.
    pub attempt: AttemptId,
    /// The time from which any server resolves the attempt with the gateway.
    pub resolve_at: Timestamp,
}

impl Payment {
    /// Whether any server may resolve the attempt at `now`.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        now >= self.resolve_at
    }
}

/// Whether a hold has lapsed at `now`: it is live until just before `until`.
pub(crate) fn has_lapsed(until: Timestamp, now: Timestamp) -> bool {
    now >= until
}

/// The state of a reservation. Data exists only in the states that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The reservation holds its seats until `held_until`.
    Held,
    /// A payment is under way.
    Paying(Payment),
    /// The reservation is paid. Final.
    Confirmed {
        /// The attempt that paid for it.
        attempt: AttemptId,
        /// The time of the confirmation.
        at: Timestamp,
        /// One ticket per seat, in the order of the seats.
        tickets: Vec<Ticket>,
    },
    /// The buyer released the seats.
    Released,
    /// The hold lapsed.
    Expired,
}

/// One buyer's group of seats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The reservation's id.
    pub id: ReservationId,
    /// The performance.
    pub performance: PerformanceId,
    /// The buyer's account.
    pub account: AccountId,
    /// The pass that it was made under.
    pub pass: PassNumber,
    /// Its seats, in the order of the request, or in that of the hall if the server chose them. Never empty.
    pub seats: Vec<ReservedSeat>,
    /// The sum of their prices.
    pub total: Money,
    /// When it was made.
    pub created_at: Timestamp,
    /// The hold is live while `now < held_until`. A payment under way may extend it.
    pub held_until: Timestamp,
    /// The first `held_until`. A declined payment returns to it.
    pub held_until_original: Timestamp,
    /// How many payments were declined.
    pub declined: u32,
    /// Raised by one with each change. A write is guarded by the version that its decision read.
    pub version: u32,
    /// Its state.
    pub state: State,
}

/// Why a reservation refuses a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The hold has lapsed.
    #[error("the hold has expired")]
    HoldExpired,
    /// The state does not allow the change.
    #[error("the reservation's state does not allow this")]
    WrongState,
    /// The gateway declined [`Reservation::DECLINES_MAX`] payments.
    #[error("no payment attempts left")]
    NoAttemptsLeft,
}

impl Reservation {
    /// The most seats in one reservation.
    pub const SEATS_MAX: usize = 100;
    /// After this many declined payments no other payment begins.
    pub const DECLINES_MAX: u32 = 3;
    /// A payment keeps the seats for at least this long.
    pub const PAYING_AT_LEAST: Duration = Duration::from_secs(60);

    /// The reservation as it reads at `now`: a lapsed hold is expired, even if that is not stored yet.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.state == State::Held && has_lapsed(self.held_until, now) {
            self.state = State::Expired;
        }
        self
    }

    /// The reservation as it was when it was made, to answer a repeated hold.
    #[must_use]
    pub fn as_first_held(self) -> Self {
        Self { held_until: self.held_until_original, declined: 0, version: 1, state: State::Held, ..self }
    }

    /// Whether the reservation blocks its seats, and other holds under its pass.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        match self.state {
            State::Held => !has_lapsed(self.held_until, now),
            State::Paying(_) => true,
            State::Confirmed { .. } | State::Released | State::Expired => false,
        }
    }

    /// Begins a payment, which keeps the seats for at least [`Self::PAYING_AT_LEAST`].
    ///
    /// # Errors
    /// See [`TransitionError`].
    pub fn begin_payment(self, payment: Payment, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if has_lapsed(self.held_until, now) => Err(TransitionError::HoldExpired),
            State::Held if self.declined >= Self::DECLINES_MAX => Err(TransitionError::NoAttemptsLeft),
            State::Held => {
                let held_until = self.held_until.max(now.plus(Self::PAYING_AT_LEAST));
                Ok(Self { held_until, state: State::Paying(payment), version: self.version + 1, ..self })
            }
            State::Expired => Err(TransitionError::HoldExpired),
            State::Paying(_) | State::Confirmed { .. } | State::Released => Err(TransitionError::WrongState),
        }
    }

    /// Ends a payment with success.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless this attempt is under way.
    pub fn confirm(self, attempt: AttemptId, tickets: Vec<Ticket>, at: Timestamp) -> Result<Self, TransitionError> {
        self.require_attempt(attempt)?;
        Ok(Self { state: State::Confirmed { attempt, at, tickets }, version: self.version + 1, ..self })
    }

    /// Ends a declined payment. The reservation returns to its hold and the original deadline.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless this attempt is under way.
    pub fn decline(self, attempt: AttemptId) -> Result<Self, TransitionError> {
        let declined = self.declined + 1;
        self.give_up_payment(attempt).map(|reservation| Self { declined, ..reservation })
    }

    /// Ends a payment that never reached the gateway, as [`Self::decline`] does, but does not count it as declined.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless this attempt is under way.
    pub fn give_up_payment(self, attempt: AttemptId) -> Result<Self, TransitionError> {
        self.require_attempt(attempt)?;
        Ok(Self { held_until: self.held_until_original, state: State::Held, version: self.version + 1, ..self })
    }

    /// Moves the time from which any server resolves an attempt to `now`. `None`: it is not under way, or was due before.
    /// The version stays: no other change depends on this time.
    #[must_use]
    pub fn resolve_early(self, attempt: AttemptId, now: Timestamp) -> Option<Self> {
        match self.state {
            State::Paying(payment) if payment.attempt == attempt && now < payment.resolve_at => {
                Some(Self { state: State::Paying(Payment { resolve_at: now, ..payment }), ..self })
            }
            State::Paying(_) | State::Held | State::Confirmed { .. } | State::Released | State::Expired => None,
        }
    }

    /// Releases the seats.
    ///
    /// # Errors
    /// See [`TransitionError`].
    pub fn release(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if has_lapsed(self.held_until, now) => Err(TransitionError::HoldExpired),
            State::Held => Ok(Self { state: State::Released, version: self.version + 1, ..self }),
            State::Expired => Err(TransitionError::HoldExpired),
            State::Paying(_) | State::Confirmed { .. } | State::Released => Err(TransitionError::WrongState),
        }
    }

    /// Marks a lapsed hold as expired.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless the hold has lapsed.
    pub fn expire(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if has_lapsed(self.held_until, now) => {
                Ok(Self { state: State::Expired, version: self.version + 1, ..self })
            }
            State::Held | State::Paying(_) | State::Confirmed { .. } | State::Released | State::Expired => {
                Err(TransitionError::WrongState)
            }
        }
    }

    fn require_attempt(&self, attempt: AttemptId) -> Result<(), TransitionError> {
        match self.state {
            State::Paying(payment) if payment.attempt == attempt => Ok(()),
            State::Paying(_) | State::Held | State::Confirmed { .. } | State::Released | State::Expired => {
                Err(TransitionError::WrongState)
            }
        }
    }
}

/// The status of a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeatStatus {
    /// A buyer can take the seat.
    Available,
    /// A reservation holds the seat for some minutes.
    Held,
    /// The seat is sold.
    Sold,
}

impl SeatStatus {
    /// All statuses, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Available, Self::Held, Self::Sold];

    /// The status' name, in the API and in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Held => "held",
            Self::Sold => "sold",
        }
    }

    /// The status with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// The status as a code of two bits: 0 available, 1 held, 2 sold.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Available => 0,
            Self::Held => 1,
            Self::Sold => 2,
        }
    }

    /// The status with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A seat as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its index in the seat map.
    pub index: u32,
    /// Its name.
    pub seat: SeatId,
    /// Its section.
    pub section: String,
    /// Its row.
    pub row: u16,
    /// Its number in the row.
    pub number: u16,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Its status.
    pub status: SeatStatus,
    /// Raised by one with each change of status or owner.
    pub version: u32,
}

/// The number of seats of each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeatCounts {
    /// All seats.
    pub total: u64,
    /// Available seats, including those of lapsed holds.
    pub available: u64,
    /// Held seats.
    pub held: u64,
    /// Sold seats.
    pub sold: u64,
}

impl SeatCounts {
    /// Whether there are seats, and all of them are sold.
    #[must_use]
    pub const fn is_sold_out(&self) -> bool {
        self.total > 0 && self.available == 0 && self.held == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    const ATTEMPT: AttemptId = AttemptId::from_bytes([9; 16]);
    const OTHER_ATTEMPT: AttemptId = AttemptId::from_bytes([8; 16]);

    fn held() -> Reservation {
        let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
        let seat = ReservedSeat { seat: "A-1-1".parse().unwrap(), grade: "VIP".into(), price };
        Reservation {
            id: ReservationId::from_bytes([1; 16]),
            performance: PerformanceId::from_bytes([2; 16]),
            account: AccountId::from_bytes([3; 16]),
            pass: PassNumber(4),
            seats: vec![seat],
            total: price,
            created_at: at(0),
            held_until: at(300_000),
            held_until_original: at(300_000),
            declined: 0,
            version: 1,
            state: State::Held,
        }
    }

    fn paying_since(now: Timestamp) -> Reservation {
        held().begin_payment(Payment { attempt: ATTEMPT, resolve_at: at(0) }, now).unwrap()
    }

    #[test]
    fn a_hold_is_live_until_just_before_its_deadline() {
        assert!(held().is_live(at(299_999)));
        assert!(!held().is_live(at(300_000)));
        assert_eq!(held().at(at(299_999)).state, State::Held);
        assert_eq!(held().at(at(300_000)).state, State::Expired);
    }

    #[test]
    fn at_any_instant_a_hold_can_be_paid_or_expire_and_never_both() {
        for now in [at(0), at(299_999), at(300_000), at(300_001)] {
            let can_be_paid = held().begin_payment(Payment { attempt: ATTEMPT, resolve_at: now }, now).is_ok();
            let can_expire = held().expire(now).is_ok();
            assert!(can_be_paid != can_expire, "{now:?}");
        }
    }

    #[test]
    fn a_payment_begun_late_extends_the_hold_by_a_minute() {
        assert_eq!(paying_since(at(299_000)).held_until, at(359_000));
        assert_eq!(paying_since(at(1)).held_until, at(300_000));
    }

    #[test]
    fn a_declined_payment_returns_to_the_original_deadline() {
        let declined = paying_since(at(299_000)).decline(ATTEMPT).unwrap();

        assert_eq!((declined.state, declined.held_until, declined.declined), (State::Held, at(300_000), 1));
    }

    #[test]
    fn after_three_declined_payments_none_begins() {
        let tired = Reservation { declined: 3, ..held() };

        let refused = tired.begin_payment(Payment { attempt: ATTEMPT, resolve_at: at(0) }, at(0));

        assert_eq!(refused, Err(TransitionError::NoAttemptsLeft));
    }

    #[test]
    fn only_the_attempt_under_way_can_end_a_payment() {
        assert_eq!(paying_since(at(0)).confirm(OTHER_ATTEMPT, vec![], at(1)), Err(TransitionError::WrongState));
        assert_eq!(held().confirm(ATTEMPT, vec![], at(1)), Err(TransitionError::WrongState));
        assert!(paying_since(at(0)).confirm(ATTEMPT, vec![], at(1)).is_ok());
    }

    #[test]
    fn a_reservation_that_is_being_paid_can_neither_expire_nor_be_released() {
        assert_eq!(paying_since(at(0)).expire(at(999_999)), Err(TransitionError::WrongState));
        assert_eq!(paying_since(at(0)).release(at(1)), Err(TransitionError::WrongState));
        assert!(paying_since(at(0)).is_live(at(999_999)));
    }

    #[test]
    fn a_repeated_hold_gets_the_first_answer() {
        let declined = paying_since(at(299_000)).decline(ATTEMPT).unwrap();

        assert_eq!(declined.as_first_held(), held());
    }

    #[test]
    fn a_performance_without_seats_is_not_sold_out() {
        assert!(!SeatCounts::default().is_sold_out());
        assert!(SeatCounts { total: 1, sold: 1, ..SeatCounts::default() }.is_sold_out());
        assert!(!SeatCounts { total: 2, sold: 1, held: 1, ..SeatCounts::default() }.is_sold_out());
    }
}
