//! Proves from the recorded history that no seat was sold twice. Pure: it reads what a store recorded and says every
//! contradiction it finds.

mod money;

use std::collections::{BTreeMap, HashMap, HashSet};

use usher_kernel::{AttemptId, PerformanceId, ReservationId, SeatId, Timestamp};

pub use self::money::check_charges;
use crate::SeatStatus;
use crate::model::PassNumber;

/// One change of one seat, as recorded in the transaction of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatEvent {
    /// The event's id. Not in the order of commits.
    pub id: u64,
    /// The seat.
    pub seat: SeatId,
    /// The seat's version after the change.
    pub version: u32,
    /// Its status after the change.
    pub status: SeatStatus,
    /// Whose it is after the change.
    pub owner: Option<ReservationId>,
    /// Whose it was before.
    pub owner_before: Option<ReservationId>,
    /// Until when it is held, if it is.
    pub held_until: Option<Timestamp>,
    /// When it changed.
    pub at: Timestamp,
}

/// A seat as the store has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatRecord {
    /// The seat.
    pub seat: SeatId,
    /// Its version.
    pub version: u32,
    /// Its status, as written down.
    pub status: SeatStatus,
    /// Whose it is.
    pub owner: Option<ReservationId>,
}

/// A sale as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleRecord {
    /// The seat.
    pub seat: SeatId,
    /// Whose it is.
    pub reservation: ReservationId,
}

/// A reservation as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRecord {
    /// The reservation.
    pub id: ReservationId,
    /// Under which pass it was made.
    pub pass: PassNumber,
    /// Whether it is confirmed, and by which attempt.
    pub confirmed_by: Option<AttemptId>,
    /// Its seats.
    pub seats: Vec<SeatId>,
    /// What they cost together, in minor units.
    pub total: i64,
}

/// How an attempt to pay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// It is under way: nobody knows yet whether money was taken.
    Pending,
    /// Money was taken, and paid for the seats.
    Captured,
    /// Money was taken, and goes back.
    Refunded,
    /// It ended without money: it was declined, or never heard of.
    Unpaid,
}

/// An attempt to pay as the store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The attempt.
    pub id: AttemptId,
    /// What it is for.
    pub reservation: ReservationId,
    /// How much is to be taken, or was; in minor units.
    pub amount: i64,
    /// How it stands.
    pub state: AttemptState,
}

/// Money that has to go back, as the store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundRecord {
    /// Of which attempt.
    pub attempt: AttemptId,
    /// How much, in minor units.
    pub amount: i64,
    /// Whether the gateway said that it went.
    pub is_sent: bool,
}

/// What a gateway that keeps its log in the same store has in it of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeRecord {
    /// The attempt.
    pub attempt: AttemptId,
    /// How much was asked for, in minor units.
    pub amount: i64,
    /// Whether it was taken.
    pub is_captured: bool,
    /// Whether it went back.
    pub is_refunded: bool,
}

/// Everything that ever happened to a performance's seats.
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
    /// All refunds of those.
    pub refunds: Vec<RefundRecord>,
    /// What the simulated gateway has in its log of those; nothing, where another one takes the money.
    pub charges: Vec<ChargeRecord>,
    /// Which passes are used up, or were given up.
    pub ended_passes: HashSet<PassNumber>,
}

/// What an audit looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many seats were checked.
    pub n_seats: usize,
    /// How many events were replayed.
    pub n_events: usize,
    /// How many sales were checked.
    pub n_sales: usize,
    /// How many payments were checked: attempts by which money was taken.
    pub n_captures: usize,
    /// Every contradiction, in words.
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
/// Checked: versions without gaps; one owner at a time, and takeovers only after the hold lapsed; seats as the events
/// left them; sold seats = sales = seats of confirmed reservations; the pass of each of these is used up; captures =
/// sales + refunds, and no refund of what was not captured, of more than that, or twice.
///
/// What a gateway says is compared by [`check_charges`].
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
        contradict("names another owner before it than the history has".into());
    }
    if event.owner.is_some() != (event.status != SeatStatus::Available) {
        contradict(format!("is {} with the wrong number of owners", event.status.as_str()));
    }
    if before.status == SeatStatus::Sold {
        contradict("changes a sold seat".into());
    }
    let changes_hands = before.owner.is_some() && event.owner.is_some() && before.owner != event.owner;
    let has_lapsed = before.held_until.is_none_or(|until| event.at >= until);
    if changes_hands && !has_lapsed {
        contradict("takes over a hold that had not lapsed".into());
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
            contradictions.push(format!("seat {}: is not as its events left it", record.seat));
        }
    }
    for seat in last.keys().filter(|seat| !known.contains(seat)) {
        contradictions.push(format!("seat {seat}: has events and is not there"));
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
            contradictions.push(format!("seat {}: has a sale that no confirmed reservation has", sale.seat));
        }
        if status.get(&sale.seat) != Some(&SeatStatus::Sold) {
            contradictions.push(format!("seat {}: has a sale and is not sold", sale.seat));
        }
    }
}

