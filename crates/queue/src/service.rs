//! The line's use cases, and the steps that a server takes for its lines in the background.
//!
//! Whatever a poll needs is in the line's [`LineView`](crate::LineView); only places that were called, and places from before a loss, ask
//! the store.

mod epochs;
mod line;
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
pub use self::people::{Joined, PassCheck, PassToken, PlaceState, PlaceStatus};
pub use self::tick::EXAMINE_MAX;
use crate::policy::{Sale, SaleState};
use crate::ports::{At, LineCounts, LineLedger, LineStore, PolicyRepository, SaleCalendar};
use crate::{AdmissionPolicy, Error, LineState, PolicyPatch, TokenKeys};

/// What the service is set to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The policy of lines whose operator said nothing.
    pub default_policy: AdmissionPolicy,
    /// How long before the sale opens people can join.
    pub lobby: Duration,
    /// How often [`Service::tick`] is called.
    pub tick: Duration,
    /// How long a line may take from the ledger's word to being in the store, where another server opens it. Not there for
    /// longer, it is lost. Zero where no other server shares the store.
    pub opening_grace: Duration,
}

/// What an operator is told of a line.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// The line's numbers and counts.
    pub counts: LineCounts,
    /// The admissions a second, measured.
    pub admitted_per_s: f64,
}

/// The line's use cases.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// What the service needs from outside.
pub struct Ports {
    /// Who waits, who is inside.
    pub store: Arc<dyn LineStore>,
    /// What survives the loss of the store.
    pub ledger: Arc<dyn LineLedger>,
    /// What operators changed.
    pub policies: Arc<dyn PolicyRepository>,
    /// Which lines there are.
    pub calendar: Arc<dyn SaleCalendar>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

struct Inner {
    ports: Ports,
    keys: TokenKeys,
    settings: Settings,
    /// The epoch that this server believes in.
    epoch: AtomicU64,
    lines: ArcSwap<HashMap<PerformanceId, Arc<Line>>>,
    /// Opening lines and changing epochs is for one task of this server at a time: two that open one new line at once
    /// would each take the other for a loss.
    opening: Mutex<()>,
}

impl Service {
    /// Puts the service together.
    #[must_use]
    pub fn new(ports: Ports, keys: TokenKeys, settings: Settings) -> Self {
        let (epoch, lines) = (AtomicU64::new(0), ArcSwap::default());
        Self(Arc::new(Inner { ports, keys, settings, epoch, lines, opening: Mutex::new(()) }))
    }

    /// The admission policy of a line.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a store's.
    pub async fn policy(&self, performance: PerformanceId) -> Result<AdmissionPolicy, Error> {
        self.sale(performance).await?;
        self.stored_policy(performance).await
    }

    /// Changes the admission policy of a line: here at once, on other servers within a second.
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

    /// Whether the line's store answers. With no line there is nothing to ask it, and nothing that it is needed for.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = self.0.lines.load().values().next().map(|line| (line.performance, line.view().cursor()));
        let now = self.0.ports.clock.now();
        self.0.ports.store.refresh(self.epoch(), now, asked.as_slice()).await.map(|_| ())
    }

    /// What a line looks like now.
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

    /// What every line of this server looks like now.
    #[must_use]
    pub fn stats_of_all(&self) -> Vec<(PerformanceId, Stats)> {
        self.0.lines.load().iter().map(|(&performance, line)| (performance, line.stats())).collect()
    }

    /// Whether a performance's seats are being sold. Of a line that is not live, the times alone tell.
    #[must_use]
    pub fn sale_state(&self, performance: PerformanceId, opens_at: Timestamp, closes_at: Timestamp) -> SaleState {
        let now = self.0.ports.clock.now();
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

    /// The open line of a performance. One that the calendar has not shown yet is looked up.
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
