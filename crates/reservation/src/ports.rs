//! What reservations need from outside: a durable store, a payment gateway, the terms of a sale, and a gate that says
//! who is admitted.

use std::slice;
use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{
    AccountId, AttemptId, Claim, Money, PerformanceId, ReservationId, SeatId, StoreError, TicketId, Timestamp,
};

use crate::audit::History;
use crate::board::{BoardEvent, BoardRecord};
use crate::model::{PassNumber, TransitionError};
use crate::{Reservation, Seat, SeatCounts, SeatStatus};

/// The longest page of a list: 200, and one more that tells whether another page follows.
pub const PAGE_MAX: u64 = 201;
/// The longest list for a sweep.
pub const LIST_MAX: u32 = 1_000;
/// The most events that one call reads.
pub const EVENTS_MAX: u32 = 10_000;

/// Which seats somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeatWish<Name> {
    /// These: 1 to [`Reservation::SEATS_MAX`], each once.
    Named(Vec<Name>),
    /// The best that are free when they are taken; see [`crate::best`].
    Best {
        /// How many: 1 to [`Reservation::SEATS_MAX`].
        count: u32,
        /// Only of this grade.
        grade: Option<String>,
    },
}

impl<Name> SeatWish<Name> {
    /// How many seats are left to the server to choose.
    #[must_use]
    pub fn n_chosen(&self) -> u64 {
        match self {
            Self::Named(_) => 0,
            Self::Best { count, .. } => u64::from(*count),
        }
    }
}

/// A wish to hold seats, all or nothing.
#[derive(Clone, Debug)]
pub struct HoldCommand {
    /// The id that the reservation gets.
    pub id: ReservationId,
    /// Whose seats.
    pub performance: PerformanceId,
    /// Who wants them.
    pub account: AccountId,
    /// Under which pass, already checked for signature, owner, performance and time.
    pub pass: PassNumber,
    /// Which seats.
    pub seats: SeatWish<SeatId>,
    /// How many seats the account may own or hold in this performance, these included.
    pub seat_limit: u32,
    /// How long the hold lasts.
    pub hold_ttl: Duration,
    /// The claim it is made under.
    pub claim: Claim,
}

/// What became of a wish to hold seats.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldOutcome {
    /// All its seats are held.
    Held(Reservation),
    /// The same request came before and made this reservation (as it is now); nothing changed.
    Replayed(Reservation),
    /// The key was used for another request; nothing changed.
    KeyMismatch,
    /// These positions of the list name no seat of the performance; nothing changed.
    UnknownSeats(Vec<usize>),
    /// The performance has no seats of the grade; nothing changed.
    UnknownGrade,
    /// The pass was used up, or its owner left; nothing changed.
    PassUsed,
    /// The pass has a live reservation already; nothing changed.
    PassBusy,
    /// These seats, in the order asked for, are not free; nothing changed.
    Taken(Vec<SeatId>),
    /// Fewer seats are free, of the grade or at all; nothing changed.
    NotEnoughSeats,
    /// The account would have more seats than it may; nothing changed.
    LimitReached,
}

/// A wish to pay for a reservation.
#[derive(Clone, Debug)]
pub struct PayCommand {
    /// The reservation.
    pub reservation: ReservationId,
    /// Who asks. Another account's reservation is not found.
    pub account: AccountId,
    /// The id that the attempt gets.
    pub attempt: AttemptId,
    /// How long the gateway may take before any server asks it for the attempt's status.
    pub resolve_after: Duration,
    /// The claim it is made under.
    pub claim: Claim,
}

/// How a payment ended.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The seats are sold to the buyer.
    Confirmed(Reservation),
    /// The gateway declined; the hold goes on as before.
    Declined {
        /// Which decline it was, from 1.
        ordinal: u32,
        /// The reservation.
        reservation: ReservationId,
    },
    /// The gateway took the money, but the seats are no longer the buyer's: the money goes back.
    Refunded,
    /// The attempt never reached the gateway; the hold goes on as before, and the claim is free again.
    GivenUp,
}

/// What became of a wish to pay.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayOutcome {
    /// The reservation is `paying`; now charge.
    Begun(Reservation),
    /// The same request came before, and its attempt is still under way.
    InFlight {
        /// The reservation, `paying`.
        reservation: Reservation,
    },
    /// The same request came before and ended like this; nothing changed.
    Replayed(Settled),
    /// The key was used for another request; nothing changed.
    KeyMismatch,
    /// The account has no such reservation.
    NotFound,
    /// The reservation's state does not allow it, or not all its seats are its own any more ([`TransitionError::HoldExpired`]).
    Refused(TransitionError),
}

