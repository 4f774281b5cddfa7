//! Reservations as a machine of states, and seats.

use std::time::Duration;

use usher_kernel::{AccountId, AttemptId, Money, PerformanceId, ReservationId, SeatId, TicketId, Timestamp};

/// The number of the pass that a reservation was made under. One pass carries one live reservation, and is used up by
/// the first confirmed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassNumber(pub u64);

/// A seat in a reservation, at the price it had when it was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedSeat {
    /// The seat.
    pub seat: SeatId,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
}

/// What the buyer owns after confirmation.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The ticket's id.
    pub id: TicketId,
    /// The seat it is for.
    pub seat: SeatId,
    /// The secret that lets its owner in.
    pub code: String,
}

// The code is as good as the ticket, so it stays out of logs.
impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("seat", &self.seat).finish_non_exhaustive()
    }
}

/// An attempt to pay, under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// What the gateway knows the attempt by.
    pub attempt: AttemptId,
    /// From then on, any server asks the gateway for its status.
    pub resolve_at: Timestamp,
}

impl Payment {
    /// Whether any server asks the gateway for its status at `now`.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        now >= self.resolve_at
    }
}

/// Where a reservation stands. Data exists only in the states that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its seats are its own until `held_until`.
    Held,
    /// A payment is under way.
    Paying(Payment),
    /// Paid, for good.
    Confirmed {
        /// The attempt that paid for it.
        attempt: AttemptId,
        /// When.
        at: Timestamp,
        /// One per seat, in the order of the seats.
        tickets: Vec<Ticket>,
    },
    /// Given back by its buyer.
    Released,
    /// Its time ran out.
    Expired,
}

/// One buyer's group of seats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The reservation's id.
    pub id: ReservationId,
    /// Whose seats.
    pub performance: PerformanceId,
    /// Whose reservation.
    pub account: AccountId,
    /// Under which pass.
    pub pass: PassNumber,
    /// Its seats, in the order asked for, or else in that of the hall; never empty.
    pub seats: Vec<ReservedSeat>,
    /// What they cost together.
    pub total: Money,
    /// When it was made.
    pub created_at: Timestamp,
    /// The hold is live while `now < held_until`. A payment under way extends it, once.
    pub held_until: Timestamp,
    /// What `held_until` was at first; a declined payment goes back to it.
    pub held_until_original: Timestamp,
    /// How many payments were declined.
    pub declined: u32,
    /// +1 with each change; a change names the version it was decided on.
    pub version: u32,
    /// Where it stands.
    pub state: State,
}

/// A change that the reservation's state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The hold's time ran out.
    #[error("the hold has expired")]
    HoldExpired,
    /// The state is another one.
    #[error("the reservation's state does not allow this")]
    WrongState,
    /// Every attempt to pay was declined.
    #[error("no payment attempts left")]
    NoAttemptsLeft,
}

impl Reservation {
    /// The most seats in one reservation.
    pub const SEATS_MAX: usize = 100;
    /// How many declined payments end the attempts to pay.
    pub const DECLINES_MAX: u32 = 3;
    /// A payment has at least this long before its seats can lapse.
    pub const PAYING_AT_LEAST: Duration = Duration::from_secs(60);

    /// The reservation as it reads at `now`: a hold past its time is expired, whether or not anybody wrote that down.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.state == State::Held && now >= self.held_until {
            self.state = State::Expired;
        }
        self
    }

    /// The reservation as it was when it was made: what a repeated hold is answered with.
    #[must_use]
    pub fn as_first_held(self) -> Self {
        Self { held_until: self.held_until_original, declined: 0, version: 1, state: State::Held, ..self }
    }

    /// Whether it keeps others from its seats, and its buyer from another hold under the same pass.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        match self.state {
            State::Held => now < self.held_until,
            State::Paying(_) => true,
            State::Confirmed { .. } | State::Released | State::Expired => false,
        }
    }

    /// Begins a payment: its seats stay its own for at least [`Self::PAYING_AT_LEAST`].
    ///
    /// # Errors
    /// See [`TransitionError`].
    pub fn begin_payment(self, payment: Payment, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if now >= self.held_until => Err(TransitionError::HoldExpired),
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

    /// Ends a payment that was declined: back to the hold, and to the time it had at first.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless this attempt is under way.
    pub fn decline(self, attempt: AttemptId) -> Result<Self, TransitionError> {
        let declined = self.declined + 1;
        self.give_up_payment(attempt).map(|reservation| Self { declined, ..reservation })
    }

    /// Ends a payment that never reached the gateway. It does not count as declined.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless this attempt is under way.
    pub fn give_up_payment(self, attempt: AttemptId) -> Result<Self, TransitionError> {
        self.require_attempt(attempt)?;
        Ok(Self { held_until: self.held_until_original, state: State::Held, version: self.version + 1, ..self })
    }

    /// Gives the seats back.
    ///
    /// # Errors
    /// See [`TransitionError`].
    pub fn release(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if now >= self.held_until => Err(TransitionError::HoldExpired),
            State::Held => Ok(Self { state: State::Released, version: self.version + 1, ..self }),
            State::Expired => Err(TransitionError::HoldExpired),
            State::Paying(_) | State::Confirmed { .. } | State::Released => Err(TransitionError::WrongState),
        }
    }

    /// Writes down that the time ran out.
    ///
    /// # Errors
    /// [`TransitionError::WrongState`] unless it is a hold past its time.
    pub fn expire(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Held if now >= self.held_until => {
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

/// Whether a seat can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeatStatus {
    /// Nobody has it.
    Available,
    /// Somebody has it for some minutes.
    Held,
    /// Somebody owns it.
    Sold,
}

impl SeatStatus {
    /// All of them, in the order of their codes.
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

    /// The status in two bits: 0 available, 1 held, 2 sold.
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

/// One seat as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Where in the seat map's list.
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
    /// Whether it can be had.
    pub status: SeatStatus,
    /// +1 with each change of status or owner.
    pub version: u32,
}

/// How many seats of each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeatCounts {
    /// All.
    pub total: u64,
    /// Available, lapsed holds included.
    pub available: u64,
    /// Held.
    pub held: u64,
    /// Sold.
    pub sold: u64,
}

impl SeatCounts {
    /// Whether there are seats, and none can be had any more.
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
    fn a_hold_is_live_until_just_before_its_time() {
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
    fn a_declined_payment_goes_back_to_the_original_time() {
        let declined = paying_since(at(299_000)).decline(ATTEMPT).unwrap();

        assert_eq!((declined.state, declined.held_until, declined.declined), (State::Held, at(300_000), 1));
    }

    #[test]
    fn the_third_declined_payment_was_the_last() {
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
    fn what_is_being_paid_can_neither_expire_nor_be_released() {
        assert_eq!(paying_since(at(0)).expire(at(999_999)), Err(TransitionError::WrongState));
        assert_eq!(paying_since(at(0)).release(at(1)), Err(TransitionError::WrongState));
        assert!(paying_since(at(0)).is_live(at(999_999)));
    }

    #[test]
    fn a_repeated_hold_is_answered_as_at_first() {
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
