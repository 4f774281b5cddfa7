//! The ports of reservations: a durable store, a payment gateway, the terms of sales, and a gate that checks passes.

use std::slice;
use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{
    AccountId, AttemptId, Claim, Money, PerformanceId, ReservationId, SeatId, StoreError, TicketId, Timestamp,
};

use crate::audit::History;
use crate::board::{BoardEvent, BoardRecord};
use crate::model::{PassNumber, TransitionError};
use crate::{Reservation, Seat, SeatCounts, SeatStatus, State};

/// The longest page of a list: 200, and one more that tells whether another page follows.
pub const PAGE_MAX: u64 = 201;
/// The longest list for a sweep.
pub const LIST_MAX: u32 = 1_000;
/// The most events that one call reads.
pub const EVENTS_MAX: u32 = 10_000;

/// The seats that a buyer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeatWish<Name> {
    /// Named seats: 1 to [`Reservation::SEATS_MAX`], each once.
    Named(Vec<Name>),
    /// The best seats that are free at the time of the hold; see [`crate::best`].
    Best {
        /// How many: 1 to [`Reservation::SEATS_MAX`].
        count: u32,
        /// The grade that all seats must have, if the buyer names one.
        grade: Option<String>,
    },
}

impl<Name> SeatWish<Name> {
    /// How many seats the server chooses.
    #[must_use]
    pub fn n_chosen(&self) -> u64 {
        match self {
            Self::Named(_) => 0,
            Self::Best { count, .. } => u64::from(*count),
        }
    }
}

/// A command to hold all of some seats, or none.
#[derive(Clone, Debug)]
pub struct HoldCommand {
    /// The id that the reservation gets.
    pub id: ReservationId,
    /// The performance.
    pub performance: PerformanceId,
    /// The buyer's account.
    pub account: AccountId,
    /// The pass. Its signature, owner, performance and expiry are checked already.
    pub pass: PassNumber,
    /// The seats.
    pub seats: SeatWish<SeatId>,
    /// The most seats that the account may own or hold in this performance, these included.
    pub seat_limit: u32,
    /// How long the hold lasts.
    pub hold_ttl: Duration,
    /// The claim of the request.
    pub claim: Claim,
}

/// The outcome of a hold.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldOutcome {
    /// The reservation holds all its seats.
    Held(Reservation),
    /// The same request made this reservation before. The reservation is as it is now; nothing changed.
    Replayed(Reservation),
    /// The key was used for another request; nothing changed.
    KeyMismatch,
    /// The seats at these positions of the list do not exist in the performance; nothing changed.
    UnknownSeats(Vec<usize>),
    /// The performance has no seats of the grade; nothing changed.
    UnknownGrade,
    /// The pass is used up, or its owner left; nothing changed.
    PassUsed,
    /// The pass has a live reservation already; nothing changed.
    PassBusy,
    /// These seats, in the order of the request, are not free; nothing changed.
    Taken(Vec<SeatId>),
    /// Fewer seats than requested are free, of the grade or in total; nothing changed.
    NotEnoughSeats,
    /// The account would exceed its seat limit; nothing changed.
    LimitReached,
}

/// A command to begin the payment for a reservation.
#[derive(Clone, Debug)]
pub struct PayCommand {
    /// The reservation.
    pub reservation: ReservationId,
    /// The caller's account. The reservation of another account is not found.
    pub account: AccountId,
    /// The id that the attempt gets.
    pub attempt: AttemptId,
    /// How long the gateway may take before any server resolves the attempt.
    pub resolve_after: Duration,
    /// The claim of the request.
    pub claim: Claim,
}

/// The end of a payment.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The seats are sold to the buyer.
    Confirmed(Reservation),
    /// The gateway declined. The hold continues with its original deadline.
    Declined {
        /// The number of this decline of the reservation, from 1.
        ordinal: u32,
        /// The reservation.
        reservation: ReservationId,
    },
    /// The gateway took the money, but the buyer has lost the seats. A refund is due.
    Refunded,
    /// The attempt never reached the gateway. The hold continues with its original deadline, and the claim is free
    /// again.
    GivenUp,
}

/// The outcome of beginning a payment.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayOutcome {
    /// The reservation is `paying`, and the caller charges the gateway next.
    Begun(Reservation),
    /// The same request began an attempt before, which is still under way.
    InFlight {
        /// The reservation, `paying`.
        reservation: Reservation,
    },
    /// The same request came before, and its attempt has ended; nothing changed.
    Replayed(Settled),
    /// The key was used for another request; nothing changed.
    KeyMismatch,
    /// The account has no such reservation.
    NotFound,
    /// The reservation's state does not allow a payment, or it has lost a seat ([`TransitionError::HoldExpired`]).
    Refused(TransitionError),
}

