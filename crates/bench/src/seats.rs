//! The seats at their port, on each database: holds and purchases per second, and the latency of refusals of one seat
//! that all buyers want. Shared transactions are measured; the control is one transaction for each call. Knows no HTTP.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlReservationRepository};
use usher_app::decorators::group_commit::GroupCommit;
use usher_app::runtime::background::Background;
use usher_app::runtime::schema;
use usher_concert::SeatMap;
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, PerformanceId, ReservationId, SeatId, TicketId, Timestamp,
};
use usher_loadtest::bench::holds::{AT_ONE_SEAT, IN_FLIGHT};
use usher_loadtest::bench::report::{Figure, Goal, median, percentile};
use usher_loadtest::bench::{Outcome, RUNS, Scale, progress};
use usher_loadtest::world::clock::Stopwatch;
use usher_loadtest::world::hall;
use usher_reservation::audit;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReservationHistory as _, ReservationRepository,
    ReservationRepositoryExt as _, SeatWish, Settled, Verdict,
};
use usher_test_servers::container;
use usher_test_servers::mysql_server::{self, Durability, Server};

/// Attempts of each buyer who wants one seat.
const ASKS_EACH: usize = 20;
/// Goal for the 99th percentile of a refusal.
const REFUSED_WITHIN_MS: f64 = 20.0;
/// Connections of the control. Which number is best depends on the database, so the best of these counts.
const POOLS: [u32; 3] = [8, 16, 32];
/// Connections for shared transactions, which need few.
pub(crate) const POOL_OF_SHARED: u32 = 8;
/// The image of MySQL, which is not installed beside MariaDB.
const MYSQL_IMAGE: &str = "mysql:9";
const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const HOLD_TTL: Duration = Duration::from_secs(3_600);

/// A database, and its goals.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    url: String,
    /// Least holds per second, and least ratio to the control.
    goal: Option<(f64, f64)>,
    pub(crate) server: Option<Server>,
}

impl Engine {
    pub(crate) fn sqlite(folder: &Path) -> Self {
        let url = format!("sqlite://{}", folder.join("seats.db").display());
        Self { name: "SQLite", url, goal: None, server: None }
    }

    pub(crate) async fn mariadb() -> Self {
        Self::on_server("MariaDB", None, (4_000.0, 2.0)).await
    }

    /// MySQL, if its image is present.
    pub(crate) async fn mysql() -> Option<Self> {
        if !container::has_image(MYSQL_IMAGE) {
            progress(&format!("MySQL is skipped: there is no image {MYSQL_IMAGE}"));
            return None;
        }
        Some(Self::on_server("MySQL", Some(MYSQL_IMAGE), (3_000.0, 3.0)).await)
    }

    /// A database on a new server with full durability.
    async fn on_server(name: &'static str, image: Option<&str>, goal: (f64, f64)) -> Self {
        let server = Server::start_from(image, Durability::Full, &[]);
        let url = mysql_server::create_database(&server.url(), "bench").await;
        Self { name, url, goal: Some(goal), server: Some(server) }
    }

