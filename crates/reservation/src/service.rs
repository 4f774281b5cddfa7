//! The reservation use cases: hold, confirm, release and read; and the sweep, which ends what its callers did not.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use usher_kernel::{
    AccountId, AttemptId, Claim, Clock, IdGenerator, PerformanceId, ReservationId, SeatId, StoreError, TicketId,
    Timestamp, Violation,
};

use crate::model::TransitionError;
use crate::ports::{
    AdmissionGate, ChargeOutcome, ChargeStatus, GateOutcome, HoldCommand, HoldOutcome, PayCommand, PayOutcome,
    PaymentGateway, PaymentToken, RefundDue, ReleaseOutcome, ReservationRepository, ReservationRepositoryExt, SaleDesk,
    SalePhase, SaleTerms, SeatFilter, SeatWish, Settled, Unsettled, Verdict, the_only,
};
use crate::{Error, Reservation, Seat, SeatCounts, State};

/// The settings of the service.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a payment may take before any server resolves it with the gateway.
    pub resolve_payments_after: Duration,
}

/// The ports of the service.
pub struct Ports {
    /// Seats and reservations.
    pub reservations: Arc<dyn ReservationRepository>,
    /// Payments.
    pub payments: Arc<dyn PaymentGateway>,
    /// The terms of sales.
    pub sales: Arc<dyn SaleDesk>,
    /// Passes.
    pub gate: Arc<dyn AdmissionGate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and ticket codes.
    pub ids: Arc<dyn IdGenerator>,
}

/// A request to hold seats, not yet validated.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// The performance.
    pub performance: PerformanceId,
    /// The buyer's account.
    pub account: AccountId,
    /// The pass, if the request has one.
    pub pass: Option<String>,
    /// The seats; named ones as the buyer wrote them.
    pub seats: SeatWish<String>,
    /// The claim of the request.
    pub claim: Claim,
}

/// The result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many reservations expired.
    pub n_expired: u32,
    /// How many payments ended.
    pub n_settled: u32,
    /// How many refunds the gateway confirmed.
    pub n_refunded: u32,
}

/// The most holds, payments and refunds that one sweep handles, each. The next sweep continues.
const SWEEP_MAX: u32 = 500;

/// The reservation use cases.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    ports: Ports,
    settings: Settings,
}

impl Service {
    /// Creates the service.
    #[must_use]
    pub fn new(ports: Ports, settings: Settings) -> Self {
        Self(Arc::new(Inner { ports, settings }))
    }

    /// Holds all the seats, or none.
    ///
    /// # Errors
    /// See [`Error`]. After a refusal no seat is held.
    #[tracing::instrument(skip_all, name = "reservation.hold", fields(performance = %request.performance))]
    pub async fn hold(&self, request: HoldRequest) -> Result<Reservation, Error> {
        let Ports { reservations, sales, gate, clock, ids, .. } = &self.0.ports;
        let now = clock.now();
        let seats = read_wish(request.seats)?;
        let terms = sales.terms(request.performance, now).await?.ok_or(Error::NotFound)?;
        let admitted = match request.pass.as_deref() {
            None => Err(Error::PassRequired),
            Some(pass) => match gate.check(pass, request.account, request.performance, now) {
                GateOutcome::Admitted(pass) => Ok(pass),
                GateOutcome::Invalid => Err(Error::PassInvalid),
                GateOutcome::Mismatch => Err(Error::PassMismatch),
                GateOutcome::Expired => Err(Error::PassExpired),
            },
        };
        let may_hold = admitted.and_then(|pass| require_open(terms).map(|()| pass));
        let pass = match may_hold {
            Ok(pass) => pass,
            // A repeated request gets the hold that it made in time, even if its pass or the sale is over now.
            Err(refusal @ (Error::PassExpired | Error::SaleClosed)) => {
                let before = reservations.find_hold(&request.claim, now).await?;
                return before.map_or(Err(refusal), |outcome| held(outcome, terms));
            }
            Err(refusal) => return Err(refusal),
        };
        let command = HoldCommand {
            id: ReservationId::from_uuid(ids.next_uuid()),
            performance: request.performance,
            account: request.account,
            pass,
            seats,
            seat_limit: terms.seat_limit,
            hold_ttl: terms.hold_ttl,
            claim: request.claim,
        };
        held(reservations.hold_one(&command, now).await?, terms)
    }

