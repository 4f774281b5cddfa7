//! The contract of [`ReservationRepository`], and tests that need a real database.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, SqlErr, Statement, TransactionTrait, Value};
use usher_adapter_sql::{Database, Settings, SqlCatalogueRepository, SqlLineLedger, SqlReservationRepository};
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::{Fixture, SideBySide, seed_through};
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, PerformanceId, ReservationId, SeatId, StoreError, TicketId,
    Timestamp,
};
use usher_queue::PlaceNumber;
use usher_queue::ports::LineLedger;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReservationHistory, ReservationRepository,
    ReservationRepositoryExt as _, SeatEvents, SeatWish, Settled, Verdict,
};

use crate::backend::{Backend, Mysql, On, Sqlite, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn repository(&self) -> Arc<dyn ReservationRepository> {
        Arc::new(SqlReservationRepository::new(self.database.clone()))
    }

    fn events(&self) -> Arc<dyn SeatEvents> {
        Arc::new(SqlReservationRepository::new(self.database.clone()))
    }

    fn history(&self) -> Arc<dyn ReservationHistory> {
        Arc::new(SqlReservationRepository::new(self.database.clone()))
    }

    async fn seed(&self, performance: PerformanceId, map: &SeatMap) {
        seed_through(&SqlCatalogueRepository::new(self.database.clone()), performance, map).await;
    }

    async fn leave(&self, performance: PerformanceId, pass: PassNumber, now: Timestamp) {
        let ledger = SqlLineLedger::new(self.database.clone());
        ledger.end_pass(performance, PlaceNumber::new(pass.0), now).await.unwrap();
    }
}

on_every_database! {
    reservation_repository_contract!
    a_second_sale_of_a_seat_is_refused_by_the_database_itself
    a_seat_that_was_freed_behind_the_services_back_is_not_sold_again
    a_damaged_row_is_named_by_table_column_and_key
}

/// On a database whose writers run side by side, a transaction can be held open while others commit.
impl SideBySide for On<Mysql> {
    type Open = DatabaseTransaction;

    async fn hold_open(&self, performance: PerformanceId, seat: &SeatId) -> DatabaseTransaction {
        let open = self.database.writer().begin().await.unwrap();
        let values = || -> Vec<Value> { vec![performance.uuid().as_bytes().to_vec().into(), seat.as_str().into()] };
        let backend = open.get_database_backend();
        let update = "UPDATE seats SET status = 'held', version = version + 1 WHERE performance_id = ? AND seat = ?";
        open.execute_raw(Statement::from_sql_and_values(backend, update, values())).await.unwrap();
        let insert = "INSERT INTO seat_events (performance_id, seat, version, status, at) VALUES (?, ?, 2, 'held', 0)";
        open.execute_raw(Statement::from_sql_and_values(backend, insert, values())).await.unwrap();
        open
    }

    async fn commit(&self, open: DatabaseTransaction) {
        open.commit().await.unwrap();
    }

    async fn roll_back(&self, open: DatabaseTransaction) {
        open.rollback().await.unwrap();
    }
}

mod side_by_side {
    use crate::backend::{Mysql, On};

    usher_contract_tests::reservation_repository_side_by_side_contract!(On<Mysql>);
}

mod schedules {
    crate::backend::on_every_database!(reservation_schedules!);
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);

/// One performance with two seats, `A-1-1` and `A-1-2`.
async fn two_seats<B: Backend>() -> On<B> {
    let fixture = On::new().await;
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 2, grade: "R".into(), price };
    fixture.seed(PERFORMANCE, &SeatMap::from_sections(&[section]).unwrap()).await;
    fixture
}

fn wish(n: u8, seat: &str) -> HoldCommand {
    HoldCommand {
        id: ReservationId::from_bytes([n; 16]),
        performance: PERFORMANCE,
        account: AccountId::from_bytes([n; 16]),
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(vec![seat.parse().unwrap()]),
        seat_limit: 4,
        hold_ttl: Duration::from_secs(300),
        claim: claim(n, "hold"),
    }
}

async fn hold(fixture: &On<impl Backend>, n: u8, seat: &str) -> Result<HoldOutcome, StoreError> {
    fixture.repository().hold(&[wish(n, seat)], NOW).await.map(|mut outcomes| outcomes.remove(0))
}

async fn pay(fixture: &On<impl Backend>, n: u8) -> Result<Option<Settled>, StoreError> {
    let attempt = AttemptId::from_bytes([n; 16]);
    let command = PayCommand {
        reservation: ReservationId::from_bytes([n; 16]),
        account: AccountId::from_bytes([n; 16]),
        attempt,
        resolve_after: Duration::ZERO,
        claim: claim(n, "confirm"),
    };
    let begun = fixture.repository().begin_payment(&command, NOW).await.unwrap();
    assert!(matches!(begun, PayOutcome::Begun(_)), "{begun:?}");
    let verdict = Verdict::Captured(vec![(TicketId::from_bytes([n; 16]), format!("CODE{n}"))]);
    fixture.repository().settle(attempt, &verdict, NOW).await
}

fn claim(n: u8, key: &str) -> Claim {
    Claim { account: AccountId::from_bytes([n; 16]), key: key.parse().unwrap(), fingerprint: Fingerprint([n; 32]) }
}

async fn execute(fixture: &On<impl Backend>, sql: &str) -> Result<u64, DbErr> {
    let db = fixture.database.writer();
    let statement = Statement::from_string(db.get_database_backend(), sql);
    Ok(db.execute_raw(statement).await?.rows_affected())
}

