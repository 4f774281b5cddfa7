//! The line's service over the embedded adapters, with a clock that the tests move: restarts, losses, the cost of
//! polls, and the reservation of numbers.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roaring::RoaringTreemap;
use tokio::task::JoinSet;
use usher_adapter_memory::MemoryLineStore;
use usher_adapter_sql::{Database, SqlCatalogueRepository, SqlLineLedger, SqlPolicyRepository};
use usher_app::bridge::CatalogueDesk;
use usher_app::decorators::observed::Observed;
use usher_app::runtime::metrics::Metrics;
use usher_app::runtime::schema;
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{AccountId, Clock, ManualClock, Money, PerformanceId, StoreError, Timestamp};
use usher_queue::pace::Eta;
use usher_queue::policy::Sale;
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, Gate, InEpoch, JoinOutcome, LeaveOutcome, LineChanges,
    LineLedger as _, LineStore, Opening, ReEntry, Resolution, SaleCalendar, Superseded,
};
use usher_queue::{
    AccountHash, AdmissionPolicy, Epoch, Error, LineState, PassCheck, Place, PlaceNumber, PlaceState, PlaceStatus,
    PolicyPatch, Ports, Service, Settings, TokenKeys,
};
use usher_reservation::ports::{SaleDesk as _, SalePhase};

const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([7; 16]);
const OPENS_AT: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);
const SALE_LASTS: Duration = Duration::from_secs(86_400);
const TICK: Duration = Duration::from_millis(250);
const PASS_TTL: Duration = Duration::from_secs(300);
const OPENING_GRACE: Duration = Duration::from_secs(1);

/// A calendar with one sale.
struct OneSale;

#[async_trait]
impl SaleCalendar for OneSale {
    async fn live(&self, now: Timestamp, lobby: Duration) -> Result<Vec<(PerformanceId, Sale)>, StoreError> {
        let sale = self.find(PERFORMANCE, now).await?;
        let is_live = |sale: &Sale| sale.opens_at.minus(lobby) <= now && now < sale.closes_at;
        Ok(sale.filter(is_live).map(|sale| (PERFORMANCE, sale)).into_iter().collect())
    }

    async fn find(&self, performance: PerformanceId, _now: Timestamp) -> Result<Option<Sale>, StoreError> {
        let closes_at = OPENS_AT.plus(SALE_LASTS);
        Ok((performance == PERFORMANCE).then_some(Sale { opens_at: OPENS_AT, closes_at, is_sold_out: false }))
    }
}

/// A store that can be lost under a running server.
#[derive(Default)]
struct LosableStore(ArcSwap<MemoryLineStore>);

impl LosableStore {
    fn lose_everything(&self) {
        self.0.store(Arc::default());
    }
}

