//! The seats of one performance in memory, for clients that show a seat map: the status of each seat, the recent
//! changes, and the event of the history up to which both are complete. Pure: the caller reads the events.

use std::collections::{BTreeMap, BTreeSet};

use usher_kernel::PerformanceId;

use crate::SeatStatus;

/// An event of the seats' history, for a [`SeatBoard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardEvent {
    /// The event's id. Ids are not in the order of commits.
    pub id: u64,
    /// The performance.
    pub performance: PerformanceId,
    /// The change.
    pub change: BoardChange,
}

/// The change that an event records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardChange {
    /// A seat got another status or owner.
    Seat {
        /// The seat's index in its map; `None` if the map has no such seat any more.
        index: Option<u32>,
        /// Its standing after the change.
        now: SeatStanding,
    },
    /// A new seat map replaced all seats.
    Map {
        /// The version of the new map.
        map_version: u32,
    },
}

/// The standing of a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatStanding {
    /// Its stored status: a lapsed hold is held until a sweep or another buyer ends it.
    pub status: SeatStatus,
    /// +1 with each change of status or owner.
    pub version: u32,
}

/// A performance's seats and its latest events, read in one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardRecord {
    /// The version of the seat map that the indices belong to.
    pub map_version: u32,
    /// The seats, in index order.
    pub seats: Vec<SeatStanding>,
    /// The latest events in the order of ids: all events, or [`SeatBoard::CHANGES_MAX`] of them.
    pub events: Vec<BoardEvent>,
}

/// The effect of an event on a board.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// No seat changed.
    Unchanged,
    /// A seat changed.
    Changed,
    /// The board shows a replaced seat map. The caller reads it again.
    Outdated,
}

/// The current status of seats that changed, by index.
pub type SeatStates = BTreeMap<u32, SeatStatus>;

/// The seats of one performance.
#[derive(Clone, Debug)]
pub struct SeatBoard {
    map_version: u32,
    sequence: u64,
    packed: Vec<u8>,
    versions: Vec<u32>,
    /// The latest event of each seat, or [`UNTOLD`].
    events: Vec<u64>,
    /// The position of each seat's last change.
    changed_at: Vec<u64>,
    /// The number of changes of this board.
    position: u64,
    /// The position at which the board got its map. Clients from before it have another map.
    born_at: u64,
    /// Clients that know only older events may have another map.
    floor: u64,
    /// Events of this performance above the sequence. Transactions with lower ids may still be open.
    unsettled: BTreeSet<u64>,
    highest: u64,
}

/// Marks a seat whose last change came without an event. No client can know the change by an event's id.
const UNTOLD: u64 = u64::MAX;

/// The number of seats in a byte.
const SEATS_PER_BYTE: usize = 4;

impl SeatBoard {
    /// Most changes that one answer carries (about 40 KB). A client that missed more reads the whole board. Also the
    /// number of events that are read with a board, so that a server that has just started can answer its clients.
    pub const CHANGES_MAX: usize = 4_096;

    /// Creates the board of a record. Until [`Self::settle`], its sequence is the event of its map.
    #[must_use]
    pub fn new(record: &BoardRecord) -> Self {
        let mut board = Self {
            map_version: record.map_version,
            sequence: 0,
            packed: vec![0; record.seats.len().div_ceil(SEATS_PER_BYTE)],
            versions: vec![0; record.seats.len()],
            events: vec![0; record.seats.len()],
            changed_at: vec![0; record.seats.len()],
            position: 0,
            born_at: 0,
            floor: 0,
            unsettled: BTreeSet::new(),
            highest: 0,
        };
        for (index, seat) in (0..).zip(&record.seats) {
            board.set(index, *seat);
        }
        if record.events.len() >= Self::CHANGES_MAX {
            // There may be older events, and one of them may be a new map.
            board.floor = record.events.first().map_or(0, |event| event.id);
        }
        for event in &record.events {
            match event.change {
                BoardChange::Seat { index, .. } => {
                    if let Some(latest) = index.and_then(|index| board.events.get_mut(index as usize)) {
                        *latest = event.id;
                    }
                }
                BoardChange::Map { .. } => {
                    board.floor = event.id;
                    // A map is replaced only before the sale, so no transaction with an older event is open.
                    board.sequence = event.id;
                }
            }
            board.note(event.id);
        }
        board
    }

    /// The version of the seat map that the indices belong to.
    #[must_use]
    pub const fn map_version(&self) -> u32 {
        self.map_version
    }

