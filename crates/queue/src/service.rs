//! The line's use cases, and the steps that a server takes for its lines in the background.
//!
//! A poll is answered from the line's [`LineView`](crate::LineView). Only for places that were called, and for places
//! from before a loss, the service asks the store.

mod epochs;
mod line;
mod live_passes;
mod people;
#[cfg(test)]
mod scene;
mod tick;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::lock::Mutex;
use usher_kernel::{Clock, PerformanceId, StoreError, Timestamp};

use self::line::{Line, LiveSale};
use self::live_passes::LivePasses;
pub use self::people::{Joined, PassCheck, PassToken, PlaceState, PlaceStatus};
pub use self::tick::EXAMINE_MAX;
use crate::policy::{Sale, SaleState};
use crate::ports::{At, LineCounts, LineLedger, LineStore, PolicyRepository, SaleCalendar};
use crate::{AdmissionPolicy, Error, LineState, PolicyPatch, TokenKeys};

/// Settings of the service.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The policy of lines that no operator changed.
    pub default_policy: AdmissionPolicy,
    /// People can join this long before the sale opens.
    pub lobby: Duration,
    /// How often [`Service::tick`] is called.
    pub tick: Duration,
    /// While another server opens a line, the line may be missing from the store for this long after the ledger knows
    /// of it. Missing for longer, it is lost. Zero where no other server shares the store.
    pub opening_grace: Duration,
}

/// Statistics of a line, for operators.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// The line's numbers and counts.
    pub counts: LineCounts,
    /// Admissions a second, measured.
    pub admitted_per_s: f64,
}

/// A live line, as its server shows it to operators.
#[derive(Clone, Copy, Debug)]
pub struct LiveLine {
    /// The performance.
    pub performance: PerformanceId,
    /// The line's statistics.
    pub stats: Stats,
    /// The policy in force.
    pub policy: AdmissionPolicy,
    /// The state of the sale.
    pub sale_state: SaleState,
    /// Whether admission waits, after a loss, for the people who waited.
    pub is_holding: bool,
}

/// The line's use cases.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// The ports that the service calls.
pub struct Ports {
    /// Keeps the lines. May lose them.
    pub store: Arc<dyn LineStore>,
    /// Keeps the part of the lines that survives a loss of the store.
    pub ledger: Arc<dyn LineLedger>,
    /// Keeps the changes that operators made to policies.
    pub policies: Arc<dyn PolicyRepository>,
    /// Knows the sales.
    pub calendar: Arc<dyn SaleCalendar>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

struct Inner {
    ports: Ports,
    keys: TokenKeys,
    settings: Settings,
    /// The epoch that this server believes in.
    epoch: AtomicU64,
    lines: ArcSwap<HashMap<PerformanceId, Arc<Line>>>,
    /// Held while a line is opened or the epoch changes. Two tasks that open the same new line at once would each take
    /// the other's opening for a loss.
    opening: Mutex<()>,
    live_passes: LivePasses,
}

impl Service {
    /// Creates the service, which knows no line yet.
    #[must_use]
    pub fn new(ports: Ports, keys: TokenKeys, settings: Settings) -> Self {
        let (epoch, lines) = (AtomicU64::new(0), ArcSwap::default());
        let live_passes = LivePasses::default();
        Self(Arc::new(Inner { ports, keys, settings, epoch, lines, opening: Mutex::new(()), live_passes }))
    }

    /// The admission policy of a line.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a store's.
    pub async fn policy(&self, performance: PerformanceId) -> Result<AdmissionPolicy, Error> {
        self.sale(performance).await?;
        self.stored_policy(performance).await
    }

    /// Changes the admission policy of a line. It applies on this server at once, on other servers within a second.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], or a store's.
    #[tracing::instrument(skip_all, name = "line.patch_policy", fields(%performance))]
    pub async fn patch_policy(
        &self,
        performance: PerformanceId,
        patch: &PolicyPatch,
    ) -> Result<AdmissionPolicy, Error> {
        self.sale(performance).await?;
        let default = &self.0.settings.default_policy;
        let policy = self.0.ports.policies.patch(performance, default, patch).await?.map_err(Error::Invalid)?;
        if let Some(line) = self.0.lines.load().get(&performance) {
            line.set_policy(policy);
        }
        Ok(policy)
    }

    /// Checks that the line's store answers. Does not call it while there is no line, since nothing needs it then.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = self.0.lines.load().values().next().map(|line| (line.performance, line.view().cursor()));
        let now = self.0.ports.clock.now();
        self.0.ports.store.refresh(self.epoch(), now, asked.as_slice()).await.map(|_| ())
    }

    /// Statistics of one line.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a store's.
    pub async fn stats(&self, performance: PerformanceId) -> Result<Stats, Error> {
        match self.line(performance).await {
            Ok(line) => Ok(line.stats()),
            Err(Error::SaleNotOpen { .. } | Error::SaleClosed) => {
                Ok(Stats { counts: LineCounts::default(), admitted_per_s: 0.0 })
            }
            Err(error) => Err(error),
        }
    }

