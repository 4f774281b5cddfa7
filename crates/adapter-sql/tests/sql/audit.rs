//! The audit, which `usher verify` runs, finds every kind of damage in a database.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use usher_adapter_sql::{SqlCatalogueRepository, SqlChargeLog, SqlReservationRepository};
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, PerformanceId, ReservationId, TicketId, Timestamp,
};
use usher_reservation::SimulatedGateway;
use usher_reservation::audit;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    ChargeOutcome, HoldCommand, HoldOutcome, PayCommand, PayOutcome, PaymentGateway, PaymentToken, ReleaseOutcome,
    ReservationHistory, ReservationRepository, ReservationRepositoryExt as _, SeatWish, Settled, Verdict,
};

use crate::backend::{On, Sqlite};

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const HOLD_TTL: Duration = Duration::from_secs(300);
const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);

fn claim(n: u8, key: &str) -> Claim {
    Claim { account: AccountId::from_bytes([n; 16]), key: key.parse().unwrap(), fingerprint: Fingerprint([n; 32]) }
}

async fn hold(repository: &SqlReservationRepository, n: u8, seats: &[&str], now: Timestamp) {
    let wish = HoldCommand {
        id: ReservationId::from_bytes([n; 16]),
        performance: PERFORMANCE,
        account: AccountId::from_bytes([n; 16]),
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(seats.iter().map(|name| name.parse().unwrap()).collect()),
        seat_limit: 4,
        hold_ttl: HOLD_TTL,
        claim: claim(n, "hold"),
    };
    assert!(matches!(repository.hold(&[wish], now).await.unwrap()[..], [HoldOutcome::Held(_)]));
}

/// Begins payment attempt `n` of reservation `of`, and charges it at the gateway.
async fn begin(bank: &Bank, (n, of): (u8, u8), token: &str, now: Timestamp) -> ChargeOutcome {
    let command = PayCommand {
        reservation: ReservationId::from_bytes([of; 16]),
        account: AccountId::from_bytes([of; 16]),
        attempt: AttemptId::from_bytes([n; 16]),
        resolve_after: Duration::ZERO,
        claim: claim(of, &format!("pay-{n}")),
    };
    let begun = bank.repository.begin_payment(&command, now).await.unwrap();
    let PayOutcome::Begun(paying) = begun else { panic!("{begun:?}") };
    bank.gateway.charge(command.attempt, paying.total, &PaymentToken(token.into()), now).await.unwrap()
}

async fn capture(repository: &SqlReservationRepository, n: u8, now: Timestamp) -> Settled {
    let verdict = Verdict::Captured(vec![(TicketId::from_bytes([n; 16]), "CODE".into())]);
    repository.settle(AttemptId::from_bytes([n; 16]), &verdict, now).await.unwrap().unwrap()
}

/// The repository that sells the seats, and the gateway that takes the money.
struct Bank {
    repository: SqlReservationRepository,
    gateway: SimulatedGateway,
    file: On<Sqlite>,
}

/// Buyer 1 paid for `A-1-1` too late: buyer 2 had taken it over, and bought it. Buyer 3 released `A-1-2`. Buyer 4
/// bought `A-1-3`, after a declined attempt. `A-1-4` was never touched.
async fn a_history() -> Bank {
    let file = On::<Sqlite>::new().await;
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 4, grade: "R".into(), price };
    let map = SeatMap::from_sections(&[section]).unwrap();
    seed_through(&SqlCatalogueRepository::new(file.database.clone()), PERFORMANCE, &map).await;
    let repository = SqlReservationRepository::new(file.database.clone());
    let gateway = SimulatedGateway::new(Arc::new(SqlChargeLog::new(file.database.clone())));
    let bank = Bank { repository, gateway, file };
    let repository = &bank.repository;
    let lapse = NOW.plus(HOLD_TTL);
    hold(repository, 1, &["A-1-1"], NOW).await;
    assert_eq!(begin(&bank, (1, 1), "tok_ok", NOW).await, ChargeOutcome::Captured);
    hold(repository, 2, &["A-1-1"], lapse).await;
    assert_eq!(begin(&bank, (2, 2), "tok_ok", lapse).await, ChargeOutcome::Captured);
    assert!(matches!(capture(repository, 2, lapse).await, Settled::Confirmed(_)));
    assert_eq!(capture(repository, 1, lapse).await, Settled::Refunded);
    for due in repository.refunds_due(2).await.unwrap() {
        bank.gateway.refund(due.attempt, due.amount, lapse).await.unwrap();
        repository.refund_sent(due.attempt, lapse).await.unwrap();
    }
    hold(repository, 3, &["A-1-2"], lapse).await;
    let (third, account) = (ReservationId::from_bytes([3; 16]), AccountId::from_bytes([3; 16]));
    assert!(matches!(repository.release(third, account, lapse).await.unwrap(), ReleaseOutcome::Released(_)));
    hold(repository, 4, &["A-1-3"], lapse).await;
    assert_eq!(begin(&bank, (5, 4), "tok_declined", lapse).await, ChargeOutcome::Declined);
    let declined = repository.settle(AttemptId::from_bytes([5; 16]), &Verdict::Declined, lapse).await.unwrap();
    assert!(matches!(declined, Some(Settled::Declined { .. })), "{declined:?}");
    assert_eq!(begin(&bank, (4, 4), "tok_ok", lapse).await, ChargeOutcome::Captured);
    assert!(matches!(capture(repository, 4, lapse).await, Settled::Confirmed(_)));
    bank
}

