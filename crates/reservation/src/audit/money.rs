//! What was taken, what went back, and what a gateway says of both. Knows nothing of seats.

use std::collections::{BTreeMap, HashMap, HashSet};

use usher_kernel::AttemptId;

use super::{AttemptRecord, AttemptState, ChargeRecord, History};

/// Whether an attempt took money.
pub(super) const fn was_taken(attempt: &AttemptRecord) -> bool {
    matches!(attempt.state, AttemptState::Captured | AttemptState::Refunded)
}

/// The records of each attempt.
fn by_attempt<R>(records: &[R], attempt: impl Fn(&R) -> AttemptId) -> BTreeMap<AttemptId, Vec<&R>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        found.entry(attempt(record)).or_default().push(record);
    }
    found
}

/// Captures = sales + refunds; and no refund of what was not captured, of more than that, or twice.
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
            contradictions.push(format!("reservation {}: is confirmed and not paid, exactly once", reservation.id));
        }
    }
    for attempt in history.attempts.iter().filter(|attempt| was_taken(attempt) && !paid_for.contains(&attempt.id)) {
        let refunded: i64 = refunds.get(&attempt.id).into_iter().flatten().map(|refund| refund.amount).sum();
        if refunded != attempt.amount {
            contradictions.push(format!("attempt {}: took money for nothing and did not give it back", attempt.id));
        }
    }
    for (id, refunds) in refunds {
        let mut contradict = |what: &str| contradictions.push(format!("attempt {id}: {what}"));
        let attempt = attempts.get(&id);
        if attempt.is_none_or(|attempt| attempt.state != AttemptState::Refunded) {
            contradict("has a refund, and no money of it has to go back");
        }
        if refunds.len() > 1 {
            contradict("has more than one refund");
        }
        if attempt.is_some_and(|attempt| refunds.iter().any(|refund| refund.amount > attempt.amount)) {
            contradict("has a refund of more than it took");
        }
    }
}

/// Compares what a gateway has in its log with the payments. Only for a gateway that keeps it in the same store, as the
/// simulated one does: of others the history has nothing.
///
/// Checked: what was captured was charged, once, and the same amount; what was charged and did not go back was captured,
/// or its attempt is under way; what went back had to, and what was sent back went.
#[must_use]
pub fn check_charges(history: &History) -> Vec<String> {
    let attempts: HashMap<_, _> = history.attempts.iter().map(|attempt| (attempt.id, attempt)).collect();
    let charges = by_attempt(&history.charges, |charge| charge.attempt);
    let refunds = by_attempt(&history.refunds, |refund| refund.attempt);
    let mut contradictions = Vec::new();
    for attempt in history.attempts.iter().filter(|attempt| was_taken(attempt)) {
        let charges = charges.get(&attempt.id).map(Vec::as_slice).unwrap_or_default();
        if !matches!(charges, [charge] if charge.is_captured && charge.amount == attempt.amount) {
            contradictions.push(format!("attempt {}: is captured, and not charged so, exactly once", attempt.id));
        }
    }
    for charge in &history.charges {
        let mut contradict = |what: &str| contradictions.push(format!("attempt {}: {what}", charge.attempt));
        let state = attempts.get(&charge.attempt).map(|attempt| attempt.state);
        let refund = refunds.get(&charge.attempt);
        if is_kept(charge) && matches!(state, None | Some(AttemptState::Unpaid)) {
            contradict("was charged, and nothing was bought with it");
        }
        if charge.is_refunded && refund.is_none() {
            contradict("went back, and did not have to");
        }
        if !charge.is_refunded && refund.is_some_and(|refunds| refunds.iter().any(|refund| refund.is_sent)) {
            contradict("was sent back, and did not go");
        }
    }
    contradictions
}

/// Whether a gateway has the money.
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
            finds("is confirmed and not paid, exactly once", corrupt);
        }
    }

    #[test]
    fn money_taken_for_nothing_is_found() {
        for refunded in [0, 199, 201] {
            finds("took money for nothing and did not give it back", |history| {
                history.refunds[0].amount = refunded;
            });
        }
        finds("took money for nothing and did not give it back", |history| history.refunds.clear());
    }

    #[test]
    fn a_refund_of_what_was_never_captured_is_found() {
        for state in [AttemptState::Pending, AttemptState::Captured, AttemptState::Unpaid] {
            finds("has a refund, and no money of it has to go back", |history| history.attempts[0].state = state);
        }
        finds("has a refund, and no money of it has to go back", |history| {
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

    /// What is found in the charges after `corrupt` had its way.
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
    fn charges_of_what_was_bought_and_of_what_went_back_pass() {
        assert_eq!(charges(|_| {}), [""; 0]);
    }

    #[test]
    fn what_is_under_way_may_be_charged_or_not() {
        let pending = |history: &mut History| history.attempts[1].state = AttemptState::Pending;

        assert_eq!(charges(pending), [""; 0]);
        let uncharged = |history: &mut History| {
            pending(history);
            history.charges.remove(1);
        };
        assert_eq!(charges(uncharged), [""; 0]);
    }

    #[test]
    fn a_refund_that_is_due_may_have_gone_or_not() {
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
            finds_charge("is captured, and not charged so, exactly once", corrupt);
        }
    }

    #[test]
    fn a_charge_for_nothing_is_found() {
        finds_charge("was charged, and nothing was bought with it", |history| history.charges[2].is_captured = true);
        finds_charge("was charged, and nothing was bought with it", |history| {
            history.attempts.retain(|paid| paid.id != attempt(2));
        });
    }

    #[test]
    fn money_that_went_back_unasked_is_found() {
        finds_charge("went back, and did not have to", |history| history.charges[1].is_refunded = true);
    }

    #[test]
    fn money_that_was_sent_back_and_did_not_go_is_found() {
        finds_charge("was sent back, and did not go", |history| history.charges[0].is_refunded = false);
    }
}
