//! Cancelled calls, and a database that is silent, unreachable, or killed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlReservationRepository};
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, PerformanceId, ReservationId, StoreError, TicketId, Timestamp,
};
use usher_migrations::{Migrator, MigratorTrait as _};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReservationHistory as _, ReservationRepository as _,
    ReservationRepositoryExt as _, SeatWish, Settled, Verdict,
};
use usher_reservation::{State, audit};
use usher_test_servers::mysql_server::{Durability, Server, create_database};
use usher_test_servers::mysql_watcher::Watcher;
use usher_test_servers::network::Network;

use crate::backend::{Backend as _, Mysql};

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const CONNECTIONS: u32 = 4;
const N_SEATS: u16 = 500;
const DEADLINE: Duration = Duration::from_secs(30);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let tries = async {
        while !condition().await {
            #[expect(clippy::disallowed_methods, reason = "the pause between two checks of the condition")]
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    };
    tokio::time::timeout(DEADLINE, tries).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// A database with one performance, whose seats are `A-1-1` to `A-1-500`.
async fn with_seats(url: &str) -> Database {
    let database = Database::open(&Settings::new(url, CONNECTIONS)).await.unwrap();
    Migrator::up(database.writer(), None).await.unwrap();
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: N_SEATS, grade: "R".into(), price };
    let map = SeatMap::from_sections(&[section]).unwrap();
    seed_through(&SqlCatalogueRepository::new(database.clone()), PERFORMANCE, &map).await;
    database
}

fn id(n: u32) -> [u8; 16] {
    u128::from(n).to_be_bytes()
}

fn claim(n: u32, key: &str) -> Claim {
    Claim { account: AccountId::from_bytes(id(n)), key: key.parse().unwrap(), fingerprint: Fingerprint([0; 32]) }
}

/// The command of buyer `n`, who wants the seat of the same number.
fn wish(n: u32) -> HoldCommand {
    HoldCommand {
        id: ReservationId::from_bytes(id(n)),
        performance: PERFORMANCE,
        account: AccountId::from_bytes(id(n)),
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(vec![format!("A-1-{n}").parse().unwrap()]),
        seat_limit: 4,
        hold_ttl: Duration::from_secs(300),
        claim: claim(n, "hold"),
    }
}

async fn hold(repository: &SqlReservationRepository, n: u32) -> Result<(), StoreError> {
    match repository.hold(&[wish(n)], NOW).await?.remove(0) {
        HoldOutcome::Held(_) | HoldOutcome::Replayed(_) => Ok(()),
        refused => panic!("no two buyers want the same seat: {refused:?}"),
    }
}

async fn pay(repository: &SqlReservationRepository, n: u32) -> Result<(), StoreError> {
    let attempt = AttemptId::from_bytes(id(n));
    let (reservation, account) = (ReservationId::from_bytes(id(n)), AccountId::from_bytes(id(n)));
    let command =
        PayCommand { reservation, account, attempt, resolve_after: Duration::ZERO, claim: claim(n, "confirm") };
    let begun = repository.begin_payment(&command, NOW).await?;
    assert!(matches!(begun, PayOutcome::Begun(_)), "{begun:?}");
    let verdict = Verdict::Captured(vec![(TicketId::from_bytes(id(n)), format!("CODE{n}"))]);
    let settled = repository.settle(attempt, &verdict, NOW).await?;
    assert!(matches!(settled, Some(Settled::Confirmed(_))), "{settled:?}");
    Ok(())
}

/// Whether the pool runs as many transactions at once as it has connections.
async fn all_connections_work(database: &Database) -> bool {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        match database.writer().begin().await {
            Ok(transaction) => open.push(transaction),
            Err(_) => return false,
        }
    }
    join_all(open.iter().map(|transaction| transaction.execute_unprepared("DO 1"))).await.iter().all(Result::is_ok)
}

/// Waits until every connection is open and idle.
async fn all_are_idle(database: &Database) {
    let pool = database.writer().get_mysql_connection_pool();
    eventually("all connections are idle", async || pool.num_idle() == usize::try_from(CONNECTIONS).unwrap()).await;
}

fn assert_refused(result: &Result<(), StoreError>) {
    assert!(matches!(result, Err(StoreError::Unavailable { .. } | StoreError::Timeout { .. })), "{result:?}");
}

