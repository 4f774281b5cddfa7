//! Seats in memory: one board for each performance in use, and one follower of the seat events for all boards. Knows
//! nothing of requests, and decides nothing: the store decides which buyer gets a seat.
//!
//! A board is read at its first use, and dropped after a while without use. Its events are kept from before it is read,
//! so that none is lost between the reading and the following.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::watch;
use usher_kernel::{Clock, PerformanceId, StoreError, Timestamp};
use usher_reservation::board::{Applied, SeatStates};
use usher_reservation::ports::SeatEvents;
use usher_reservation::{BoardEvent, BoardRecord, EventFollower, SeatBoard};

use super::shared_json::SharedJson;
use crate::runtime::background::Background;
use crate::runtime::batcher::{self, Batcher, Bounds};

/// How often a server reads new events.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);
/// How often a board is read again from the store, in case its events missed something.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long a board is shown while the store does not answer. A seat that is shown as free may be gone by then, but no
/// buyer can hold it meanwhile either.
pub const STALE_MAX: Duration = Duration::from_secs(30);
/// How long the store may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A board is dropped after this time without use.
const IDLE_AFTER: Duration = Duration::from_secs(300);
/// The most boards in memory. One of 50,000 seats is some 1.1 MB, one of a theatre less than 50 KB.
const BOARDS_MAX: usize = 128;
/// How many events are read at once.
const EVENTS_MAX: u32 = 2_000;
/// Events are read at once for a request that comes after a change by this server: at most this often per second.
const AT_ONCE_PER_S: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// Reading a board takes a while, and requests for others may arrive meanwhile.
const LOADS: Bounds = Bounds { batch_max: 4_096, waiting_max: 4_096 };

/// Why a board cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such performance.
    #[error("no such performance")]
    NotFound,
    /// As many boards are in use as fit.
    #[error("the server shows no more performances")]
    Full,
    /// The store failed, and the board is too old.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All boards of one server.
#[derive(Clone)]
pub struct Boards {
    inner: Arc<Inner>,
    loads: Arc<Batcher<PerformanceId, Loaded>>,
}

/// The outcome of loading a board.
#[derive(Clone)]
enum Loaded {
    Here(Arc<Board>),
    NotFound,
    Full,
}

struct Inner {
    events: Arc<dyn SeatEvents>,
    clock: Arc<dyn Clock>,
    boards: RwLock<HashMap<PerformanceId, Arc<Board>>>,
    /// Boards that are being read, with their events since then. Applying events takes this lock.
    loading: Mutex<HashMap<PerformanceId, Vec<BoardEvent>>>,
    /// Only one board is read at a time.
    reading: tokio::sync::Mutex<()>,
    /// `None` while no board is in use.
    follower: tokio::sync::Mutex<Option<EventFollower>>,
    highest: AtomicU64,
    settled: AtomicU64,
    /// The time of the last answer of the store.
    followed_at_ms: AtomicI64,
    /// How often this server changed seats, and how many of these changes the boards show.
    n_stirred: AtomicU64,
    n_seen: AtomicU64,
    at_once: DefaultDirectRateLimiter,
}

/// Rings when seats change. A board with a bell is being followed.
pub type Bell = watch::Receiver<()>;

/// The seats of one performance.
pub struct Board {
    performance: PerformanceId,
    state: Mutex<State>,
    picture: ArcSwap<Picture>,
    /// Rung when seats change.
    bell: watch::Sender<()>,
    used_at_ms: AtomicI64,
    read_at_ms: AtomicI64,
    /// Whether it shows a seat map that has been replaced.
    is_outdated: AtomicBool,
}

struct State {
    board: SeatBoard,
    /// The last part that was sent, and the position that it starts from: most followers get the same part.
    told: Option<(u64, Told)>,
}

/// All seats at one moment.
pub struct Picture {
    /// Which seat map the indices belong to.
    pub map_version: u32,
    /// The point in the history of events.
    pub sequence: u64,
    /// Whether it has no event after that point. The point alone then identifies the states.
    pub is_settled: bool,
    /// Two bits a seat.
    pub packed: Vec<u8>,
    /// The picture as it is sent, written for the first request that asks for it.
    pub json: OnceLock<SharedJson>,
}

