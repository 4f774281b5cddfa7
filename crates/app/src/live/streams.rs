//! Open streams: their limits, and a registry of followed places by line and number, so that a tick of the line wakes
//! only the streams whose number was called. Knows nothing of HTTP, and reads no line: a woken stream polls the line
//! itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use usher_kernel::PerformanceId;
use usher_queue::PlaceNumber;

use crate::runtime::metrics::Metrics;

/// The most streams of one place: some tabs, and broken connections that the server has not noticed yet.
const PER_PLACE_MAX: usize = 5;

/// What a stream follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A place in a line.
    Place,
    /// The seats of a performance. Open to every client, so these streams get at most half of the room.
    Seats,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The server has the most streams allowed, or is stopping.
    #[error("the server takes no more streams")]
    Full,
    /// The place has the most streams allowed.
    #[error("the place has enough streams")]
    PlaceFull,
}

/// The open streams of one server.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    n_max: usize,
    stalled_after: Duration,
    metrics: Arc<Metrics>,
    n_open: AtomicUsize,
    n_of_seats: AtomicUsize,
    ending: CancellationToken,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    latest: u64,
    lines: HashMap<PerformanceId, Followers>,
}

/// A place's number, and the serial number of a stream.
type Key = (PlaceNumber, u64);

/// The streams of one line. Each is in one of the two maps.
#[derive(Default)]
struct Followers {
    waiting: BTreeMap<Key, Arc<Notify>>,
    called: BTreeMap<Key, Arc<Notify>>,
}

impl Followers {
    fn n_of(&self, number: PlaceNumber) -> usize {
        let all = (number, 0)..=(number, u64::MAX);
        self.waiting.range(all.clone()).count() + self.called.range(all).count()
    }
}

impl Streams {
    /// Starts without streams, and allows `n_max` at once. A stream whose client does not read for `stalled_after` is
    /// closed.
    #[must_use]
    pub fn new(n_max: usize, stalled_after: Duration, metrics: Arc<Metrics>) -> Self {
        let (n_open, n_of_seats) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (ending, registry) = (CancellationToken::new(), Mutex::default());
        Self(Arc::new(Inner { n_max, stalled_after, metrics, n_open, n_of_seats, ending, registry }))
    }

    /// Reserves room for one stream, before any work for it.
    ///
    /// # Errors
    /// [`Refused::Full`].
    pub fn make_room(&self, of: Followed) -> Result<Room, Refused> {
        let n_open = self.0.n_open.fetch_add(1, Ordering::Relaxed) + 1;
        let is_full = match of {
            Followed::Place => false,
            Followed::Seats => self.0.n_of_seats.fetch_add(1, Ordering::Relaxed) >= self.0.n_max / 2,
        };
        let room = Room { streams: self.clone(), of };
        self.0.metrics.observe_opened_stream();
        if is_full || n_open > self.0.n_max || self.is_ended() { Err(Refused::Full) } else { Ok(room) }
    }

    /// Wakes the streams of called places, once each: in every line, the numbers up to its `serving`. Does not touch
    /// the other streams. Returns how many it woke.
    pub fn call(&self, lines: impl IntoIterator<Item = (PerformanceId, PlaceNumber)>) -> usize {
        let (mut registry, mut n_called) = (self.registry(), 0);
        for (performance, serving) in lines {
            let Some(line) = registry.lines.get_mut(&performance) else { continue };
            while let Some(first) = line.waiting.first_entry().filter(|first| first.key().0 <= serving) {
                let (key, bell) = first.remove_entry();
                bell.notify_one();
                line.called.insert(key, bell);
                n_called += 1;
            }
        }
        n_called
    }

    /// Ends all streams, and refuses new ones.
    pub fn end(&self) {
        let registry = self.registry();
        self.0.ending.cancel();
        for line in registry.lines.values() {
            line.waiting.values().chain(line.called.values()).for_each(|bell| bell.notify_one());
        }
    }

    fn is_ended(&self) -> bool {
        self.0.ending.is_cancelled()
    }

    /// Ignores poison: no panic under this lock leaves an inconsistent state behind.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one stream.
pub struct Room {
    streams: Streams,
    of: Followed,
}

impl Room {
    /// Whether all streams end.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.streams.is_ended()
    }

    /// Completes when all streams end.
    pub async fn ended(&self) {
        self.streams.0.ending.cancelled().await;
    }

    /// How long a client may not read before its stream is closed.
    #[must_use]
    pub fn stalled_after(&self) -> Duration {
        self.streams.0.stalled_after
    }

    /// Notes that the stream's client does not read.
    pub fn note_stalled(&self) {
        self.streams.0.metrics.observe_stalled_stream();
    }

    /// Follows a place.
    ///
    /// # Errors
    /// [`Refused::PlaceFull`], or [`Refused::Full`] if the server stops.
    pub fn follow(self, performance: PerformanceId, number: PlaceNumber) -> Result<Following, Refused> {
        let mut registry = self.streams.registry();
        if self.is_ended() {
            return Err(Refused::Full);
        }
        registry.latest += 1;
        let key = (number, registry.latest);
        let line = registry.lines.entry(performance).or_default();
        if line.n_of(number) >= PER_PLACE_MAX {
            return Err(Refused::PlaceFull);
        }
        let bell = Arc::new(Notify::new());
        // If the place was called before this, the next tick of the line wakes the stream.
        line.waiting.insert(key, Arc::clone(&bell));
        drop(registry);
        Ok(Following { room: self, performance, key, bell })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        match self.of {
            Followed::Place => {}
            Followed::Seats => drop(self.streams.0.n_of_seats.fetch_sub(1, Ordering::Relaxed)),
        }
        self.streams.0.n_open.fetch_sub(1, Ordering::Relaxed);
        self.streams.0.metrics.observe_closed_stream();
    }
}

