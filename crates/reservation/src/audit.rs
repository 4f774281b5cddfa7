//! Audits the recorded history of seats and payments: no seat is sold twice. Pure: the caller reads the history, and
//! the audit reports each contradiction in it.

mod money;

use std::collections::{BTreeMap, HashMap, HashSet};

use usher_kernel::{AttemptId, PerformanceId, ReservationId, SeatId, Timestamp};

pub use self::money::check_charges;
use crate::SeatStatus;
use crate::judge::payment;
use crate::model::{PassNumber, has_lapsed};

/// The event of one change of one seat, recorded in the transaction of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatEvent {
    /// The event's id. Ids are not in the order of commits.
    pub id: u64,
    /// The seat.
    pub seat: SeatId,
    /// The seat's version after the change.
    pub version: u32,
    /// Its status after the change.
    pub status: SeatStatus,
    /// Its owner after the change.
    pub owner: Option<ReservationId>,
    /// Its owner before the change.
    pub owner_before: Option<ReservationId>,
    /// The time until which it is held, if it is.
    pub held_until: Option<Timestamp>,
    /// The time of the change.
    pub at: Timestamp,
}

/// A seat as it is stored now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatRecord {
    /// The seat.
    pub seat: SeatId,
    /// Its version.
    pub version: u32,
    /// Its stored status.
    pub status: SeatStatus,
    /// Its owner.
    pub owner: Option<ReservationId>,
}

/// A sale as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleRecord {
    /// The seat.
    pub seat: SeatId,
    /// The reservation that bought the seat.
    pub reservation: ReservationId,
}

/// A reservation as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRecord {
    /// The reservation.
    pub id: ReservationId,
    /// The pass that it was made under.
    pub pass: PassNumber,
    /// The attempt that confirmed it, if it is confirmed.
    pub confirmed_by: Option<AttemptId>,
    /// Its seats.
    pub seats: Vec<SeatId>,
    /// The sum of their prices, in minor units.
    pub total: i64,
}

/// The state of an attempt to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// The attempt is under way. It is not known yet whether the gateway took money.
    Pending,
    /// The gateway took the money, which paid for the seats.
    Captured,
    /// The gateway took the money, and a refund is due or sent.
    Refunded,
    /// The attempt ended without money: the gateway declined, or never saw it.
    Unpaid,
}

/// An attempt to pay as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The attempt.
    pub id: AttemptId,
    /// The reservation that it pays for.
    pub reservation: ReservationId,
    /// The amount, in minor units.
    pub amount: i64,
    /// Its state.
    pub state: AttemptState,
}

impl AttemptRecord {
    /// The record of an attempt.
    #[must_use]
    pub const fn of(attempt: &payment::Attempt) -> Self {
        Self {
            id: attempt.id,
            reservation: attempt.reservation,
            amount: attempt.amount.amount(),
            state: match attempt.state {
                payment::AttemptState::Pending => AttemptState::Pending,
                payment::AttemptState::Captured => AttemptState::Captured,
                payment::AttemptState::Refunded => AttemptState::Refunded,
                payment::AttemptState::Declined { .. } | payment::AttemptState::Unheard => AttemptState::Unpaid,
            },
        }
    }
}

/// A refund as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundRecord {
    /// The attempt that took the money.
    pub attempt: AttemptId,
    /// The amount, in minor units.
    pub amount: i64,
    /// Whether the gateway confirmed the refund.
    pub is_sent: bool,
}

/// An entry in the log of a gateway that keeps its log in the same store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeRecord {
    /// The attempt.
    pub attempt: AttemptId,
    /// The amount of the charge, in minor units.
    pub amount: i64,
    /// Whether the gateway took the money.
    pub is_captured: bool,
    /// Whether the gateway refunded the money.
    pub is_refunded: bool,
}