/// Whoever bought used a pass up.
///
/// By clocks that differ two reservations may be live on one pass, and both be paid for; and who bought may have left
/// before. So neither is that a pass bought once required, nor when it ended.
fn compare_passes(history: &History, contradictions: &mut Vec<String>) {
    for reservation in history.reservations.iter().filter(|reservation| reservation.confirmed_by.is_some()) {
        let ReservationRecord { id, pass, .. } = reservation;
        if !history.ended_passes.contains(pass) {
            contradictions.push(format!("reservation {id}: is confirmed, and its pass {} is not used up", pass.0));
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

    /// The first one's money went back.
    fn charged(n: u8, amount: i64, is_captured: bool) -> ChargeRecord {
        ChargeRecord { attempt: attempt(n), amount, is_captured, is_refunded: n == 1 }
    }

    /// The seat A-1-1 was held by the first, lapsed, was taken over by the second, and sold to it. A-1-2 was held and
    /// given back. A-1-3 was never touched. The first's own payment came too late and went back; the second paid at the
    /// second try.
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

    /// What the audit finds in the history after `corrupt` had its way with it.
    fn findings(corrupt: impl FnOnce(&mut History)) -> Vec<String> {
        let mut history = history();
        corrupt(&mut history);
        check(&history).contradictions
    }

    /// One of the contradictions found says this.
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
    fn events_may_be_recorded_in_another_order_than_they_happened() {
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
    fn an_owner_before_that_was_not_is_found() {
        finds("version 3: names another owner before it", |history| history.events[3].owner_before = None);
    }

    #[test]
    fn a_held_seat_without_an_owner_and_a_free_one_with_an_owner_are_found() {
        finds("version 2: is held with the wrong number of owners", |history| history.events[0].owner = None);
        finds("version 3: is available with the wrong number of owners", |history| {
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
    fn a_takeover_before_the_hold_lapsed_is_found() {
        finds("version 3: takes over a hold that had not lapsed", |history| {
            history.events[3].at = LAPSE.minus(std::time::Duration::from_millis(1));
        });
    }

    #[test]
    fn a_seat_that_is_not_as_its_events_left_it_is_found() {
        for corrupt in [
            (|seat| seat.version = 5) as fn(&mut SeatRecord),
            |seat| seat.status = SeatStatus::Held,
            |seat| seat.owner = Some(reservation(1)),
        ] {
            finds("seat A-1-1: is not as its events left it", |history| corrupt(&mut history.seats[0]));
            finds("seat A-1-3: is not as its events left it", |history| corrupt(&mut history.seats[2]));
        }
    }

    #[test]
    fn a_seat_that_vanished_is_found() {
        finds("seat A-1-2: has events and is not there", |history| {
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
        finds("seat A-1-1: has a sale that no confirmed reservation has", |history| {
            history.reservations[1].confirmed_by = None;
        });
    }

    #[test]
    fn a_sale_of_a_seat_that_is_not_sold_is_found() {
        finds("seat A-1-3: has a sale and is not sold", |history| {
            history.sales.push(SaleRecord { seat: "A-1-3".parse().unwrap(), reservation: reservation(2) });
        });
    }

    #[test]
    fn a_purchase_whose_pass_is_not_used_up_is_found() {
        finds("is confirmed, and its pass 2 is not used up", |history| {
            history.ended_passes.remove(&PassNumber(2));
        });
    }
}