/// The gateway's answer about an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The gateway took the money. The buyer gets the tickets, an id and a code per seat, if the seats are still
    /// theirs.
    Captured(Vec<(TicketId, String)>),
    /// The gateway declined.
    Declined,
    /// The gateway never saw the attempt, and will decline it if it still arrives.
    Unheard,
}

/// A command to end an attempt by the gateway's answer.
#[derive(Clone, Debug)]
pub struct SettleCommand {
    /// The attempt.
    pub attempt: AttemptId,
    /// The gateway's answer.
    pub verdict: Verdict,
}

/// A command to release the seats of a reservation.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseCommand {
    /// The reservation.
    pub reservation: ReservationId,
    /// The caller's account. The reservation of another account is not found.
    pub account: AccountId,
}

/// The outcome of a release.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The seats are free.
    Released(Reservation),
    /// The seats were released before; nothing changed.
    AlreadyReleased,
    /// The account has no such reservation.
    NotFound,
    /// The reservation's state does not allow a release; nothing changed.
    Refused(TransitionError),
}

/// A payment that is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The attempt.
    pub attempt: AttemptId,
    /// How many tickets the buyer gets if the gateway took the money.
    pub n_seats: usize,
}

impl Unsettled {
    /// The payment that is under way for a reservation. `None`: there is none.
    #[must_use]
    pub const fn of(reservation: &Reservation) -> Option<Self> {
        match reservation.state {
            State::Paying(payment) => Some(Self { attempt: payment.attempt, n_seats: reservation.seats.len() }),
            State::Held | State::Confirmed { .. } | State::Released | State::Expired => None,
        }
    }
}

/// A refund that the gateway has not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundDue {
    /// The attempt that took the money.
    pub attempt: AttemptId,
    /// The amount.
    pub amount: Money,
}

/// The seats to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeatFilter {
    /// Lists only seats that have this status now.
    pub status: Option<SeatStatus>,
    /// Lists only seats of this grade.
    pub grade: Option<String>,
    /// Lists only seats after this index.
    pub after: Option<u32>,
    /// The most seats to list, up to [`PAGE_MAX`].
    pub limit: u64,
}