    /// The board contains every change up to this event, and may contain later ones.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The highest known event of the performance.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// The number of seats.
    #[must_use]
    pub fn n_seats(&self) -> usize {
        self.versions.len()
    }

    /// [`SeatStatus::code`] of each seat in two bits, in index order. The first seat is in the lowest bits of the first
    /// byte.
    #[must_use]
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The status of a seat.
    #[must_use]
    pub fn status(&self, index: u32) -> Option<SeatStatus> {
        let (byte, shift) = place_of(index);
        self.versions.get(index as usize)?;
        SeatStatus::from_code(self.packed.get(byte)? >> shift & 0b11)
    }

    /// Applies an event if it is newer than the board: its version of the seat is above the known one. Events may come
    /// in any order, and repeatedly.
    pub fn apply(&mut self, event: &BoardEvent) -> Applied {
        self.note(event.id);
        match event.change {
            BoardChange::Map { map_version } if map_version > self.map_version => Applied::Outdated,
            BoardChange::Map { .. } => Applied::Unchanged,
            BoardChange::Seat { index: Some(index), now } => match self.versions.get(index as usize) {
                None => Applied::Outdated,
                Some(known) if now.version <= *known => Applied::Unchanged,
                Some(_) => {
                    self.change(index, now, event.id);
                    Applied::Changed
                }
            },
            BoardChange::Seat { index: None, .. } => Applied::Outdated,
        }
    }

