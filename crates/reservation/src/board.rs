//! The seats of one performance in memory, as those who look at a seat map need them: which can be had, what changed
//! lately, and up to which event of the history that is so. Pure: it is told what to apply, and never where it came from.

use std::collections::{BTreeMap, BTreeSet};

use usher_kernel::PerformanceId;

use crate::SeatStatus;

/// One event of the seats' history, as a [`SeatBoard`] follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardEvent {
    /// The event's id. Not in the order of commits.
    pub id: u64,
    /// Of which performance.
    pub performance: PerformanceId,
    /// What happened.
    pub change: BoardChange,
}

/// What an event did to a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoardChange {
    /// A seat changed its status or its owner.
    Seat {
        /// Where the seat stands in its map; `None` if the map has no such seat any more.
        index: Option<u32>,
        /// What it became.
        now: SeatStanding,
    },
    /// All seats were replaced.
    Map {
        /// The version of the new map.
        map_version: u32,
    },
}

/// How a seat stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatStanding {
    /// Its status, as written down: a lapsed hold is held until somebody frees it.
    pub status: SeatStatus,
    /// +1 with each change of status or owner.
    pub version: u32,
}

/// A performance's seats and its latest events, read at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardRecord {
    /// Which seat map the indices belong to.
    pub map_version: u32,
    /// The seats, in index order.
    pub seats: Vec<SeatStanding>,
    /// The latest events, in the order of ids: all of them, or [`SeatBoard::CHANGES_MAX`].
    pub events: Vec<BoardEvent>,
}

/// What an event meant to a board.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that shows.
    Unchanged,
    /// A seat changed.
    Changed,
    /// The board shows a map that is not there any more, and has to be read again.
    Outdated,
}

/// Seats that changed, each once and as it is now, in index order.
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
    /// When each seat changed last, counted in changes of this board.
    changed_at: Vec<u64>,
    /// How many changes there were.
    position: u64,
    /// Who was told nothing since then has another map.
    born_at: u64,
    /// Whoever knows less than this event may have another map.
    floor: u64,
    /// Own events above the sequence: below them, others may still be open.
    unsettled: BTreeSet<u64>,
    highest: u64,
}

/// The latest event of a seat of which no event told: nobody can say by an event's id that they know of it.
const UNTOLD: u64 = u64::MAX;

/// How many seats share a byte.
const SEATS_PER_BYTE: usize = 4;

impl SeatBoard {
    /// How many seats anybody is told of at once: some 40 KB. Who missed more does better to read all of them. Also how
    /// many of the latest events are read with a board, to tell those who come to a server that has just begun.
    pub const CHANGES_MAX: usize = 4_096;

    /// The board of what was read. Until [`Self::settle`], its sequence is the event of its map.
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
            // There are more before it, and a new map may be one of them.
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
                    // Maps are replaced before seats are sold, so nothing of this performance is open before one.
                    board.sequence = event.id;
                }
            }
            board.note(event.id);
        }
        board
    }

    /// Which seat map the indices belong to.
    #[must_use]
    pub const fn map_version(&self) -> u32 {
        self.map_version
    }

    /// The point of the history: every change up to this event is in here, and maybe some that came after it.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The highest event of the performance that was seen.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// How many seats there are.
    #[must_use]
    pub fn n_seats(&self) -> usize {
        self.versions.len()
    }

    /// Two bits a seat in index order, the first seat in the lowest bits of the first byte: [`SeatStatus::code`].
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

    /// Applies an event, if it is news: a seat's version is above the one that is known. Events may come in any order,
    /// and again.
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

    /// Takes in what was read anew, which may be older than some of what is known here. Answers whether anything
    /// changed. A newer map replaces the board, and nobody can go on from what they knew.
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
                // Its event may come yet, or never: it took longer to commit than anybody waits for.
                self.change(index, *seat, UNTOLD);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Takes note that nothing is open any more up to the event `settled`, of all performances. Answers whether the
    /// sequence rose.
    pub fn settle(&mut self, settled: u64) -> bool {
        let above = self.unsettled.split_off(&settled.saturating_add(1));
        let last = std::mem::replace(&mut self.unsettled, above).pop_last();
        let sequence = last.map_or(self.sequence, |last| last.max(self.sequence));
        std::mem::replace(&mut self.sequence, sequence) != sequence
    }

    /// How far this board has changed: who was told everything goes on from here.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// What changed since `position`; `None` if that is too much to tell, or another map.
    #[must_use]
    pub fn changed_since(&self, position: u64) -> Option<SeatStates> {
        (position >= self.born_at).then(|| self.states(&self.changed_at, position)).flatten()
    }

    /// What changed after the event `sequence`, for who comes back with it, and maybe more than that; `None` if that is
    /// too much to tell, or another map.
    #[must_use]
    pub fn changed_after(&self, sequence: u64) -> Option<SeatStates> {
        (sequence >= self.floor).then(|| self.states(&self.events, sequence)).flatten()
    }

    /// The seats that have a mark above this one, if they are few enough.
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

