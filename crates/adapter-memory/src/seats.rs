//! Seats of performances in memory, and the log of their changes.

use std::collections::HashMap;
use std::sync::Arc;

use usher_concert::judge::{SEAT_VERSION_FIRST, SeatUse};
use usher_concert::{SeatMap, SeatPlan};
use usher_kernel::{PerformanceId, SeatId, Timestamp};
use usher_reservation::audit::{SeatEvent, SeatRecord};
use usher_reservation::best::{Hall, HallSeat};
use usher_reservation::board::{BoardChange, SeatStanding};
use usher_reservation::judge::hold::{FreeSeatsFound, FreeSeatsWanted};
use usher_reservation::judge::{SeatChange, SeatHolding, SeatState};
use usher_reservation::ports::SeatFilter;
use usher_reservation::{BoardEvent, Seat, SeatCounts, SeatStatus};

use crate::database::Contradiction;

/// Seats by performance.
#[derive(Debug, Default)]
pub(crate) struct Seats(HashMap<PerformanceId, SeatTable>);

/// The seats of a performance's present map, in index order.
#[derive(Debug)]
pub(crate) struct SeatTable {
    rows: Vec<SeatRow>,
    indices: HashMap<SeatId, usize>,
    /// The positions of the seats, for the choice of the best ones.
    hall: Arc<Hall>,
}

/// A seat: its plan, its holding, and its version.
#[derive(Debug)]
struct SeatRow {
    plan: SeatPlan,
    holding: SeatHolding,
    version: u32,
}

impl Seats {
    /// The seats of a performance that has a map.
    pub(crate) fn of(&self, performance: PerformanceId) -> Option<&SeatTable> {
        self.0.get(&performance)
    }

    /// Replaces the seats of a performance.
    pub(crate) fn replace(&mut self, performance: PerformanceId, map: &SeatMap) {
        self.0.insert(performance, SeatTable::new(map));
    }

    /// A seat as the judge sees it.
    pub(crate) fn state(&self, performance: PerformanceId, seat: &SeatId) -> Option<SeatState> {
        let SeatRow { plan, holding, version } = self.of(performance)?.row(seat)?;
        Some(SeatState {
            performance,
            seat: plan.seat.clone(),
            grade: plan.grade.clone(),
            price: plan.price,
            holding: *holding,
            version: *version,
        })
    }

    /// Checks that each seat has the version that the judge read.
    pub(crate) fn check(&self, changes: &[SeatChange]) -> Result<(), Contradiction> {
        let mut versions = HashMap::with_capacity(changes.len());
        for SeatChange { performance, seat, version, .. } in changes {
            // A seat may change more than once in a batch.
            let earlier = versions.insert((*performance, seat), *version);
            let stored = || self.of(*performance)?.row(seat).map(|row| row.version);
            if earlier.or_else(stored).map(|before| before + 1) != Some(*version) {
                return Err(Contradiction("a seat has another version than it was judged by"));
            }
        }
        Ok(())
    }

    /// Writes changes, after [`Self::check`].
    pub(crate) fn write(&mut self, changes: &[SeatChange]) {
        for SeatChange { performance, seat, after, version, .. } in changes {
            let row = self.0.get_mut(performance).and_then(|seats| seats.row_mut(seat));
            if let Some(row) = row {
                (row.holding, row.version) = (*after, *version);
            }
        }
    }
}

impl SeatTable {
    /// The seats of a new map, all available.
    fn new(map: &SeatMap) -> Self {
        let place = |plan: &SeatPlan| HallSeat {
            section: plan.section.clone(),
            row: plan.row,
            number: plan.number,
            grade: plan.grade.clone(),
            price: plan.price.amount(),
            x: plan.x,
        };
        let available =
            |plan: &SeatPlan| SeatRow { plan: plan.clone(), holding: SeatHolding::Nobody, version: SEAT_VERSION_FIRST };
        let indices = map.seats().iter().enumerate().map(|(index, plan)| (plan.seat.clone(), index));
        Self {
            hall: Arc::new(Hall::new(map.seats().iter().map(place))),
            indices: indices.collect(),
            rows: map.seats().iter().map(available).collect(),
        }
    }

    fn row(&self, seat: &SeatId) -> Option<&SeatRow> {
        self.rows.get(*self.indices.get(seat)?)
    }

    fn row_mut(&mut self, seat: &SeatId) -> Option<&mut SeatRow> {
        self.rows.get_mut(*self.indices.get(seat)?)
    }

    /// The rows with their indices: a map has at most [`SeatMap::SEATS_MAX`] seats.
    fn indexed(&self) -> impl DoubleEndedIterator<Item = (u32, &SeatRow)> + ExactSizeIterator {
        (0..u32::MAX).zip(&self.rows)
    }