/// What the gateway said of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took the money. The tickets, an id and a code per seat, are given out if the seats are still the buyer's.
    Captured(Vec<(TicketId, String)>),
    /// It declined.
    Declined,
    /// It never heard of the attempt, and was told to decline it should it come.
    Unheard,
}

/// What the gateway said of an attempt, to be written down.
#[derive(Clone, Debug)]
pub struct SettleCommand {
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended.
    pub verdict: Verdict,
}

/// A wish to give seats back.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseCommand {
    /// The reservation.
    pub reservation: ReservationId,
    /// Who asks. Another account's reservation is not found.
    pub account: AccountId,
}

/// What became of a wish to release.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The seats are free.
    Released(Reservation),
    /// They were released before; nothing changed.
    AlreadyReleased,
    /// The account has no such reservation.
    NotFound,
    /// The reservation's state does not allow it; nothing changed.
    Refused(TransitionError),
}

/// A payment that nobody ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The attempt.
    pub attempt: AttemptId,
    /// How many tickets it needs if the gateway took the money.
    pub n_seats: usize,
}

/// Money that has to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundDue {
    /// The attempt whose money it is.
    pub attempt: AttemptId,
    /// How much.
    pub amount: Money,
}

/// Which seats to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeatFilter {
    /// Only of this status, as it reads now.
    pub status: Option<SeatStatus>,
    /// Only of this grade.
    pub grade: Option<String>,
    /// Only behind this index.
    pub after: Option<u32>,
    /// How many at most, up to [`PAGE_MAX`].
    pub limit: u64,
}

/// Keeps seats and reservations, durably. It decides nothing: it locks and reads facts, lets [`crate::judge`] decide, and
/// writes the decisions, each guarded by the version that was read.
///
/// # Contract
/// 1. Each command is all or nothing, and the commands of one call are judged one after the other, all at `now`: a later
///    one sees what an earlier one did. Of any number of callers asking for one seat, exactly one gets it.
/// 2. Every change of a seat is guarded by its version, raises it by one, and leaves one event in the same transaction.
///    A sold seat has a `sold` row under the primary key (performance, seat).
/// 3. A hold is live while `now < held_until`. A lapsed one reads as expired everywhere, keeps nobody from its seats, and
///    is taken over in the taker's transaction: one event names both reservations.
/// 4. Refusals change nothing and keep no claim. `Taken` names every seat that is not free.
/// 5. A claim is kept for [`Claim::KEPT_FOR`] with holds and payments: the same fingerprint is replayed, another is a
///    mismatch. Of any number of calls with one claim at once, one has the effect, and the others are told of it.
/// 6. An account never owns and holds (live or paying) more than `seat_limit` seats, however many ask at once.
/// 7. One pass has one live reservation at most, and none once it ended: used up by a confirmation, or left.
/// 8. `begin_payments` needs the reservation held, live, and all its seats its own.
/// 9. `settle_all` ends an attempt once; later calls are told how it ended. Captured: the seats are sold and the pass is
///    ended if the attempt is under way and all its seats are its own, or free again; else exactly one refund is due,
///    whoever had the seats in between.
///    Declined or unheard: back to the hold and its original time.
/// 10. `release_all` and `expire_lapsed` change only seats that are still the reservation's own; a late call changes
///     nothing of the next owner's.
/// 11. What belongs to another account is not found.
/// 12. The best seats are chosen as [`crate::best`] says, in the step that takes them and among what earlier commands of
///     the call left. So however many want them at once, each gets another block, and `NotEnoughSeats` is answered only
///     while fewer seats are free.
/// 13. Queries that select by time or status (`seats`, `seat_counts`, `expire_lapsed`, `unsettled`, the free seats for
///     [`crate::judge::hold`]) select exactly what the functions of this crate say of the stored values.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait ReservationRepository: Send + Sync + 'static {
    /// Holds seats, a reservation per command; answers in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn hold(&self, commands: &[HoldCommand], now: Timestamp) -> Result<Vec<HoldOutcome>, StoreError>;

    /// What was made under a claim, if it was a hold. `None`: nothing was; [`HoldOutcome::KeyMismatch`]: something else.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError>;

    /// Makes held reservations `paying`; answers in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn begin_payments(&self, commands: &[PayCommand], now: Timestamp) -> Result<Vec<PayOutcome>, StoreError>;

    /// Lets any server ask the gateway about an attempt from `now` on: the gateway did not answer in time.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// Ends attempts to pay; answers in the order of the commands, `None` where there is no such attempt.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn settle_all(&self, commands: &[SettleCommand], now: Timestamp) -> Result<Vec<Option<Settled>>, StoreError>;

    /// Gives the seats of held reservations back; answers in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn release_all(&self, commands: &[ReleaseCommand], now: Timestamp)
    -> Result<Vec<ReleaseOutcome>, StoreError>;

    /// Writes down that holds have lapsed, and frees the seats they still own: the oldest `limit` of them, at most
    /// [`LIST_MAX`]. Answers how many reservations expired.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn expire_lapsed(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Payments under way whose `resolve_at` has come; at most `limit`, up to [`LIST_MAX`].
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn unsettled(&self, now: Timestamp, limit: u32) -> Result<Vec<Unsettled>, StoreError>;

    /// Refunds that the gateway has not confirmed; at most `limit`, up to [`LIST_MAX`].
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refunds_due(&self, limit: u32) -> Result<Vec<RefundDue>, StoreError>;

    /// Notes that the gateway confirmed a refund.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refund_sent(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// An account's reservation, as it reads at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<Reservation>, StoreError>;

    /// A page of an account's reservations, at most [`PAGE_MAX`], in the order of ids, as they read at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn list(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
        limit: u64,
        now: Timestamp,
    ) -> Result<Vec<Reservation>, StoreError>;

    /// A page of a performance's seats in index order, as they read at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn seats(
        &self,
        performance: PerformanceId,
        filter: &SeatFilter,
        now: Timestamp,
    ) -> Result<Vec<Seat>, StoreError>;

    /// How many seats of each status each performance has at `now`, in the order asked.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn seat_counts(&self, performances: &[PerformanceId], now: Timestamp) -> Result<Vec<SeatCounts>, StoreError>;
}