/// What a follower is told.
pub enum News<'a> {
    /// Seats that changed, as they are now.
    Seats(&'a SeatStates),
    /// More changes than a board remembers, or a new seat map: the follower has to read all seats.
    Reset {
        /// The version of the present seat map.
        map_version: u32,
    },
}

/// A part of a stream, and the position after it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The position after it.
    pub position: u64,
    /// The part as it is sent; `None` if nothing changed.
    pub bytes: Option<Bytes>,
}

impl Boards {
    /// Starts without boards. The task that loads them ends with the background tasks.
    #[must_use]
    pub fn new(events: Arc<dyn SeatEvents>, clock: Arc<dyn Clock>, background: &Background) -> Self {
        let inner = Arc::new(Inner {
            events,
            clock,
            boards: RwLock::default(),
            loading: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            follower: tokio::sync::Mutex::default(),
            highest: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            followed_at_ms: AtomicI64::new(0),
            n_stirred: AtomicU64::new(0),
            n_seen: AtomicU64::new(0),
            at_once: RateLimiter::direct(Quota::per_second(AT_ONCE_PER_S)),
        });
        // Requests that arrive while a board is loaded share the load.
        let loader = Arc::clone(&inner);
        let loads = Batcher::new("boards.load", LOADS, background, move |performances: Vec<PerformanceId>| {
            let loader = Arc::clone(&loader);
            async move { loader.load_all(&performances).await }
        });
        Self { inner, loads: Arc::new(loads) }
    }

    /// The board of a performance. It shows every change by this server, and those by others up to a moment ago.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(&self, performance: PerformanceId) -> Result<Arc<Board>, Error> {
        let Some(board) = self.inner.find(performance) else {
            return match self.loads.call(performance).await? {
                Loaded::Here(board) => Ok(board),
                Loaded::NotFound => Err(Error::NotFound),
                Loaded::Full => Err(Error::Full),
            };
        };
        let n_stirred = self.inner.n_stirred.load(Ordering::Acquire);
        if self.inner.n_seen.load(Ordering::Acquire) < n_stirred && self.inner.at_once.check().is_ok() {
            // A failure matters only if the board is too old, which is checked next.
            drop(self.inner.follow(Some(n_stirred)).await);
        }
        let age = self.age();
        if age > STALE_MAX {
            let source = format!("the seats were read {} s ago", age.as_secs()).into();
            return Err(StoreError::Unavailable { operation: "boards.open", source }.into());
        }
        if board.is_outdated() {
            // If that fails, the next step tries again; the old board is as good as it was a moment ago.
            drop(self.inner.read(performance, Board::is_outdated).await);
        }
        board.used_at_ms.store(self.inner.clock.now().unix_ms(), Ordering::Relaxed);
        Ok(board)
    }

    /// The board of a performance, as [`Self::open`] returns it. It stays in memory as long as the bell does.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open_and_keep(&self, performance: PerformanceId) -> Result<(Arc<Board>, Bell), Error> {
        loop {
            let board = self.open(performance).await?;
            let bell = board.bell.subscribe();
            // It may have been dropped just before; then its bell would never ring.
            if self.inner.find(performance).is_some_and(|kept| Arc::ptr_eq(&kept, &board)) {
                return Ok((board, bell));
            }
        }
    }

    /// The time since the last answer of the store.
    #[must_use]
    pub fn age(&self) -> Duration {
        let followed_at = Timestamp::from_unix_ms(self.inner.followed_at_ms.load(Ordering::Acquire));
        self.inner.clock.now().since(followed_at)
    }

    /// How many boards are in memory.
    #[must_use]
    pub fn n_boards(&self) -> usize {
        self.inner.n_boards()
    }

    /// The highest event id that this server knows.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.inner.highest.load(Ordering::Acquire)
    }

    /// Notes that this server changed seats, so that the next request reads the events first.
    pub fn stir(&self) {
        self.inner.n_stirred.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads new events, and applies them. Called every [`FOLLOW_INTERVAL`]; costs nothing while no board is in use.
    ///
    /// # Errors
    /// [`StoreError`]; the next step goes on.
    pub async fn follow(&self) -> Result<(), StoreError> {
        self.inner.follow(None).await
    }

    /// Reads all boards with a replaced seat map again, and the board whose last reading is oldest, if that is long
    /// ago. This repairs boards that an event did not reach.
    ///
    /// # Errors
    /// [`StoreError`]; the next call tries again.
    pub async fn read_again(&self) -> Result<(), StoreError> {
        self.inner.read_again().await
    }
}