/// All changes of a performance's seats, and all payments for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The performance.
    pub performance: PerformanceId,
    /// All events, in the order of ids.
    pub events: Vec<SeatEvent>,
    /// All seats.
    pub seats: Vec<SeatRecord>,
    /// All sales.
    pub sales: Vec<SaleRecord>,
    /// All reservations.
    pub reservations: Vec<ReservationRecord>,
    /// All attempts to pay.
    pub attempts: Vec<AttemptRecord>,
    /// All refunds of these attempts.
    pub refunds: Vec<RefundRecord>,
    /// The simulated gateway's log entries of these attempts. Empty with another gateway.
    pub charges: Vec<ChargeRecord>,
    /// The passes that are used up, or whose owners left.
    pub ended_passes: HashSet<PassNumber>,
}

/// The result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many seats were checked.
    pub n_seats: usize,
    /// How many events were replayed.
    pub n_events: usize,
    /// How many sales were checked.
    pub n_sales: usize,
    /// How many payments were checked: attempts that took money.
    pub n_captures: usize,
    /// A message for each contradiction.
    pub contradictions: Vec<String>,
}

#[derive(Clone, Copy)]
struct Replayed {
    version: u32,
    status: SeatStatus,
    owner: Option<ReservationId>,
    held_until: Option<Timestamp>,
}

/// Replays a history and compares it with the seats, the sales, the passes and the payments.
///
/// - Versions have no gaps. A seat has one owner at a time, and only a lapsed hold is taken over.
/// - The stored seats match their events.
/// - Sold seats = sales = seats of confirmed reservations, whose passes are used up.
/// - Captures = payments of confirmed reservations + refunds. No attempt is refunded without a capture, twice, or for
///   more than it took.
///
/// [`check_charges`] compares the payments with the gateway's log.
#[must_use]
pub fn check(history: &History) -> Findings {
    let mut contradictions = Vec::new();
    let last = replay(&history.events, &mut contradictions);
    compare_seats(history, &last, &mut contradictions);
    compare_sales(history, &mut contradictions);
    compare_passes(history, &mut contradictions);
    money::compare(history, &mut contradictions);
    Findings {
        n_seats: history.seats.len(),
        n_events: history.events.len(),
        n_sales: history.sales.len(),
        n_captures: history.attempts.iter().filter(|attempt| money::was_taken(attempt)).count(),
        contradictions,
    }
}

fn replay(events: &[SeatEvent], contradictions: &mut Vec<String>) -> HashMap<SeatId, Replayed> {
    let mut by_seat: BTreeMap<&SeatId, Vec<&SeatEvent>> = BTreeMap::new();
    for event in events {
        by_seat.entry(&event.seat).or_default().push(event);
    }
    let mut last = HashMap::with_capacity(by_seat.len());
    for (seat, mut events) in by_seat {
        events.sort_by_key(|event| (event.version, event.id));
        let mut now = Replayed { version: 1, status: SeatStatus::Available, owner: None, held_until: None };
        for event in events {
            step(seat, now, event, contradictions);
            let SeatEvent { version, status, owner, held_until, .. } = *event;
            now = Replayed { version, status, owner, held_until };
        }
        last.insert(seat.clone(), now);
    }
    last
}

fn step(seat: &SeatId, before: Replayed, event: &SeatEvent, contradictions: &mut Vec<String>) {
    let mut contradict = |what: String| contradictions.push(format!("seat {seat}, version {}: {what}", event.version));
    if event.version != before.version + 1 {
        contradict(format!("follows version {}", before.version));
    }
    if event.owner_before != before.owner {
        contradict("names another previous owner than the history".into());
    }
    if event.owner.is_some() != (event.status != SeatStatus::Available) {
        let owner = if event.owner.is_some() { "an owner" } else { "no owner" };
        contradict(format!("is {} with {owner}", event.status.as_str()));
    }
    if before.status == SeatStatus::Sold {
        contradict("changes a sold seat".into());
    }
    let changes_hands = before.owner.is_some() && event.owner.is_some() && before.owner != event.owner;
    let has_lapsed = before.held_until.is_none_or(|until| has_lapsed(until, event.at));
    if changes_hands && !has_lapsed {
        contradict("takes over a live hold".into());
    }
}