/// One command a call, for callers that have only one.
#[async_trait]
pub trait ReservationRepositoryExt: ReservationRepository {
    /// Makes one held reservation `paying`.
    ///
    /// # Errors
    /// As [`ReservationRepository::begin_payments`].
    async fn begin_payment(&self, command: &PayCommand, now: Timestamp) -> Result<PayOutcome, StoreError> {
        the_only("reservation.begin_payment", self.begin_payments(slice::from_ref(command), now).await?)
    }

    /// Holds the seats of one reservation.
    ///
    /// # Errors
    /// As [`ReservationRepository::hold`].
    async fn hold_one(&self, command: &HoldCommand, now: Timestamp) -> Result<HoldOutcome, StoreError> {
        the_only("reservation.hold", self.hold(slice::from_ref(command), now).await?)
    }

    /// Ends one attempt to pay.
    ///
    /// # Errors
    /// As [`ReservationRepository::settle_all`].
    async fn settle(
        &self,
        attempt: AttemptId,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Option<Settled>, StoreError> {
        let command = SettleCommand { attempt, verdict: verdict.clone() };
        the_only("reservation.settle", self.settle_all(&[command], now).await?)
    }

    /// Gives the seats of one held reservation back.
    ///
    /// # Errors
    /// As [`ReservationRepository::release_all`].
    async fn release(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<ReleaseOutcome, StoreError> {
        let command = ReleaseCommand { reservation, account };
        the_only("reservation.release", self.release_all(&[command], now).await?)
    }
}

impl<R: ReservationRepository + ?Sized> ReservationRepositoryExt for R {}

/// The answer to a call that asked for one thing.
pub(crate) fn the_only<T>(operation: &'static str, answers: Vec<T>) -> Result<T, StoreError> {
    let too_few = || StoreError::Corrupt { operation, source: "the store gave no answer".into() };
    answers.into_iter().next().ok_or_else(too_few)
}

/// The changes of seats, for the servers that show them ([`crate::SeatBoard`]).
///
/// # Contract
/// 1. A new seat map of a performance leaves an event, too. Events get ids that rise, but not in the order of commits:
///    an id below one that was seen may show later, for as long as its transaction is open, or never.
/// 2. `events` names exactly those that are committed: of the ids asked for, and of those after `after` the first.
/// 3. `board` is one point in time: its seats are what all its events, and all that are not in it any more, left them as.
/// 4. Up to `settled_event` nothing is open: a server that asks for it, then reads a board, and then follows the events
///    after it and those that are missing in between, sees all that happens to the board.
#[async_trait]
pub trait SeatEvents: Send + Sync + 'static {
    /// The seats of a performance and its latest `n_events` events, at most [`EVENTS_MAX`], as they are now. `None` if
    /// there is no such performance.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn board(&self, performance: PerformanceId, n_events: u32) -> Result<Option<BoardRecord>, StoreError>;

    /// Events of all performances: those of `missing` that are there, and the first `limit` after `after`, at most
    /// [`EVENTS_MAX`], in the order of ids.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn events(&self, after: u64, missing: &[u64], limit: u32) -> Result<Vec<BoardEvent>, StoreError>;

    /// An event below which nothing is open any more, and not much older than that; 0 if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn settled_event(&self) -> Result<u64, StoreError>;
}

/// The history of a performance's seats, for the audit.
#[async_trait]
pub trait ReservationHistory: Send + Sync + 'static {
    /// Everything that ever happened to a performance's seats, and to the money for them, read in one transaction.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError>;
}

