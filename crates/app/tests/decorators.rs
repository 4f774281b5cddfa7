//! Decorators keep the contract of the port that they wrap: they pass its suite.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;
use usher_adapter_memory::MemoryLineStore;
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlLineLedger, SqlReservationRepository};
use usher_app::decorators::batched_line::{BatchedLineLedger, BatchedLineStore};
use usher_app::decorators::group_commit::GroupCommit;
use usher_app::decorators::observed::Observed;
use usher_app::decorators::recorded::Recorded;
use usher_app::runtime::background::Background;
use usher_app::runtime::clock::SystemClock;
use usher_app::runtime::metrics::Metrics;
use usher_app::runtime::schema;
use usher_concert::SeatMap;
use usher_concert::seat_map::SectionPlan;
use usher_contract_tests::reservation_repository::Fixture as _;
use usher_contract_tests::{line_ledger, line_store, reservation_repository};
use usher_kernel::{AccountId, Claim, Fingerprint, Money, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_queue::PlaceNumber;
use usher_queue::ports::{LineLedger, LineStore};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, ReservationHistory, ReservationRepository, SeatEvents, SeatWish,
};

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

async fn database() -> (Database, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usher.db").display());
    let database = Database::open(&Settings::new(url, 4)).await.unwrap();
    schema::up(&database).await.unwrap();
    (database, folder)
}

/// Group commit over observed reservations on SQLite, in the server's order.
struct GroupCommitted {
    reservations: Arc<dyn ReservationRepository>,
    database: Database,
    _background: Background,
    _folder: TempDir,
}

impl reservation_repository::Fixture for GroupCommitted {
    async fn fresh() -> Self {
        let (database, folder) = database().await;
        let background = Background::default();
        let stored: Arc<dyn ReservationRepository> = Arc::new(SqlReservationRepository::new(database.clone()));
        let observed = Arc::new(Observed::new(stored, metrics()));
        let reservations = Arc::new(GroupCommit::new(observed, &background));
        Self { reservations, database, _background: background, _folder: folder }
    }

    fn repository(&self) -> Arc<dyn ReservationRepository> {
        Arc::clone(&self.reservations)
    }

    fn events(&self) -> Arc<dyn SeatEvents> {
        let stored: Arc<dyn SeatEvents> = Arc::new(SqlReservationRepository::new(self.database.clone()));
        Arc::new(Observed::new(stored, metrics()))
    }

    fn history(&self) -> Arc<dyn ReservationHistory> {
        Arc::new(SqlReservationRepository::new(self.database.clone()))
    }

    async fn seed(&self, performance: PerformanceId, map: &SeatMap) {
        let catalogue = SqlCatalogueRepository::new(self.database.clone());
        reservation_repository::seed_through(&catalogue, performance, map).await;
    }

    async fn leave(&self, performance: PerformanceId, pass: PassNumber, now: Timestamp) {
        let ledger = SqlLineLedger::new(self.database.clone());
        ledger.end_pass(performance, PlaceNumber::new(pass.0), now).await.unwrap();
    }
}

mod group_commit {
    use super::GroupCommitted;

    usher_contract_tests::reservation_repository_contract!(GroupCommitted);
}

#[tokio::test]
async fn a_hold_that_keeps_losing_races_does_not_fail_those_beside_it() {
    let fixture = GroupCommitted::fresh().await;
    let performance = PerformanceId::from_bytes([1; 16]);
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 3, grade: "R".into(), price };
    fixture.seed(performance, &SeatMap::from_sections(&[section]).unwrap()).await;
    // Each write to the seat changes no row, as if a rival had changed the seat since it was read.
    let rival = "CREATE TRIGGER rival BEFORE UPDATE ON seats WHEN OLD.seat = 'A-1-2' BEGIN SELECT RAISE(IGNORE); END";
    let file = SqliteConnectOptions::new().filename(fixture._folder.path().join("usher.db"));
    sqlx::query(rival).execute(&mut file.connect().await.unwrap()).await.unwrap();
    let hold = |n: u8| {
        let account = AccountId::from_bytes([n; 16]);
        let command = HoldCommand {
            id: ReservationId::from_bytes([n; 16]),
            performance,
            account,
            pass: PassNumber(u64::from(n)),
            seats: SeatWish::Named(vec![format!("A-1-{n}").parse().unwrap()]),
            seat_limit: 4,
            hold_ttl: Duration::from_secs(300),
            claim: Claim { account, key: "hold".parse().unwrap(), fingerprint: Fingerprint([n; 32]) },
        };
        let reservations = fixture.repository();
        async move { reservations.hold(&[command], Timestamp::EPOCH).await }
    };

    let (first, loser, third) = tokio::join!(hold(1), hold(2), hold(3));

    assert!(matches!(loser, Err(StoreError::Conflict { operation: "reservation.hold", .. })), "{loser:?}");
    for held in [first, third] {
        assert!(matches!(held.unwrap()[..], [HoldOutcome::Held(_)]));
    }
}

struct ObservedMemory;

impl line_store::Fixture for ObservedMemory {
    async fn store() -> Arc<dyn LineStore> {
        let store: Arc<dyn LineStore> = Arc::new(MemoryLineStore::new());
        Arc::new(Observed::new(store, metrics()))
    }
}

struct BatchedMemory;

impl line_store::Fixture for BatchedMemory {
    async fn store() -> Arc<dyn LineStore> {
        let store: Arc<dyn LineStore> = Arc::new(MemoryLineStore::new());
        // The handle is dropped at once: the tasks end with the test's runtime.
        Arc::new(BatchedLineStore::new(store, &Background::default()))
    }
}

mod batched_store {
    use super::BatchedMemory;

    usher_contract_tests::line_store_contract!(BatchedMemory);
}

struct BatchedSqlite {
    ledger: Arc<dyn LineLedger>,
    _folder: TempDir,
}

impl line_ledger::Fixture for BatchedSqlite {
    async fn fresh() -> Self {
        let (database, folder) = database().await;
        let ledger: Arc<dyn LineLedger> = Arc::new(SqlLineLedger::new(database));
        Self { ledger: Arc::new(BatchedLineLedger::new(ledger, &Background::default())), _folder: folder }
    }

    fn ledger(&self) -> Arc<dyn LineLedger> {
        Arc::clone(&self.ledger)
    }
}

mod batched_ledger {
    use super::BatchedSqlite;

    usher_contract_tests::line_ledger_contract!(BatchedSqlite);
}

mod observed {
    use super::ObservedMemory;

    usher_contract_tests::line_store_contract!(ObservedMemory);
}

struct RecordedMemory;

impl line_store::Fixture for RecordedMemory {
    async fn store() -> Arc<dyn LineStore> {
        let store: Arc<dyn LineStore> = Arc::new(MemoryLineStore::new());
        let folder = tempfile::tempdir().unwrap();
        // The file stays open when its folder is deleted.
        Arc::new(Recorded::new(store, Arc::new(SystemClock::new()), &folder.path().join("history")).unwrap())
    }
}

mod recorded {
    use super::RecordedMemory;

    usher_contract_tests::line_store_contract!(RecordedMemory);
}
