//! Errors of the reservation use cases.

use usher_kernel::{SeatId, StoreError, Violation};

/// The reasons to refuse a call, each of which the caller can act on, and failures of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks rules; each violation names the field.
    #[error("{} field(s) are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// The performance does not exist, or the account has no such reservation.
    #[error("no such performance or reservation")]
    NotFound,
    /// The request has no pass.
    #[error("a pass is required")]
    PassRequired,
    /// The pass is malformed, or its signature is wrong.
    #[error("the pass is not valid")]
    PassInvalid,
    /// The pass is for another account or performance.
    #[error("the pass belongs to another account or performance")]
    PassMismatch,
    /// The pass has expired.
    #[error("the pass has expired")]
    PassExpired,
    /// The pass is used up, or its owner left.
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
    /// Some seats are not free. The error names all of them.
    #[error("{} of the seats are not free", .0.len())]
    SeatTaken(Vec<SeatId>),
    /// Fewer seats are free than requested.
    #[error("not enough seats are free")]
    NotEnoughSeats,
    /// The account would exceed its seat limit.
    #[error("at most {seat_limit} seats per buyer")]
    LimitReached {
        /// The most seats that the account may have.
        seat_limit: u32,
    },
    /// The hold has expired, or it has lost a seat.
    #[error("the hold has expired")]
    HoldExpired,
    /// The reservation's state does not allow the call.
    #[error("the reservation's state does not allow this")]
    WrongState,
    /// The gateway declined the payment.
    #[error("the payment was declined")]
    PaymentDeclined {
        /// How many attempts are left.
        attempts_left: u32,
    },
    /// The gateway gave no answer, or never saw the payment. The servers resolve a payment that is under way.
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
