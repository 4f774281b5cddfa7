//! Times every method of every port: a decorator that changes nothing else, so it passes the ports' contract suites.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use roaring::RoaringTreemap;
use usher_account::ports::{AccountRepository, AddAccountOutcome};
use usher_account::{Account, Email, PasswordHash};
use usher_concert::ports::{AddOutcome, CatalogueRepository, Page, ReplaceSeatsOutcome};
use usher_concert::{Concert, Performance, SeatMap, VersionedSeatMap};
use usher_kernel::{
    AccountId, AttemptId, Claim, ConcertId, PerformanceId, ReservationId, StoreError, Timestamp, Violation,
};
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, InEpoch, JoinOutcome, LeaveOutcome, LineChanges, LineLedger,
    LineMark, LineStore, Opening, PastGrant, PolicyRepository, ReEntry, Resolution, Standing, Superseded,
};
use usher_queue::{AccountHash, AdmissionPolicy, Epoch, Grant, Place, PlaceNumber, PolicyPatch};
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseCommand, ReleaseOutcome, ReservationRepository,
    SeatEvents, SeatFilter, SettleCommand, Settled, Unsettled,
};
use usher_reservation::{BoardEvent, BoardRecord, Reservation, Seat, SeatCounts};

use crate::runtime::metrics::Metrics;

/// A port whose methods are timed.
pub struct Observed<Port: ?Sized> {
    inner: Arc<Port>,
    metrics: Arc<Metrics>,
}