    /// Whether a seat was ever held.
    pub(crate) fn seat_use(&self) -> SeatUse {
        let is_untouched = self.rows.iter().all(|row| row.version == SEAT_VERSION_FIRST);
        if is_untouched { SeatUse::Untouched } else { SeatUse::Held }
    }

    /// The seat map.
    pub(crate) fn map(&self) -> SeatMap {
        SeatMap::from_stored(self.rows.iter().map(|row| row.plan.clone()).collect())
    }

    /// The positions of the seats.
    pub(crate) fn hall(&self) -> Arc<Hall> {
        Arc::clone(&self.hall)
    }

    /// The free seats that the judge asks for.
    pub(crate) fn free(&self, wanted: &FreeSeatsWanted, now: Timestamp) -> FreeSeatsFound {
        let rows = self.indexed().skip(wanted.first as usize);
        let is_free = |row: &SeatRow| row.holding.status_at(now) == SeatStatus::Available;
        let mut free = rows.filter(|(_, row)| row.plan.grade == wanted.grade_name && is_free(row));
        let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
        let seats = free.by_ref().take(limit).map(|(index, row)| (index, row.holding.held_until())).collect();
        FreeSeatsFound { seats, known_before: free.next().map(|(next, _)| next) }
    }

    /// The seats that pass a filter, as they read at `now`, without its limit.
    pub(crate) fn filtered(&self, filter: &SeatFilter, now: Timestamp) -> impl Iterator<Item = Seat> {
        let first = filter.after.map_or(0, |after| after as usize + 1);
        let seats = self.indexed().skip(first).map(move |(index, row)| Seat {
            index,
            seat: row.plan.seat.clone(),
            section: row.plan.section.clone(),
            row: row.plan.row,
            number: row.plan.number,
            grade: row.plan.grade.clone(),
            price: row.plan.price,
            status: row.holding.status_at(now),
            version: row.version,
        });
        let of_status = seats.filter(|seat| filter.status.is_none_or(|status| seat.status == status));
        of_status.filter(|seat| filter.grade.as_ref().is_none_or(|grade| seat.grade == *grade))
    }

    /// How many seats of each status there are at `now`.
    pub(crate) fn counts(&self, now: Timestamp) -> SeatCounts {
        let mut counts = SeatCounts { total: self.rows.len() as u64, ..SeatCounts::default() };
        for row in &self.rows {
            *match row.holding.status_at(now) {
                SeatStatus::Available => &mut counts.available,
                SeatStatus::Held => &mut counts.held,
                SeatStatus::Sold => &mut counts.sold,
            } += 1;
        }
        counts
    }

    /// Stored status and version of each seat, in index order.
    pub(crate) fn standings(&self) -> Vec<SeatStanding> {
        let standing = |row: &SeatRow| SeatStanding { status: row.holding.status(), version: row.version };
        self.rows.iter().map(standing).collect()
    }

    /// The seats as the audit reads them.
    pub(crate) fn records(&self) -> Vec<SeatRecord> {
        let record = |row: &SeatRow| SeatRecord {
            seat: row.plan.seat.clone(),
            version: row.version,
            status: row.holding.status(),
            owner: row.holding.owner(),
        };
        self.rows.iter().map(record).collect()
    }

    fn index(&self, seat: &SeatId) -> Option<u32> {
        self.indices.get(seat).and_then(|index| u32::try_from(*index).ok())
    }
}

/// The log of all changes, oldest first. An event's id is its position, from 1.
#[derive(Debug, Default)]
pub(crate) struct Events {
    log: Vec<Event>,
    of_performance: HashMap<PerformanceId, Vec<u64>>,
}

#[derive(Debug)]
struct Event {
    performance: PerformanceId,
    at: Timestamp,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A seat changed.
    Seat(SeatChange),
    /// All seats were replaced.
    Map { map_version: u32 },
}

impl Events {
    /// Logs a new map.
    pub(crate) fn new_map(&mut self, performance: PerformanceId, map_version: u32, at: Timestamp) {
        self.push(Event { performance, at, what: What::Map { map_version } });
    }

    /// Logs changes of seats.
    pub(crate) fn changed(&mut self, changes: Vec<SeatChange>, at: Timestamp) {
        for change in changes {
            self.push(Event { performance: change.performance, at, what: What::Seat(change) });
        }
    }

    fn push(&mut self, event: Event) {
        let id = self.latest() + 1;
        self.of_performance.entry(event.performance).or_default().push(id);
        self.log.push(event);
    }

    /// The id of the latest event; 0 if there is none.
    pub(crate) fn latest(&self) -> u64 {
        self.log.len() as u64
    }

