//! Judging payments: an attempt begins, ends once, and leaves either sold seats, or a hold, or a refund.

use std::collections::{BTreeMap, HashMap};

use usher_kernel::{AccountId, AttemptId, KeyUse, Money, PerformanceId, ReservationId, TicketId, Timestamp};

use super::claims::{ClaimWrites, Claims, KeyMismatch};
use super::holdings::{HoldingWrites, Holdings};
use super::seat::SeatHolding;
use super::{FactsError, contradiction};
use crate::model::{PassNumber, TransitionError};
use crate::ports::{PayCommand, PayOutcome, RefundDue, SettleCommand, Settled, Verdict};
use crate::{Payment, Reservation, Ticket};

/// An attempt to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its id, by which the gateway knows it.
    pub id: AttemptId,
    /// What it pays for. This never changes.
    pub reservation: ReservationId,
    /// How much.
    pub amount: Money,
    /// Where it stands.
    pub state: AttemptState,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttemptState {
    /// It is under way.
    Pending,
    /// The money was taken, and paid for the seats.
    Captured,
    /// The gateway declined.
    Declined {
        /// Which decline of the reservation it was, from 1.
        ordinal: u32,
    },
    /// The gateway never heard of it.
    Unheard,
    /// The money was taken, and goes back.
    Refunded,
}

impl Attempt {
    /// How it ended. `None`: it is under way. `reservation` is the one it pays for, as it reads now.
    fn ended(&self, reservation: Reservation) -> Option<Settled> {
        match self.state {
            AttemptState::Pending => None,
            AttemptState::Captured => Some(Settled::Confirmed(reservation)),
            AttemptState::Declined { ordinal } => Some(Settled::Declined { ordinal, reservation: reservation.id }),
            AttemptState::Unheard => Some(Settled::GivenUp),
            AttemptState::Refunded => Some(Settled::Refunded),
        }
    }
}

/// What the judge needs to know of a batch of payments that begin.
#[derive(Debug)]
pub struct BeginFacts {
    /// The earlier use of each command's key, in the order of the commands: the attempt and what it pays for.
    pub claims: Vec<KeyUse<(Attempt, Reservation)>>,
    /// The reservations that the commands name, where they exist.
    pub holdings: Holdings,
}

/// What a batch of payments changes when they begin.
#[derive(Debug, PartialEq, Eq)]
pub struct BeginWrites<'a> {
    /// The claims.
    pub claims: ClaimWrites<'a, AttemptId>,
    /// The new attempts.
    pub attempts: Vec<Attempt>,
    /// Reservations and seats.
    pub holdings: HoldingWrites,
}

/// Judges payments that begin, one after the other.
#[must_use]
pub fn begin_all<'a>(
    commands: &'a [PayCommand],
    facts: BeginFacts,
    now: Timestamp,
) -> (Vec<PayOutcome>, BeginWrites<'a>) {
    let BeginFacts { claims, mut holdings } = facts;
    let before = |earlier| match earlier {
        KeyUse::Unused => KeyUse::Unused,
        KeyUse::Expired => KeyUse::Expired,
        KeyUse::SameRequest((attempt, reservation)) => KeyUse::SameRequest(repeated(&attempt, reservation, now)),
        KeyUse::OtherRequest => KeyUse::OtherRequest,
    };
    let uses = commands.iter().map(|command| &command.claim).zip(claims.into_iter().map(before));
    let (mut claims, mut attempts) = (Claims::new(uses), Vec::new());
    let decide = |command: &'a PayCommand| match claims.get(&command.claim) {
        Some(Ok(before)) => before.clone(),
        Some(Err(KeyMismatch)) => PayOutcome::KeyMismatch,
        None => {
            let outcome = begin(command, &mut holdings, now);
            if let PayOutcome::Begun(paying) = &outcome {
                attempts.push(Attempt {
                    id: command.attempt,
                    reservation: paying.id,
                    amount: paying.total,
                    state: AttemptState::Pending,
                });
                let twin = PayOutcome::InFlight { reservation: paying.clone() };
                claims.use_for(&command.claim, command.attempt, twin);
            }
            outcome
        }
    };
    let outcomes = commands.iter().map(decide).collect();
    let claims = claims.into_writes();
    (outcomes, BeginWrites { claims, attempts, holdings: holdings.into_writes() })
}