    /// Charges the buyer for a reservation, and confirms it with its tickets.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::PaymentUnavailable`] or [`Error::Store`] the servers resolve a payment that is
    /// under way. A repeated call with the same claim returns its end.
    #[tracing::instrument(skip_all, name = "reservation.confirm", fields(%reservation))]
    pub async fn confirm(
        &self,
        reservation: ReservationId,
        account: AccountId,
        token: PaymentToken,
        claim: Claim,
    ) -> Result<Reservation, Error> {
        let Ports { reservations, payments, clock, ids, .. } = &self.0.ports;
        if !payments.accepts(&token) {
            return Err(Error::Invalid(vec![Violation::new("payment.token", "is not a token of this payment method")]));
        }
        let command = PayCommand {
            reservation,
            account,
            attempt: AttemptId::from_uuid(ids.next_uuid()),
            resolve_after: self.0.settings.resolve_payments_after,
            claim,
        };
        match reservations.begin_payment(&command, clock.now()).await? {
            PayOutcome::Begun(reservation) => self.charge(&reservation, &token).await,
            PayOutcome::InFlight { reservation } => self.find_out(&reservation).await,
            PayOutcome::Replayed(settled) => Self::answer(settled),
            PayOutcome::KeyMismatch => Err(Error::IdempotencyMismatch),
            PayOutcome::NotFound => Err(Error::NotFound),
            PayOutcome::Refused(refusal) => Err(refused(refusal)),
        }
    }

