//! Proves from the recorded history that no seat was sold twice. Pure: it reads what a store recorded and says every
//! contradiction it finds.

use std::collections::{BTreeMap, HashMap, HashSet};

use usher_kernel::{AttemptId, PerformanceId, ReservationId, SeatId, Timestamp};

use crate::SeatStatus;

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
    /// Whether it is confirmed, and by which attempt.
    pub confirmed_by: Option<AttemptId>,
    /// Its seats.
    pub seats: Vec<SeatId>,
    /// What they cost together, in minor units.
    pub total: i64,
}

/// A captured payment as the store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureRecord {
    /// The attempt.
    pub attempt: AttemptId,
    /// What it was for.
    pub reservation: ReservationId,
    /// How much was taken, in minor units.
    pub amount: i64,
    /// How much went, or has to go, back; in minor units.
    pub refunded: i64,
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
    /// All captured payments.
    pub captures: Vec<CaptureRecord>,
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
    /// How many captured payments were checked.
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

/// Replays a history and compares it with the seats, the sales and the payments.
///
/// Checked: versions without gaps; one owner at a time, and takeovers only after the hold lapsed; seats as the events
/// left them; sold seats = sales = seats of confirmed reservations; captures = sales + refunds.
#[must_use]
pub fn check(history: &History) -> Findings {
    let mut contradictions = Vec::new();
    let last = replay(&history.events, &mut contradictions);
    compare_seats(history, &last, &mut contradictions);
    compare_sales(history, &mut contradictions);
    compare_money(history, &mut contradictions);
    Findings {
        n_seats: history.seats.len(),
        n_events: history.events.len(),
        n_sales: history.sales.len(),
        n_captures: history.captures.len(),
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
        let agrees = record.version == replayed.version
            && record.status == replayed.status
            && record.owner == replayed.owner;
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

fn compare_money(history: &History, contradictions: &mut Vec<String>) {
    let captures: HashMap<AttemptId, &CaptureRecord> =
        history.captures.iter().map(|capture| (capture.attempt, capture)).collect();
    let mut paid_for = HashSet::new();
    for reservation in &history.reservations {
        let Some(attempt) = reservation.confirmed_by else { continue };
        paid_for.insert(attempt);
        let is_paid = captures.get(&attempt).is_some_and(|capture| {
            capture.reservation == reservation.id && capture.amount == reservation.total && capture.refunded == 0
        });
        if !is_paid {
            contradictions.push(format!("reservation {}: is confirmed and not paid, exactly once", reservation.id));
        }
    }
    for capture in history.captures.iter().filter(|capture| !paid_for.contains(&capture.attempt)) {
        if capture.refunded != capture.amount {
            contradictions.push(format!("attempt {}: took money for nothing and did not give it back", capture.attempt));
        }
    }
}