    /// The live lines of this server.
    #[must_use]
    pub fn live_lines(&self) -> Vec<LiveLine> {
        let now = self.0.ports.clock.now();
        let live_line = |line: &Arc<Line>| {
            let (stats, live) = (line.stats(), line.live_sale());
            LiveLine {
                performance: line.performance,
                stats,
                policy: live.policy,
                sale_state: live.state(now),
                is_holding: stats.counts.holds_until.is_some_and(|until| now < until),
            }
        };
        self.0.lines.load().values().map(live_line).collect()
    }

    /// The state of a performance's sale at `now`. Without a live line, it follows from the times alone.
    #[must_use]
    pub fn sale_state(
        &self,
        performance: PerformanceId,
        opens_at: Timestamp,
        closes_at: Timestamp,
        now: Timestamp,
    ) -> SaleState {
        match self.0.lines.load().get(&performance) {
            Some(line) => line.live_sale().state(now),
            None => Sale { opens_at, closes_at, is_sold_out: false }.state(LineState::Open, now),
        }
    }

    fn at(&self, line: &Line, now: Timestamp) -> At {
        At { performance: line.performance, epoch: line.epoch(), now }
    }

    async fn sale(&self, performance: PerformanceId) -> Result<Sale, Error> {
        let Ports { calendar, clock, .. } = &self.0.ports;
        calendar.find(performance, clock.now()).await?.ok_or(Error::NotFound)
    }

    async fn stored_policy(&self, performance: PerformanceId) -> Result<AdmissionPolicy, Error> {
        Ok(self.0.ports.policies.find(performance, &self.0.settings.default_policy).await?)
    }

    fn require_joinable(&self, live: &LiveSale, now: Timestamp) -> Result<(), Error> {
        let joinable_from = live.sale.opens_at.minus(self.0.settings.lobby);
        if live.state(now) == SaleState::Closed {
            Err(Error::SaleClosed)
        } else if now < joinable_from {
            Err(Error::SaleNotOpen { joinable_from })
        } else {
            Ok(())
        }
    }

    /// The open line of a performance. Looks the sale up if `refresh_calendar` has not seen it yet.
    async fn line(&self, performance: PerformanceId) -> Result<Arc<Line>, Error> {
        let known = self.0.lines.load().get(&performance).cloned();
        let line = match known {
            Some(line) => line,
            None => {
                let sale = self.sale(performance).await?;
                let live = LiveSale { sale, policy: self.stored_policy(performance).await? };
                self.require_joinable(&live, self.0.ports.clock.now())?;
                self.0.lines.rcu(|lines| {
                    let mut lines = HashMap::clone(lines);
                    lines.entry(performance).or_insert_with(|| Arc::new(Line::new(performance, live)));
                    lines
                });
                self.0.lines.load().get(&performance).cloned().ok_or(Error::SaleClosed)?
            }
        };
        self.ensure_open(&line).await?;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use usher_kernel::store::every_failure_is_told;

    use super::scene::{LINE, Mocks, POLICY, sale};
    use super::*;

    const PATCH: PolicyPatch =
        PolicyPatch { capacity: Some(1), rate_per_s: None, pass_ttl: None, presence_window: None, state: None };

    #[tokio::test]
    async fn a_policy_whose_sale_cannot_be_looked_up_is_neither_read_nor_changed() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_find().once().return_once(move |_, _| Err(failure));

            mocks.server().service.policy(LINE).await
        })
        .await;
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_find().once().return_once(move |_, _| Err(failure));

            mocks.open_server().service.patch_policy(LINE, &PATCH).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_policy_that_cannot_be_read_is_not_answered_with_the_default() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_find().once().return_once(|_, _| Ok(Some(sale())));
            mocks.policies.expect_find().once().return_once(move |_, _| Err(failure));

            mocks.server().service.policy(LINE).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_policy_that_could_not_be_stored_does_not_hold_here_either() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_find().once().return_once(|_, _| Ok(Some(sale())));
            mocks.policies.expect_patch().once().return_once(move |_, _, _| Err(failure));
            let server = mocks.open_server();

            let patched = server.service.patch_policy(LINE, &PATCH).await;

            assert_eq!(server.line(LINE).live_sale().policy, POLICY);
            patched
        })
        .await;
    }

    #[tokio::test]
    async fn a_ping_tells_how_the_store_fails() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_refresh().once().return_once(move |_, _, _| Err(failure));

            mocks.open_server().service.ping().await.map_err(Error::LineStore)
        })
        .await;
    }

    #[tokio::test]
    async fn stats_of_a_line_that_does_not_open_are_refused_and_not_zero() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_epoch().once().return_once(move || Err(failure));
            let server = mocks.server();
            server.know(LINE);

            server.service.stats(LINE).await
        })
        .await;
    }
}
