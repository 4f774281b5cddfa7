//! The number of statements that a batch takes on a shared database. Each one is a round trip during which the batch
//! holds its locks, and other batches wait for them.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlReservationRepository};
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, PerformanceId, ReservationId, TicketId, Timestamp,
};
use usher_migrations::{Migrator, MigratorTrait};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, PayCommand, ReleaseCommand, ReservationRepository as _, SeatWish, SettleCommand, Verdict,
};

use crate::backend::{Backend, Mysql};

const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const HOLD_TTL: Duration = Duration::from_secs(300);
/// The number of commands in a batch: a power of two, like the lengths of the statements' lists.
const BATCH: u8 = 16;

/// How many statements of each kind this session has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    select: i64,
    insert: i64,
    update: i64,
    delete: i64,
}

async fn counts(database: &Database) -> Counts {
    let count = async |name: &str| -> i64 {
        let query = format!("SHOW SESSION STATUS LIKE 'Com_{name}'");
        let row = database.writer().query_one_raw(Statement::from_string(DbBackend::MySql, query)).await.unwrap();
        row.unwrap().try_get_by_index::<String>(1).unwrap().parse().unwrap()
    };
    Counts {
        select: count("select").await,
        insert: count("insert").await,
        update: count("update").await,
        delete: count("delete").await,
    }
}

/// Runs a call, and counts its statements.
async fn counted<T>(database: &Database, call: impl Future<Output = T>) -> [i64; 4] {
    let before = counts(database).await;
    call.await;
    let after = counts(database).await;
    [
        after.select - before.select,
        after.insert - before.insert,
        after.update - before.update,
        after.delete - before.delete,
    ]
}

fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n; 16])
}

fn claim(n: u8, key: &str) -> Claim {
    Claim { account: account(n), key: key.parse().unwrap(), fingerprint: Fingerprint([n; 32]) }
}

fn hold(n: u8, seats: SeatWish<usher_kernel::SeatId>) -> HoldCommand {
    HoldCommand {
        id: ReservationId::from_bytes([n; 16]),
        performance: PERFORMANCE,
        account: account(n),
        pass: PassNumber(u64::from(n)),
        seats,
        seat_limit: 4,
        hold_ttl: HOLD_TTL,
        claim: claim(n, "hold"),
    }
}

fn named(n: u8) -> SeatWish<usher_kernel::SeatId> {
    SeatWish::Named(vec![format!("A-1-{n}").parse().unwrap()])
}

/// The figures are those of the repository before the judge moved to the domain (commit d3e8183, counted with this
/// test).
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_no_more_statements_than_before_the_judge_moved() {
    let (_kept, url) = Mysql::empty().await;
    // One connection, so that the session's counters are those of the calls.
    let database = Database::open(&Settings::new(url, 1)).await.unwrap();
    Migrator::up(database.writer(), None).await.unwrap();
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 400, grade: "R".into(), price };
    let map = SeatMap::from_sections(&[section]).unwrap();
    seed_through(&SqlCatalogueRepository::new(database.clone()), PERFORMANCE, &map).await;
    let repository = SqlReservationRepository::new(database.clone());
    let ids = |from: u8| from..from + BATCH;

    let named_seats: Vec<_> = ids(1).map(|n| hold(n, named(n))).collect();
    let held = counted(&database, repository.hold(&named_seats, NOW)).await;
    let taken: Vec<_> = ids(101).map(|n| hold(n, named(1))).collect();
    let refused = counted(&database, repository.hold(&taken, NOW)).await;
    let best: Vec<_> = ids(21).map(|n| hold(n, SeatWish::Best { count: 2, grade: None })).collect();
    let chosen = counted(&database, repository.hold(&best, NOW)).await;
    let pay: Vec<_> = ids(1)
        .map(|n| PayCommand {
            reservation: ReservationId::from_bytes([n; 16]),
            account: account(n),
            attempt: AttemptId::from_bytes([n; 16]),
            resolve_after: HOLD_TTL,
            claim: claim(n, "pay"),
        })
        .collect();
    let begun = counted(&database, repository.begin_payments(&pay, NOW)).await;
    let captured: Vec<_> = ids(1)
        .map(|n| SettleCommand {
            attempt: AttemptId::from_bytes([n; 16]),
            verdict: Verdict::Captured(vec![(TicketId::from_bytes([n; 16]), format!("CODE{n}"))]),
        })
        .collect();
    let settled = counted(&database, repository.settle_all(&captured, NOW)).await;
    let give_back: Vec<_> = (21..29)
        .map(|n| ReleaseCommand { reservation: ReservationId::from_bytes([n; 16]), account: account(n) })
        .collect();
    let released = counted(&database, repository.release_all(&give_back, NOW)).await;
    let expired = counted(&database, repository.expire_lapsed(NOW.plus(HOLD_TTL), 100)).await;

    let figures = [
        ("holds of named seats", held, [6, 5, 1, 0]),
        ("holds of taken seats", refused, [4, 0, 0, 0]),
        ("holds of the best seats", chosen, [10, 5, 1, 0]),
        ("payments that begin", begun, [5, 3, 1, 0]),
        ("payments that end", settled, [6, 4, 3, 0]),
        ("releases", released, [4, 2, 2, 0]),
        ("lapses", expired, [5, 2, 2, 0]),
    ];
    for (batch, counted, before) in figures {
        assert_eq!(counted, before, "select, insert, update and delete statements of {batch}");
    }
}