fn compare_seats(history: &History, last: &HashMap<SeatId, Replayed>, contradictions: &mut Vec<String>) {
    let untouched = Replayed { version: 1, status: SeatStatus::Available, owner: None, held_until: None };
    let mut known = HashSet::with_capacity(history.seats.len());
    for record in &history.seats {
        known.insert(&record.seat);
        let replayed = last.get(&record.seat).copied().unwrap_or(untouched);
        let agrees =
            record.version == replayed.version && record.status == replayed.status && record.owner == replayed.owner;
        if !agrees {
            contradictions.push(format!("seat {}: does not match its events", record.seat));
        }
    }
    for seat in last.keys().filter(|seat| !known.contains(seat)) {
        contradictions.push(format!("seat {seat}: has events but does not exist"));
    }
}

fn compare_sales(history: &History, contradictions: &mut Vec<String>) {
    let mut sold: HashMap<&SeatId, ReservationId> = HashMap::with_capacity(history.sales.len());
    for sale in &history.sales {
        if sold.insert(&sale.seat, sale.reservation).is_some() {
            contradictions.push(format!("seat {}: is sold twice", sale.seat));
        }
    }
    for record in history.seats.iter().filter(|record| record.status == SeatStatus::Sold) {
        if record.owner.is_none() || sold.get(&record.seat).copied() != record.owner {
            contradictions.push(format!("seat {}: is sold without a sale to its owner", record.seat));
        }
    }
    let mut confirmed: HashMap<&SeatId, ReservationId> = HashMap::new();
    for reservation in history.reservations.iter().filter(|reservation| reservation.confirmed_by.is_some()) {
        for seat in &reservation.seats {
            if confirmed.insert(seat, reservation.id).is_some() {
                contradictions.push(format!("seat {seat}: is in two confirmed reservations"));
            }
            if sold.get(seat) != Some(&reservation.id) {
                contradictions.push(format!("seat {seat}: is confirmed without a sale to {}", reservation.id));
            }
        }
    }
    let status: HashMap<&SeatId, SeatStatus> = history.seats.iter().map(|seat| (&seat.seat, seat.status)).collect();
    for sale in &history.sales {
        if confirmed.get(&sale.seat) != Some(&sale.reservation) {
            contradictions.push(format!("seat {}: has a sale without a confirmed reservation", sale.seat));
        }
        if status.get(&sale.seat) != Some(&SeatStatus::Sold) {
            contradictions.push(format!("seat {}: has a sale but is not sold", sale.seat));
        }
    }
}