/// A followed place. The stream leaves the registry when this is dropped.
pub struct Following {
    room: Room,
    performance: PerformanceId,
    key: Key,
    bell: Arc<Notify>,
}

impl Following {
    /// Completes when the place is called, or all streams end.
    pub async fn woken(&self) {
        self.bell.notified().await;
    }

    /// The room of the stream.
    #[must_use]
    pub const fn room(&self) -> &Room {
        &self.room
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut registry = self.room.streams.registry();
        let Some(line) = registry.lines.get_mut(&self.performance) else { return };
        if line.waiting.remove(&self.key).is_none() {
            line.called.remove(&self.key);
        }
        if line.waiting.is_empty() && line.called.is_empty() {
            registry.lines.remove(&self.performance);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const HERE: PerformanceId = PerformanceId::from_bytes([1; 16]);
    const ELSEWHERE: PerformanceId = PerformanceId::from_bytes([2; 16]);

    fn streams(n_max: usize) -> Streams {
        Streams::new(n_max, Duration::from_secs(30), Arc::new(Metrics::new().unwrap()))
    }

    fn follow(streams: &Streams, performance: PerformanceId, number: u64) -> Result<Following, Refused> {
        streams.make_room(Followed::Place)?.follow(performance, PlaceNumber::new(number))
    }

    fn is_woken(following: &Following) -> bool {
        following.woken().now_or_never().is_some()
    }

    #[test]
    fn of_ten_thousand_streams_a_step_wakes_those_who_were_called_and_each_once() {
        let streams = streams(20_000);
        let here: Vec<_> = (1..=10_000).map(|number| follow(&streams, HERE, number).unwrap()).collect();
        let elsewhere = follow(&streams, ELSEWHERE, 1).unwrap();

        let called = streams.call([(HERE, PlaceNumber::new(7))]);
        let woken: Vec<_> = (1..).zip(&here).filter(|(_, following)| is_woken(following)).map(|(n, _)| n).collect();
        let called_again = streams.call([(HERE, PlaceNumber::new(7))]);
        let woken_again = here.iter().filter(|following| is_woken(following)).count();

        assert_eq!((called, woken), (7, vec![1, 2, 3, 4, 5, 6, 7]));
        assert_eq!((called_again, woken_again), (0, 0));
        assert!(!is_woken(&elsewhere), "lines do not know of each other");
        assert_eq!(streams.call([(HERE, PlaceNumber::new(9)), (ELSEWHERE, PlaceNumber::new(1))]), 3);
    }

    #[test]
    fn who_begins_to_follow_after_the_call_is_woken_by_the_next_step() {
        let streams = streams(1);
        streams.call([(HERE, PlaceNumber::new(5))]);

        let late = follow(&streams, HERE, 3).unwrap();

        assert_eq!(streams.call([(HERE, PlaceNumber::new(5))]), 1);
        assert!(is_woken(&late));
    }

    #[test]
    fn there_are_no_more_streams_than_the_server_takes_and_each_that_ends_makes_room() {
        let streams = streams(2);
        let (first, second) = (follow(&streams, HERE, 1).unwrap(), follow(&streams, HERE, 2).unwrap());

        let third = follow(&streams, HERE, 3).err();
        drop(first);
        let fourth = follow(&streams, HERE, 4);

        assert_eq!(third, Some(Refused::Full));
        assert!(fourth.is_ok());
        drop((second, fourth));
        assert!(streams.registry().lines.is_empty(), "nothing is kept of streams that ended");
        assert_eq!(streams.0.n_open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn those_who_follow_seats_leave_half_of_the_room_to_those_who_wait() {
        let streams = streams(4);
        let seats = || streams.make_room(Followed::Seats);
        let (one, other) = (seats().unwrap(), seats().unwrap());

        let third = seats().err();
        let _places = [follow(&streams, HERE, 1).unwrap(), follow(&streams, HERE, 2).unwrap()];
        drop(one);
        let after_one_ended = seats();

        assert_eq!(third, Some(Refused::Full));
        assert!(after_one_ended.is_ok());
        assert_eq!(streams.make_room(Followed::Place).err(), Some(Refused::Full), "they share what there is");
        drop((other, after_one_ended));
        assert_eq!(streams.0.n_of_seats.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_place_has_a_few_streams_whether_it_was_called_or_not() {
        let streams = streams(100);
        let _some = [(); 2].map(|()| follow(&streams, HERE, 1).unwrap());
        streams.call([(HERE, PlaceNumber::new(1))]);
        let _others = [(); PER_PLACE_MAX - 2].map(|()| follow(&streams, HERE, 1).unwrap());

        assert_eq!(follow(&streams, HERE, 1).err(), Some(Refused::PlaceFull));
        assert!(follow(&streams, HERE, 2).is_ok() && follow(&streams, ELSEWHERE, 1).is_ok());
        assert_eq!(streams.0.n_open.load(Ordering::Relaxed), PER_PLACE_MAX);
    }

    #[test]
    fn all_are_woken_to_end_and_nobody_begins_after_that() {
        let streams = streams(100);
        let (waiting, called) = (follow(&streams, HERE, 2).unwrap(), follow(&streams, HERE, 1).unwrap());
        streams.call([(HERE, PlaceNumber::new(1))]);
        let room = streams.make_room(Followed::Place).unwrap();
        assert!(is_woken(&called));

        streams.end();

        assert!(is_woken(&waiting) && waiting.room().is_ended());
        assert!(is_woken(&called) && called.room().is_ended());
        assert_eq!(room.follow(HERE, PlaceNumber::new(3)).err(), Some(Refused::Full));
        assert_eq!(streams.make_room(Followed::Place).err(), Some(Refused::Full));
    }
}