    /// Measures the seats at their port.
    ///
    /// # Errors
    /// If the database fails, or an answer is wrong.
    pub(crate) async fn measure(&self, scale: Scale, figures: &mut Vec<Figure>) -> Outcome<()> {
        let name = self.name;
        let (n_holds, n_alone, n_bought) = (scale.people(8_000), scale.people(2_000), scale.people(2_000));
        let runs = RUNS as u64;
        let n_seats = runs * (n_holds + 3 * n_alone + 2 * n_bought) + 1;
        progress(&format!("{name}: a hall of some {n_seats} seats"));
        let database = self.open(POOL_OF_SHARED).await?;
        let stored = SqlReservationRepository::new(database.clone());
        let port = Port::open(database, n_seats).await?;
        let Port { repository: together, background, mut buyers } = port;
        let mut alone = Vec::new();
        for pool in POOLS {
            let database = self.open(pool).await?;
            let repository: Repository = Arc::new(SqlReservationRepository::new(database));
            alone.push((pool, repository));
        }
        progress(&format!("{name}: holds of one seat, {IN_FLIGHT} in flight"));
        let (mut rates, mut controls) = (Vec::new(), [const { Vec::new() }; POOLS.len()]);
        for _ in 0..RUNS {
            rates.push(rate(hold_all(&together, &mut buyers, n_holds).await?, n_holds));
            for ((_, repository), rates) in alone.iter().zip(&mut controls) {
                rates.push(rate(hold_all(repository, &mut buyers, n_alone).await?, n_alone));
            }
        }
        let medians = controls.map(|rates| median(&rates));
        let best = (0..POOLS.len()).max_by(|&one, &other| medians[one].total_cmp(&medians[other])).unwrap_or_default();
        let text =
            format!("{name}: holds a second, shared transactions (control: one each, {} connections)", POOLS[best]);
        let figure = Figure::rate(text, median(&rates), "1/s", medians[best]);
        if let Some((at_least, ratio)) = self.goal {
            figures.push(figure.clone().with_goal(Goal::RatioAtLeast(ratio)));
            figures.push(Figure { name: format!("{name}: the same"), ..figure }.with_goal(Goal::AtLeast(at_least)));
        } else {
            figures.push(figure);
        }

        progress(&format!("{name}: hold and confirm, {IN_FLIGHT} in flight"));
        let (mut rates, mut controls) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            rates.push(rate(buy_all(&together, &mut buyers, n_bought).await?, n_bought));
            controls.push(rate(buy_all(&alone[best].1, &mut buyers, n_bought).await?, n_bought));
        }
        let text = format!("{name}: holds that are paid a second, shared transactions (control: one each)");
        figures.push(Figure::rate(text, median(&rates), "1/s", median(&controls)));

        progress(&format!("{name}: {AT_ONE_SEAT} at once want one seat that is held"));
        let hot = buyers.next();
        hold(&together, hot).await?;
        let refused = refusals_ms(&together, &mut buyers, hot).await?;
        let control = refusals_ms(&alone[best].1, &mut buyers, hot).await?;
        for percent in [50, 99] {
            let text = format!(
                "{name}: refusal of a seat that {AT_ONE_SEAT} want, p{percent} (control: one transaction each)"
            );
            let figure = Figure::duration(text, percentile(&refused, percent), "ms", percentile(&control, percent));
            let is_judged = percent == 99;
            figures.push(if is_judged { figure.with_goal(Goal::AtMost(REFUSED_WITHIN_MS)) } else { figure });
        }

        let findings = audit::check(&stored.history(PERFORMANCE).await?);
        background.stop(Duration::from_secs(5)).await;
        match findings.contradictions.first() {
            None => Ok(()),
            Some(first) => Err(format!("{name}: {first}").into()),
        }
    }

    async fn open(&self, max_connections: u32) -> Outcome<Database> {
        open(&self.url, max_connections).await
    }
}

pub(crate) async fn open(url: &str, max_connections: u32) -> Outcome<Database> {
    // Many callers wait for few connections, the last of them for long.
    let settings = Settings { acquire_timeout: Duration::from_secs(30), ..Settings::new(url, max_connections) };
    Ok(Database::open(&settings).await?)
}

/// The port of the seats, in shared transactions.
pub(crate) struct Port {
    pub(crate) repository: Repository,
    pub(crate) background: Background,
    pub(crate) buyers: Buyers,
}

impl Port {
    /// Opens an empty database, with a performance of at least `n_seats` seats.
    pub(crate) async fn open(database: Database, n_seats: u64) -> Outcome<Self> {
        schema::up(&database).await?;
        let catalogue = SqlCatalogueRepository::new(database.clone());
        seed_through(&catalogue, PERFORMANCE, &seat_map(n_seats)?).await;
        let background = Background::default();
        let stored = Arc::new(SqlReservationRepository::new(database));
        let repository: Repository = Arc::new(GroupCommit::new(stored, &background));
        Ok(Self { repository, background, buyers: Buyers::default() })
    }
}

/// A seat map with at least `n_seats` seats.
fn seat_map(n_seats: u64) -> Outcome<SeatMap> {
    let sections = hall::sections(usize::try_from(n_seats)?);
    SeatMap::from_sections(&sections).map_err(|violations| format!("{violations:?}").into())
}

/// Numbers of new buyers; each has a seat of their own.
#[derive(Default)]
pub(crate) struct Buyers(u64);