/// LESSONS S13. A call that is cancelled at any point leaves no transaction open in which the work of other calls is
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn calls_cancelled_at_any_point_leave_no_transaction_open_and_lose_no_other_calls_work() {
    const WORKERS: u32 = CONNECTIONS;
    const GIVEN_UP: u32 = 24;
    let (_kept, url) = Mysql::empty().await;
    let direct = with_seats(&url).await;
    let (_network, slow) = Network::to(&url, Duration::from_millis(5));
    let settings = Settings { acquire_timeout: DEADLINE, ..Settings::new(slow, CONNECTIONS) };
    let database = Database::open(&settings).await.unwrap();
    let repository = SqlReservationRepository::new(database.clone());
    let acknowledged = Mutex::new(Vec::new());

    let worker = async |worker: u32| {
        for turn in 0..GIVEN_UP {
            let n = worker * GIVEN_UP + turn;
            // Each call is cancelled a little later than the one before: some have not begun, and some are done.
            let after = Duration::from_millis(u64::from(n * 2));
            let given_up = async {
                if n.is_multiple_of(3) {
                    repository.history(PERFORMANCE).await.map(drop)
                } else {
                    hold(&repository, 1 + n).await
                }
            };
            let _given_up = tokio::time::timeout(after, given_up).await;
            if turn.is_multiple_of(2) {
                let honest = 200 + n;
                hold(&repository, honest).await.unwrap();
                pay(&repository, honest).await.unwrap();
                acknowledged.lock().unwrap().push(honest);
            }
        }
    };
    join_all((0..WORKERS).map(worker)).await;

    let on_the_spot = SqlReservationRepository::new(direct.clone());
    let acknowledged = acknowledged.into_inner().unwrap();
    assert_eq!(acknowledged.len(), usize::try_from(WORKERS * GIVEN_UP / 2).unwrap());
    for n in acknowledged {
        let (reservation, account) = (ReservationId::from_bytes(id(n)), AccountId::from_bytes(id(n)));
        let found = on_the_spot.find(reservation, account, NOW).await.unwrap();
        assert!(matches!(found.map(|found| found.state), Some(State::Confirmed { .. })), "{n} was acknowledged");
    }
    let history = on_the_spot.history(PERFORMANCE).await.unwrap();
    assert_eq!(audit::check(&history).contradictions, [""; 0]);
    let mut watcher = Watcher::of(&url).await;
    eventually("no transaction stays open", async || watcher.n_open().await == 0).await;
    assert!(all_connections_work(&database).await);
}

/// LESSONS S14. While a database does not respond, every call fails. When it responds again, all connections work.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_silent_is_used_again_on_all_connections() {
    let server = Server::start(Durability::None, &[]);
    let database = with_seats(&create_database(&server.url(), "usher").await).await;
    let repository = SqlReservationRepository::new(database.clone());
    assert!(all_connections_work(&database).await);
    all_are_idle(&database).await;

    server.pause();
    let meanwhile = join_all((1..=3 * CONNECTIONS).map(|n| hold(&repository, n))).await;
    let (reservation, account) = (ReservationId::from_bytes(id(1)), AccountId::from_bytes(id(1)));
    let read = repository.find(reservation, account, NOW).await.map(drop);
    server.resume();

    meanwhile.iter().for_each(assert_refused);
    assert_refused(&read);
    eventually("all connections work", async || all_connections_work(&database).await).await;
    for held in join_all((1..=CONNECTIONS).map(|n| hold(&repository, n))).await {
        held.unwrap();
    }
}

/// LESSONS S14. Connections that break without a notice to either end do not occupy places in the pool.
#[tokio::test(flavor = "multi_thread")]
async fn dead_connections_are_replaced() {
    let server = Server::start(Durability::None, &[]);
    let url = create_database(&server.url(), "usher").await;
    drop(with_seats(&url).await);
    let (network, url) = Network::to(&url, Duration::ZERO);
    let database = Database::open(&Settings::new(url, CONNECTIONS)).await.unwrap();
    let repository = SqlReservationRepository::new(database.clone());
    assert!(all_connections_work(&database).await);
    all_are_idle(&database).await;

    network.lose_connections();
    let meanwhile = join_all((1..=CONNECTIONS).map(|n| hold(&repository, n))).await;

    meanwhile.iter().for_each(assert_refused);
    eventually("all connections work", async || all_connections_work(&database).await).await;
    for n in 1..=CONNECTIONS {
        hold(&repository, n).await.unwrap();
    }
}

/// A database that is killed in the middle of a rush and started again has every acknowledged hold, and retries
/// succeed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_keeps_every_acknowledged_hold_and_calls_succeed_after_its_restart() {
    const BUYERS: u32 = 300;
    const BEFORE: usize = 50;
    let mut server = Server::start(Durability::Full, &[]);
    let database = with_seats(&create_database(&server.url(), "usher").await).await;
    let repository = SqlReservationRepository::new(database.clone());
    let (next, n_refused) = (AtomicU32::new(1), AtomicU32::new(0));
    let acknowledged = Mutex::new(Vec::new());

    let worker = async || loop {
        let n = next.fetch_add(1, Ordering::SeqCst);
        if n > BUYERS {
            break;
        }
        eventually("a hold is answered", async || {
            let result = hold(&repository, n).await;
            if result.is_err() {
                assert_refused(&result);
                n_refused.fetch_add(1, Ordering::SeqCst);
            }
            result.is_ok()
        })
        .await;
        acknowledged.lock().unwrap().push(n);
    };
    let crash = async {
        eventually("the rush has begun", async || acknowledged.lock().unwrap().len() >= BEFORE).await;
        tokio::task::block_in_place(|| server.kill());
        eventually("calls are refused", async || n_refused.load(Ordering::SeqCst) > 0).await;
        tokio::task::block_in_place(|| server.start_again());
    };
    tokio::join!(join_all((0..2 * CONNECTIONS).map(|_| worker())), crash);

    let mut acknowledged = acknowledged.into_inner().unwrap();
    acknowledged.sort_unstable();
    assert!(acknowledged.iter().copied().eq(1..=BUYERS));
    let history = repository.history(PERFORMANCE).await.unwrap();
    assert_eq!(audit::check(&history).contradictions, [""; 0]);
    assert_eq!(history.reservations.len(), usize::try_from(BUYERS).unwrap());
    assert_eq!(history.events.len(), usize::try_from(BUYERS).unwrap(), "each seat was held once");
}
