//! Boards over a real store: several servers that follow one history of events, and their answers while the store is
//! unavailable. The tests move the clock.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tempfile::TempDir;
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlReservationRepository};
use usher_app::live::boards::{Boards, Error, News, Picture, STALE_MAX};
use usher_app::runtime::background::Background;
use usher_concert::ports::CatalogueRepository as _;
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::race::race_all;
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{AccountId, Claim, Fingerprint, ManualClock, Money, PerformanceId, ReservationId, Timestamp};
use usher_migrations::{Migrator, MigratorTrait as _};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{HoldCommand, HoldOutcome, ReleaseOutcome, ReservationRepositoryExt as _, SeatWish};

const HERE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

/// A database with one performance, and the clock of all servers.
struct Scene {
    folder: TempDir,
    database: Database,
    clock: Arc<ManualClock>,
    background: Background,
}

fn map(n_seats: u16) -> SeatMap {
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: n_seats, grade: "R".into(), price };
    SeatMap::from_sections(&[section]).unwrap()
}

impl Scene {
    async fn with_seats(n_seats: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let database = Database::open(&Settings::new(url, 4)).await.unwrap();
        Migrator::up(database.writer(), None).await.unwrap();
        seed_through(&SqlCatalogueRepository::new(database.clone()), HERE, &map(n_seats)).await;
        Self { folder, database, clock: Arc::new(ManualClock::new(NOW)), background: Background::default() }
    }

    fn repository(&self) -> SqlReservationRepository {
        SqlReservationRepository::new(self.database.clone())
    }

    fn server(&self) -> Boards {
        let clock: Arc<ManualClock> = Arc::clone(&self.clock);
        Boards::new(Arc::new(self.repository()), clock, &self.background)
    }

    /// Buyer `n` holds a seat.
    async fn hold(&self, n: u8, seat: u16) {
        assert!(matches!(hold(&self.repository(), n, seat).await, HoldOutcome::Held(_)));
    }