macro_rules! forward {
    ($(fn $method:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl LineStore for LosableStore {
            $(async fn $method(&self, $($arg: $type),*) -> Result<$answer, StoreError> {
                self.0.load_full().$method($($arg),*).await
            })*
        }
    };
}

forward! {
    fn open(at: At, contribution: &Contribution) -> ();
    fn contribute(at: At, contribution: &Contribution) -> InEpoch<()>;
    fn join(at: At, terms: &AdmitTerms, ceiling: PlaceNumber, accounts: &[AccountHash]) -> InEpoch<Vec<JoinOutcome>>;
    fn resolve(at: At, places: &[Place]) -> InEpoch<Vec<Resolution>>;
    fn re_enter(at: At, entries: &[ReEntry]) -> InEpoch<()>;
    fn leave(at: At, place: Place) -> InEpoch<LeaveOutcome>;
    fn end_pass(at: At, number: PlaceNumber) -> InEpoch<()>;
    fn mark_present(at: At, presence_window: Duration, seen: &RoaringTreemap) -> InEpoch<()>;
    fn admit(at: At, terms: &AdmitTerms, examine_max: u32) -> InEpoch<Admission>;
    fn refresh(epoch: Epoch, now: Timestamp, lines: &[(PerformanceId, Cursor)]) -> Vec<InEpoch<LineChanges>>;
}

/// A machine that runs servers: its clock and its disk outlive them.
struct Machine {
    clock: Arc<ManualClock>,
    database: Database,
    capacity: u32,
    _folder: tempfile::TempDir,
}

/// One run of a server.
struct Server {
    service: Service,
    store: Arc<LosableStore>,
    metrics: Arc<Metrics>,
    clock: Arc<ManualClock>,
}

impl Machine {
    async fn new(capacity: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let database = Database::open(&usher_adapter_sql::Settings::new(url, 4)).await.unwrap();
        schema::up(&database).await.unwrap();
        Self { clock: Arc::new(ManualClock::new(OPENS_AT)), database, capacity, _folder: folder }
    }

    /// Starts a server with its own store, like an embedded one.
    async fn start(&self) -> Server {
        let server = self.server(Arc::default(), Duration::ZERO);
        server.service.refresh_calendar().await.unwrap();
        server.service.tick().await.unwrap();
        server
    }

    /// Starts another server on the store of the first.
    async fn start_beside(&self, first: &Server) -> Server {
        let server = self.server(Arc::clone(&first.store), OPENING_GRACE);
        server.service.refresh_calendar().await.unwrap();
        server.service.tick().await.unwrap();
        server
    }

    fn server(&self, store: Arc<LosableStore>, opening_grace: Duration) -> Server {
        let metrics = Arc::new(Metrics::new().unwrap());
        let observed: Arc<dyn LineStore> = Arc::clone(&store) as Arc<dyn LineStore>;
        let ports = Ports {
            store: Arc::new(Observed::new(observed, Arc::clone(&metrics))),
            ledger: Arc::new(SqlLineLedger::new(self.database.clone())),
            policies: Arc::new(SqlPolicyRepository::new(self.database.clone())),
            calendar: Arc::new(OneSale),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
        };
        let default_policy = AdmissionPolicy {
            capacity: self.capacity,
            rate_per_s: 0,
            pass_ttl: PASS_TTL,
            presence_window: Duration::from_secs(90),
            state: LineState::Open,
        };
        let settings = Settings { default_policy, lobby: Duration::from_secs(3_600), tick: TICK, opening_grace };
        let keys = TokenKeys::new(b"a secret of at least 32 bytes, kept on disk", None);
        let service = Service::new(ports, keys, settings);
        Server { service, store, metrics, clock: Arc::clone(&self.clock) }
    }
}

impl Server {
    async fn join(&self, person: u64) -> PlaceStatus {
        self.service.join(PERFORMANCE, account(person)).await.unwrap().status
    }

    async fn poll(&self, place: &str) -> PlaceStatus {
        self.service.poll(PERFORMANCE, place).await.unwrap()
    }

    /// Moves the clock by `span`, with the ticks and merges of a running server.
    async fn run_for(&self, span: Duration) {
        let until = self.clock.now().plus(span);
        while self.clock.now() < until {
            self.clock.advance(TICK);
            self.service.merge_presence().await.unwrap();
            self.service.tick().await.unwrap();
        }
    }

    fn store_calls(&self, method: &str) -> u64 {
        let text = self.metrics.render().unwrap();
        let prefix = format!("usher_store_duration_seconds_count{{method=\"{method}\",port=\"LineStore\"");
        text.lines()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

fn account(person: u64) -> AccountId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&person.to_be_bytes());
    AccountId::from_bytes(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_numbers_order_and_passes() {
    let machine = Machine::new(100).await;
    let first = machine.start().await;
    let mut before = Vec::new();
    for person in 0..1_100 {
        before.push(first.join(person).await);
    }
    first.run_for(TICK).await;
    drop(first);
    machine.clock.advance(Duration::from_secs(2));

    let second = machine.start().await;
    let newcomer = second.join(999_999).await;
    let mut after = Vec::new();
    for status in &before {
        after.push(second.poll(&status.place).await);
    }

    for (person, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(after.number, before.number, "person {person}");
        assert_eq!(after.state, before.state, "person {person}");
        assert_eq!(after.pass, before.pass, "person {person} has the same pass, byte for byte");
    }
    let positions: Vec<_> = after[100..].iter().map(|status| status.position).collect();
    assert_eq!(positions, (1..=1_000).collect::<Vec<_>>(), "the order is as before, and no position is higher");
    assert_eq!(newcomer.state, PlaceState::Waiting);
    assert!(after.iter().all(|status| status.number < newcomer.number), "no number is used twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_new_gets_ahead_of_those_who_waited_before_a_restart() {
    let machine = Machine::new(10).await;
    let first = machine.start().await;
    let mut waiting = Vec::new();
    for person in 0..60 {
        waiting.push(first.join(person).await);
    }
    first.run_for(TICK).await;
    drop(first);

    // All passes expire, so that there is room for every person, and only the order decides.
    machine.clock.advance(PASS_TTL);
    let second = machine.start().await;
    let newcomer = second.join(1_000).await;
    let held_back = second.poll(&newcomer.place).await;
    for status in &waiting[10..] {
        let _ = second.poll(&status.place).await;
    }
    second.run_for(Duration::from_secs(10)).await;

    assert_eq!(newcomer.state, PlaceState::Waiting, "admission holds until those who waited could come back");
    assert_eq!(held_back.state, PlaceState::Waiting);
    let mut admitted = Vec::new();
    for status in &waiting[10..] {
        if second.poll(&status.place).await.state == PlaceState::Admitted {
            admitted.push(status.number.get());
        }
    }
    assert_eq!(admitted, (11..=20).collect::<Vec<_>>(), "the ten who waited longest are inside");
    assert_eq!(second.poll(&newcomer.place).await.state, PlaceState::Waiting);
    let stats = second.service.stats(PERFORMANCE).await.unwrap();
    assert_eq!((stats.counts.active, stats.counts.waiting), (10, 41));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_nobody_waiting_admits_at_once() {
    let machine = Machine::new(10).await;
    let first = machine.start().await;
    let inside = first.join(1).await;
    first.run_for(TICK).await;
    drop(first);

    let second = machine.start().await;
    let newcomer = second.join(2).await;

    assert_eq!((inside.state, newcomer.state), (PlaceState::Admitted, PlaceState::Admitted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_let_more_in_than_there_is_room() {
    let machine = Machine::new(100).await;
    let first = machine.start().await;
    for person in 0..150 {
        first.join(person).await;
    }
    first.run_for(TICK).await;
    drop(first);

    let second = machine.start().await;
    for person in 1_000..1_200 {
        second.join(person).await;
    }
    second.run_for(Duration::from_secs(60)).await;

    let stats = second.service.stats(PERFORMANCE).await.unwrap();
    assert_eq!(stats.counts.active, 100, "the 100 of before the restart are still inside");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_had_their_turn_before_a_restart_does_not_get_another() {
    let machine = Machine::new(2).await;
    let first = machine.start().await;
    let (left, expired) = (first.join(1).await, first.join(2).await);
    first.service.leave(PERFORMANCE, &left.place).await.unwrap();
    first.run_for(TICK).await;
    drop(first);
    machine.clock.advance(PASS_TTL);

    let second = machine.start().await;

    assert_eq!(second.poll(&left.place).await.state, PlaceState::Done);
    assert_eq!(second.poll(&expired.place).await.state, PlaceState::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_lost_under_a_running_server_comes_back_with_everybody_in_it() {
    let machine = Machine::new(10).await;
    let server = machine.start().await;
    let mut before = Vec::new();
    for person in 0..200 {
        before.push(server.join(person).await);
    }
    server.service.leave(PERFORMANCE, &before[150].place).await.unwrap();
    server.run_for(TICK).await;
    for status in &mut before {
        *status = server.poll(&status.place).await;
    }

    server.store.lose_everything();
    let during = server.service.join(PERFORMANCE, account(500)).await;
    // One tick notices the loss, and the next one opens the line in the next epoch.
    server.clock.advance(TICK);
    let seen = server.service.tick().await;
    server.run_for(TICK).await;
    let newcomer = server.join(500).await;

    assert!(matches!(during, Err(Error::LineUnavailable)), "no poll gets a wrong answer");
    assert!(matches!(seen, Err(Error::LineUnavailable)));
    for (person, before) in before.iter().enumerate() {
        let after = server.poll(&before.place).await;
        assert_eq!((after.number, after.state), (before.number, before.state), "person {person}");
        assert_eq!(after.pass, before.pass, "person {person}");
        assert!(after.position <= before.position, "person {person}: {} rose", before.position);
        assert!(after.number < newcomer.number);
    }
    server.run_for(Duration::from_secs(30)).await;
    assert_eq!(server.service.stats(PERFORMANCE).await.unwrap().counts.active, 10, "the same ten are inside");
}

/// L16: knowledge of one server survives the loss, whichever server opens the line again.
#[tokio::test(flavor = "multi_thread")]
async fn every_server_contributes_what_it_knows_before_it_answers_again() {
    let machine = Machine::new(10).await;
    let stale = machine.start().await;
    let mut places = Vec::new();
    for person in 0..200 {
        places.push(stale.join(person).await.place);
    }
    stale.run_for(TICK).await;
    let fresh = machine.start_beside(&stale).await;
    // The stale server does not learn that these people left, or that others were called.
    for place in &places[50..100] {
        fresh.service.leave(PERFORMANCE, place).await.unwrap();
    }
    let patch = PolicyPatch { capacity: Some(20), ..PolicyPatch::default() };
    fresh.service.patch_policy(PERFORMANCE, &patch).await.unwrap();
    fresh.run_for(TICK).await;
    let before = fresh.poll(&places[150]).await;
    assert_eq!(before.position, 151 - 20 - 50);

    stale.store.lose_everything();
    for server in [&stale, &fresh] {
        assert!(matches!(server.service.tick().await, Err(Error::LineUnavailable)));
    }
    machine.clock.advance(TICK);
    stale.service.tick().await.unwrap();
    let opened = stale.service.stats(PERFORMANCE).await.unwrap().counts;
    fresh.service.tick().await.unwrap();
    stale.service.tick().await.unwrap();

    assert_eq!(opened.serving.get(), 20, "the ledger knew as much");
    assert_eq!(fresh.poll(&places[150]).await.position, before.position);
    assert_eq!(stale.poll(&places[151]).await.position, before.position + 1, "it learned of those who left");
    for (person, place) in places.iter().enumerate().filter(|(person, _)| !(50..100).contains(person)) {
        let status = fresh.poll(place).await;
        let state = if person < 20 { PlaceState::Admitted } else { PlaceState::Waiting };
        assert_eq!((status.state, status.number.get()), (state, person as u64 + 1), "person {person}");
    }
}

/// After a loss, no person is admitted before the next poll of every waiting person was due.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_admission_waits_for_every_poll_that_is_due() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let mut due = machine.clock.now();
    let mut places = Vec::new();
    for person in 0..3_000 {
        let status = server.join(person).await;
        due = due.max(machine.clock.now().plus(status.poll_after));
        places.push(status.place);
    }
    server.run_for(TICK).await;
    let patch = PolicyPatch { capacity: Some(5), ..PolicyPatch::default() };

    server.store.lose_everything();
    assert!(server.service.tick().await.is_err());
    machine.clock.advance(TICK);
    server.service.patch_policy(PERFORMANCE, &patch).await.unwrap();
    server.service.tick().await.unwrap();
    server.poll(&places[2_999]).await;
    while machine.clock.now() < due {
        server.run_for(TICK).await;
        assert_eq!(server.service.stats(PERFORMANCE).await.unwrap().counts.active, 0, "a poll is still due");
    }
    // People come back in reverse order.
    for place in places.iter().rev() {
        server.poll(place).await;
    }
    server.run_for(Duration::from_secs(10)).await;

    assert_eq!(server.service.stats(PERFORMANCE).await.unwrap().counts.active, 5);
    for place in &places[..5] {
        assert_eq!(server.poll(place).await.state, PlaceState::Admitted);
    }
}

/// People stay inside between ten seconds and two minutes, or until the pass expires; some stop polling, and some leave
/// the line. The test checks the estimate that each person got halfway through the wait.
#[tokio::test(flavor = "multi_thread")]
async fn at_halfway_nine_of_ten_are_told_a_range_that_holds_them() {
    const PEOPLE: u64 = 3_000;
    /// The interval of polls, and so the precision of the times of admission.
    const ASKING: Duration = Duration::from_secs(10);
    let machine = Machine::new(100).await;
    let server = machine.start().await;
    let begun = machine.clock.now();
    let mut dice = StdRng::seed_from_u64(7);
    let mut places = Vec::new();
    for person in 0..PEOPLE {
        places.push(server.join(person).await.place);
    }
    // The estimate in each poll of each place, and the time of its admission.
    let mut told: Vec<Vec<(Timestamp, Option<Eta>)>> = vec![Vec::new(); places.len()];
    let mut admitted_at: Vec<Option<Timestamp>> = vec![None; places.len()];
    let mut inside: Vec<(Timestamp, usize)> = Vec::new();
    let mut waiting: Vec<usize> = (0..places.len()).collect();
    while !waiting.is_empty() && machine.clock.now() < begun.plus(Duration::from_secs(7_200)) {
        server.run_for(ASKING).await;
        let now = machine.clock.now();
        for &(_, index) in inside.iter().filter(|(done_at, _)| *done_at <= now) {
            server.service.leave(PERFORMANCE, &places[index]).await.unwrap();
        }
        inside.retain(|(done_at, _)| *done_at > now);
        let mut still_waiting = Vec::new();
        for index in waiting {
            // One person in fifty leaves the line, and after one poll in ten thousand a person stops polling.
            if index % 50 == 49 && told[index].len() == 10 {
                server.service.leave(PERFORMANCE, &places[index]).await.unwrap();
                continue;
            }
            let status = server.poll(&places[index]).await;
            match status.state {
                PlaceState::Waiting if dice.random_ratio(1, 10_000) => {}
                PlaceState::Waiting => {
                    told[index].push((now, status.eta));
                    still_waiting.push(index);
                }
                PlaceState::Admitted => {
                    admitted_at[index] = Some(now);
                    // One person in ten lets the pass expire.
                    if !dice.random_ratio(1, 10) {
                        inside.push((now.plus(Duration::from_secs(dice.random_range(10..120))), index));
                    }
                }
                PlaceState::Done | PlaceState::Expired => panic!("{index} had no turn and is {:?}", status.state),
            }
        }
        waiting = still_waiting;
    }

    let (mut n_asked, mut n_held) = (0, 0);
    for (told, admitted_at) in told.iter().zip(admitted_at) {
        let Some(admitted_at) = admitted_at else { continue };
        let wait = admitted_at.since(begun);
        // Skips waits of less than a minute, which end before there is a good estimate.
        let Some(&(asked_at, eta)) = told.iter().find(|(at, _)| at.since(begun) >= wait / 2) else { continue };
        if wait < Duration::from_secs(60) {
            continue;
        }
        let Eta { low_s, high_s } = eta.expect("a line that moves can tell");
        let left_s = admitted_at.since(asked_at).as_secs();
        n_asked += 1;
        n_held += u64::from(low_s <= left_s && left_s <= high_s + ASKING.as_secs());
        let mean_s = (low_s + high_s) as f64 / 2.0;
        assert!((high_s - low_s) as f64 <= 0.6 * mean_s || mean_s < 10.0, "{low_s}..{high_s} is vague");
    }
    assert!(n_asked > PEOPLE * 8 / 10, "{n_asked} were asked");
    assert!(n_held * 10 >= n_asked * 9, "{n_held} of {n_asked} were told right");
}

/// L1: a server is killed after the store granted a pass and before the answer arrived. The server that shows this pass
/// to its owner saves it in the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_its_server_did_not_live_to_save_is_saved_by_who_tells_of_it() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let place = server.join(1).await.place;
    let epoch = SqlLineLedger::new(machine.database.clone()).epoch().await.unwrap();
    let at = At { performance: PERFORMANCE, epoch, now: machine.clock.now() };
    let terms = AdmitTerms {
        gate: Gate::Open,
        capacity: 1,
        rate_per_s: 0,
        tick: TICK,
        pass_ttl: PASS_TTL,
        presence_window: Duration::from_secs(90),
    };
    let _unheard = server.store.admit(at, &terms, 10).await.unwrap();
    server.run_for(TICK).await;

    let told = server.poll(&place).await;
    server.run_for(TICK).await;
    server.store.lose_everything();
    assert!(server.service.tick().await.is_err());
    server.run_for(TICK).await;

    assert_eq!(told.state, PlaceState::Admitted);
    assert_eq!(server.poll(&place).await.pass, told.pass);
}

/// A server opens a line in the ledger, and then in the store. In between, the line is missing from the store, but not
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_another_server_is_opening_is_waited_for() {
    let machine = Machine::new(10).await;
    let ledger = SqlLineLedger::new(machine.database.clone());
    let epoch = ledger.begin_epoch(Epoch::ZERO).await.unwrap();
    let opened = ledger.open_line(PERFORMANCE, epoch, 10_000, machine.clock.now()).await.unwrap();
    let store = Arc::<LosableStore>::default();
    let server = machine.server(Arc::clone(&store), OPENING_GRACE);
    server.service.refresh_calendar().await.unwrap();

    assert!(matches!(server.service.tick().await, Err(Error::LineUnavailable)));
    machine.clock.advance(TICK);
    let at = At { performance: PERFORMANCE, epoch, now: machine.clock.now() };
    let Superseded::No(Opening { is_first: true, start, .. }) = opened else { panic!("another server opened it") };
    store.open(at, &Contribution { start, ..Contribution::default() }).await.unwrap();
    server.service.tick().await.unwrap();

    assert_eq!(ledger.epoch().await.unwrap(), epoch, "nothing was lost");
    assert_eq!(server.join(1).await.number.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_opener_vanished_opens_in_the_next_epoch() {
    let machine = Machine::new(10).await;
    let ledger = SqlLineLedger::new(machine.database.clone());
    let epoch = ledger.begin_epoch(Epoch::ZERO).await.unwrap();
    let _vanished = ledger.open_line(PERFORMANCE, epoch, 10_000, machine.clock.now()).await.unwrap();
    let server = machine.server(Arc::default(), OPENING_GRACE);
    server.service.refresh_calendar().await.unwrap();

    assert!(server.service.tick().await.is_err());
    machine.clock.advance(OPENING_GRACE);
    server.service.tick().await.unwrap();

    assert_eq!(ledger.epoch().await.unwrap(), epoch.next());
    assert_eq!(server.join(1).await.number.get(), 10_001, "no number can have been given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_the_line_is_done_at_once_and_stays_so() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let (_, leaver) = (server.join(1).await, server.join(2).await);

    server.service.leave(PERFORMANCE, &leaver.place).await.unwrap();
    let at_once = server.poll(&leaver.place).await.state;
    server.run_for(TICK * 2).await;

    assert_eq!((at_once, server.poll(&leaver.place).await.state), (PlaceState::Done, PlaceState::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_of_someone_not_called_yet_costs_the_store_nothing() {
    let machine = Machine::new(1).await;
    let server = machine.start().await;
    server.join(0).await;
    let mut places = Vec::new();
    for person in 1..=100 {
        places.push(server.join(person).await.place);
    }
    server.run_for(TICK).await;
    let (resolved, joined) = (server.store_calls("resolve"), server.store_calls("join"));

    for _ in 0..10 {
        for place in &places {
            assert_eq!(server.poll(place).await.state, PlaceState::Waiting);
        }
    }

    assert_eq!(server.store_calls("resolve"), resolved, "a thousand polls, no call");
    assert_eq!(joined, 101, "the counter counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_never_rise_while_people_are_admitted_and_leave() {
    let machine = Machine::new(5).await;
    let server = machine.start().await;
    let mut people = Vec::new();
    for person in 0..200 {
        let status = server.join(person).await;
        people.push((status.place, status.position));
    }

    for round in 0..40 {
        let leaver = (round * 7) % people.len();
        server.service.leave(PERFORMANCE, &people[leaver].0).await.unwrap();
        server.run_for(Duration::from_secs(1)).await;
        for (place, position) in &mut people {
            let status = server.poll(place).await;
            assert!(status.position <= *position, "{} rose to {}", position, status.position);
            *position = status.position;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_go_on_past_a_block_without_a_gap() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;

    let mut last = 0;
    for person in 0..20_500 {
        let number = server.join(person).await.number.get();
        assert_eq!(number, last + 1);
        last = number;
    }
}

#[tokio::test]
async fn a_join_given_up_while_it_raises_the_ceiling_leaves_that_to_the_next() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let ledger = SqlLineLedger::new(machine.database.clone());
    let ceiling = async || {
        // The ledger raises nothing if the caller's ceiling is not the current one.
        let reserved = ledger.reserve(PERFORMANCE, Epoch::new(1), PlaceNumber::new(0), 1).await.unwrap();
        let Superseded::No(ceiling) = reserved else { panic!("another epoch") };
        ceiling.get()
    };
    let half = 5_000;
    for person in 0..half {
        server.join(person).await;
    }
    let mut given_up = Box::pin(server.join(half));
    let first_look = std::future::poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_pending()));
    assert!(first_look.await, "it has its number, and waits for the ledger");
    drop(given_up);
    assert_eq!(ceiling().await, 10_000);

    let next = server.join(half + 1).await;

    assert_eq!((next.number.get(), ceiling().await), (half + 2, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_of_a_new_line_at_once_open_it_once() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let mut joins = JoinSet::new();
    for person in 0..200 {
        let service = server.service.clone();
        joins.spawn(async move { service.join(PERFORMANCE, account(person)).await.unwrap().status.number.get() });
    }
    let mut numbers = joins.join_all().await;

    numbers.sort_unstable();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    assert_eq!(server.store_calls("open"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_opens_only_for_its_own_account_and_performance() {
    let machine = Machine::new(1).await;
    let server = machine.start().await;
    let pass = server.join(1).await.pass.unwrap();
    let other_performance = PerformanceId::from_bytes([8; 16]);
    let check = |person, performance, now| server.service.check_pass(&pass.token, account(person), performance, now);

    assert!(matches!(check(1, PERFORMANCE, OPENS_AT), PassCheck::Live(_)));
    assert_eq!(check(2, PERFORMANCE, OPENS_AT), PassCheck::Mismatch);
    assert_eq!(check(1, other_performance, OPENS_AT), PassCheck::Mismatch);
    assert_eq!(check(2, other_performance, OPENS_AT), PassCheck::Mismatch);
    assert_eq!(check(1, PERFORMANCE, pass.expires_at), PassCheck::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patched_policy_holds_from_the_next_tick_on() {
    let machine = Machine::new(0).await;
    let server = machine.start().await;
    let waiting = server.join(1).await;
    let patch = PolicyPatch { capacity: Some(1), ..PolicyPatch::default() };

    server.service.patch_policy(PERFORMANCE, &patch).await.unwrap();
    server.run_for(TICK).await;

    assert_eq!(server.poll(&waiting.place).await.state, PlaceState::Admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_line_takes_nobody_and_an_unknown_one_is_not_found() {
    let machine = Machine::new(1).await;
    let server = machine.start().await;
    let patch = PolicyPatch { state: Some(LineState::Closed), ..PolicyPatch::default() };
    server.service.patch_policy(PERFORMANCE, &patch).await.unwrap();

    let closed = server.service.join(PERFORMANCE, account(1)).await;
    let unknown = server.service.join(PerformanceId::from_bytes([8; 16]), account(1)).await;

    assert!(matches!(closed, Err(Error::SaleClosed)));
    assert!(matches!(unknown, Err(Error::NotFound)));
}

/// The desk uses the time of its caller, not the clock of the line's service.
#[tokio::test(flavor = "multi_thread")]
async fn the_terms_of_a_sale_are_those_at_the_given_time() {
    let machine = Machine::new(1).await;
    let server = machine.start().await;
    let catalogue = SqlCatalogueRepository::new(machine.database.clone());
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 1, grade: "R".into(), price };
    seed_through(&catalogue, PERFORMANCE, &SeatMap::from_sections(&[section]).unwrap()).await;
    let desk = CatalogueDesk::new(Arc::new(catalogue), server.service.clone());

    for (at, phase) in [
        (OPENS_AT.minus(TICK), SalePhase::NotOpen),
        (OPENS_AT, SalePhase::Open),
        (OPENS_AT.plus(SALE_LASTS), SalePhase::Closed),
    ] {
        let terms = desk.terms(PERFORMANCE, at).await.unwrap().unwrap();

        assert_eq!(terms.phase, phase, "{at:?}");
    }
}