/// Stores seats and reservations durably. A repository decides nothing: it locks and reads facts, calls
/// [`crate::judge`], and writes the decisions, each guarded by the version that it read.
///
/// # Contract
/// 1. Each command is all or nothing. The commands of one call are judged one after the other, all at `now`, and a
///    later command sees the effects of earlier ones. Of any number of concurrent calls for one seat, exactly one gets
///    it.
/// 2. Every change of a seat is guarded by its version, raises the version by one, and writes one event in the same
///    transaction. A sold seat has a `sold` row under the primary key (performance, seat).
/// 3. A hold is live while `now < held_until`. A lapsed hold reads as expired everywhere and blocks no other buyer. The
///    transaction of the next buyer takes its seats over, and one event names both reservations.
/// 4. Refusals change nothing and store no claim. `Taken` names every seat that is not free.
/// 5. Claims of holds and payments are kept for [`Claim::KEPT_FOR`]. The same fingerprint gets the earlier outcome,
///    another fingerprint is a mismatch. Of any number of concurrent calls with one claim, one has the effect, and the
///    others get its outcome.
/// 6. An account never owns and holds (live or paying) more than `seat_limit` seats, whatever the number of concurrent
///    calls.
/// 7. A pass has at most one live reservation. After it ended, by a confirmation or because its owner left, it gets no
///    new one.
/// 8. `begin_payments` requires that the reservation is held and live, and has all its seats.
/// 9. `settle_all` ends an attempt once; later calls get the same end. After a capture the seats are sold and the pass
///    ends, if the attempt is under way and each seat is still the reservation's or free again. Otherwise exactly one
///    refund is due, even if another buyer had the seats meanwhile. A declined or unheard attempt returns the
///    reservation to its hold and the original deadline. `resolve_early` only moves the time from which servers
///    resolve an attempt to an earlier one.
/// 10. `release_all` and `expire_lapsed` change only seats that the reservation still has. A late call does not touch
///     the next owner's seats.
/// 11. A reservation of another account is not found.
/// 12. The best seats are chosen as [`crate::best`] says, in the step that takes them, among the seats that earlier
///     commands of the call left. So each of any number of concurrent calls gets a block of its own, and
///     `NotEnoughSeats` means that fewer seats are free.
/// 13. Queries that select by time or status (`seats`, `seat_counts`, `expire_lapsed`, `unsettled`, the free seats for
///     [`crate::judge::hold`]) select exactly the rows for which the functions of this crate hold.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait ReservationRepository: Send + Sync + 'static {
    /// Makes a reservation per command that holds its seats. Returns the outcomes in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn hold(&self, commands: &[HoldCommand], now: Timestamp) -> Result<Vec<HoldOutcome>, StoreError>;

    /// Finds the hold that was made under a claim. `None`: the claim is unused; [`HoldOutcome::KeyMismatch`]: it was
    /// used for something else.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError>;

    /// Makes held reservations `paying`. Returns the outcomes in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn begin_payments(&self, commands: &[PayCommand], now: Timestamp) -> Result<Vec<PayOutcome>, StoreError>;

    /// Lets any server resolve an attempt from `now` on, because the gateway did not answer.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// Ends attempts to pay. Returns their ends in the order of the commands, `None` for an attempt that does not
    /// exist.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn settle_all(&self, commands: &[SettleCommand], now: Timestamp) -> Result<Vec<Option<Settled>>, StoreError>;

    /// Releases the seats of held reservations. Returns the outcomes in the order of the commands.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; then none of the commands had an effect, unless it is a timeout.
    async fn release_all(&self, commands: &[ReleaseCommand], now: Timestamp)
    -> Result<Vec<ReleaseOutcome>, StoreError>;

    /// Marks the oldest `limit` lapsed holds as expired, at most [`LIST_MAX`], and frees the seats that they still
    /// have. Returns how many reservations expired.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn expire_lapsed(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Lists payments under way whose `resolve_at` has come: at most `limit`, up to [`LIST_MAX`].
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn unsettled(&self, now: Timestamp, limit: u32) -> Result<Vec<Unsettled>, StoreError>;

    /// Lists refunds that the gateway has not confirmed: at most `limit`, up to [`LIST_MAX`].
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refunds_due(&self, limit: u32) -> Result<Vec<RefundDue>, StoreError>;

    /// Marks a refund as confirmed by the gateway.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refund_sent(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// Finds an account's reservation, as it reads at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<Reservation>, StoreError>;

    /// Lists a page of an account's reservations, at most [`PAGE_MAX`], in the order of ids, as they read at `now`.
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

    /// Lists a page of a performance's seats in index order, as they read at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn seats(
        &self,
        performance: PerformanceId,
        filter: &SeatFilter,
        now: Timestamp,
    ) -> Result<Vec<Seat>, StoreError>;

    /// Counts the seats of each status at `now`, for each performance, in the order of the argument.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn seat_counts(&self, performances: &[PerformanceId], now: Timestamp) -> Result<Vec<SeatCounts>, StoreError>;
}

/// The batched methods of [`ReservationRepository`], for callers with a single command.
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

    /// Releases the seats of one held reservation.
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

/// The outcome of a batched call with one command.
///
/// # Errors
/// [`StoreError::Corrupt`] if there is none.
pub fn the_only<T>(operation: &'static str, answers: Vec<T>) -> Result<T, StoreError> {
    let too_few = || StoreError::Corrupt { operation, source: "the answer is empty".into() };
    answers.into_iter().next().ok_or_else(too_few)
}

/// Reads the changes of seats, for servers that show them ([`crate::SeatBoard`]).
///
/// # Contract
/// 1. A new seat map of a performance writes an event, too. Event ids rise, but not in the order of commits. An id
///    below one that was read may appear later, while its transaction is open, or never.
/// 2. `events` returns exactly the committed events: those with an id in `missing`, and the first ones after `after`.
/// 3. `board` is a snapshot: its seats are the result of its events and of all older events.
/// 4. No transaction is open with an event up to `settled_event`. A server therefore sees every change of a board if it
///    reads `settled_event`, then the board, and then follows the later events and the missing ids.
#[async_trait]
pub trait SeatEvents: Send + Sync + 'static {
    /// Reads the seats of a performance and its latest `n_events` events, at most [`EVENTS_MAX`], in one snapshot.
    /// `None` if the performance does not exist.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn board(&self, performance: PerformanceId, n_events: u32) -> Result<Option<BoardRecord>, StoreError>;

    /// Reads events of all performances in the order of ids: those of `missing` that exist, and the first `limit` after
    /// `after`, at most [`EVENTS_MAX`].
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn events(&self, after: u64, missing: &[u64], limit: u32) -> Result<Vec<BoardEvent>, StoreError>;

    /// Finds a recent event such that no open transaction has that id or a lower one; 0 if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn settled_event(&self) -> Result<u64, StoreError>;
}