impl<Port: ?Sized> Observed<Port> {
    /// Wraps a port.
    #[must_use]
    pub const fn new(inner: Arc<Port>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

/// Counts events in the answers of the methods that `observed!` marks with `{ count }`.
trait Counted {
    fn count(&self, metrics: &Metrics);
}

impl Counted for Vec<HoldOutcome> {
    fn count(&self, metrics: &Metrics) {
        metrics.observe_holds(self);
    }
}

impl Counted for InEpoch<Admission> {
    fn count(&self, metrics: &Metrics) {
        if let Self::Current(admission) = self {
            metrics.observe_admitted(admission.granted.len());
        }
    }
}

impl Counted for InEpoch<Vec<JoinOutcome>> {
    fn count(&self, metrics: &Metrics) {
        if let Self::Current(outcomes) = self {
            let at_once = |outcome: &&JoinOutcome| matches!(outcome, JoinOutcome::Joined(Standing::Admitted(_)));
            metrics.observe_admitted(outcomes.iter().filter(at_once).count());
        }
    }
}

macro_rules! observed {
    ($port:ident { $(fn $method:ident($($arg:ident: $type:ty),*) -> $answer:ty $({ $count:ident })?;)* }) => {
        #[async_trait]
        impl $port for Observed<dyn $port> {
            $(async fn $method(&self, $($arg: $type),*) -> Result<$answer, StoreError> {
                let call = self.inner.$method($($arg),*);
                let answer = self.metrics.time(stringify!($port), stringify!($method), call).await?;
                $(Counted::$count(&answer, &self.metrics);)?
                Ok(answer)
            })*
        }
    };
}

observed!(LineStore {
    fn open(at: At, contribution: &Contribution) -> ();
    fn contribute(at: At, contribution: &Contribution) -> InEpoch<()>;
    fn join(at: At, terms: &AdmitTerms, ceiling: PlaceNumber, accounts: &[AccountHash]) -> InEpoch<Vec<JoinOutcome>> { count };
    fn resolve(at: At, places: &[Place]) -> InEpoch<Vec<Resolution>>;
    fn re_enter(at: At, entries: &[ReEntry]) -> InEpoch<()>;
    fn leave(at: At, place: Place) -> InEpoch<LeaveOutcome>;
    fn end_pass(at: At, number: PlaceNumber) -> InEpoch<()>;
    fn mark_present(at: At, presence_window: Duration, seen: &RoaringTreemap) -> InEpoch<()>;
    fn admit(at: At, terms: &AdmitTerms, examine_max: u32) -> InEpoch<Admission> { count };
    fn refresh(epoch: Epoch, now: Timestamp, lines: &[(PerformanceId, Cursor)]) -> Vec<InEpoch<LineChanges>>;
});

observed!(LineLedger {
    fn epoch() -> Epoch;
    fn begin_epoch(seen: Epoch) -> Epoch;
    fn open_line(performance: PerformanceId, epoch: Epoch, block: u64, now: Timestamp) -> Superseded<Opening>;
    fn reserve(performance: PerformanceId, epoch: Epoch, seen: PlaceNumber, block: u64) -> Superseded<PlaceNumber>;
    fn save(performance: PerformanceId, epoch: Epoch, mark: &LineMark, granted: &[Grant]) -> Superseded<()>;
    fn end_pass(performance: PerformanceId, number: PlaceNumber, now: Timestamp) -> ();
    fn past_grants(performance: PerformanceId, numbers: &[PlaceNumber]) -> Vec<PastGrant>;
});

observed!(PolicyRepository {
    fn find(performance: PerformanceId, default: &AdmissionPolicy) -> AdmissionPolicy;
    fn patch(performance: PerformanceId, default: &AdmissionPolicy, patch: &PolicyPatch) -> Result<AdmissionPolicy, Vec<Violation>>;
});

observed!(AccountRepository {
    fn add(account: &Account, password_hash: &PasswordHash) -> AddAccountOutcome;
    fn find(id: AccountId) -> Option<Account>;
    fn find_by_email(email: &Email) -> Option<(Account, PasswordHash)>;
});

observed!(CatalogueRepository {
    fn add_concert(concert: &Concert, claim: &Claim, now: Timestamp) -> AddOutcome<Concert>;
    fn add_performance(performance: &Performance, claim: &Claim, now: Timestamp) -> AddOutcome<Performance>;
    fn concert(id: ConcertId) -> Option<Concert>;
    fn concerts(page: Page<ConcertId>) -> Vec<Concert>;
    fn performance(id: PerformanceId) -> Option<Performance>;
    fn performances(concert: ConcertId, page: Page<PerformanceId>) -> Vec<Performance>;
    fn performances_on_sale(now: Timestamp, lobby: Duration) -> Vec<Performance>;
    fn replace_seats(performance: PerformanceId, map: &SeatMap, now: Timestamp) -> ReplaceSeatsOutcome;
    fn seat_map(performance: PerformanceId) -> Option<VersionedSeatMap>;
});

observed!(ReservationRepository {
    fn hold(commands: &[HoldCommand], now: Timestamp) -> Vec<HoldOutcome> { count };
    fn find_hold(claim: &Claim, now: Timestamp) -> Option<HoldOutcome>;
    fn begin_payments(commands: &[PayCommand], now: Timestamp) -> Vec<PayOutcome>;
    fn resolve_early(attempt: AttemptId, now: Timestamp) -> ();
    fn settle_all(commands: &[SettleCommand], now: Timestamp) -> Vec<Option<Settled>>;
    fn release_all(commands: &[ReleaseCommand], now: Timestamp) -> Vec<ReleaseOutcome>;
    fn expire_lapsed(now: Timestamp, limit: u32) -> u32;
    fn unsettled(now: Timestamp, limit: u32) -> Vec<Unsettled>;
    fn refunds_due(limit: u32) -> Vec<RefundDue>;
    fn refund_sent(attempt: AttemptId, now: Timestamp) -> ();
    fn find(reservation: ReservationId, account: AccountId, now: Timestamp) -> Option<Reservation>;
    fn list(account: AccountId, after: Option<ReservationId>, limit: u64, now: Timestamp) -> Vec<Reservation>;
    fn seats(performance: PerformanceId, filter: &SeatFilter, now: Timestamp) -> Vec<Seat>;
    fn seat_counts(performances: &[PerformanceId], now: Timestamp) -> Vec<SeatCounts>;
});

observed!(SeatEvents {
    fn board(performance: PerformanceId, n_events: u32) -> Option<BoardRecord>;
    fn events(after: u64, missing: &[u64], limit: u32) -> Vec<BoardEvent>;
    fn settled_event() -> u64;
});