/// All contradictions that `usher verify` reports.
async fn contradictions(bank: &Bank) -> Vec<String> {
    let history = bank.repository.history(PERFORMANCE).await.unwrap();
    let mut found = audit::check(&history).contradictions;
    found.extend(audit::check_charges(&history));
    let strays = bank.repository.strays().await.unwrap();
    found.extend(strays.into_iter().map(|attempt| format!("{attempt} strays")));
    found
}

/// A statement that copies the latest event of a seat, with another version, status and owner.
macro_rules! event_after {
    ($seat:literal, $version:literal, $status:literal, $owner:literal) => {
        concat!(
            "INSERT INTO seat_events (performance_id, seat, version, status, owner, owner_before, held_until, at) ",
            "SELECT performance_id, seat, ",
            $version,
            ", '",
            $status,
            "', ",
            $owner,
            ", owner, NULL, at ",
            "FROM seat_events WHERE seat = '",
            $seat,
            "' ORDER BY version DESC LIMIT 1"
        )
    };
}

/// Statements that damage a database, each with the contradiction that the audit reports.
const DAMAGES: &[(&str, &str)] = &[
    ("DELETE FROM seat_events WHERE seat = 'A-1-1' AND version = 3", "seat A-1-1, version 4: follows version 2"),
    (
        "UPDATE seat_events SET version = 2 WHERE seat = 'A-1-2' AND version = 3",
        "seat A-1-2, version 2: follows version 2",
    ),
    (
        "UPDATE seat_events SET owner_before = NULL WHERE seat = 'A-1-1' AND version = 3",
        "version 3: names another previous owner",
    ),
    ("UPDATE seat_events SET owner = NULL WHERE seat = 'A-1-1' AND version = 2", "version 2: is held with no owner"),
    (
        "UPDATE seat_events SET owner = x'03030303030303030303030303030303' WHERE seat = 'A-1-2' AND version = 3",
        "version 3: is available with an owner",
    ),
    (event_after!("A-1-3", "4", "available", "NULL"), "seat A-1-3, version 4: changes a sold seat"),
    (
        "UPDATE seat_events SET at = at - 1 WHERE seat = 'A-1-1' AND version = 3",
        "seat A-1-1, version 3: takes over a live hold",
    ),
    ("UPDATE seats SET version = 9 WHERE seat = 'A-1-4'", "seat A-1-4: does not match its events"),
    ("UPDATE seats SET status = 'available' WHERE seat = 'A-1-3'", "seat A-1-3: does not match its events"),
    (
        "UPDATE seats SET reservation_id = x'01010101010101010101010101010101' WHERE seat = 'A-1-1'",
        "seat A-1-1: does not match its events",
    ),
    ("DELETE FROM seats WHERE seat = 'A-1-2'", "seat A-1-2: has events but does not exist"),
    (
        "CREATE TABLE lax AS SELECT * FROM sold; DROP TABLE sold; ALTER TABLE lax RENAME TO sold; \
         INSERT INTO sold SELECT * FROM sold WHERE seat = 'A-1-1'",
        "seat A-1-1: is sold twice",
    ),
    ("DELETE FROM sold WHERE seat = 'A-1-3'", "seat A-1-3: is sold without a sale to its owner"),
    (
        "UPDATE sold SET reservation_id = x'03030303030303030303030303030303' WHERE seat = 'A-1-3'",
        "seat A-1-3: is sold without a sale to its owner",
    ),
    (
        "UPDATE reservations SET state = 'confirmed', attempt_id = id WHERE id = x'01010101010101010101010101010101'",
        "seat A-1-1: is in two confirmed reservations",
    ),
    (
        "UPDATE reservations SET state = 'confirmed', attempt_id = id WHERE id = x'03030303030303030303030303030303'",
        "seat A-1-2: is confirmed without a sale to",
    ),
    (
        "UPDATE reservations SET state = 'expired' WHERE id = x'04040404040404040404040404040404'",
        "seat A-1-3: has a sale without a confirmed reservation",
    ),
    (
        "INSERT INTO sold SELECT performance_id, 'A-1-4', reservation_id, randomblob(16), code, sold_at FROM sold LIMIT 1",
        "seat A-1-4: has a sale but is not sold",
    ),
    (
        "DELETE FROM payment_attempts WHERE id = x'04040404040404040404040404040404'",
        "is confirmed but not paid exactly once",
    ),
    (
        "UPDATE payment_attempts SET amount = 99 WHERE id = x'04040404040404040404040404040404'",
        "is confirmed but not paid exactly once",
    ),
    (
        "UPDATE payment_attempts SET reservation_id = x'03030303030303030303030303030303' \
         WHERE id = x'04040404040404040404040404040404'",
        "is confirmed but not paid exactly once",
    ),
    (
        "INSERT INTO refunds SELECT x'04040404040404040404040404040404', amount, currency, due_at, NULL FROM refunds",
        "is confirmed but not paid exactly once",
    ),
    ("DELETE FROM ended_passes WHERE number = 4", "is confirmed but its pass 4 is not used up"),
    ("DELETE FROM refunds", "took money for no seat and is not refunded exactly"),
    ("UPDATE refunds SET amount = 99", "took money for no seat and is not refunded exactly"),
    ("UPDATE refunds SET amount = 101", "has a refund of more than it took"),
    (
        "UPDATE payment_attempts SET state = 'unheard' WHERE id = x'01010101010101010101010101010101'",
        "has a refund that is not due",
    ),
    (
        "INSERT INTO refunds SELECT x'05050505050505050505050505050505', amount, currency, due_at, NULL FROM refunds",
        "has a refund that is not due",
    ),
    (
        "CREATE TABLE lax AS SELECT * FROM refunds; DROP TABLE refunds; ALTER TABLE lax RENAME TO refunds; \
         INSERT INTO refunds SELECT * FROM refunds",
        "has more than one refund",
    ),
    (
        "INSERT INTO refunds SELECT x'09090909090909090909090909090909', amount, currency, due_at, NULL FROM refunds",
        "09090909-0909-0909-0909-090909090909 strays",
    ),
    (
        "UPDATE simulated_charges SET attempt_id = x'09090909090909090909090909090909' \
         WHERE attempt_id = x'04040404040404040404040404040404'",
        "09090909-0909-0909-0909-090909090909 strays",
    ),
    (
        "DELETE FROM simulated_charges WHERE attempt_id = x'04040404040404040404040404040404'",
        "is captured but not charged exactly once at its amount",
    ),
    (
        "UPDATE simulated_charges SET amount = 99 WHERE attempt_id = x'04040404040404040404040404040404'",
        "is captured but not charged exactly once at its amount",
    ),
    (
        "UPDATE simulated_charges SET outcome = 'cancelled' WHERE attempt_id = x'04040404040404040404040404040404'",
        "is captured but not charged exactly once at its amount",
    ),
    (
        "CREATE TABLE lax AS SELECT * FROM simulated_charges; DROP TABLE simulated_charges; \
         ALTER TABLE lax RENAME TO simulated_charges; INSERT INTO simulated_charges SELECT * FROM simulated_charges",
        "is captured but not charged exactly once at its amount",
    ),
    (
        "UPDATE simulated_charges SET outcome = 'captured' WHERE attempt_id = x'05050505050505050505050505050505'",
        "was charged for no seat",
    ),
    (
        "UPDATE simulated_charges SET refunded_at = charged_at WHERE attempt_id = x'04040404040404040404040404040404'",
        "was refunded although no refund is due",
    ),
    (
        "UPDATE simulated_charges SET refunded_at = NULL WHERE refunded_at > 0",
        "has a refund marked as sent that the gateway does not have",
    ),
];

#[tokio::test]
async fn every_kind_of_damage_is_found() {
    let whole = a_history().await;
    assert_eq!(contradictions(&whole).await, [""; 0]);

    for (damage, expected) in DAMAGES {
        let bank = a_history().await;
        let db = bank.file.database.writer();
        for statement in damage.split("; ") {
            let done = db.execute_raw(Statement::from_string(db.get_database_backend(), statement)).await.unwrap();
            assert!(done.rows_affected() > 0 || damage.contains("; "), "{statement}");
        }
        let found = contradictions(&bank).await;
        assert!(found.iter().any(|what| what.contains(expected)), "{damage}: {expected:?} is not in {found:?}");
    }
}