/// Reads the history of a performance's seats, for the audit.
#[async_trait]
pub trait ReservationHistory: Send + Sync + 'static {
    /// Reads all changes of a performance's seats and all payments for them, in one transaction.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError>;
}

/// The gateway's answer to a charge.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// The gateway took the money.
    Captured,
    /// The gateway declined.
    Declined,
}

/// The status of an attempt at the gateway.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeStatus {
    /// The charge has ended.
    Ended(ChargeOutcome),
    /// The charge is under way.
    Pending,
    /// The gateway never saw the attempt.
    Unheard,
}

/// The gateway failed, or did not answer in time. The charge may or may not have happened.
#[derive(Debug, thiserror::Error)]
#[error("the payment gateway gave no answer")]
pub struct GatewayError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The buyer's means of payment, as the gateway's page returned it.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentToken(pub String);

// The token is worth money, so it stays out of logs.
impl std::fmt::Debug for PaymentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PaymentToken(..)")
    }
}

/// Charges and refunds money. Called outside of any transaction.
///
/// # Contract
/// 1. `charge` is idempotent by attempt: repeated calls take the money once and get the same answer.
/// 2. `status` returns the end of an attempt even if `charge` gave no answer.
/// 3. `refund` is idempotent by attempt, and returns only money that was captured.
/// 4. `cancel` returns the status of an attempt, and closes an attempt that the gateway never saw: its charge is
///    declined if it still arrives. Of a concurrent charge and cancellation one comes first, and both return its
///    result.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait PaymentGateway: Send + Sync + 'static {
    /// Whether the token has the form of this gateway's tokens.
    fn accepts(&self, token: &PaymentToken) -> bool;

    /// Takes the money.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer. The caller then asks for the status.
    async fn charge(
        &self,
        attempt: AttemptId,
        amount: Money,
        token: &PaymentToken,
        now: Timestamp,
    ) -> Result<ChargeOutcome, GatewayError>;

    /// Returns the status of an attempt.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer.
    async fn status(&self, attempt: AttemptId) -> Result<ChargeStatus, GatewayError>;

    /// Cancels an attempt that the gateway never saw, and returns its status. After [`ChargeStatus::Unheard`] the
    /// attempt will never be charged.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer. The caller then cancels again.
    async fn cancel(&self, attempt: AttemptId, now: Timestamp) -> Result<ChargeStatus, GatewayError>;

    /// Refunds the money.
    ///
    /// # Errors
    /// [`GatewayError`] if there was no answer. The caller then refunds again.
    async fn refund(&self, attempt: AttemptId, amount: Money, now: Timestamp) -> Result<(), GatewayError>;
}

/// The phase of a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SalePhase {
    /// The sale opens later.
    NotOpen,
    /// The sale is open.
    Open,
    /// The sale is over, or an operator closed it.
    Closed,
}

/// The terms of a performance's sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaleTerms {
    /// The phase of the sale.
    pub phase: SalePhase,
    /// The most seats that an account may own or hold.
    pub seat_limit: u32,
    /// How long a hold lasts.
    pub hold_ttl: Duration,
}

/// Looks up the terms of sales. The app bridges it to the catalogue and the line's policies.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait SaleDesk: Send + Sync + 'static {
    /// Finds the terms of a performance's sale at `now`. `None` if the performance does not exist.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn terms(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<SaleTerms>, StoreError>;
}

/// The result of checking a pass.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOutcome {
    /// The pass is valid.
    Admitted(PassNumber),
    /// The pass is malformed, or its signature is wrong.
    Invalid,
    /// The pass is for another account or performance.
    Mismatch,
    /// The pass has expired.
    Expired,
}

/// Checks passes. The app bridges it to the line. It reads no store: the transaction of the hold checks whether the
/// pass has ended.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait AdmissionGate: Send + Sync + 'static {
    /// Checks the signature, owner, performance and expiry of a pass.
    fn check(&self, pass: &str, account: AccountId, performance: PerformanceId, now: Timestamp) -> GateOutcome;

    /// Reports that a pass is used up, which frees its room in the line. Best effort: if the report is lost, the room
    /// is free when the pass expires.
    async fn pass_used(&self, performance: PerformanceId, pass: PassNumber);
}
