//! Events of the seats: followers miss none, and boards agree with them.

use usher_reservation::board::{Applied, BoardChange};
use usher_reservation::{BoardEvent, EventFollower, SeatBoard};

use super::*;

/// A server that follows the seats, and keeps a board.
struct Server {
    events: Arc<dyn SeatEvents>,
    follower: EventFollower,
    board: SeatBoard,
}

impl Server {
    /// Begins to follow: reads the settled event, then the board.
    async fn begin(events: Arc<dyn SeatEvents>, performance: PerformanceId) -> Self {
        let follower = EventFollower::after(events.settled_event().await.unwrap());
        let board = SeatBoard::new(&events.board(performance, EVENTS_MAX).await.unwrap().unwrap());
        Self { events, follower, board }
    }

    /// Reads the new events, a few at a time.
    async fn step(&mut self, now: Timestamp) {
        const LIMIT: u32 = 10;
        loop {
            let (after, missing) = (self.follower.highest(), self.follower.missing());
            let events = self.events.events(after, &missing, LIMIT).await.unwrap();
            self.follower.observe(events.iter().map(|event| event.id), now);
            for event in &events {
                assert_ne!(self.board.apply(event), Applied::Outdated);
            }
            self.board.settle(self.follower.settled());
            if events.iter().filter(|event| event.id > after).count() < LIMIT as usize {
                return;
            }
        }
    }

    fn statuses(&self) -> Vec<SeatStatus> {
        (0..).map_while(|index| self.board.status(index)).collect()
    }
}

const EVENTS_MAX: u32 = 10_000;

/// Events 1 and 2.
pub async fn every_change_and_every_new_map_leaves_an_event_that_can_be_followed<F: Fixture>() {
    use SeatStatus::{Available, Held, Sold};
    let stage = Stage::<F>::with_seats(3).await;
    let other = PerformanceId::from_bytes(id(2));
    stage.fixture.seed(other, &SeatMap::from_sections(&[section("B", 1, "R", PRICE)]).unwrap()).await;
    stage.sold(1, &["A-1-3"]).await;
    stage.held(&stage.wish(2, &["A-1-1", "A-1-2"])).await;
    assert!(matches!(stage.release(2, NOW).await, ReleaseOutcome::Released(_)));
    let elsewhere =
        HoldCommand { performance: other, seats: SeatWish::Named(vec![seat("B-1-1")]), ..stage.wish(3, &[]) };
    stage.held(&elsewhere).await;
    let events = async |after, missing: &[u64], limit| stage.events.events(after, missing, limit).await.unwrap();
    let ids = |events: &[BoardEvent]| events.iter().map(|event| event.id).collect::<Vec<_>>();

    let all = events(0, &[], EVENTS_MAX).await;
    let all_ids = ids(&all);

    assert!(all_ids.is_sorted_by(|one, next| one < next), "{all_ids:?}");
    let of = |performance| all.iter().filter(move |event| event.performance == performance).map(|event| event.change);
    assert_eq!(of(stage.performance).next(), Some(BoardChange::Map { map_version: 1 }));
    let is_map = |change: &BoardChange| matches!(change, BoardChange::Map { .. });
    assert_eq!(of(stage.performance).chain(of(other)).filter(is_map).count(), 2, "one for each new map");
    let of_seat = |performance, nth: u32| {
        let standings = of(performance).filter_map(move |change| match change {
            BoardChange::Seat { index, now } if index == Some(nth) => Some((now.status, now.version)),
            BoardChange::Seat { .. } | BoardChange::Map { .. } => None,
        });
        standings.collect::<Vec<_>>()
    };
    assert_eq!(of_seat(stage.performance, 0), [(Held, 2), (Available, 3)]);
    assert_eq!(of_seat(stage.performance, 1), [(Held, 2), (Available, 3)]);
    assert_eq!(of_seat(stage.performance, 2), [(Held, 2), (Sold, 3)]);
    assert_eq!(of_seat(other, 0), [(Held, 2)]);
    let last = all_ids[all_ids.len() - 1];
    assert_eq!(events(last, &[], 10).await, []);
    assert_eq!(events(all_ids[1], &[], 3).await, all[2..5]);
    let asked_for = [all_ids[0], all_ids[3], last + 1_000];
    assert_eq!(events(all_ids[5], &asked_for, 2).await, [&all[0..1], &all[3..4], &all[6..8]].concat());
    stage.close().await;
}

/// Events 3.
pub async fn a_board_is_as_its_events_left_it<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let before = stage.events.board(stage.performance, EVENTS_MAX).await.unwrap().unwrap();
    stage.sold(1, &["A-1-4"]).await;
    stage.held(&stage.wish(2, &["A-1-1", "A-1-2"])).await;

    let after = stage.events.board(stage.performance, EVENTS_MAX).await.unwrap().unwrap();
    let cut_off = stage.events.board(stage.performance, 2).await.unwrap().unwrap();
    let unknown = stage.events.board(PerformanceId::from_bytes(id(9)), EVENTS_MAX).await.unwrap();

    assert_eq!((before.map_version, before.seats.len(), before.events.len()), (1, 4, 1));
    let mut replayed = SeatBoard::new(&before);
    for event in &after.events[1..] {
        assert_eq!(replayed.apply(event), Applied::Changed);
    }
    assert_eq!(replayed.packed(), SeatBoard::new(&after).packed());
    assert_eq!(replayed.packed(), [0b10_00_01_01]);
    assert_eq!(after.events[..1], before.events[..]);
    assert_eq!(cut_off.events, after.events[3..], "the latest two, in their order");
    assert_eq!(cut_off.seats, after.seats);
    assert_eq!(unknown, None);
    stage.close().await;
}

