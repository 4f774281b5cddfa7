//! Compares captures, refunds and the gateway's log. Knows nothing of seats.

use std::collections::{BTreeMap, HashMap, HashSet};

use usher_kernel::AttemptId;

use super::{AttemptRecord, AttemptState, ChargeRecord, History};

/// Whether an attempt took money.
pub(super) const fn was_taken(attempt: &AttemptRecord) -> bool {
    matches!(attempt.state, AttemptState::Captured | AttemptState::Refunded)
}

/// Groups records by attempt.
fn by_attempt<R>(records: &[R], attempt: impl Fn(&R) -> AttemptId) -> BTreeMap<AttemptId, Vec<&R>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        found.entry(attempt(record)).or_default().push(record);
    }
    found
}

/// Checks that captures = payments of confirmed reservations + refunds, and that no attempt is refunded without a
/// capture, twice, or for more than it took.
pub(super) fn compare(history: &History, contradictions: &mut Vec<String>) {
    let attempts: HashMap<_, _> = history.attempts.iter().map(|attempt| (attempt.id, attempt)).collect();
    let refunds = by_attempt(&history.refunds, |refund| refund.attempt);
    let mut paid_for = HashSet::new();
    for reservation in &history.reservations {
        let Some(by) = reservation.confirmed_by else { continue };
        paid_for.insert(by);
        let is_paid = attempts.get(&by).is_some_and(|attempt| {
            attempt.state == AttemptState::Captured
                && attempt.reservation == reservation.id
                && attempt.amount == reservation.total
        });
        if !is_paid || refunds.contains_key(&by) {
            contradictions.push(format!("reservation {}: is confirmed but not paid exactly once", reservation.id));
        }
    }
    for attempt in history.attempts.iter().filter(|attempt| was_taken(attempt) && !paid_for.contains(&attempt.id)) {
        let refunded: i64 = refunds.get(&attempt.id).into_iter().flatten().map(|refund| refund.amount).sum();
        if refunded != attempt.amount {
            contradictions.push(format!("attempt {}: took money for no seat and is not refunded exactly", attempt.id));
        }
    }
    for (id, refunds) in refunds {
        let mut contradict = |what: &str| contradictions.push(format!("attempt {id}: {what}"));
        let attempt = attempts.get(&id);
        if attempt.is_none_or(|attempt| attempt.state != AttemptState::Refunded) {
            contradict("has a refund that is not due");
        }
        if refunds.len() > 1 {
            contradict("has more than one refund");
        }
        if attempt.is_some_and(|attempt| refunds.iter().any(|refund| refund.amount > attempt.amount)) {
            contradict("has a refund of more than it took");
        }
    }
}

/// Compares the gateway's log with the payments. Only for a gateway that keeps its log in the same store, as the
/// simulated one does: of other gateways the history has no log.
///
/// - Each captured attempt was charged once, at its amount.
/// - Each charge that was not refunded belongs to an attempt that is captured, under way, or waits for its refund.
/// - The gateway refunded only refunds that are due, and all refunds that are marked as sent.
#[must_use]
pub fn check_charges(history: &History) -> Vec<String> {
    let attempts: HashMap<_, _> = history.attempts.iter().map(|attempt| (attempt.id, attempt)).collect();
    let charges = by_attempt(&history.charges, |charge| charge.attempt);
    let refunds = by_attempt(&history.refunds, |refund| refund.attempt);
    let mut contradictions = Vec::new();
    for attempt in history.attempts.iter().filter(|attempt| was_taken(attempt)) {
        let charges = charges.get(&attempt.id).map(Vec::as_slice).unwrap_or_default();
        if !matches!(charges, [charge] if charge.is_captured && charge.amount == attempt.amount) {
            contradictions
                .push(format!("attempt {}: is captured but not charged exactly once at its amount", attempt.id));
        }
    }
    for charge in &history.charges {
        let mut contradict = |what: &str| contradictions.push(format!("attempt {}: {what}", charge.attempt));
        let state = attempts.get(&charge.attempt).map(|attempt| attempt.state);
        let refund = refunds.get(&charge.attempt);
        if is_kept(charge) && matches!(state, None | Some(AttemptState::Unpaid)) {
            contradict("was charged for no seat");
        }
        if charge.is_refunded && refund.is_none() {
            contradict("was refunded although no refund is due");
        }
        if !charge.is_refunded && refund.is_some_and(|refunds| refunds.iter().any(|refund| refund.is_sent)) {
            contradict("has a refund marked as sent that the gateway does not have");
        }
    }
    contradictions
}

