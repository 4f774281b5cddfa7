//! Attempts to pay, sales and refunds in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use usher_kernel::{AttemptId, PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::audit::{AttemptRecord, RefundRecord, SaleRecord};
use usher_reservation::judge::payment::{Attempt, SettleWrites};
use usher_reservation::ports::RefundDue;

use crate::database::Contradiction;

/// Attempts to pay, the sales that they paid for, and refunds.
#[derive(Debug, Default)]
pub(crate) struct Payments {
    attempts: HashMap<AttemptId, Attempt>,
    of_reservation: HashMap<ReservationId, BTreeSet<AttemptId>>,
    sales: HashMap<PerformanceId, BTreeMap<SeatId, ReservationId>>,
    refunds: HashMap<AttemptId, Refund>,
    /// Refunds that the gateway has not confirmed, by the time at which they were due.
    unsent: BTreeSet<(Timestamp, AttemptId)>,
}

#[derive(Debug)]
struct Refund {
    due: RefundDue,
    due_at: Timestamp,
    is_sent: bool,
}

impl Payments {
    /// The attempt with this id.
    pub(crate) fn attempt(&self, id: AttemptId) -> Option<&Attempt> {
        self.attempts.get(&id)
    }

    /// Stores a new attempt.
    pub(crate) fn begin(&mut self, attempt: Attempt) {
        self.of_reservation.entry(attempt.reservation).or_default().insert(attempt.id);
        self.attempts.insert(attempt.id, attempt);
    }

    /// Checks that each attempt has the state that the judge read, and that nothing is sold or refunded twice.
    pub(crate) fn check(&self, writes: &SettleWrites) -> Result<(), Contradiction> {
        let is_as_read = |id, before| self.attempt(id).is_some_and(|attempt| attempt.state == before);
        if !writes.attempts.iter().all(|end| is_as_read(end.attempt, end.before)) {
            return Err(Contradiction("an attempt is in another state than it was judged by"));
        }
        let is_sold = |performance, seat| self.sales.get(performance).is_some_and(|sales| sales.contains_key(seat));
        if writes.sales.iter().any(|sale| is_sold(&sale.performance, &sale.ticket.seat)) {
            return Err(Contradiction("a seat is sold already"));
        }
        if writes.refunds.iter().any(|due| self.refunds.contains_key(&due.attempt)) {
            return Err(Contradiction("an attempt has a refund already"));
        }
        Ok(())
    }

    /// Writes the ends of attempts, after [`Self::check`].
    pub(crate) fn end(&mut self, writes: &SettleWrites, at: Timestamp) {
        for end in &writes.attempts {
            if let Some(attempt) = self.attempts.get_mut(&end.attempt) {
                attempt.state = end.after;
            }
        }
        for sale in &writes.sales {
            self.sales.entry(sale.performance).or_default().insert(sale.ticket.seat.clone(), sale.reservation);
        }
        for &due in &writes.refunds {
            self.unsent.insert((at, due.attempt));
            self.refunds.insert(due.attempt, Refund { due, due_at: at, is_sent: false });
        }
    }

    /// The refunds that the gateway has not confirmed, the oldest first.
    pub(crate) fn refunds_due(&self) -> impl Iterator<Item = RefundDue> {
        self.unsent.iter().filter_map(|(_, attempt)| self.refunds.get(attempt).map(|refund| refund.due))
    }

    /// Marks a refund as confirmed by the gateway.
    pub(crate) fn refund_sent(&mut self, attempt: AttemptId) {
        if let Some(refund) = self.refunds.get_mut(&attempt) {
            refund.is_sent = true;
            self.unsent.remove(&(refund.due_at, attempt));
        }
    }

    /// The attempts to pay for a reservation, as the audit reads them.
    pub(crate) fn attempts_of(&self, reservation: ReservationId) -> impl Iterator<Item = AttemptRecord> {
        let ids = self.of_reservation.get(&reservation).into_iter().flatten();
        ids.filter_map(|id| self.attempt(*id)).map(AttemptRecord::of)
    }

    /// The refund of an attempt, as the audit reads it.
    pub(crate) fn refund_of(&self, attempt: AttemptId) -> Option<RefundRecord> {
        let Refund { due, is_sent, .. } = self.refunds.get(&attempt)?;
        Some(RefundRecord { attempt, amount: due.amount.amount(), is_sent: *is_sent })
    }

    /// The sales of a performance, as the audit reads them.
    pub(crate) fn sales_of(&self, performance: PerformanceId) -> impl Iterator<Item = SaleRecord> {
        let sales = self.sales.get(&performance).into_iter().flatten();
        sales.map(|(seat, reservation)| SaleRecord { seat: seat.clone(), reservation: *reservation })
    }
}

#[cfg(test)]
mod tests {
    use usher_kernel::{Money, TicketId};
    use usher_reservation::Ticket;
    use usher_reservation::judge::payment::{AttemptEnd, AttemptState, Sale};

    use super::*;

    const ATTEMPT: AttemptId = AttemptId::from_bytes([1; 16]);
    const RESERVATION: ReservationId = ReservationId::from_bytes([2; 16]);
    const NOW: Timestamp = Timestamp::from_unix_ms(1_000);

    fn amount() -> Money {
        Money::new(100, "KRW".parse().unwrap()).unwrap()
    }

    fn pending() -> Payments {
        let mut payments = Payments::default();
        let state = AttemptState::Pending;
        payments.begin(Attempt { id: ATTEMPT, reservation: RESERVATION, amount: amount(), state });
        payments
    }

    fn end(before: AttemptState, after: AttemptState) -> SettleWrites {
        SettleWrites { attempts: vec![AttemptEnd { attempt: ATTEMPT, before, after }], ..SettleWrites::default() }
    }

    fn sale() -> Sale {
        let seat = "A-1-1".parse().unwrap();
        let ticket = Ticket { id: TicketId::from_bytes([3; 16]), seat, code: "CODE".into() };
        Sale { performance: PerformanceId::from_bytes([4; 16]), reservation: RESERVATION, ticket }
    }

    #[test]
    fn an_attempt_ends_only_from_the_state_it_was_judged_by() {
        let mut payments = pending();
        let declined = end(AttemptState::Pending, AttemptState::Unheard);
        payments.check(&declined).unwrap();
        payments.end(&declined, NOW);

        payments.check(&declined).unwrap_err();
        payments.check(&end(AttemptState::Unheard, AttemptState::Refunded)).unwrap();
    }

    #[test]
    fn a_second_sale_of_a_seat_is_refused() {
        let mut payments = pending();
        let sold = SettleWrites { sales: vec![sale()], ..SettleWrites::default() };
        payments.check(&sold).unwrap();
        payments.end(&sold, NOW);

        payments.check(&sold).unwrap_err();
    }

    #[test]
    fn an_attempt_is_refunded_once() {
        let mut payments = pending();
        let due = RefundDue { attempt: ATTEMPT, amount: amount() };
        let refunded = SettleWrites { refunds: vec![due], ..SettleWrites::default() };
        payments.check(&refunded).unwrap();
        payments.end(&refunded, NOW);

        payments.check(&refunded).unwrap_err();
        assert_eq!(payments.refunds_due().collect::<Vec<_>>(), [due]);
        payments.refund_sent(ATTEMPT);
        assert_eq!(payments.refunds_due().count(), 0);
    }
}