/// Events 2 and 4, as a race: a server that begins to follow in the middle of it misses no event.
pub async fn whoever_follows_the_events_sees_all_that_racing_buyers_do<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let buyers = (1..=RACERS).map(|n| {
        let names: Vec<_> = [n % 8 + 1, (n + 3) % 8 + 1].map(|n| format!("A-1-{n}")).into();
        let (wish, repository) = (stage.wish(n, &[&names[0], &names[1]]), Arc::clone(&stage.repository));
        async move {
            let mut is_held_once = false;
            while !is_held_once {
                is_held_once = is_held(&repository.hold(std::slice::from_ref(&wish), NOW).await.unwrap()[0]);
                tokio::task::yield_now().await;
            }
            let released = repository.release(wish.id, wish.account, NOW).await.unwrap();
            assert!(matches!(released, ReleaseOutcome::Released(_)), "{released:?}");
        }
    });
    let buyers: Vec<_> = buyers.collect();
    let follow = {
        let (events, performance) = (Arc::clone(&stage.events), stage.performance);
        async move |server: &mut Option<Server>| {
            let server = match server {
                Some(server) => server,
                None => server.insert(Server::begin(Arc::clone(&events), performance).await),
            };
            server.step(NOW).await;
        }
    };

    let racing = race_all(buyers);
    tokio::pin!(racing);
    let mut servers = [None, None];
    let mut n_steps = 0;
    loop {
        tokio::select! {
            _ = &mut racing => break,
            () = follow(&mut servers[n_steps % 2]) => n_steps += 1,
        }
    }
    for server in &mut servers {
        follow(server).await;
    }

    let stored = stored_statuses(&*stage.events, stage.performance).await;
    let n_events = stage.history().await.events.len();
    assert_eq!(n_events, 4 * RACERS as usize, "each holds two seats once, and gives them back");
    for server in servers.into_iter().flatten() {
        assert_eq!(server.statuses(), stored);
        assert_eq!(server.board.sequence(), server.board.highest());
    }
    stage.close().await;
}

/// Events 1 and 4: on MariaDB, a follower that read by id alone was seen to miss a change that committed late.
pub async fn a_change_that_stays_open_among_others_is_in_nobodys_way_and_is_not_missed<F: SideBySide>() {
    use SeatStatus::{Available, Held};
    let stage = Stage::<F>::with_seats(3).await;
    let mut servers = [
        Server::begin(stage.fixture.events(), stage.performance).await,
        Server::begin(stage.fixture.events(), stage.performance).await,
    ];
    let before = stage.events.events(0, &[], EVENTS_MAX).await.unwrap().last().unwrap().id;

    let open = stage.fixture.hold_open(stage.performance, &seat("A-1-1")).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    for server in &mut servers {
        server.step(NOW).await;
        assert_eq!(server.statuses(), [Available, Held, Available], "the committed changes are seen");
        assert!(server.board.sequence() <= before, "the sequence stays below the open event");
    }
    stage.held(&stage.wish(3, &["A-1-3"])).await;
    stage.fixture.commit(open).await;
    let late = Server::begin(stage.fixture.events(), stage.performance).await;
    let three_seconds_later = NOW.plus(3_000 * MS);

    for server in servers.iter_mut().chain(&mut [late]) {
        server.step(three_seconds_later).await;
        assert_eq!(server.statuses(), [Held; 3]);
        assert_eq!(server.board.sequence(), server.board.highest());
    }
    // No reservation has the held seat, so an audit would find a contradiction.
    drop(stage);
}

/// Events 1: a follower waits for the missing id, and gives it up after [`EventFollower::OPEN_MAX`].
pub async fn an_event_that_was_rolled_back_is_waited_for_and_given_up<F: SideBySide>() {
    use SeatStatus::{Available, Held};
    let stage = Stage::<F>::with_seats(2).await;
    let mut server = Server::begin(stage.fixture.events(), stage.performance).await;

    let open = stage.fixture.hold_open(stage.performance, &seat("A-1-1")).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    server.step(NOW).await;
    stage.fixture.roll_back(open).await;
    server.step(NOW.plus(EventFollower::OPEN_MAX).minus(MS)).await;
    let waited_for = server.follower.missing();
    server.step(NOW.plus(EventFollower::OPEN_MAX)).await;

    assert_eq!(waited_for.len(), 1);
    assert_eq!(server.follower.missing(), [0_u64; 0]);
    assert_eq!(server.statuses(), [Available, Held]);
    assert_eq!(server.board.sequence(), server.board.highest());
    stage.close().await;
}