    /// The events of `missing` that exist, then the first `limit` after `after`.
    pub(crate) fn read(&self, seats: &Seats, after: u64, missing: &[u64], limit: usize) -> Vec<BoardEvent> {
        let next = (after.saturating_add(1)..=self.latest()).take(limit);
        missing.iter().copied().chain(next).filter_map(|id| self.board_event(seats, id)).collect()
    }

    /// The latest events of a performance, oldest first.
    pub(crate) fn latest_of(&self, seats: &Seats, performance: PerformanceId, n_events: usize) -> Vec<BoardEvent> {
        let ids = self.of_performance.get(&performance).map_or(&[][..], Vec::as_slice);
        let latest = &ids[ids.len().saturating_sub(n_events)..];
        latest.iter().filter_map(|id| self.board_event(seats, *id)).collect()
    }

    fn board_event(&self, seats: &Seats, id: u64) -> Option<BoardEvent> {
        let Event { performance, what, .. } = self.get(id)?;
        let change = match what {
            What::Map { map_version } => BoardChange::Map { map_version: *map_version },
            What::Seat(change) => BoardChange::Seat {
                index: seats.of(*performance).and_then(|seats| seats.index(&change.seat)),
                now: SeatStanding { status: change.after.status(), version: change.version },
            },
        };
        Some(BoardEvent { id, performance: *performance, change })
    }

    /// All changes of a performance's seats, oldest first.
    pub(crate) fn history(&self, performance: PerformanceId) -> Vec<SeatEvent> {
        let ids = self.of_performance.get(&performance).into_iter().flatten();
        ids.filter_map(|&id| {
            let Event { at, what: What::Seat(change), .. } = self.get(id)? else { return None };
            Some(SeatEvent {
                id,
                seat: change.seat.clone(),
                version: change.version,
                status: change.after.status(),
                owner: change.after.owner(),
                owner_before: change.before.owner(),
                held_until: change.after.held_until(),
                at: *at,
            })
        })
        .collect()
    }

    fn get(&self, id: u64) -> Option<&Event> {
        self.log.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use usher_concert::SectionPlan;
    use usher_kernel::{Money, ReservationId};

    use super::*;

    const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
    const NOW: Timestamp = Timestamp::from_unix_ms(1_000);

    /// The seats `A-1-1` to `A-1-3`.
    fn three_seats() -> Seats {
        let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
        let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 3, grade: "R".into(), price };
        let mut seats = Seats::default();
        seats.replace(PERFORMANCE, &SeatMap::from_sections(&[section]).unwrap());
        seats
    }

    fn seat(number: u16) -> SeatId {
        SeatId::new("A", 1, number).unwrap()
    }

    fn change(number: u16, version: u32) -> SeatChange {
        let after = SeatHolding::Held(ReservationId::from_bytes([2; 16]), NOW);
        SeatChange { performance: PERFORMANCE, seat: seat(number), before: SeatHolding::Nobody, after, version }
    }

    #[test]
    fn changes_judged_by_another_version_are_refused() {
        let seats = three_seats();

        for (changes, is_fine) in [
            (vec![change(1, 2)], true),
            (vec![change(1, 2), change(2, 2)], true),
            (vec![change(1, 2), change(1, 3)], true),
            (vec![change(1, 1)], false),
            (vec![change(1, 3)], false),
            (vec![change(1, 2), change(2, 3)], false),
            (vec![change(1, 2), change(1, 2)], false),
            (vec![change(4, 2)], false),
        ] {
            assert_eq!(seats.check(&changes).is_ok(), is_fine, "{changes:?}");
        }
    }

    #[test]
    fn the_log_knows_the_events_of_each_performance() {
        let (mut seats, mut events) = (three_seats(), Events::default());
        let other = PerformanceId::from_bytes([9; 16]);
        events.new_map(PERFORMANCE, 1, NOW);
        events.new_map(other, 1, NOW);
        seats.write(&[change(2, 2)]);
        events.changed(vec![change(2, 2)], NOW);

        let ids = |events: Vec<BoardEvent>| events.into_iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!(ids(events.latest_of(&seats, PERFORMANCE, 10)), [1, 3]);
        assert_eq!(ids(events.latest_of(&seats, PERFORMANCE, 1)), [3]);
        assert_eq!(ids(events.read(&seats, 1, &[0, 1, 7], 10)), [1, 2, 3]);
        assert_eq!(ids(events.read(&seats, u64::MAX, &[], 10)), []);
        let history: Vec<_> = events.history(PERFORMANCE).into_iter().map(|event| (event.id, event.seat)).collect();
        assert_eq!(history, [(3, seat(2))], "a new map is not in the history");
    }
}