/// Whether the gateway still has the money.
const fn is_kept(charge: &ChargeRecord) -> bool {
    charge.is_captured && !charge.is_refunded
}

#[cfg(test)]
mod tests {
    use super::super::RefundRecord;
    use super::super::tests::{attempt, finds, history, reservation};
    use super::*;

    #[test]
    fn a_confirmed_reservation_that_was_not_paid_exactly_once_is_found() {
        for corrupt in [
            (|history| history.attempts.retain(|paid| paid.id != attempt(2))) as fn(&mut History),
            |history| history.attempts[1].amount = 99,
            |history| history.attempts[1].state = AttemptState::Refunded,
            |history| history.attempts[1].state = AttemptState::Pending,
            |history| history.refunds.push(RefundRecord { attempt: attempt(2), amount: 100, is_sent: false }),
            |history| history.attempts[1].reservation = reservation(1),
        ] {
            finds("is confirmed but not paid exactly once", corrupt);
        }
    }

    #[test]
    fn money_taken_for_no_seat_is_found() {
        for refunded in [0, 199, 201] {
            finds("took money for no seat and is not refunded exactly", |history| {
                history.refunds[0].amount = refunded;
            });
        }
        finds("took money for no seat and is not refunded exactly", |history| history.refunds.clear());
    }

    #[test]
    fn a_refund_without_a_capture_is_found() {
        for state in [AttemptState::Pending, AttemptState::Captured, AttemptState::Unpaid] {
            finds("has a refund that is not due", |history| history.attempts[0].state = state);
        }
        finds("has a refund that is not due", |history| {
            history.attempts.retain(|paid| paid.id != attempt(1));
        });
    }

    #[test]
    fn a_refund_of_too_much_is_found() {
        finds("has a refund of more than it took", |history| history.refunds[0].amount = 201);
    }

    #[test]
    fn a_second_refund_is_found() {
        finds("has more than one refund", |history| history.refunds.push(history.refunds[0]));
    }

    /// The contradictions that are found between a corrupted history and the gateway's log.
    fn charges(corrupt: impl FnOnce(&mut History)) -> Vec<String> {
        let mut history = history();
        corrupt(&mut history);
        check_charges(&history)
    }

    #[track_caller]
    fn finds_charge(what: &str, corrupt: impl FnOnce(&mut History)) {
        let found = charges(corrupt);
        assert!(found.iter().any(|contradiction| contradiction.contains(what)), "{what:?} is not in {found:?}");
    }

    #[test]
    fn charges_of_sales_and_of_refunds_pass() {
        assert_eq!(charges(|_| {}), [""; 0]);
    }

    #[test]
    fn an_attempt_under_way_may_be_charged_or_not() {
        let pending = |history: &mut History| history.attempts[1].state = AttemptState::Pending;

        assert_eq!(charges(pending), [""; 0]);
        let uncharged = |history: &mut History| {
            pending(history);
            history.charges.remove(1);
        };
        assert_eq!(charges(uncharged), [""; 0]);
    }

    #[test]
    fn a_refund_that_is_not_marked_as_sent_may_be_sent_or_not() {
        let due = |history: &mut History| history.refunds[0].is_sent = false;

        assert_eq!(charges(due), [""; 0]);
        let not_gone = |history: &mut History| {
            due(history);
            history.charges[0].is_refunded = false;
        };
        assert_eq!(charges(not_gone), [""; 0]);
    }

    #[test]
    fn a_capture_that_was_not_charged_exactly_once_is_found() {
        for corrupt in [
            (|history| history.charges.retain(|charge| charge.attempt != attempt(2))) as fn(&mut History),
            |history| history.charges.retain(|charge| charge.attempt != attempt(1)),
            |history| history.charges[1].is_captured = false,
            |history| history.charges[1].amount = 99,
            |history| history.charges.push(history.charges[1]),
        ] {
            finds_charge("is captured but not charged exactly once at its amount", corrupt);
        }
    }

    #[test]
    fn a_charge_for_no_seat_is_found() {
        finds_charge("was charged for no seat", |history| history.charges[2].is_captured = true);
        finds_charge("was charged for no seat", |history| {
            history.attempts.retain(|paid| paid.id != attempt(2));
        });
    }

    #[test]
    fn a_refund_that_is_not_due_is_found() {
        finds_charge("was refunded although no refund is due", |history| history.charges[1].is_refunded = true);
    }

    #[test]
    fn a_refund_marked_as_sent_that_the_gateway_does_not_have_is_found() {
        finds_charge("has a refund marked as sent that the gateway does not have", |history| {
            history.charges[0].is_refunded = false;
        });
    }
}