/// Checks that the pass of each confirmed reservation has ended.
///
/// It requires neither that a pass has only one confirmed reservation, nor that the pass ended at the confirmation.
/// Because clocks differ, two reservations may be live under one pass, and both be paid; and a buyer may have left
/// before the payment.
fn compare_passes(history: &History, contradictions: &mut Vec<String>) {
    for reservation in history.reservations.iter().filter(|reservation| reservation.confirmed_by.is_some()) {
        let ReservationRecord { id, pass, .. } = reservation;
        if !history.ended_passes.contains(pass) {
            contradictions.push(format!("reservation {id}: is confirmed but its pass {} is not used up", pass.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPSE: Timestamp = Timestamp::from_unix_ms(300_000);

    pub(super) fn reservation(n: u8) -> ReservationId {
        ReservationId::from_bytes([n; 16])
    }

    pub(super) fn attempt(n: u8) -> AttemptId {
        AttemptId::from_bytes([n; 16])
    }

    fn event(
        seat: &str,
        version: u32,
        status: SeatStatus,
        owner_before: Option<ReservationId>,
        owner: Option<ReservationId>,
    ) -> SeatEvent {
        let at = if version > 2 { LAPSE } else { Timestamp::EPOCH };
        let held_until = (status == SeatStatus::Held).then(|| at.plus(std::time::Duration::from_secs(300)));
        SeatEvent {
            id: u64::from(version),
            seat: seat.parse().unwrap(),
            version,
            status,
            owner,
            owner_before,
            held_until,
            at,
        }
    }

    fn paid(n: u8, of: u8, amount: i64, state: AttemptState) -> AttemptRecord {
        AttemptRecord { id: attempt(n), reservation: reservation(of), amount, state }
    }

    /// The charge of an attempt. That of attempt 1 is refunded.
    fn charged(n: u8, amount: i64, is_captured: bool) -> ChargeRecord {
        ChargeRecord { attempt: attempt(n), amount, is_captured, is_refunded: n == 1 }
    }

    /// Reservation 1 held A-1-1 and A-1-2. Its hold of A-1-1 lapsed; reservation 2 took the seat over and bought it at
    /// its second attempt. The payment of reservation 1 came too late and was refunded. A-1-2 was released. A-1-3 never
    /// changed.
    pub(super) fn history() -> History {
        use SeatStatus::{Available, Held, Sold};
        let (first, second) = (Some(reservation(1)), Some(reservation(2)));
        let seat =
            |name: &str, version, status, owner| SeatRecord { seat: name.parse().unwrap(), version, status, owner };
        History {
            performance: PerformanceId::from_bytes([9; 16]),
            events: vec![
                event("A-1-1", 2, Held, None, first),
                event("A-1-2", 2, Held, None, first),
                event("A-1-2", 3, Available, first, None),
                event("A-1-1", 3, Held, first, second),
                event("A-1-1", 4, Sold, second, second),
            ],
            seats: vec![
                seat("A-1-1", 4, Sold, second),
                seat("A-1-2", 3, Available, None),
                seat("A-1-3", 1, Available, None),
            ],
            sales: vec![SaleRecord { seat: "A-1-1".parse().unwrap(), reservation: reservation(2) }],
            reservations: vec![
                ReservationRecord {
                    id: reservation(1),
                    pass: PassNumber(1),
                    confirmed_by: None,
                    seats: vec!["A-1-1".parse().unwrap(), "A-1-2".parse().unwrap()],
                    total: 200,
                },
                ReservationRecord {
                    id: reservation(2),
                    pass: PassNumber(2),
                    confirmed_by: Some(attempt(2)),
                    seats: vec!["A-1-1".parse().unwrap()],
                    total: 100,
                },
            ],
            attempts: vec![
                paid(1, 1, 200, AttemptState::Refunded),
                paid(2, 2, 100, AttemptState::Captured),
                paid(3, 2, 100, AttemptState::Unpaid),
            ],
            refunds: vec![RefundRecord { attempt: attempt(1), amount: 200, is_sent: true }],
            charges: vec![charged(1, 200, true), charged(2, 100, true), charged(3, 100, false)],
            ended_passes: HashSet::from([PassNumber(2), PassNumber(7)]),
        }
    }

    /// The contradictions that the audit finds in a corrupted history.
    fn findings(corrupt: impl FnOnce(&mut History)) -> Vec<String> {
        let mut history = history();
        corrupt(&mut history);
        check(&history).contradictions
    }

    /// The audit finds a contradiction with this text.
    #[track_caller]
    pub(super) fn finds(what: &str, corrupt: impl FnOnce(&mut History)) {
        let found = findings(corrupt);
        assert!(found.iter().any(|contradiction| contradiction.contains(what)), "{what:?} is not in {found:?}");
    }

    #[test]
    fn a_history_without_contradictions_passes_and_is_counted() {
        let findings = check(&history());

        let expected = Findings { n_seats: 3, n_events: 5, n_sales: 1, n_captures: 2, contradictions: vec![] };
        assert_eq!(findings, expected);
    }

    #[test]
    fn events_may_be_recorded_in_any_order() {
        assert_eq!(findings(|history| history.events.reverse()), [""; 0]);
    }

    #[test]
    fn a_lost_event_is_found() {
        finds("seat A-1-1, version 4: follows version 2", |history| {
            history.events.remove(3);
        });
    }

    #[test]
    fn a_version_used_twice_is_found() {
        finds("seat A-1-1, version 2: follows version 2", |history| {
            let again = history.events[0].clone();
            history.events.push(again);
        });
    }

    #[test]
    fn a_wrong_previous_owner_is_found() {
        finds("version 3: names another previous owner", |history| history.events[3].owner_before = None);
    }

    #[test]
    fn a_held_seat_without_an_owner_and_an_available_seat_with_an_owner_are_found() {
        finds("version 2: is held with no owner", |history| history.events[0].owner = None);
        finds("version 3: is available with an owner", |history| {
            history.events[2].owner = Some(reservation(1));
        });
    }

    #[test]
    fn a_change_of_a_sold_seat_is_found() {
        finds("version 5: changes a sold seat", |history| {
            history.events.push(event("A-1-1", 5, SeatStatus::Available, Some(reservation(2)), None));
        });
    }

    #[test]
    fn a_takeover_of_a_live_hold_is_found() {
        finds("version 3: takes over a live hold", |history| {
            history.events[3].at = LAPSE.minus(std::time::Duration::from_millis(1));
        });
    }

    #[test]
    fn a_seat_that_does_not_match_its_events_is_found() {
        for corrupt in [
            (|seat| seat.version = 5) as fn(&mut SeatRecord),
            |seat| seat.status = SeatStatus::Held,
            |seat| seat.owner = Some(reservation(1)),
        ] {
            finds("seat A-1-1: does not match its events", |history| corrupt(&mut history.seats[0]));
            finds("seat A-1-3: does not match its events", |history| corrupt(&mut history.seats[2]));
        }
    }

    #[test]
    fn a_missing_seat_is_found() {
        finds("seat A-1-2: has events but does not exist", |history| {
            history.seats.remove(1);
        });
    }

    #[test]
    fn a_seat_sold_twice_is_found() {
        finds("seat A-1-1: is sold twice", |history| {
            history.sales.push(SaleRecord { seat: "A-1-1".parse().unwrap(), reservation: reservation(1) });
        });
    }

    #[test]
    fn a_sold_seat_without_a_sale_to_its_owner_is_found() {
        finds("seat A-1-1: is sold without a sale to its owner", |history| history.sales.clear());
        finds("seat A-1-1: is sold without a sale to its owner", |history| {
            history.sales[0].reservation = reservation(1);
        });
    }

    #[test]
    fn a_seat_in_two_confirmed_reservations_is_found() {
        finds("seat A-1-1: is in two confirmed reservations", |history| {
            history.reservations[0].confirmed_by = Some(attempt(1));
        });
    }

    #[test]
    fn a_confirmed_seat_without_a_sale_is_found() {
        finds("seat A-1-3: is confirmed without a sale", |history| {
            history.reservations[1].seats.push("A-1-3".parse().unwrap());
        });
    }

    #[test]
    fn a_sale_without_a_confirmed_reservation_is_found() {
        finds("seat A-1-1: has a sale without a confirmed reservation", |history| {
            history.reservations[1].confirmed_by = None;
        });
    }

    #[test]
    fn a_sale_of_a_seat_that_is_not_sold_is_found() {
        finds("seat A-1-3: has a sale but is not sold", |history| {
            history.sales.push(SaleRecord { seat: "A-1-3".parse().unwrap(), reservation: reservation(2) });
        });
    }

    #[test]
    fn a_purchase_whose_pass_is_not_used_up_is_found() {
        finds("is confirmed but its pass 2 is not used up", |history| {
            history.ended_passes.remove(&PassNumber(2));
        });
    }
}