impl Buyers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    fn take(&mut self, count: u64) -> Vec<u64> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn id(n: u64) -> [u8; 16] {
    // Spread over the whole range, as the random part of ids is.
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// The seat of a buyer; buyers count from 1.
fn seat(buyer: u64) -> Outcome<SeatId> {
    Ok(hall::seat(usize::try_from(buyer - 1)?).parse()?)
}

fn claim(buyer: u64, key: &str) -> Outcome<Claim> {
    let account = AccountId::from_bytes(id(buyer));
    Ok(Claim { account, key: key.parse()?, fingerprint: Fingerprint([0; 32]) })
}

fn wish(buyer: u64, seat: SeatId) -> Outcome<HoldCommand> {
    Ok(HoldCommand {
        id: ReservationId::from_bytes(id(buyer)),
        performance: PERFORMANCE,
        account: AccountId::from_bytes(id(buyer)),
        pass: PassNumber(buyer),
        seats: SeatWish::Named(vec![seat]),
        seat_limit: 4,
        hold_ttl: HOLD_TTL,
        claim: claim(buyer, "hold")?,
    })
}

pub(crate) type Repository = Arc<dyn ReservationRepository>;

pub(crate) async fn hold(repository: &Repository, buyer: u64) -> Outcome<()> {
    match repository.hold(&[wish(buyer, seat(buyer)?)?], NOW).await?.pop() {
        Some(HoldOutcome::Held(_)) => Ok(()),
        other => Err(format!("the hold of a free seat is answered {other:?}").into()),
    }
}

async fn buy(repository: &Repository, buyer: u64) -> Outcome<()> {
    hold(repository, buyer).await?;
    let attempt = AttemptId::from_bytes(id(buyer));
    let payment = PayCommand {
        reservation: ReservationId::from_bytes(id(buyer)),
        account: AccountId::from_bytes(id(buyer)),
        attempt,
        resolve_after: HOLD_TTL,
        claim: claim(buyer, "confirm")?,
    };
    let begun = repository.begin_payment(&payment, NOW).await?;
    let PayOutcome::Begun(_) = begun else {
        return Err(format!("the begin of a payment is answered {begun:?}").into());
    };
    let verdict = Verdict::Captured(vec![(TicketId::from_bytes(id(buyer)), format!("code-{buyer}"))]);
    match repository.settle(attempt, &verdict, NOW).await? {
        Some(Settled::Confirmed(_)) => Ok(()),
        other => Err(format!("a captured payment is answered {other:?}").into()),
    }
}

/// Lets new buyers hold a seat each, and returns how long that took.
pub(crate) async fn hold_all(repository: &Repository, buyers: &mut Buyers, count: u64) -> Outcome<Duration> {
    let (buyers, took) = (buyers.take(count), Stopwatch::start());
    let holds = buyers.into_iter().map(|buyer| hold(repository, buyer));
    stream::iter(holds).buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(())).await?;
    Ok(took.elapsed())
}

/// Lets new buyers hold a seat each and pay for it, and returns how long that took.
async fn buy_all(repository: &Repository, buyers: &mut Buyers, count: u64) -> Outcome<Duration> {
    let (buyers, took) = (buyers.take(count), Stopwatch::start());
    let purchases = buyers.into_iter().map(|buyer| buy(repository, buyer));
    stream::iter(purchases).buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(())).await?;
    Ok(took.elapsed())
}

/// Latencies of refusals, in ms: many buyers want the seat of `owner`.
pub(crate) async fn refusals_ms(repository: &Repository, buyers: &mut Buyers, owner: u64) -> Outcome<Vec<f64>> {
    // These buyers want another's seat, so their own may lie outside of the hall.
    let asks = buyers.take((AT_ONE_SEAT * ASKS_EACH) as u64).into_iter().map(|buyer| async move {
        let (took, wanted) = (Stopwatch::start(), seat(owner)?);
        match repository.hold(&[wish(buyer, wanted.clone())?], NOW).await?.pop() {
            Some(HoldOutcome::Taken(taken)) if taken == [wanted] => Outcome::Ok(took.elapsed().as_secs_f64() * 1_000.0),
            other => Err(format!("the hold of a taken seat is answered {other:?}").into()),
        }
    });
    stream::iter(asks).buffer_unordered(AT_ONE_SEAT).try_collect().await
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
pub(crate) fn rate(took: Duration, count: u64) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The conditions of the figures of the seats.
///
/// # Errors
/// If the number of cores is unknown.
pub(crate) fn machine() -> Outcome<String> {
    let n_cores = thread::available_parallelism().map(NonZero::get)?;
    Ok(format!("{n_cores} cores, shared by the databases and the load; every acknowledged commit is on disk"))
}
