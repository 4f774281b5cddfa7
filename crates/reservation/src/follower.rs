//! Follows the events of all seats by their ids, which are not in the order of commits. The transaction of an id that
//! is missing below a higher one may still be open, or may have been rolled back. Pure: the caller reads the events.

use std::collections::BTreeMap;
use std::time::Duration;

use usher_kernel::Timestamp;

/// The position of a follower in the history.
#[derive(Clone, Debug)]
pub struct EventFollower {
    highest: u64,
    /// The missing ids below the highest, with the time at which each was first found missing.
    missing: BTreeMap<u64, Timestamp>,
}

impl EventFollower {
    /// How long the follower asks for a missing id. The id was taken before a higher one that was seen, and a
    /// transaction is rolled back after five seconds. After ten seconds the transaction was rolled back, and the id
    /// will not be used.
    pub const OPEN_MAX: Duration = Duration::from_secs(10);
    /// The most ids to ask for. Of more, the follower gives up the lowest. A transaction of 256 holds takes a thousand.
    pub const MISSING_MAX: usize = 4_096;

    /// Starts after an event up to which no transaction is open.
    #[must_use]
    pub const fn after(settled: u64) -> Self {
        Self { highest: settled, missing: BTreeMap::new() }
    }

    /// The highest event seen.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// The highest event up to which no transaction is open.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.missing.first_key_value().map_or(self.highest, |(first, _)| first - 1)
    }

    /// The missing ids to ask for, in ascending order.
    #[must_use]
    pub fn missing(&self) -> Vec<u64> {
        self.missing.keys().copied().collect()
    }

    /// Records the events that a query at `asked_at` found, which asked for all of [`Self::missing`] and for those
    /// after [`Self::highest`]. Events may come in any order, and repeatedly.
    pub fn observe(&mut self, events: impl IntoIterator<Item = u64>, asked_at: Timestamp) {
        for id in events {
            if id > self.highest {
                // After a large jump, only the last ids can belong to open transactions.
                let first = (self.highest + 1).max(id.saturating_sub(Self::MISSING_MAX as u64));
                self.missing.extend((first..id).map(|missing| (missing, asked_at)));
                self.highest = id;
            } else {
                self.missing.remove(&id);
            }
        }
        // An id that was asked for just now, and for long enough, will not appear.
        self.missing.retain(|_, since| asked_at < since.plus(Self::OPEN_MAX));
        while self.missing.len() > Self::MISSING_MAX {
            self.missing.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use usher_kernel::PerformanceId;

    use super::*;
    use crate::SeatStatus;
    use crate::board::{BoardChange, BoardEvent, BoardRecord, SeatBoard, SeatStanding};

    /// A transaction that changes one seat.
    #[derive(Clone, Copy, Debug)]
    struct Change {
        begins_at: u64,
        lasts: u64,
        seat: u32,
        is_rolled_back: bool,
    }

    /// A database, whose transactions take their ids when they begin and become visible when they commit.
    struct Scene {
        /// The event of each id from 1 on, and the time at which it becomes visible.
        events: Vec<(Option<BoardEvent>, u64)>,
    }

    const HERE: PerformanceId = PerformanceId::from_bytes([1; 16]);
    const N_SEATS: u32 = 5;
    const TICK_MS: u64 = 250;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(i64::try_from(ms).unwrap())
    }

    impl Scene {
        /// Changes of one seat wait for each other, because they lock its row.
        fn of(mut changes: Vec<Change>) -> Self {
            let mut free_at = [0; N_SEATS as usize];
            for change in &mut changes {
                let free_at = &mut free_at[change.seat as usize];
                change.begins_at = change.begins_at.max(*free_at);
                *free_at = change.begins_at + change.lasts;
            }
            changes.sort_by_key(|change| change.begins_at);
            let mut versions = [1; N_SEATS as usize];
            let events = (1..).zip(&changes).map(|(id, change)| {
                let version = &mut versions[change.seat as usize];
                let event = (!change.is_rolled_back).then(|| {
                    *version += 1;
                    let status = SeatStatus::ALL[(*version as usize - 1) % 3];
                    let now = SeatStanding { status, version: *version };
                    BoardEvent { id, performance: HERE, change: BoardChange::Seat { index: Some(change.seat), now } }
                });
                (event, change.begins_at + change.lasts)
            });
            Self { events: events.collect() }
        }

        fn shown(&self, now: u64) -> impl Iterator<Item = BoardEvent> {
            self.events.iter().filter(move |(_, shows_at)| *shows_at <= now).filter_map(|(event, _)| *event)
        }

        /// Lets a server follow at this time.
        fn step(&self, follower: &mut EventFollower, board: &mut SeatBoard, now: u64) {
            let (after, missing) = (follower.highest(), follower.missing());
            let found: Vec<_> =
                self.shown(now).filter(|event| event.id > after || missing.contains(&event.id)).collect();
            follower.observe(found.iter().map(|event| event.id), at(now));
            for event in &found {
                let _applied = board.apply(event);
            }
            board.settle(follower.settled());
        }

        /// The committed seats at this time.
        fn seats(&self, now: u64) -> Vec<SeatStanding> {
            let mut seats = vec![SeatStanding { status: SeatStatus::Available, version: 1 }; N_SEATS as usize];
            for event in self.shown(now) {
                if let BoardChange::Seat { index: Some(index), now } = event.change {
                    let seat = &mut seats[index as usize];
                    if now.version > seat.version {
                        *seat = now;
                    }
                }
            }
            seats
        }

        /// The lowest id whose transaction is open.
        fn first_open(&self, now: u64) -> u64 {
            let open = (1..).zip(&self.events).find(|(_, (_, shows_at))| *shows_at > now);
            open.map_or(u64::MAX, |(id, _)| id)
        }
    }

    fn new_board(seats: Vec<SeatStanding>) -> SeatBoard {
        SeatBoard::new(&BoardRecord { map_version: 1, seats, events: vec![] })
    }

    fn statuses(seats: &[SeatStanding]) -> Vec<Option<SeatStatus>> {
        seats.iter().map(|seat| Some(seat.status)).collect()
    }

    fn shown_by(board: &SeatBoard) -> Vec<Option<SeatStatus>> {
        (0..N_SEATS).map(|index| board.status(index)).collect()
    }

    #[test]
    fn a_missing_id_is_asked_for_until_it_appears() {
        let mut follower = EventFollower::after(10);

        follower.observe([11, 14], at(0));
        assert_eq!((follower.missing(), follower.settled(), follower.highest()), (vec![12, 13], 11, 14));
        follower.observe([12, 15], at(250));
        assert_eq!((follower.missing(), follower.settled(), follower.highest()), (vec![13], 12, 15));
        follower.observe([13], at(500));

        assert_eq!((follower.missing(), follower.settled(), follower.highest()), (vec![], 15, 15));
    }

    #[test]
    fn an_id_that_never_appears_is_given_up_after_ten_seconds() {
        let mut follower = EventFollower::after(0);
        follower.observe([2], at(1_000));

        follower.observe([], at(10_999));
        assert_eq!(follower.missing(), [1]);
        follower.observe([4], at(11_000));

        assert_eq!((follower.missing(), follower.settled()), (vec![3], 2), "each id has its own time");
    }

    #[test]
    fn after_an_outage_a_missing_id_is_asked_for_once_more() {
        let mut follower = EventFollower::after(0);
        follower.observe([2], at(0));

        follower.observe([1, 3], at(3_600_000));

        assert_eq!((follower.missing(), follower.settled()), (vec![], 3));
    }

    #[test]
    fn a_jump_of_the_ids_leaves_a_bounded_list() {
        let mut follower = EventFollower::after(0);
        let most = EventFollower::MISSING_MAX as u64;

        follower.observe([u64::MAX / 2, u64::MAX / 2 + 2], at(0));

        assert_eq!(follower.missing().len(), EventFollower::MISSING_MAX);
        assert_eq!(follower.settled(), u64::MAX / 2 - most, "the lowest are given up");
    }

    /// Seen on MariaDB: a follower by id read event 2 before event 1 was committed, and never saw event 1.
    #[test]
    fn a_transaction_that_is_open_for_three_seconds_is_not_missed_and_delays_no_other() {
        let quick = |n: u64| Change { begins_at: n * 40, lasts: 10, seat: 1, is_rolled_back: n.is_multiple_of(7) };
        let slow = Change { begins_at: 105, lasts: 3_000, seat: 0, is_rolled_back: false };
        let scene = Scene::of((1..200).map(quick).chain([slow]).collect());
        let (mut follower, mut board) = (EventFollower::after(0), new_board(scene.seats(0)));
        let slow_id = 3;

        for now in (0..48).map(|tick| tick * TICK_MS) {
            scene.step(&mut follower, &mut board, now);
            assert_eq!(shown_by(&board), statuses(&scene.seats(now)), "at {now}");
            assert_eq!(board.status(0) == Some(SeatStatus::Available), now < 3_105, "at {now}");
            if now < 3_105 {
                assert!(board.sequence() < slow_id, "at {now}");
            }
        }
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = (0..20_000_u64, 1..5_000_u64, 0..N_SEATS, proptest::bool::weighted(0.2));
        let change = change.prop_map(|(begins_at, lasts, seat, is_rolled_back)| Change {
            begins_at,
            lasts,
            seat,
            is_rolled_back,
        });
        proptest::collection::vec(change, 1..60).prop_map(|mut changes| {
            changes.sort_by_key(|change| change.begins_at);
            changes
        })
    }

    proptest! {
        /// Two servers follow at different times, and transactions commit in any order.
        #[test]
        fn every_step_shows_all_changes_that_were_committed_before_it(changes in changes(), offset in 1..TICK_MS) {
            let scene = Scene::of(changes);
            let end = scene.events.iter().map(|(_, shows_at)| *shows_at).max().unwrap() + 15_000;
            let mut servers = [(); 2].map(|()| (EventFollower::after(0), new_board(scene.seats(0))));
            let (mut client, mut known) = (vec![Some(SeatStatus::Available); N_SEATS as usize], 0);

            for tick in 0..=end / TICK_MS {
                for (n, (follower, board)) in (0..).zip(&mut servers) {
                    let now = tick * TICK_MS + n * offset;
                    scene.step(follower, board, now);
                    prop_assert_eq!(shown_by(board), statuses(&scene.seats(now)));
                    prop_assert!(board.sequence() < scene.first_open(now));
                    // A client that changes the server at each step, with nothing but its sequence.
                    for (index, status) in board.changed_after(known).unwrap() {
                        client[index as usize] = Some(status);
                    }
                    prop_assert_eq!(&client, &shown_by(board));
                    known = board.sequence();
                }
            }
            let highest = scene.shown(end).map(|event| event.id).max().unwrap_or(0);
            prop_assert!(servers.iter().all(|(_, board)| board.sequence() == highest), "no transaction is open");
        }
    }
}