    /// Merges a new record, parts of which may be older than the board. Returns whether the board changed. A newer map
    /// replaces the board, and no client can continue from an earlier position.
    pub fn refresh(&mut self, record: &BoardRecord) -> bool {
        if record.map_version < self.map_version {
            return false;
        }
        if record.map_version > self.map_version || record.seats.len() != self.versions.len() {
            let born_at = self.position + 1;
            *self = Self { born_at, position: born_at, ..Self::new(record) };
            return true;
        }
        record.events.iter().for_each(|event| self.note(event.id));
        let mut is_changed = false;
        for (index, (seat, known)) in (0..).zip(record.seats.iter().zip(self.versions.clone())) {
            if seat.version > known {
                // The event may follow, or never be read because its commit took longer than followers wait.
                self.change(index, *seat, UNTOLD);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Learns that no transaction with an event up to `settled` is open, of any performance. Returns whether the
    /// sequence rose.
    pub fn settle(&mut self, settled: u64) -> bool {
        let above = self.unsettled.split_off(&settled.saturating_add(1));
        let last = std::mem::replace(&mut self.unsettled, above).pop_last();
        let sequence = last.map_or(self.sequence, |last| last.max(self.sequence));
        std::mem::replace(&mut self.sequence, sequence) != sequence
    }

    /// The number of changes so far. A client that has the whole board continues from here.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The changes since `position`. `None` if they are too many, or the map has been replaced.
    #[must_use]
    pub fn changed_since(&self, position: u64) -> Option<SeatStates> {
        (position >= self.born_at).then(|| self.states(&self.changed_at, position)).flatten()
    }

    /// The changes after the event `sequence`, for a client that reconnects with it, and possibly earlier ones. `None`
    /// if they are too many, or the map has been replaced.
    #[must_use]
    pub fn changed_after(&self, sequence: u64) -> Option<SeatStates> {
        (sequence >= self.floor).then(|| self.states(&self.events, sequence)).flatten()
    }

    /// The seats with a mark above this one, unless they are too many.
    fn states(&self, marks: &[u64], above: u64) -> Option<SeatStates> {
        let changed = (0..).zip(marks).filter(|(_, mark)| **mark > above);
        let states = changed.filter_map(|(index, _)| Some((index, self.status(index)?)));
        let states: SeatStates = states.take(Self::CHANGES_MAX + 1).collect();
        (states.len() <= Self::CHANGES_MAX).then_some(states)
    }

    fn change(&mut self, index: u32, now: SeatStanding, event: u64) {
        self.set(index, now);
        self.position += 1;
        let position = self.position;
        let marks = [(&mut self.events, event), (&mut self.changed_at, position)];
        for (marks, mark) in marks {
            if let Some(last) = marks.get_mut(index as usize) {
                *last = mark;
            }
        }
    }

    fn set(&mut self, index: u32, now: SeatStanding) {
        let (byte, shift) = place_of(index);
        if let Some(byte) = self.packed.get_mut(byte) {
            *byte = *byte & !(0b11 << shift) | now.status.code() << shift;
        }
        if let Some(version) = self.versions.get_mut(index as usize) {
            *version = now.version;
        }
    }

    fn note(&mut self, event: u64) {
        self.highest = self.highest.max(event);
        if event > self.sequence {
            self.unsettled.insert(event);
        }
    }
}

/// The byte of a seat, and the shift of its bits in the byte.
const fn place_of(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / SEATS_PER_BYTE, index % SEATS_PER_BYTE * 2)
}

#[cfg(test)]
mod tests {
    use SeatStatus::{Available, Held, Sold};

    use super::*;

    const HERE: PerformanceId = PerformanceId::from_bytes([1; 16]);

    fn event(id: u64, index: u32, status: SeatStatus, version: u32) -> BoardEvent {
        let change = BoardChange::Seat { index: Some(index), now: SeatStanding { status, version } };
        BoardEvent { id, performance: HERE, change }
    }

    fn new_map(id: u64, map_version: u32) -> BoardEvent {
        BoardEvent { id, performance: HERE, change: BoardChange::Map { map_version } }
    }

    fn record(map_version: u32, seats: &[(SeatStatus, u32)], events: &[BoardEvent]) -> BoardRecord {
        let seats = seats.iter().map(|&(status, version)| SeatStanding { status, version }).collect();
        BoardRecord { map_version, seats, events: events.to_vec() }
    }

    /// A board of available seats, in the map of event 1.
    fn board(n_seats: usize) -> SeatBoard {
        let board = SeatBoard::new(&record(1, &vec![(Available, 1); n_seats], &[new_map(1, 1)]));
        assert_eq!(board.sequence(), 1);
        board
    }

    fn states(changed: Option<SeatStates>) -> Vec<(u32, SeatStatus)> {
        changed.expect("the changes are known").into_iter().collect()
    }

    #[test]
    fn each_seat_has_its_status_in_two_bits_in_index_order() {
        let seats = [(Sold, 3), (Held, 2), (Available, 1), (Sold, 3), (Held, 2)];

        let board = SeatBoard::new(&record(3, &seats, &[]));

        assert_eq!(board.packed(), [0b10_00_01_10, 0b01]);
        let statuses: Vec<_> = (0..5).filter_map(|index| board.status(index)).collect();
        assert_eq!(statuses, seats.map(|(status, _)| status));
        assert_eq!((board.map_version(), board.n_seats(), board.status(5)), (3, 5, None));
    }

    #[test]
    fn an_event_that_comes_late_or_repeatedly_changes_nothing() {
        let mut board = board(2);

        assert_eq!(board.apply(&event(3, 0, Available, 3)), Applied::Changed);
        assert_eq!(board.apply(&event(2, 0, Held, 2)), Applied::Unchanged, "the board has a later version");
        assert_eq!(board.apply(&event(3, 0, Available, 3)), Applied::Unchanged);

        assert_eq!((board.status(0), board.packed()), (Some(Available), &[0][..]));
    }

    #[test]
    fn the_sequence_is_the_highest_event_with_no_open_transaction_below() {
        let mut board = board(2);
        assert_eq!(board.apply(&event(5, 0, Held, 2)), Applied::Changed);
        assert_eq!(board.apply(&event(9, 1, Held, 2)), Applied::Changed);

        assert!(!board.settle(4), "event 4 is below both events");
        assert_eq!(board.sequence(), 1);
        assert!(board.settle(8), "events of other performances and gaps do not count");
        assert_eq!(board.sequence(), 5);
        assert!(board.settle(100) && !board.settle(100));
        assert_eq!((board.sequence(), board.highest()), (9, 9));
    }

    #[test]
    fn a_client_that_reconnects_gets_the_current_status_of_all_seats_that_changed_after_its_event() {
        let mut board = board(5);
        for event in [event(5, 3, Held, 2), event(3, 1, Held, 2), event(7, 3, Sold, 3), event(8, 4, Held, 2)] {
            assert_eq!(board.apply(&event), Applied::Changed);
        }

        assert_eq!(states(board.changed_after(1)), [(1, Held), (3, Sold), (4, Held)]);
        assert_eq!(states(board.changed_after(3)), [(3, Sold), (4, Held)]);
        assert_eq!(states(board.changed_after(7)), [(4, Held)]);
        assert_eq!(states(board.changed_after(8)), []);
    }

    #[test]
    fn a_client_that_follows_continues_from_its_position() {
        let mut board = board(3);
        let start = board.position();
        assert_eq!(board.apply(&event(5, 2, Held, 2)), Applied::Changed);
        let next = board.position();
        assert_eq!(board.apply(&event(4, 0, Held, 2)), Applied::Changed);
        assert_eq!(board.apply(&event(6, 0, Available, 3)), Applied::Changed);

        assert_eq!(states(board.changed_since(start)), [(0, Available), (2, Held)]);
        assert_eq!(states(board.changed_since(next)), [(0, Available)]);
        assert_eq!(states(board.changed_since(board.position())), []);
    }

    #[test]
    fn a_seat_that_changed_repeatedly_is_listed_once() {
        let mut board = board(2);
        for n in 2..10_000 {
            let status = if n % 2 == 0 { Held } else { Available };
            assert_eq!(board.apply(&event(n.into(), 1, status, n)), Applied::Changed);
        }

        assert_eq!(states(board.changed_since(0)), [(1, Available)]);
        assert_eq!(states(board.changed_after(1)), [(1, Available)]);
    }

    #[test]
    fn too_many_changes_are_not_listed() {
        let most = u32::try_from(SeatBoard::CHANGES_MAX).unwrap();
        let mut board = board(SeatBoard::CHANGES_MAX + 1);
        let start = board.position();
        for index in 0..=most {
            assert_eq!(board.apply(&event(u64::from(index) + 2, index, Held, 2)), Applied::Changed);
        }

        assert_eq!((board.changed_since(start), board.changed_after(1)), (None, None));
        assert_eq!(states(board.changed_since(start + 1)).len(), SeatBoard::CHANGES_MAX);
        assert_eq!(states(board.changed_after(2)).len(), SeatBoard::CHANGES_MAX);
    }

    #[test]
    fn the_events_of_a_record_are_known_as_far_as_they_go_back() {
        let events: Vec<_> = (10..).take(SeatBoard::CHANGES_MAX).map(|id| event(id, 0, Held, 2)).collect();

        let cut_off = SeatBoard::new(&record(1, &[(Held, 2)], &events));
        let whole = SeatBoard::new(&record(1, &[(Held, 2)], &events[1..]));

        assert_eq!(cut_off.changed_after(9), None, "there may be events before the first");
        assert_eq!(states(cut_off.changed_after(10)), [(0, Held)]);
        assert_eq!(states(whole.changed_after(0)), [(0, Held)]);
    }

    #[test]
    fn a_change_without_an_event_is_listed_for_every_client_that_reconnects() {
        let mut board = board(3);
        assert_eq!(board.apply(&event(6, 2, Held, 2)), Applied::Changed);
        assert!(board.settle(6));
        let position = board.position();

        let is_changed = board.refresh(&record(1, &[(Held, 2), (Available, 1), (Available, 1)], &[]));

        assert!(is_changed);
        assert_eq!(board.status(2), Some(Held), "a record from before the last event reverts nothing");
        assert_eq!(states(board.changed_since(position)), [(0, Held)]);
        assert_eq!(states(board.changed_after(6)), [(0, Held)], "even for a client that knows event 6");
        assert!(!board.refresh(&record(1, &[(Held, 2), (Available, 1), (Available, 1)], &[])));
        assert_eq!(board.apply(&event(5, 0, Held, 2)), Applied::Unchanged, "the event follows late");
    }

    #[test]
    fn a_new_map_replaces_the_board_and_no_client_continues_from_the_old_one() {
        let mut board = board(2);
        let position = board.position();

        let outdated = [new_map(7, 2), event(8, 2, Held, 2)].map(|event| board.apply(&event));
        let is_changed = board.refresh(&record(2, &[(Available, 1); 3], &[new_map(1, 1), new_map(7, 2)]));

        assert_eq!(outdated, [Applied::Outdated; 2]);
        assert!(is_changed);
        assert_eq!((board.map_version(), board.n_seats()), (2, 3));
        assert_eq!((board.changed_since(position), board.changed_after(1)), (None, None));
        assert_eq!(board.apply(&new_map(7, 2)), Applied::Unchanged);
        assert_eq!(board.sequence(), 7);
        assert_eq!(states(board.changed_after(7)), [], "a client that knows the new map continues");
        assert_eq!(states(board.changed_since(board.position())), []);
        assert!(!board.refresh(&record(1, &[(Sold, 9); 2], &[])), "a record from before it changes nothing");
    }
}
