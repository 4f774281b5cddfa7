//! Why a reservation call is refused.

use usher_kernel::{SeatId, StoreError, Violation};

/// A refusal that the caller can act on, or a store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a rule; each violation names its field.
    #[error("{} field(s) are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// No such performance, or the account has no such reservation.
    #[error("no such performance or reservation")]
    NotFound,
    /// No pass was shown.
    #[error("a pass is required")]
    PassRequired,
    /// The pass is not ours.
    #[error("the pass is not valid")]
    PassInvalid,
    /// The pass is another account's, or another performance's.
    #[error("the pass belongs to another account or performance")]
    PassMismatch,
    /// The pass ran out.
    #[error("the pass has expired")]
    PassExpired,
    /// The pass was used up, or its owner left.
    #[error("the pass is used up")]
    PassUsed,
    /// The pass has a live reservation already.
    #[error("the pass has a live reservation already")]
    PassBusy,
    /// The sale opens later.
    #[error("the sale is not open yet")]
    SaleNotOpen,
    /// The sale is over.
    #[error("the sale is over")]
    SaleClosed,
    /// Some seats are not free: all of them are named.
    #[error("{} of the seats are not free", .0.len())]
    SeatTaken(Vec<SeatId>),
    /// Fewer seats are free than were asked for.
    #[error("not enough seats are free")]
    NotEnoughSeats,
    /// The account would have more seats than it may.
    #[error("at most {seat_limit} seats per buyer")]
    LimitReached {
        /// How many it may have.
        seat_limit: u32,
    },
    /// The hold's time ran out, or its seats are not its own any more.
    #[error("the hold has expired")]
    HoldExpired,
    /// The reservation's state does not allow this.
    #[error("the reservation's state does not allow this")]
    WrongState,
    /// The payment was declined.
    #[error("the payment was declined")]
    PaymentDeclined {
        /// How many attempts are left.
        attempts_left: u32,
    },
    /// The gateway gave no answer; the payment is looked after.
    #[error("the payment gateway gave no answer")]
    PaymentUnavailable,
    /// A request with the same key is under way.
    #[error("a request with the same idempotency key is under way")]
    IdempotencyInFlight,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