/// In which byte a seat is, and how far from its lowest bit.
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

    /// All available, in the map that event 1 made.
    fn board(n_seats: usize) -> SeatBoard {
        let board = SeatBoard::new(&record(1, &vec![(Available, 1); n_seats], &[new_map(1, 1)]));
        assert_eq!(board.sequence(), 1);
        board
    }

    fn states(changed: Option<SeatStates>) -> Vec<(u32, SeatStatus)> {
        changed.expect("it is remembered").into_iter().collect()
    }

    #[test]
    fn two_bits_tell_the_status_of_each_seat_in_index_order() {
        let seats = [(Sold, 3), (Held, 2), (Available, 1), (Sold, 3), (Held, 2)];

        let board = SeatBoard::new(&record(3, &seats, &[]));

        assert_eq!(board.packed(), [0b10_00_01_10, 0b01]);
        let statuses: Vec<_> = (0..5).filter_map(|index| board.status(index)).collect();
        assert_eq!(statuses, seats.map(|(status, _)| status));
        assert_eq!((board.map_version(), board.n_seats(), board.status(5)), (3, 5, None));
    }

    #[test]
    fn an_event_that_comes_late_or_again_changes_nothing() {
        let mut board = board(2);

        assert_eq!(board.apply(&event(3, 0, Available, 3)), Applied::Changed);
        assert_eq!(board.apply(&event(2, 0, Held, 2)), Applied::Unchanged, "what it became later is known");
        assert_eq!(board.apply(&event(3, 0, Available, 3)), Applied::Unchanged);

        assert_eq!((board.status(0), board.packed()), (Some(Available), &[0][..]));
    }

    #[test]
    fn the_sequence_is_the_highest_event_below_which_nothing_is_open() {
        let mut board = board(2);
        assert_eq!(board.apply(&event(5, 0, Held, 2)), Applied::Changed);
        assert_eq!(board.apply(&event(9, 1, Held, 2)), Applied::Changed);

        assert!(!board.settle(4), "what lies below an open event is not told");
        assert_eq!(board.sequence(), 1);
        assert!(board.settle(8), "and the others' events count as little as gaps");
        assert_eq!(board.sequence(), 5);
        assert!(board.settle(100) && !board.settle(100));
        assert_eq!((board.sequence(), board.highest()), (9, 9));
    }

    #[test]
    fn who_comes_back_is_told_all_that_changed_after_what_they_know_as_it_is_now() {
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
    fn who_follows_goes_on_from_where_they_are() {
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
    fn however_often_a_seat_changed_it_is_told_once() {
        let mut board = board(2);
        for n in 2..10_000 {
            let status = if n % 2 == 0 { Held } else { Available };
            assert_eq!(board.apply(&event(n.into(), 1, status, n)), Applied::Changed);
        }

        assert_eq!(states(board.changed_since(0)), [(1, Available)]);
        assert_eq!(states(board.changed_after(1)), [(1, Available)]);
    }

    #[test]
    fn what_is_too_much_to_tell_is_said_to_be() {
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
    fn what_was_read_at_first_is_remembered_as_far_as_it_goes() {
        let events: Vec<_> = (10..).take(SeatBoard::CHANGES_MAX).map(|id| event(id, 0, Held, 2)).collect();

        let cut_off = SeatBoard::new(&record(1, &[(Held, 2)], &events));
        let whole = SeatBoard::new(&record(1, &[(Held, 2)], &events[1..]));

        assert_eq!(cut_off.changed_after(9), None, "there may be events before the first");
        assert_eq!(states(cut_off.changed_after(10)), [(0, Held)]);
        assert_eq!(states(whole.changed_after(0)), [(0, Held)]);
    }

    #[test]
    fn a_change_that_no_event_told_is_told_to_everybody_who_comes_back() {
        let mut board = board(3);
        assert_eq!(board.apply(&event(6, 2, Held, 2)), Applied::Changed);
        assert!(board.settle(6));
        let position = board.position();

        let is_changed = board.refresh(&record(1, &[(Held, 2), (Available, 1), (Available, 1)], &[]));

        assert!(is_changed);
        assert_eq!(board.status(2), Some(Held), "what was read before the last event takes nothing back");
        assert_eq!(states(board.changed_since(position)), [(0, Held)]);
        assert_eq!(states(board.changed_after(6)), [(0, Held)], "though event 6 was known");
        assert!(!board.refresh(&record(1, &[(Held, 2), (Available, 1), (Available, 1)], &[])));
        assert_eq!(board.apply(&event(5, 0, Held, 2)), Applied::Unchanged, "its event comes after all");
    }

    #[test]
    fn a_new_map_replaces_the_board_and_nobody_goes_on_from_the_old_one() {
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
        assert_eq!(states(board.changed_after(7)), [], "who knows the new map goes on");
        assert_eq!(states(board.changed_since(board.position())), []);
        assert!(!board.refresh(&record(1, &[(Sold, 9); 2], &[])), "what was read before it does not come back");
    }
}