    /// Releases the seats at once. May be repeated.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::HoldExpired`], [`Error::WrongState`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "reservation.release", fields(%reservation))]
    pub async fn release(&self, reservation: ReservationId, account: AccountId) -> Result<(), Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        match reservations.release(reservation, account, clock.now()).await? {
            ReleaseOutcome::Released(_) | ReleaseOutcome::AlreadyReleased => Ok(()),
            ReleaseOutcome::NotFound => Err(Error::NotFound),
            ReleaseOutcome::Refused(refusal) => Err(refused(refusal)),
        }
    }

    /// Finds an account's reservation.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn find(&self, reservation: ReservationId, account: AccountId) -> Result<Reservation, Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        reservations.find(reservation, account, clock.now()).await?.ok_or(Error::NotFound)
    }

    /// Lists a page of an account's reservations, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
        limit: u64,
    ) -> Result<Vec<Reservation>, Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        Ok(reservations.list(account, after, limit, clock.now()).await?)
    }

    /// Lists a page of a performance's seats.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn seats(&self, performance: PerformanceId, filter: &SeatFilter) -> Result<Vec<Seat>, Error> {
        let now = self.require_performance(performance).await?;
        Ok(self.0.ports.reservations.seats(performance, filter, now).await?)
    }

    /// Counts the seats of each status in a performance.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn seat_counts(&self, performance: PerformanceId) -> Result<SeatCounts, Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        let counts = reservations.seat_counts(&[performance], clock.now()).await?;
        Ok(the_only("reservation.seat_counts", counts)?)
    }

    /// Expires lapsed holds, resolves overdue payments with the gateway, and sends refunds. Every server sweeps once a
    /// second. A failure of one part, payment or refund does not stop the others.
    ///
    /// # Errors
    /// [`Error::Store`] with the first failure. The next sweep tries again.
    #[tracing::instrument(skip_all, name = "reservation.sweep", level = "debug")]
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        let expired = reservations.expire_lapsed(clock.now(), SWEEP_MAX).await;
        let settled = self.settle_overdue().await;
        let refunded = self.send_refunds().await;
        Ok(Swept { n_expired: expired?, n_settled: settled?, n_refunded: refunded? })
    }

    /// Ends the payments that are overdue. Returns how many ended, or the first failure.
    async fn settle_overdue(&self) -> Result<u32, Error> {
        let Ports { reservations, clock, .. } = &self.0.ports;
        let mut settled = Vec::new();
        for unsettled in reservations.unsettled(clock.now(), SWEEP_MAX).await? {
            settled.push(self.settle_one(unsettled).await);
        }
        settled.into_iter().sum()
    }

    /// Ends one payment, if its charge has ended at the gateway. Returns how many payments ended: 0 or 1.
    async fn settle_one(&self, unsettled: Unsettled) -> Result<u32, Error> {
        let Ports { payments, clock, .. } = &self.0.ports;
        let Unsettled { attempt, n_seats } = unsettled;
        // To ask for the status is not enough: a charge on its way could still take money for the abandoned attempt.
        let verdict = match payments.cancel(attempt, clock.now()).await {
            Ok(ChargeStatus::Ended(outcome)) => self.verdict(outcome, n_seats),
            Ok(ChargeStatus::Unheard) => Verdict::Unheard,
            Ok(ChargeStatus::Pending) => return Ok(0),
            Err(error) => {
                tracing::warn!(%attempt, %error, "a payment is still unsettled");
                return Ok(0);
            }
        };
        let settled = self.settle(attempt, &verdict).await;
        settled.map(|_| 1).inspect_err(|error| tracing::warn!(%attempt, %error, "a payment is still unsettled"))
    }

    /// Sends the refunds that are due. Returns how many the gateway confirmed, or the first failure.
    async fn send_refunds(&self) -> Result<u32, Error> {
        let mut sent = Vec::new();
        for due in self.0.ports.reservations.refunds_due(SWEEP_MAX).await? {
            sent.push(self.refund_one(due).await);
        }
        sent.into_iter().sum()
    }

    /// Sends one refund. Returns how many the gateway confirmed: 0 or 1.
    async fn refund_one(&self, due: RefundDue) -> Result<u32, Error> {
        let Ports { reservations, payments, clock, .. } = &self.0.ports;
        let RefundDue { attempt, amount } = due;
        if let Err(error) = payments.refund(attempt, amount, clock.now()).await {
            tracing::warn!(%attempt, %error, "a refund is still due");
            return Ok(0);
        }
        let marked = reservations.refund_sent(attempt, clock.now()).await;
        marked.inspect_err(|error| tracing::warn!(%attempt, %error, "a refund was sent but not marked as sent"))?;
        Ok(1)
    }

    async fn require_performance(&self, performance: PerformanceId) -> Result<Timestamp, Error> {
        let now = self.0.ports.clock.now();
        self.0.ports.sales.terms(performance, now).await?.ok_or(Error::NotFound)?;
        Ok(now)
    }

    async fn charge(&self, reservation: &Reservation, token: &PaymentToken) -> Result<Reservation, Error> {
        let Ports { reservations, payments, clock, .. } = &self.0.ports;
        let State::Paying(payment) = reservation.state else { return Err(Error::WrongState) };
        match payments.charge(payment.attempt, reservation.total, token, clock.now()).await {
            Ok(outcome) => {
                let verdict = self.verdict(outcome, reservation.seats.len());
                self.settle_and_answer(payment.attempt, &verdict).await
            }
            Err(error) => {
                // The gateway may have taken the money, so the reservation stays `paying` until it is resolved.
                tracing::warn!(attempt = %payment.attempt, error = %error, "the gateway gave no answer");
                if let Err(error) = reservations.resolve_early(payment.attempt, clock.now()).await {
                    // A sweep resolves the payment later, when it is overdue.
                    tracing::warn!(attempt = %payment.attempt, error = %error, "a payment is not resolved early");
                }
                Err(Error::PaymentUnavailable)
            }
        }
    }

    /// Answers a repeated request whose attempt is under way. The gateway may know its end before the store does.
    async fn find_out(&self, reservation: &Reservation) -> Result<Reservation, Error> {
        let Ports { payments, clock, .. } = &self.0.ports;
        let State::Paying(payment) = reservation.state else { return Err(Error::IdempotencyInFlight) };
        let now = clock.now();
        let is_overdue = payment.is_overdue(now);
        let status = if is_overdue {
            payments.cancel(payment.attempt, now).await
        } else {
            payments.status(payment.attempt).await
        };
        match status {
            Ok(ChargeStatus::Ended(outcome)) => {
                let verdict = self.verdict(outcome, reservation.seats.len());
                self.settle_and_answer(payment.attempt, &verdict).await
            }
            Ok(ChargeStatus::Unheard) if is_overdue => self.settle_and_answer(payment.attempt, &Verdict::Unheard).await,
            Ok(ChargeStatus::Unheard | ChargeStatus::Pending) => Err(Error::IdempotencyInFlight),
            Err(error) => {
                tracing::warn!(attempt = %payment.attempt, error = %error, "the gateway gave no answer");
                Err(Error::PaymentUnavailable)
            }
        }
    }

    fn verdict(&self, outcome: ChargeOutcome, n_seats: usize) -> Verdict {
        let ids = &self.0.ports.ids;
        match outcome {
            ChargeOutcome::Captured => Verdict::Captured(
                (0..n_seats).map(|_| (TicketId::from_uuid(ids.next_uuid()), ids.next_code())).collect(),
            ),
            ChargeOutcome::Declined => Verdict::Declined,
        }
    }

    async fn settle_and_answer(&self, attempt: AttemptId, verdict: &Verdict) -> Result<Reservation, Error> {
        Self::answer(self.settle(attempt, verdict).await?)
    }

    /// Ends an attempt that the store has begun.
    async fn settle(&self, attempt: AttemptId, verdict: &Verdict) -> Result<Settled, Error> {
        let Ports { reservations, gate, clock, .. } = &self.0.ports;
        let settled = reservations.settle(attempt, verdict, clock.now()).await?;
        let unknown = || StoreError::Corrupt {
            operation: "reservation.settle",
            source: format!("attempt {attempt} is under way but not in the store").into(),
        };
        let settled = settled.ok_or_else(unknown)?;
        if let Settled::Confirmed(reservation) = &settled {
            gate.pass_used(reservation.performance, reservation.pass).await;
        }
        Ok(settled)
    }

    fn answer(settled: Settled) -> Result<Reservation, Error> {
        match settled {
            Settled::Confirmed(reservation) => Ok(reservation),
            Settled::Declined { ordinal, .. } => {
                let attempts_left = Reservation::DECLINES_MAX.saturating_sub(ordinal);
                Err(Error::PaymentDeclined { attempts_left })
            }
            Settled::Refunded => Err(Error::HoldExpired),
            Settled::GivenUp => Err(Error::PaymentUnavailable),
        }
    }
}