/// The answer to a request that began this attempt before.
fn repeated(attempt: &Attempt, reservation: Reservation, now: Timestamp) -> PayOutcome {
    match attempt.ended(reservation.clone().at(now)) {
        Some(settled) => PayOutcome::Replayed(settled),
        None => PayOutcome::InFlight { reservation },
    }
}

fn begin(command: &PayCommand, holdings: &mut Holdings, now: Timestamp) -> PayOutcome {
    let own = holdings.get(command.reservation).filter(|reservation| reservation.account == command.account);
    let Some(held) = own else { return PayOutcome::NotFound };
    let payment = Payment { attempt: command.attempt, resolve_at: now.plus(command.resolve_after) };
    let paying = match held.clone().begin_payment(payment, now) {
        Ok(paying) => paying,
        Err(refusal) => return PayOutcome::Refused(refusal),
    };
    if !holdings.all_seats(&paying, |state| state.is_held_by(paying.id)) {
        return PayOutcome::Refused(TransitionError::HoldExpired);
    }
    holdings.put_holding(paying.clone());
    PayOutcome::Begun(paying)
}

/// What the judge needs to know of a batch of attempts that end.
#[derive(Debug)]
pub struct SettleFacts {
    /// The attempts that the commands name, where they exist.
    pub attempts: Vec<Attempt>,
    /// The reservations that they pay for.
    pub holdings: Holdings,
}

/// What a batch of payments changes when they end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SettleWrites {
    /// Reservations and seats.
    pub holdings: HoldingWrites,
    /// The seats that were sold.
    pub sales: Vec<Sale>,
    /// The passes that are used up; a pass that its owner left has ended before.
    pub ended_passes: Vec<(PerformanceId, PassNumber)>,
    /// The money that goes back: one refund per attempt.
    pub refunds: Vec<RefundDue>,
    /// The claims that are free again, by account and attempt.
    pub freed_claims: Vec<(AccountId, AttemptId)>,
    /// The attempts that ended.
    pub attempts: Vec<AttemptEnd>,
}

/// A seat that was sold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sale {
    /// The performance.
    pub performance: PerformanceId,
    /// The reservation.
    pub reservation: ReservationId,
    /// The ticket, which names the seat.
    pub ticket: Ticket,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// The attempt.
    pub attempt: AttemptId,
    /// The state that was read. The row must still have it.
    pub before: AttemptState,
    /// The state now.
    pub after: AttemptState,
}

/// Judges the ends of attempts, one after the other. `None`: there is no such attempt.
///
/// # Errors
/// [`FactsError::Contradiction`] if an attempt and its reservation do not fit together.
pub fn settle_all(
    commands: &[SettleCommand],
    facts: SettleFacts,
    now: Timestamp,
) -> Result<(Vec<Option<Settled>>, SettleWrites), FactsError> {
    let SettleFacts { attempts, holdings } = facts;
    let attempts = attempts.into_iter().map(|attempt| (attempt.id, attempt)).collect();
    let mut till = Till { now, attempts, holdings, ends: BTreeMap::new(), writes: SettleWrites::default() };
    let outcomes = commands.iter().map(|command| till.settle(command)).collect::<Result<_, _>>()?;
    let Till { holdings, ends, writes, .. } = till;
    let writes = SettleWrites { holdings: holdings.into_writes(), attempts: ends.into_values().collect(), ..writes };
    Ok((outcomes, writes))
}

/// A batch of attempts while their ends are judged.
struct Till {
    now: Timestamp,
    attempts: HashMap<AttemptId, Attempt>,
    holdings: Holdings,
    ends: BTreeMap<AttemptId, AttemptEnd>,
    writes: SettleWrites,
}