async fn a_second_sale_of_a_seat_is_refused_by_the_database_itself<B: Backend>() {
    let fixture = two_seats::<B>().await;
    assert!(matches!(hold(&fixture, 1, "A-1-1").await.unwrap(), HoldOutcome::Held(_)));
    assert!(matches!(pay(&fixture, 1).await.unwrap(), Some(Settled::Confirmed(_))));

    let around_the_service = "INSERT INTO sold (performance_id, seat, reservation_id, ticket_id, code, sold_at) \
                              SELECT performance_id, seat, reservation_id, x'00', 'CODE', sold_at FROM sold";
    let refused = execute(&fixture, around_the_service).await.unwrap_err();

    assert!(matches!(refused.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))), "{refused}");
}

async fn a_seat_that_was_freed_behind_the_services_back_is_not_sold_again<B: Backend>() {
    let fixture = two_seats::<B>().await;
    assert!(matches!(hold(&fixture, 1, "A-1-1").await.unwrap(), HoldOutcome::Held(_)));
    assert!(matches!(pay(&fixture, 1).await.unwrap(), Some(Settled::Confirmed(_))));
    let freed = "UPDATE seats SET status = 'available', reservation_id = NULL WHERE seat = 'A-1-1'";
    assert_eq!(execute(&fixture, freed).await.unwrap(), 1);
    assert!(matches!(hold(&fixture, 2, "A-1-1").await.unwrap(), HoldOutcome::Held(_)));

    let second = pay(&fixture, 2).await;

    assert!(matches!(second, Err(StoreError::Corrupt { operation: "reservation.settle", .. })), "{second:?}");
    let history = fixture.history().history(PERFORMANCE).await.unwrap();
    assert_eq!(history.sales.len(), 1);
    assert_eq!(history.sales[0].reservation, ReservationId::from_bytes([1; 16]));
    assert!(!usher_reservation::audit::check(&history).contradictions.is_empty(), "the audit reports it");
}

async fn a_damaged_row_is_named_by_table_column_and_key<B: Backend>() {
    let fixture = two_seats::<B>().await;
    assert_eq!(execute(&fixture, "UPDATE seats SET status = 'gone' WHERE seat = 'A-1-2'").await.unwrap(), 1);

    let error = hold(&fixture, 1, "A-1-2").await.unwrap_err();

    let StoreError::Corrupt { operation: "reservation.hold", source } = error else { panic!("{error:?}") };
    let expected = format!("invalid value in column `status` of `seats`, row ({PERFORMANCE}, A-1-2)");
    assert_eq!(source.to_string(), expected);
    assert!(matches!(hold(&fixture, 1, "A-1-1").await.unwrap(), HoldOutcome::Held(_)), "other seats are not affected");
}

/// Makes every update of this seat change no row, as if another server had always changed it first.
async fn always_change_first(fixture: &On<impl Backend>, seat: &str) {
    let trigger =
        format!("CREATE TRIGGER rival BEFORE UPDATE ON seats WHEN OLD.seat = '{seat}' BEGIN SELECT RAISE(IGNORE); END");
    execute(fixture, &trigger).await.unwrap();
}

#[tokio::test]
async fn a_hold_whose_seat_changes_under_it_is_rolled_back_whole() {
    let fixture = two_seats::<Sqlite>().await;
    always_change_first(&fixture, "A-1-2").await;
    let both = vec!["A-1-1".parse().unwrap(), "A-1-2".parse().unwrap()];
    let wish = HoldCommand { seats: SeatWish::Named(both), ..wish(1, "A-1-1") };

    let error = fixture.repository().hold(std::slice::from_ref(&wish), NOW).await.unwrap_err();

    assert!(matches!(error, StoreError::Conflict { operation: "reservation.hold", .. }), "{error:?}");
    let history = fixture.history().history(PERFORMANCE).await.unwrap();
    assert_eq!((history.events, history.reservations), (vec![], vec![]));
    execute(&fixture, "DROP TRIGGER rival").await.unwrap();
    let outcomes = fixture.repository().hold(&[wish], NOW).await.unwrap();
    assert!(matches!(outcomes[..], [HoldOutcome::Held(_)]), "{outcomes:?}");
}

#[tokio::test]
async fn a_batch_that_keeps_losing_races_is_rolled_back_whole() {
    let fixture = two_seats::<Sqlite>().await;
    always_change_first(&fixture, "A-1-2").await;

    let error = fixture.repository().hold(&[wish(1, "A-1-1"), wish(2, "A-1-2")], NOW).await.unwrap_err();

    assert!(matches!(error, StoreError::Conflict { operation: "reservation.hold", .. }), "{error:?}");
    assert_eq!(fixture.repository().find_hold(&claim(1, "hold"), NOW).await.unwrap(), None);
}

#[tokio::test]
async fn an_acknowledged_sale_is_there_when_the_file_is_opened_again() {
    let fixture = two_seats::<Sqlite>().await;
    assert!(matches!(hold(&fixture, 1, "A-1-1").await.unwrap(), HoldOutcome::Held(_)));
    let Some(Settled::Confirmed(confirmed)) = pay(&fixture, 1).await.unwrap() else { panic!("it is confirmed") };

    let db = fixture.database.writer();
    let list = Statement::from_string(db.get_database_backend(), "PRAGMA database_list");
    let file: String = db.query_one_raw(list).await.unwrap().unwrap().try_get("", "file").unwrap();
    fixture.database.close().await.unwrap();
    let reopened = Database::open(&Settings::new(format!("sqlite://{file}"), 1)).await.unwrap();

    let repository = SqlReservationRepository::new(reopened);
    assert_eq!(repository.find(confirmed.id, confirmed.account, NOW).await.unwrap(), Some(confirmed));
}
