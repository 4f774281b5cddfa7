//! The error paths of the service, over mocked ports: what the caller is told, and what is not done afterwards.
//!
//! A mock answers only the calls that lead to the failure. Any other call fails the test.

mod holding;
mod paying;
mod reading;
mod sweeping;

use std::fmt::Debug;

use usher_kernel::store::every_failure_is_told;
use usher_kernel::{CountedIds, Fingerprint, ManualClock, Money};

use super::*;
use crate::model::PassNumber;
use crate::ports::{
    GatewayError, MockAdmissionGate, MockPaymentGateway, MockReservationRepository, MockSaleDesk, SettleCommand,
};
use crate::{Payment, ReservedSeat};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);
const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const ACCOUNT: AccountId = AccountId::from_bytes([2; 16]);
const RESERVATION: ReservationId = ReservationId::from_bytes([3; 16]);
const ATTEMPT: AttemptId = AttemptId::from_bytes([4; 16]);
const PASS: PassNumber = PassNumber(5);
const SEAT: &str = "A-1-1";
const RESOLVE_AFTER: Duration = Duration::from_secs(30);
const TERMS: SaleTerms = SaleTerms { phase: SalePhase::Open, seat_limit: 4, hold_ttl: Duration::from_secs(300) };

/// The ports of a service. None of them expects a call.
#[derive(Default)]
struct Mocks {
    reservations: MockReservationRepository,
    payments: MockPaymentGateway,
    sales: MockSaleDesk,
    gate: MockAdmissionGate,
}

impl Mocks {
    fn service(self) -> Service {
        let ports = Ports {
            reservations: Arc::new(self.reservations),
            payments: Arc::new(self.payments),
            sales: Arc::new(self.sales),
            gate: Arc::new(self.gate),
            clock: Arc::new(ManualClock::new(NOW)),
            ids: Arc::new(CountedIds::default()),
        };
        Service::new(ports, Settings { resolve_payments_after: RESOLVE_AFTER })
    }

    /// The store settles the attempt with this verdict, once, and answers this.
    fn expect_settle(
        &mut self,
        attempt: AttemptId,
        verdict: impl Fn(&Verdict) -> bool + Send + 'static,
        answer: Result<Vec<Option<Settled>>, StoreError>,
    ) {
        let is_it = move |commands: &[SettleCommand]| {
            let [command] = commands else { return false };
            command.attempt == attempt && verdict(&command.verdict)
        };
        let settle = self.reservations.expect_settle_all().once();
        settle.withf(move |commands, now| is_it(commands) && *now == NOW).return_once(|_, _| answer);
    }

    /// The pass of the reservation is used up, once.
    fn expect_pass_used(&mut self) {
        let pass_used = self.gate.expect_pass_used().once();
        pass_used.withf(|performance, pass| (*performance, *pass) == (PERFORMANCE, PASS)).return_const(());
    }
}

fn claim() -> Claim {
    Claim { account: ACCOUNT, key: "a-key".parse().unwrap(), fingerprint: Fingerprint([0; 32]) }
}

fn reservation(state: State) -> Reservation {
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let held_until = NOW.plus(TERMS.hold_ttl);
    Reservation {
        id: RESERVATION,
        performance: PERFORMANCE,
        account: ACCOUNT,
        pass: PASS,
        seats: vec![ReservedSeat { seat: SEAT.parse().unwrap(), grade: "R".into(), price }],
        total: price,
        created_at: NOW,
        held_until,
        held_until_original: held_until,
        declined: 0,
        version: 1,
        state,
    }
}

fn confirmed() -> Reservation {
    reservation(State::Confirmed { attempt: ATTEMPT, at: NOW, tickets: Vec::new() })
}

/// A verdict that gives out a ticket for the one seat of [`reservation`].
fn is_captured(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Captured(tickets) if tickets.len() == 1)
}

fn no_answer() -> GatewayError {
    GatewayError("the test says so".into())
}

/// A call was refused with this error.
#[track_caller]
fn is_refused<T: Debug>(answer: &Result<T, Error>, expected: Error) {
    assert_eq!(format!("{answer:?}"), format!("{:?}", Err::<T, _>(expected)));
}

/// A call was refused because the store contradicts itself in this operation.
#[track_caller]
fn is_corrupt<T: Debug>(answer: &Result<T, Error>, expected: &str) {
    let is_it = matches!(answer, Err(Error::Store(StoreError::Corrupt { operation, .. })) if *operation == expected);
    assert!(is_it, "{answer:?}");
}