impl Till {
    fn settle(&mut self, command: &SettleCommand) -> Result<Option<Settled>, FactsError> {
        let Some(attempt) = self.attempts.get(&command.attempt).copied() else { return Ok(None) };
        let reservation = self.holdings.get(attempt.reservation).cloned();
        let reservation = reservation.ok_or_else(|| contradiction("reservation_id", "payment attempt", attempt.id))?;
        let settled = match (attempt.state, &command.verdict) {
            (AttemptState::Pending, Verdict::Captured(tickets)) => self.capture(&attempt, reservation, tickets)?,
            (AttemptState::Pending, Verdict::Declined) => {
                let held = reservation.decline(attempt.id).map_err(|_| not_paying(&attempt))?;
                let (ordinal, reservation) = (held.declined, held.id);
                self.holdings.put_holding(held);
                self.end(&attempt, AttemptState::Declined { ordinal });
                Settled::Declined { ordinal, reservation }
            }
            (AttemptState::Pending, Verdict::Unheard) => {
                let held = reservation.give_up_payment(attempt.id).map_err(|_| not_paying(&attempt))?;
                self.writes.freed_claims.push((held.account, attempt.id));
                self.holdings.put_holding(held);
                self.end(&attempt, AttemptState::Unheard);
                Settled::GivenUp
            }
            // The money came after all. The reservation has gone on without it.
            (AttemptState::Declined { .. } | AttemptState::Unheard, Verdict::Captured(_)) => self.refund(&attempt),
            (AttemptState::Declined { .. } | AttemptState::Unheard, Verdict::Declined | Verdict::Unheard)
            | (AttemptState::Captured | AttemptState::Refunded, _) => {
                attempt.ended(reservation.at(self.now)).ok_or_else(|| not_paying(&attempt))?
            }
        };
        Ok(Some(settled))
    }

    fn capture(
        &mut self,
        attempt: &Attempt,
        reservation: Reservation,
        tickets: &[(TicketId, String)],
    ) -> Result<Settled, FactsError> {
        let (now, id) = (self.now, reservation.id);
        if !self.holdings.all_seats(&reservation, |state| state.is_held_by(id) || state.is_free(now)) {
            let held = reservation.give_up_payment(attempt.id).map_err(|_| not_paying(attempt))?;
            self.holdings.put_holding(held);
            return Ok(self.refund(attempt));
        }
        if tickets.len() != reservation.seats.len() {
            return Err(contradiction("ticket_id", "reservation", id));
        }
        let tickets = reservation.seats.iter().zip(tickets);
        let tickets: Vec<_> =
            tickets.map(|(seat, (id, code))| Ticket { id: *id, seat: seat.seat.clone(), code: code.clone() }).collect();
        let performance = reservation.performance;
        let sale = |ticket: &Ticket| Sale { performance, reservation: id, ticket: ticket.clone() };
        self.writes.sales.extend(tickets.iter().map(sale));
        self.writes.ended_passes.push((performance, reservation.pass));
        let confirmed = reservation.confirm(attempt.id, tickets, now).map_err(|_| not_paying(attempt))?;
        self.holdings.change_seats(&confirmed, |_| true, SeatHolding::Sold(id));
        self.holdings.put(confirmed.clone());
        self.end(attempt, AttemptState::Captured);
        Ok(Settled::Confirmed(confirmed))
    }

    /// The money goes back.
    fn refund(&mut self, attempt: &Attempt) -> Settled {
        self.writes.refunds.push(RefundDue { attempt: attempt.id, amount: attempt.amount });
        self.end(attempt, AttemptState::Refunded);
        Settled::Refunded
    }

    fn end(&mut self, attempt: &Attempt, after: AttemptState) {
        // An attempt that is declined and refunded in one batch is written once, over the state that was read.
        let end = AttemptEnd { attempt: attempt.id, before: attempt.state, after };
        self.ends.entry(attempt.id).and_modify(|earlier| earlier.after = after).or_insert(end);
        if let Some(attempt) = self.attempts.get_mut(&attempt.id) {
            attempt.state = after;
        }
    }
}

fn not_paying(attempt: &Attempt) -> FactsError {
    contradiction("state", "payment attempt", attempt.id)
}