/// Validates the number of seats, and their names.
fn read_wish(wish: SeatWish<String>) -> Result<SeatWish<SeatId>, Error> {
    match wish {
        SeatWish::Named(names) => read_seats(&names).map(SeatWish::Named),
        SeatWish::Best { count, grade } if (1..=Reservation::SEATS_MAX).contains(&(count as usize)) => {
            Ok(SeatWish::Best { count, grade })
        }
        SeatWish::Best { .. } => {
            let rule = format!("must be 1 to {}", Reservation::SEATS_MAX);
            Err(Error::Invalid(vec![Violation::new("best_available.count", rule)]))
        }
    }
}

/// Parses the names of seats, and refuses duplicates.
fn read_seats(names: &[String]) -> Result<Vec<SeatId>, Error> {
    if names.is_empty() || names.len() > Reservation::SEATS_MAX {
        let rule = format!("must name 1 to {} seats", Reservation::SEATS_MAX);
        return Err(Error::Invalid(vec![Violation::new("seats", rule)]));
    }
    let (mut seats, mut seen, mut violations) = (Vec::with_capacity(names.len()), HashSet::new(), Vec::new());
    for (i, name) in names.iter().enumerate() {
        match name.parse::<SeatId>() {
            Ok(seat) if seen.insert(seat.clone()) => seats.push(seat),
            Ok(_) => violations.push(Violation::new(format!("seats[{i}]"), "is named twice")),
            Err(error) => violations.push(Violation::new(format!("seats[{i}]"), error.to_string())),
        }
    }
    if violations.is_empty() { Ok(seats) } else { Err(Error::Invalid(violations)) }
}

fn require_open(terms: SaleTerms) -> Result<(), Error> {
    match terms.phase {
        SalePhase::Open => Ok(()),
        SalePhase::NotOpen => Err(Error::SaleNotOpen),
        SalePhase::Closed => Err(Error::SaleClosed),
    }
}

fn held(outcome: HoldOutcome, terms: SaleTerms) -> Result<Reservation, Error> {
    match outcome {
        HoldOutcome::Held(reservation) => Ok(reservation),
        HoldOutcome::Replayed(reservation) => Ok(reservation.as_first_held()),
        HoldOutcome::KeyMismatch => Err(Error::IdempotencyMismatch),
        HoldOutcome::UnknownSeats(positions) => {
            let unknown = |i| Violation::new(format!("seats[{i}]"), "is not a seat of this performance");
            Err(Error::Invalid(positions.into_iter().map(unknown).collect()))
        }
        HoldOutcome::UnknownGrade => {
            let unknown = Violation::new("best_available.grade", "is not a grade of this performance");
            Err(Error::Invalid(vec![unknown]))
        }
        HoldOutcome::PassUsed => Err(Error::PassUsed),
        HoldOutcome::PassBusy => Err(Error::PassBusy),
        HoldOutcome::Taken(seats) => Err(Error::SeatTaken(seats)),
        HoldOutcome::NotEnoughSeats => Err(Error::NotEnoughSeats),
        HoldOutcome::LimitReached => Err(Error::LimitReached { seat_limit: terms.seat_limit }),
    }
}

fn refused(refusal: TransitionError) -> Error {
    match refusal {
        TransitionError::HoldExpired => Error::HoldExpired,
        TransitionError::WrongState | TransitionError::NoAttemptsLeft => Error::WrongState,
    }
}