impl Inner {
    fn find(&self, performance: PerformanceId) -> Option<Arc<Board>> {
        self.boards.read().unwrap_or_else(PoisonError::into_inner).get(&performance).cloned()
    }

    fn all(&self) -> Vec<Arc<Board>> {
        self.boards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn n_boards(&self) -> usize {
        self.boards.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ignores poison: no panic under this lock leaves an inconsistent state behind.
    fn loading(&self) -> MutexGuard<'_, HashMap<PerformanceId, Vec<BoardEvent>>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the board that has been unused for longest. Returns whether there was one.
    fn forget_one(&self) -> bool {
        let mut boards = self.boards.write().unwrap_or_else(PoisonError::into_inner);
        let unused = boards.values().filter(|board| board.n_following() == 0);
        let longest =
            unused.min_by_key(|board| board.used_at_ms.load(Ordering::Relaxed)).map(|board| board.performance);
        longest.is_some_and(|performance| boards.remove(&performance).is_some())
    }

    fn forget_idle(&self, now: Timestamp) {
        let is_used = |board: &Board| {
            let used_at = Timestamp::from_unix_ms(board.used_at_ms.load(Ordering::Relaxed));
            board.n_following() > 0 || now.since(used_at) < IDLE_AFTER
        };
        self.boards.write().unwrap_or_else(PoisonError::into_inner).retain(|_, board| is_used(board));
    }

    /// Reads new events, unless the boards show this server's changes up to `wanted` by now.
    async fn follow(&self, wanted: Option<u64>) -> Result<(), StoreError> {
        let mut slot = self.follower.lock().await;
        if wanted.is_some_and(|wanted| self.n_seen.load(Ordering::Acquire) >= wanted) {
            return Ok(());
        }
        let n_stirred = self.n_stirred.load(Ordering::Acquire);
        self.forget_idle(self.clock.now());
        let is_in_use = self.n_boards() > 0 || !self.loading().is_empty();
        match slot.as_mut().filter(|_| is_in_use) {
            Some(follower) => self.catch_up(follower).await?,
            None => *slot = None,
        }
        self.n_seen.fetch_max(n_stirred, Ordering::AcqRel);
        Ok(())
    }

    async fn catch_up(&self, follower: &mut EventFollower) -> Result<(), StoreError> {
        loop {
            let (after, missing, asked_at) = (follower.highest(), follower.missing(), self.clock.now());
            let events = Self::in_time(self.events.events(after, &missing, EVENTS_MAX)).await?;
            follower.observe(events.iter().map(|event| event.id), asked_at);
            self.apply(&events, follower);
            self.followed_at_ms.store(asked_at.unix_ms(), Ordering::Release);
            if events.iter().filter(|event| event.id > after).count() < EVENTS_MAX as usize {
                return Ok(());
            }
        }
    }

    /// Gives up a call that takes too long; the next step asks again.
    async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |elapsed| StoreError::Timeout { operation: "boards.follow", source: Box::new(elapsed) };
        tokio::time::timeout(ANSWER_MAX, call).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    fn apply(&self, events: &[BoardEvent], follower: &EventFollower) {
        let mut loading = self.loading();
        for event in events {
            if let Some(kept) = loading.get_mut(&event.performance) {
                kept.push(*event);
            }
        }
        let mut of: HashMap<PerformanceId, Vec<&BoardEvent>> = HashMap::new();
        for event in events {
            of.entry(event.performance).or_default().push(event);
        }
        self.highest.store(follower.highest(), Ordering::Release);
        self.settled.store(follower.settled(), Ordering::Release);
        for board in self.all() {
            let events = of.remove(&board.performance).unwrap_or_default();
            board.apply(events, follower.settled());
        }
    }

    async fn load_all(&self, performances: &[PerformanceId]) -> Vec<Result<Loaded, StoreError>> {
        let mut loaded: HashMap<PerformanceId, Result<Loaded, StoreError>> = HashMap::new();
        for performance in performances.iter().copied().collect::<HashSet<_>>() {
            loaded.insert(performance, self.read(performance, |_| false).await);
        }
        let outcome = |performance| match loaded.get(performance) {
            Some(Ok(outcome)) => Ok(outcome.clone()),
            Some(Err(error)) => Err(batcher::copy(error)),
            None => Ok(Loaded::NotFound),
        };
        performances.iter().map(outcome).collect()
    }

    /// Reads a board and keeps it, unless it is kept already and need not be read again.
    async fn read(&self, performance: PerformanceId, is_needed: impl Fn(&Board) -> bool) -> Result<Loaded, StoreError> {
        let _alone = self.reading.lock().await;
        if let Some(board) = self.find(performance)
            && !is_needed(&board)
        {
            return Ok(Loaded::Here(board));
        }
        {
            let mut follower = self.follower.lock().await;
            if follower.is_none() {
                let settled = Self::in_time(self.events.settled_event()).await?;
                self.highest.store(settled, Ordering::Release);
                self.settled.store(settled, Ordering::Release);
                *follower = Some(EventFollower::after(settled));
            }
            self.loading().insert(performance, Vec::new());
        }
        let read_at = self.clock.now();
        let record = self.read_and_catch_up(performance).await;
        let mut loading = self.loading();
        let since = loading.remove(&performance).unwrap_or_default();
        let Some(record) = record? else { return Ok(Loaded::NotFound) };
        let settled = self.settled.load(Ordering::Acquire);
        let board = match self.find(performance) {
            Some(board) => {
                board.refresh(&record, &since, settled, read_at);
                board
            }
            None => {
                if self.n_boards() >= BOARDS_MAX && !self.forget_one() {
                    return Ok(Loaded::Full);
                }
                let board = Arc::new(Board::new(performance, &record, &since, settled, read_at));
                let mut boards = self.boards.write().unwrap_or_else(PoisonError::into_inner);
                boards.insert(performance, Arc::clone(&board));
                board
            }
        };
        self.followed_at_ms.fetch_max(read_at.unix_ms(), Ordering::AcqRel);
        Ok(Loaded::Here(board))
    }

    /// Reads a board, and then the events since, so that the board's sequence covers all that it shows.
    async fn read_and_catch_up(&self, performance: PerformanceId) -> Result<Option<BoardRecord>, StoreError> {
        let record = Self::in_time(self.events.board(performance, CHANGES_MAX)).await?;
        if let Some(follower) = self.follower.lock().await.as_mut() {
            self.catch_up(follower).await?;
        }
        Ok(record)
    }

    async fn read_again(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let boards = self.all();
        let read_at = |board: &Board| Timestamp::from_unix_ms(board.read_at_ms.load(Ordering::Relaxed));
        let oldest = boards.iter().min_by_key(|board| read_at(board)).map(|board| board.performance);
        let is_due = |board: &Board| {
            let is_its_turn = Some(board.performance) == oldest && now.since(read_at(board)) >= READ_AGAIN_AFTER;
            board.is_outdated() || is_its_turn
        };
        for board in boards.iter().filter(|board| is_due(board)) {
            self.read(board.performance, is_due).await?;
        }
        Ok(())
    }
}

/// How many of the latest events are read with a board, for followers that come back.
const CHANGES_MAX: u32 = 4_096;
const _: () = assert!(CHANGES_MAX as usize == SeatBoard::CHANGES_MAX);

impl Board {
    fn new(
        performance: PerformanceId,
        record: &BoardRecord,
        since: &[BoardEvent],
        settled: u64,
        read_at: Timestamp,
    ) -> Self {
        let seats = SeatBoard::new(record);
        let picture = ArcSwap::from_pointee(Picture::of(&seats));
        let board = Self {
            performance,
            state: Mutex::new(State { board: seats, told: None }),
            picture,
            bell: watch::Sender::new(()),
            used_at_ms: AtomicI64::new(read_at.unix_ms()),
            read_at_ms: AtomicI64::new(read_at.unix_ms()),
            is_outdated: AtomicBool::new(false),
        };
        board.apply(since, settled);
        board
    }

    /// All seats as they are now.
    #[must_use]
    pub fn picture(&self) -> Arc<Picture> {
        self.picture.load_full()
    }

    fn is_outdated(&self) -> bool {
        self.is_outdated.load(Ordering::Acquire)
    }

    fn n_following(&self) -> usize {
        self.bell.receiver_count()
    }

    /// The first part of a stream. `known` is the sequence that the client has, if any; `write` gets the news since
    /// then, and their sequence.
    pub fn begin(&self, known: Option<u64>, highest: u64, write: impl FnOnce(Option<News<'_>>, u64) -> Bytes) -> Told {
        let state = self.state();
        let board = &state.board;
        let changed = match known {
            None => None,
            // An unknown event: from before a reset of the database, or this server is behind.
            Some(known) if known > highest.max(board.highest()) => Some(None),
            Some(known) => Some(board.changed_after(known)),
        };
        let map_version = board.map_version();
        let news = changed.as_ref().map(|changed| match changed {
            None => News::Reset { map_version },
            Some(seats) => News::Seats(seats),
        });
        let news = news.filter(|news| !matches!(news, News::Seats(seats) if seats.is_empty()));
        Told { position: board.position(), bytes: Some(write(news, board.sequence())) }
    }

    /// The next part for a follower that has everything up to `position`.
    pub fn since(&self, position: u64, write: impl FnOnce(News<'_>, u64) -> Bytes) -> Told {
        let mut state = self.state();
        let State { board, told, .. } = &mut *state;
        if position == board.position() {
            return Told { position, bytes: None };
        }
        if let Some((from, told)) = told
            && (*from, told.position) == (position, board.position())
        {
            return told.clone();
        }
        let changed = board.changed_since(position);
        let news = changed.as_ref().map_or(News::Reset { map_version: board.map_version() }, News::Seats);
        let latest = Told { position: board.position(), bytes: Some(write(news, board.sequence())) };
        *told = Some((position, latest.clone()));
        latest
    }

    /// Ignores poison: no panic under this lock leaves an inconsistent state behind.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply<'a>(&self, events: impl IntoIterator<Item = &'a BoardEvent>, settled: u64) {
        self.take_in(self.state(), events, settled, false);
    }

    fn refresh(&self, record: &BoardRecord, since: &[BoardEvent], settled: u64, read_at: Timestamp) {
        let mut state = self.state();
        let is_changed = state.board.refresh(record);
        self.is_outdated.store(false, Ordering::Release);
        self.read_at_ms.store(read_at.unix_ms(), Ordering::Relaxed);
        self.take_in(state, since, settled, is_changed);
    }

    fn take_in<'a>(
        &self,
        mut state: MutexGuard<'_, State>,
        events: impl IntoIterator<Item = &'a BoardEvent>,
        settled: u64,
        was_changed: bool,
    ) {
        let mut is_changed = was_changed;
        for event in events {
            match state.board.apply(event) {
                Applied::Unchanged => {}
                Applied::Changed => is_changed = true,
                Applied::Outdated => self.is_outdated.store(true, Ordering::Release),
            }
        }
        let is_further = state.board.settle(settled);
        if is_changed || is_further {
            self.picture.store(Arc::new(Picture::of(&state.board)));
        }
        if is_changed {
            self.bell.send_replace(());
        }
    }
}

impl Picture {
    fn of(board: &SeatBoard) -> Self {
        let (map_version, sequence, packed) = (board.map_version(), board.sequence(), board.packed().to_vec());
        let is_settled = board.highest() <= sequence;
        Self { map_version, sequence, is_settled, packed, json: OnceLock::new() }
    }
}