/// What the gateway answers a charge with.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// It took the money.
    Captured,
    /// It declined.
    Declined,
}

/// What the gateway knows of an attempt.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeStatus {
    /// It ended.
    Ended(ChargeOutcome),
    /// It is under way.
    Pending,
    /// The gateway never heard of it.
    Unheard,
}

/// The gateway failed, or gave no answer in time: the charge may or may not have happened.
#[derive(Debug, thiserror::Error)]
#[error("the payment gateway gave no answer")]
pub struct GatewayError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// How the buyer wants to pay: what the gateway's page gave them.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentToken(pub String);

// It is worth money.
impl std::fmt::Debug for PaymentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PaymentToken(..)")
    }
}

/// Takes money, and gives it back. Called outside of any transaction.
///
/// # Contract
/// 1. `charge` is idempotent by attempt: however often it is called, the money is taken once, and the answer is the same.
/// 2. `status` tells what became of an attempt, also when `charge` gave no answer.
/// 3. `refund` is idempotent by attempt, and gives back only what was captured.
/// 4. `cancel` tells what became of an attempt, and closes one that was not heard of: whenever its charge arrives, it is
///    declined. Of a charge and a cancellation at once, one comes first, and both are told which.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait PaymentGateway: Send + Sync + 'static {
    /// Whether a token is one that this gateway gives out.
    fn accepts(&self, token: &PaymentToken) -> bool;

    /// Takes the money.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer; then ask for the status.
    async fn charge(
        &self,
        attempt: AttemptId,
        amount: Money,
        token: &PaymentToken,
        now: Timestamp,
    ) -> Result<ChargeOutcome, GatewayError>;

    /// What became of an attempt.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer.
    async fn status(&self, attempt: AttemptId) -> Result<ChargeStatus, GatewayError>;

    /// What became of an attempt, once and for all: [`ChargeStatus::Unheard`] means that it never will be charged.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer; then cancel again.
    async fn cancel(&self, attempt: AttemptId, now: Timestamp) -> Result<ChargeStatus, GatewayError>;

    /// Gives the money back.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer; then refund again.
    async fn refund(&self, attempt: AttemptId, amount: Money, now: Timestamp) -> Result<(), GatewayError>;
}

/// Whether seats are being sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SalePhase {
    /// The sale opens later.
    NotOpen,
    /// Seats are being sold.
    Open,
    /// The sale is over, or an operator closed it.
    Closed,
}

/// The terms of a performance's sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaleTerms {
    /// Whether seats are being sold.
    pub phase: SalePhase,
    /// How many seats an account may own or hold.
    pub seat_limit: u32,
    /// How long a hold lasts.
    pub hold_ttl: Duration,
}

/// Knows the terms of sales. Bridged to the catalogue and the line's policies.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait SaleDesk: Send + Sync + 'static {
    /// The terms of a performance's sale at `now`, if there is such a performance.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn terms(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<SaleTerms>, StoreError>;
}

/// What the gate says of a pass.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOutcome {
    /// It is good.
    Admitted(PassNumber),
    /// It is not ours.
    Invalid,
    /// It is another account's, or another performance's.
    Mismatch,
    /// It was good, but ran out.
    Expired,
}

/// Says who is admitted. Bridged to the line. Asks no store: whether a pass ended is for the repository to judge, in the
/// transaction of the hold.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait AdmissionGate: Send + Sync + 'static {
    /// Checks a pass for signature, owner, performance and time.
    fn check(&self, pass: &str, account: AccountId, performance: PerformanceId, now: Timestamp) -> GateOutcome;

    /// Says that a pass was used up, so that its room is free. Best effort: if it is lost, the room comes free when the
    /// pass runs out.
    async fn pass_used(&self, performance: PerformanceId, pass: PassNumber);
}