    async fn execute(&self, sql: &str) {
        let url = format!("sqlite://{}", self.folder.path().join("usher.db").display());
        let pool = SqlitePool::connect(&url).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
}

async fn hold(repository: &SqlReservationRepository, n: u8, seat: u16) -> HoldOutcome {
    let account = AccountId::from_bytes([n; 16]);
    let command = HoldCommand {
        id: ReservationId::from_bytes([n; 16]),
        performance: HERE,
        account,
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(vec![format!("A-1-{seat}").parse().unwrap()]),
        seat_limit: 4,
        hold_ttl: 300 * SECOND,
        claim: Claim { account, key: "hold".parse().unwrap(), fingerprint: Fingerprint([n; 32]) },
    };
    repository.hold_one(&command, NOW).await.unwrap()
}

async fn picture(server: &Boards) -> Arc<Picture> {
    server.open(HERE).await.unwrap().picture()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_show_the_same_after_a_step() {
    let scene = Scene::with_seats(4).await;
    let servers = [scene.server(), scene.server()];
    for server in &servers {
        assert_eq!(picture(server).await.packed, [0]);
    }

    scene.hold(1, 2).await;
    scene.hold(2, 4).await;
    let before = picture(&servers[0]).await;
    for server in &servers {
        server.follow().await.unwrap();
    }
    let [one, other] = [picture(&servers[0]).await, picture(&servers[1]).await];

    assert_eq!(before.packed, [0], "a look asks no store");
    assert_eq!((&one.packed, one.sequence), (&vec![0b01_00_01_00], other.sequence));
    assert_eq!(one.packed, other.packed);
    assert!(one.sequence > before.sequence);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shows_what_it_did_itself_without_waiting_for_a_step() {
    let scene = Scene::with_seats(4).await;
    let server = scene.server();
    picture(&server).await;
    scene.hold(1, 1).await;

    server.stir();

    assert_eq!(picture(&server).await.packed, [0b01]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_read_while_seats_change_misses_nothing() {
    let scene = Scene::with_seats(64).await;
    let servers: Vec<_> = (0..8).map(|_| scene.server()).collect();
    let buyers = (1..=64_u8).map(|n| {
        let repository = scene.repository();
        let server = servers[usize::from(n) % 8].clone();
        async move {
            // Some buyers read the board first, so that reads and changes mix.
            if n % 3 == 0 {
                server.open(HERE).await.unwrap();
            }
            assert!(matches!(hold(&repository, n, u16::from(n)).await, HoldOutcome::Held(_)));
            server.open(HERE).await.unwrap();
            server.follow().await.unwrap();
            if n % 2 == 0 {
                let (id, account) = (ReservationId::from_bytes([n; 16]), AccountId::from_bytes([n; 16]));
                let released = repository.release(id, account, NOW).await.unwrap();
                assert!(matches!(released, ReleaseOutcome::Released(_)));
            }
        }
    });

    race_all(buyers).await;

    for server in &servers {
        server.follow().await.unwrap();
        // The odd buyers, whose seats have even indices, keep theirs.
        assert_eq!(picture(server).await.packed, [0b00_01_00_01; 16]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_the_last_map_is_shown_for_a_while_and_then_none() {
    let scene = Scene::with_seats(4).await;
    let server = scene.server();
    scene.hold(1, 1).await;
    assert_eq!(picture(&server).await.packed, [0b01]);
    scene.execute("ALTER TABLE seat_events RENAME TO away").await;

    scene.clock.advance(STALE_MAX);
    assert!(server.follow().await.is_err());
    let stale = picture(&server).await;
    let age = server.age();
    scene.clock.advance(SECOND);
    let refused = server.open(HERE).await.err();
    scene.execute("ALTER TABLE away RENAME TO seat_events").await;
    scene.hold(2, 2).await;
    server.follow().await.unwrap();

    assert_eq!((&stale.packed, age), (&vec![0b01], STALE_MAX), "and it says how old it is");
    assert!(matches!(refused, Some(Error::Store(_))), "{refused:?}");
    assert_eq!(picture(&server).await.packed, [0b01_01], "it heals by itself");
    assert_eq!(server.age(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_told_shows_within_a_minute() {
    let scene = Scene::with_seats(4).await;
    let server = scene.server();
    let (board, mut bell) = server.open_and_keep(HERE).await.unwrap();
    let position = board.begin(None, 0, |_, _| "".into()).position;
    scene.execute("UPDATE seats SET status = 'sold', version = 2 WHERE seat = 'A-1-3'").await;

    scene.clock.advance(59 * SECOND);
    server.follow().await.unwrap();
    server.read_again().await.unwrap();
    let before = board.picture();
    scene.clock.advance(SECOND);
    server.read_again().await.unwrap();

    assert_eq!((&before.packed, &board.picture().packed), (&vec![0], &vec![0b10_00_00]));
    assert!(bell.has_changed().unwrap());
    bell.mark_unchanged();
    let told = board.since(position, |news, _| match news {
        News::Seats(seats) => format!("{seats:?}").into(),
        News::Reset { .. } => "reset".into(),
    });
    assert_eq!(told.bytes.unwrap(), "{2: Sold}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_map_is_shown_at_the_next_step() {
    let scene = Scene::with_seats(4).await;
    let server = scene.server();
    let (shown_here, bell) = server.open_and_keep(HERE).await.unwrap();
    let position = shown_here.begin(None, 0, |_, _| "".into()).position;
    let known = shown_here.picture().sequence;

    let catalogue = SqlCatalogueRepository::new(scene.database.clone());
    let _replaced = catalogue.replace_seats(HERE, &map(9), Timestamp::EPOCH).await.unwrap();
    server.follow().await.unwrap();
    server.read_again().await.unwrap();

    let shown = shown_here.picture();
    assert_eq!((shown.map_version, shown.packed.len()), (2, 3));
    assert!(shown.sequence > known && bell.has_changed().unwrap());
    let is_reset = |news: Option<News<'_>>| match news {
        Some(News::Reset { map_version: 2 }) => "reset".into(),
        Some(_) | None => "".into(),
    };
    assert_eq!(shown_here.since(position, |news, _| is_reset(Some(news))).bytes.unwrap(), "reset");
    assert_eq!(shown_here.begin(Some(known), server.highest(), |news, _| is_reset(news)).bytes.unwrap(), "reset");
    assert_eq!(shown_here.begin(Some(shown.sequence), server.highest(), |news, _| is_reset(news)).bytes.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_is_forgotten_when_nobody_looks_and_kept_for_who_follows() {
    let scene = Scene::with_seats(4).await;
    let server = scene.server();
    let (followed, bell) = server.open_and_keep(HERE).await.unwrap();

    scene.clock.advance(301 * SECOND);
    server.follow().await.unwrap();
    let n_kept = server.n_boards();
    drop((followed, bell));
    server.follow().await.unwrap();
    let n_left = server.n_boards();
    scene.hold(1, 1).await;

    assert_eq!((n_kept, n_left), (1, 0));
    assert_eq!(picture(&server).await.packed, [0b01], "the next request reads the board again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_performance_that_is_not_there_is_not_found_and_leaves_nothing() {
    let scene = Scene::with_seats(1).await;
    let server = scene.server();

    let unknown = server.open(PerformanceId::from_bytes([9; 16])).await.err();

    assert!(matches!(unknown, Some(Error::NotFound)), "{unknown:?}");
    assert_eq!(server.n_boards(), 0);
}
