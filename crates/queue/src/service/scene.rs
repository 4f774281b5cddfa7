//! A server over mocked ports, for tests of error paths. A call that a test does not expect makes the test fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use roaring::RoaringTreemap;
use usher_kernel::{AccountId, Clock, ManualClock, PerformanceId, Timestamp};

use super::line::{Line, LiveSale};
use super::{Ports, Service, Settings};
use crate::policy::Sale;
use crate::ports::{
    Cursor, GoneChanges, LineChanges, LineCounts, MockLineLedger, MockLineStore, MockPolicyRepository, MockSaleCalendar,
};
use crate::{AccountHash, AdmissionPolicy, Epoch, Grant, LineState, Place, PlaceNumber, TokenKeys};

pub(super) const LINE: PerformanceId = PerformanceId::from_bytes([7; 16]);
pub(super) const OTHER_LINE: PerformanceId = PerformanceId::from_bytes([8; 16]);
pub(super) const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
pub(super) const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);
pub(super) const EPOCH: Epoch = Epoch::new(3);
/// The highest number that the open line may give out.
pub(super) const CEILING: PlaceNumber = PlaceNumber::new(10_000);
/// The last place that the open line has called.
pub(super) const CALLED: PlaceNumber = PlaceNumber::new(2);
/// The last place of the open line.
pub(super) const WAITING: PlaceNumber = PlaceNumber::new(5);

const DAY: Duration = Duration::from_secs(86_400);

pub(super) const POLICY: AdmissionPolicy = AdmissionPolicy {
    capacity: 100,
    rate_per_s: 0,
    pass_ttl: Duration::from_secs(300),
    presence_window: Duration::from_secs(90),
    state: LineState::Open,
};

/// The ports of a server, none of which expects a call.
#[derive(Default)]
pub(super) struct Mocks {
    pub(super) store: MockLineStore,
    pub(super) ledger: MockLineLedger,
    pub(super) policies: MockPolicyRepository,
    pub(super) calendar: MockSaleCalendar,
}

impl Mocks {
    /// A server without lines.
    pub(super) fn server(self) -> Server {
        let clock = Arc::new(ManualClock::new(NOW));
        let ports = Ports {
            store: Arc::new(self.store),
            ledger: Arc::new(self.ledger),
            policies: Arc::new(self.policies),
            calendar: Arc::new(self.calendar),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let settings = Settings {
            default_policy: POLICY,
            lobby: Duration::from_secs(3_600),
            tick: Duration::from_millis(250),
            opening_grace: Duration::from_secs(1),
        };
        let keys = TokenKeys::new(b"a secret of at least 32 bytes, for tests", None);
        Server { service: Service::new(ports, keys, settings), clock }
    }

    /// A server on which [`LINE`] is open.
    pub(super) fn open_server(self) -> Server {
        let server = self.server();
        server.open(LINE);
        server
    }
}

pub(super) struct Server {
    pub(super) service: Service,
    pub(super) clock: Arc<ManualClock>,
}

impl Server {
    /// Adds a line that is on sale, and not open.
    pub(super) fn know(&self, performance: PerformanceId) -> Arc<Line> {
        let line = Arc::new(Line::new(performance, LiveSale { sale: sale(), policy: POLICY }));
        self.service.0.lines.rcu(|lines| {
            let mut lines = (**lines).clone();
            lines.insert(performance, Arc::clone(&line));
            lines
        });
        line
    }

    /// Adds a line that is open in [`EPOCH`].
    pub(super) fn open(&self, performance: PerformanceId) -> Arc<Line> {
        let line = self.know(performance);
        line.opened(EPOCH, CEILING, changes(CALLED), self.clock.now());
        self.service.0.epoch.store(EPOCH.get(), Ordering::Release);
        line
    }

    /// A line that the server knows.
    pub(super) fn line(&self, performance: PerformanceId) -> Arc<Line> {
        Arc::clone(&self.service.0.lines.load()[&performance])
    }

    /// The token of a place in [`LINE`].
    pub(super) fn place_token(&self, number: PlaceNumber) -> String {
        self.service.0.keys.sign_place(place(number))
    }
}

/// A sale that has been open for a day.
pub(super) fn sale() -> Sale {
    Sale { opens_at: NOW.minus(DAY), closes_at: NOW.plus(DAY), is_sold_out: false }
}

/// The changes of a line that has places up to [`WAITING`], and has called those up to `serving`.
pub(super) fn changes(serving: PlaceNumber) -> LineChanges {
    let (serving, issued) = (serving.get(), WAITING.get());
    let counts = LineCounts {
        serving: PlaceNumber::new(serving),
        issued: WAITING,
        waiting: issued - serving,
        active: serving,
        ..LineCounts::default()
    };
    LineChanges { cursor: Cursor(serving), gone: GoneChanges::All(RoaringTreemap::new()), counts }
}

pub(super) fn place(number: PlaceNumber) -> Place {
    Place { performance: LINE, number, account: AccountHash::of(ACCOUNT) }
}

pub(super) fn grant(number: PlaceNumber) -> Grant {
    Grant { number, account: AccountHash::of(ACCOUNT), expires_at: NOW.plus(POLICY.pass_ttl) }
}
