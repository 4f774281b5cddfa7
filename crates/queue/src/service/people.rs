//! Use cases of people in a line: join, poll, leave, and show a pass.

use std::time::Duration;

use usher_kernel::{AccountId, PerformanceId, Timestamp};

use super::Service;
use super::epochs::BLOCK;
use super::line::Line;
use crate::pace::{self, Eta};
use crate::policy::SaleState;
use crate::ports::{JoinOutcome, LeaveOutcome, PastGrant, ReEntry, Resolution, Standing, Superseded};
use crate::token::Pass;
use crate::{AccountHash, Error, Grant, Place, PlaceNumber};

/// The state of a place, as its owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceState {
    /// The place waits.
    Waiting,
    /// The place is inside.
    Admitted,
    /// The pass was used up, or the place left.
    Done,
    /// The pass expired unused.
    Expired,
}

impl PlaceState {
    /// The state's name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Admitted => "admitted",
            Self::Done => "done",
            Self::Expired => "expired",
        }
    }
}

/// A signed pass. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PassToken {
    /// The token.
    pub token: String,
    /// The pass is valid while `now < expires_at`.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for PassToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// The answer to the owner of a place.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaceStatus {
    /// The place token.
    pub place: String,
    /// The place's number.
    pub number: PlaceNumber,
    /// The place's state.
    pub state: PlaceState,
    /// The position, 1 for the next place; 0 if the place does not wait.
    pub position: u64,
    /// How many places go before it, returned places included.
    pub ahead: u64,
    /// When to poll again.
    pub poll_after: Duration,
    /// The estimated wait, if there is an estimate.
    pub eta: Option<Eta>,
    /// The pass, if the place is inside.
    pub pass: Option<PassToken>,
    /// The state of the sale.
    pub sale_state: SaleState,
}

/// The answer to a join.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// The account's place.
    pub status: PlaceStatus,
    /// Whether the account had no place before.
    pub is_new: bool,
}

/// The result of checking a pass.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassCheck {
    /// The pass of this place is valid, as far as the token alone shows.
    Live(PlaceNumber),
    /// The token is malformed, or its signature is wrong.
    Invalid,
    /// The pass belongs to another account or performance.
    Mismatch,
    /// The pass has expired.
    Expired,
}

impl Service {
    /// Gives the account a place, or finds the place that it has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::SaleNotOpen`], [`Error::SaleClosed`], [`Error::LineUnavailable`], or a store's.
    #[tracing::instrument(skip_all, name = "line.join", level = "debug", fields(%performance))]
    pub async fn join(&self, performance: PerformanceId, account: AccountId) -> Result<Joined, Error> {
        let (line, now) = (self.line(performance).await?, self.0.ports.clock.now());
        let live = line.live_sale();
        self.require_joinable(&live, now)?;
        let account = AccountHash::of(account);
        let outcome = self.join_below_ceiling(&line, account, now).await?;
        let (standing, is_new) = match outcome {
            JoinOutcome::Joined(standing) => (standing, true),
            JoinOutcome::Already(standing) => (standing, false),
            JoinOutcome::CeilingReached => return Err(Error::LineUnavailable),
        };
        let status = match standing {
            Standing::Admitted(grant) => self.admitted(&line, grant, now),
            Standing::Waiting(number) => {
                let place = Place { performance, number, account };
                match self.waiting_by_view(&line, place, now) {
                    Some(status) => status,
                    None => self.ask(&line, place, now).await?,
                }
            }
        };
        Ok(Joined { status, is_new })
    }

    /// The state of a place. Does not call the store while the place waits to be called.
    ///
    /// # Errors
    /// [`Error::PlaceInvalid`], [`Error::PlaceMismatch`], [`Error::SaleClosed`], [`Error::LineUnavailable`], or a
    /// store's.
    pub async fn poll(&self, performance: PerformanceId, place_token: &str) -> Result<PlaceStatus, Error> {
        let place = self.verified_place(performance, place_token)?;
        let (line, now) = (self.line(performance).await?, self.0.ports.clock.now());
        if line.knows(place.number)
            && let Some(status) = self.waiting_by_view(&line, place, now)
        {
            return Ok(status);
        }
        self.ask(&line, place, now).await
    }

    /// Gives a place up: out of the line, or out of the sale. May be repeated.
    ///
    /// # Errors
    /// [`Error::PlaceInvalid`], [`Error::PlaceMismatch`], or a store's.
    #[tracing::instrument(skip_all, name = "line.leave", fields(%performance))]
    pub async fn leave(&self, performance: PerformanceId, place_token: &str) -> Result<(), Error> {
        let place = self.verified_place(performance, place_token)?;
        self.end(place).await
    }

    /// Ends a pass, as [`Self::leave`] does with the place of its owner: for a shop, which has no place token.
    ///
    /// # Errors
    /// [`Error::PlaceInvalid`], [`Error::PlaceMismatch`], or a store's.
    #[tracing::instrument(skip_all, name = "line.end_pass", fields(%performance))]
    pub async fn end_pass(&self, performance: PerformanceId, pass_token: &str) -> Result<(), Error> {
        let Pass { performance: theirs, grant } = self.0.keys.verify_pass(pass_token).ok_or(Error::PlaceInvalid)?;
        if theirs != performance {
            return Err(Error::PlaceMismatch);
        }
        self.end(Place { performance, number: grant.number, account: grant.account }).await
    }

    async fn end(&self, place: Place) -> Result<(), Error> {
        let Place { performance, number, .. } = place;
        let now = self.0.ports.clock.now();
        // The ledger comes first. If the second step fails, the room comes free when the pass expires. In the other
        // order, a failure would leave a pass that still books seats although its owner left.
        self.0.ports.ledger.end_pass(performance, number, now).await?;
        self.0.live_passes.end((performance, number));
        match self.line(performance).await {
            Ok(line) => {
                let left = self.0.ports.store.leave(self.at(&line, now), place).await.map_err(Error::LineStore)?;
                line.note_settled(number);
                match left.current()? {
                    LeaveOutcome::LeftTheLine | LeaveOutcome::EndedPass | LeaveOutcome::NotThere => Ok(()),
                }
            }
            Err(Error::SaleClosed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks a pass for a gate in front of the sale, and returns what it grants. All refusals look alike. A pass that
    /// this server saw live within the last second needs no ledger.
    ///
    /// # Errors
    /// [`Error::NotAdmitted`], or a store's.
    pub async fn gate(&self, performance: PerformanceId, pass_token: Option<&str>) -> Result<Grant, Error> {
        let pass = pass_token.and_then(|token| self.0.keys.verify_pass(token)).ok_or(Error::NotAdmitted)?;
        let (now, key) = (self.0.ports.clock.now(), (performance, pass.grant.number));
        if pass.performance != performance || !pass.grant.is_live(now) {
            return Err(Error::NotAdmitted);
        }
        let Err(look) = self.0.live_passes.find(key, now) else { return Ok(pass.grant) };
        match self.0.ports.ledger.past_grants(performance, &[pass.grant.number]).await?.first() {
            Some(PastGrant::Ended) => Err(Error::NotAdmitted),
            Some(PastGrant::Never | PastGrant::Granted(_)) | None => {
                self.0.live_passes.note(key, look, now);
                Ok(pass.grant)
            }
        }
    }

    /// Checks the signature, account, performance and expiry of a pass. Calls no store.
    pub fn check_pass(&self, token: &str, account: AccountId, performance: PerformanceId, now: Timestamp) -> PassCheck {
        match self.0.keys.verify_pass(token) {
            None => PassCheck::Invalid,
            Some(Pass { performance: theirs, grant })
                if theirs != performance || grant.account != AccountHash::of(account) =>
            {
                PassCheck::Mismatch
            }
            Some(Pass { grant, .. }) if grant.is_live(now) => PassCheck::Live(grant.number),
            Some(Pass { .. }) => PassCheck::Expired,
        }
    }

    /// Frees the room of a pass that was used up. The ledger knows already, as that was written with the sale.
    ///
    /// # Errors
    /// A store's. The room then comes free when the pass expires.
    pub async fn pass_used(&self, performance: PerformanceId, number: PlaceNumber) -> Result<(), Error> {
        self.0.live_passes.end((performance, number));
        let line = self.line(performance).await?;
        let at = self.at(&line, self.0.ports.clock.now());
        self.0.ports.store.end_pass(at, number).await.map_err(Error::LineStore)?.current()
    }

    fn verified_place(&self, performance: PerformanceId, token: &str) -> Result<Place, Error> {
        let place = self.0.keys.verify_place(token).ok_or(Error::PlaceInvalid)?;
        if place.performance == performance { Ok(place) } else { Err(Error::PlaceMismatch) }
    }

    async fn join_below_ceiling(
        &self,
        line: &Line,
        account: AccountHash,
        now: Timestamp,
    ) -> Result<JoinOutcome, Error> {
        let terms = line.terms(self.0.settings.tick, now);
        // Other calls may use up a raised ceiling before this one joins; after three attempts something else is wrong.
        for _ in 0..3 {
            let ceiling = line.ceiling();
            let accounts = [account];
            let joined = self.0.ports.store.join(self.at(line, now), &terms, ceiling, &accounts);
            let outcomes = joined.await.map_err(Error::LineStore)?.current()?;
            let outcome = outcomes.into_iter().next().ok_or(Error::LineUnavailable)?;
            let number = match outcome {
                JoinOutcome::CeilingReached => {
                    self.raise_ceiling(line, ceiling).await?;
                    continue;
                }
                JoinOutcome::Joined(standing) | JoinOutcome::Already(standing) => match standing {
                    Standing::Waiting(number) => number,
                    Standing::Admitted(grant) => grant.number,
                },
            };
            if number.get() + BLOCK / 2 > ceiling.get()
                && let Some(_raising) = line.begin_raising()
                && let Err(error) = self.raise_ceiling(line, ceiling).await
            {
                tracing::warn!(performance = %line.performance, error = %error, "joins go on up to the ceiling");
            }
            return Ok(outcome);
        }
        Err(Error::LineUnavailable)
    }

    async fn raise_ceiling(&self, line: &Line, seen: PlaceNumber) -> Result<(), Error> {
        match self.0.ports.ledger.reserve(line.performance, line.epoch(), seen, BLOCK).await? {
            Superseded::No(ceiling) => {
                line.raise_ceiling(ceiling);
                Ok(())
            }
            Superseded::By(_) => Err(Error::LineUnavailable),
        }
    }

    /// The answer for a place that was not called yet, from this server's view.
    fn waiting_by_view(&self, line: &Line, place: Place, now: Timestamp) -> Option<PlaceStatus> {
        let view = line.view();
        let (position, ahead) = (view.position(place.number)?, view.ahead(place.number)?);
        line.note_seen(place.number);
        Some(self.waiting(line, place, position, ahead, now))
    }

    /// The answer for a place that was called, or is from before a loss, from the store and the ledger.
    async fn ask(&self, line: &Line, place: Place, now: Timestamp) -> Result<PlaceStatus, Error> {
        let at = self.at(line, now);
        // Resolves twice: a place that the store does not know re-enters, and is then known.
        for _ in 0..2 {
            let resolved = self.0.ports.store.resolve(at, &[place]).await.map_err(Error::LineStore)?;
            let resolution = resolved.current()?.into_iter().next().ok_or(Error::LineUnavailable)?;
            match resolution {
                Resolution::Waiting { number, ahead } => {
                    line.note_entered(place.number);
                    let place = Place { number, ..place };
                    let status = self.waiting_by_view(line, place, now);
                    return Ok(status.unwrap_or_else(|| self.waiting(line, place, 1, ahead, now)));
                }
                Resolution::Admitted(grant) => return Ok(self.admitted(line, grant, now)),
                Resolution::Done => return Ok(self.over(line, place, PlaceState::Done, now)),
                Resolution::Expired => return Ok(self.over(line, place, PlaceState::Expired, now)),
                Resolution::Unknown => {
                    let past = self.0.ports.ledger.past_grants(line.performance, &[place.number]).await?;
                    let grant = match past.first() {
                        Some(PastGrant::Ended) => return Ok(self.over(line, place, PlaceState::Done, now)),
                        Some(PastGrant::Granted(grant)) if !grant.is_live(now) => {
                            return Ok(self.over(line, place, PlaceState::Expired, now));
                        }
                        Some(PastGrant::Granted(grant)) => Some(*grant),
                        Some(PastGrant::Never) | None => None,
                    };
                    let entry = ReEntry { place, grant };
                    self.0.ports.store.re_enter(at, &[entry]).await.map_err(Error::LineStore)?.current()?;
                }
            }
        }
        Err(Error::LineUnavailable)
    }

    fn waiting(&self, line: &Line, place: Place, position: u64, ahead: u64, now: Timestamp) -> PlaceStatus {
        let (live, view) = (line.live_sale(), line.view());
        let sale_state = live.state(now);
        let (distance, eta) = match sale_state {
            // Until the operator raises the capacity, any estimate would be wrong.
            SaleState::Open if live.policy.capacity == 0 => (ahead + 1, None),
            SaleState::Open => (ahead + 1, view.wait(ahead + 1).map(pace::eta)),
            SaleState::Scheduled => (ahead + 1, None),
            // The line does not move, so frequent polls are of no use.
            SaleState::Paused | SaleState::Closed | SaleState::SoldOut => (u64::MAX, None),
        };
        let poll_after = pace::poll_after(distance, place.number, now, live.policy.presence_window);
        line.note_poll_due(now.plus(poll_after));
        PlaceStatus {
            place: self.0.keys.sign_place(place),
            number: place.number,
            state: PlaceState::Waiting,
            position,
            ahead,
            poll_after,
            eta,
            pass: None,
            sale_state,
        }
    }

    fn admitted(&self, line: &Line, grant: Grant, now: Timestamp) -> PlaceStatus {
        let place = Place { performance: line.performance, number: grant.number, account: grant.account };
        line.note_settled(grant.number);
        line.note_granted(&[grant]);
        let token = self.0.keys.sign_pass(line.performance, grant);
        let pass = Some(PassToken { token, expires_at: grant.expires_at });
        PlaceStatus { pass, ..self.over(line, place, PlaceState::Admitted, now) }
    }

    /// The answer for a place that does not wait any more.
    fn over(&self, line: &Line, place: Place, state: PlaceState, now: Timestamp) -> PlaceStatus {
        let live = line.live_sale();
        PlaceStatus {
            place: self.0.keys.sign_place(place),
            number: place.number,
            state,
            position: 0,
            ahead: 0,
            poll_after: pace::poll_after(u64::MAX, place.number, now, live.policy.presence_window),
            eta: None,
            pass: None,
            sale_state: live.state(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use usher_kernel::StoreError;
    use usher_kernel::store::every_failure_is_told;

    use super::super::scene::{
        ACCOUNT, CALLED, CEILING, LINE, Mocks, NOW, OTHER_LINE, WAITING, changes, grant, place, sale,
    };
    use super::*;
    use crate::ports::InEpoch;

    /// The store's answer to a join that takes a new place.
    fn joined(number: u64) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        Ok(InEpoch::Current(vec![JoinOutcome::Joined(Standing::Waiting(PlaceNumber::new(number)))]))
    }

    fn resolved(resolution: Resolution) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        Ok(InEpoch::Current(vec![resolution]))
    }

    /// Joins a line that the server does not know, with a port that fails as `fail` says. No line is left behind.
    async fn every_failed_look_up_is_told(fail: fn(&mut Mocks, StoreError)) {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            fail(&mut mocks, failure);
            let server = mocks.server();

            let joined = server.service.join(LINE, ACCOUNT).await;

            assert!(server.service.live_lines().is_empty());
            joined
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_whose_sale_cannot_be_looked_up_is_refused_and_leaves_no_line_behind() {
        every_failed_look_up_is_told(|mocks, failure| {
            mocks.calendar.expect_find().once().return_once(move |_, _| Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_whose_policy_cannot_be_read_is_refused_and_leaves_no_line_behind() {
        every_failed_look_up_is_told(|mocks, failure| {
            mocks.calendar.expect_find().once().return_once(|_, _| Ok(Some(sale())));
            mocks.policies.expect_find().once().return_once(move |_, _| Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_whose_line_does_not_open_takes_no_place() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_epoch().return_once(move || Err(failure));
            let server = mocks.server();
            server.know(LINE);

            server.service.join(LINE, ACCOUNT).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_that_the_store_fails_is_refused_and_may_be_repeated() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_join().once().return_once(move |_, _, _, _| Err(failure));
            mocks.store.expect_join().once().return_once(|_, _, _, _| joined(6));
            let server = mocks.open_server();

            let refused = server.service.join(LINE, ACCOUNT).await;

            assert!(server.line(LINE).take_seen().is_empty(), "no place was seen");
            assert_eq!(server.service.join(LINE, ACCOUNT).await.unwrap().status.number.get(), 6);
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_at_the_ceiling_is_refused_when_the_ledger_cannot_raise_it() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            let reached = vec![JoinOutcome::CeilingReached];
            mocks.store.expect_join().once().return_once(move |_, _, _, _| Ok(InEpoch::Current(reached)));
            mocks.ledger.expect_reserve().once().return_once(move |_, _, _, _| Err(failure));
            let server = mocks.open_server();

            let refused = server.service.join(LINE, ACCOUNT).await;

            assert_eq!(server.line(LINE).ceiling(), CEILING);
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_join_below_the_ceiling_is_answered_although_the_ledger_cannot_raise_it_and_the_next_one_tries_again() {
        for failure in StoreError::of_each_kind("ledger.reserve") {
            let mut mocks = Mocks::default();
            let last = CEILING.get();
            mocks.store.expect_join().once().return_once(move |_, _, _, _| joined(last - 1));
            mocks.store.expect_join().once().return_once(move |_, _, _, _| joined(last));
            mocks.ledger.expect_reserve().once().return_once(move |_, _, _, _| Err(failure));
            let raised = PlaceNumber::new(CEILING.get() + BLOCK);
            mocks.ledger.expect_reserve().once().return_once(move |_, _, _, _| Ok(Superseded::No(raised)));
            let server = mocks.open_server();

            let first = server.service.join(LINE, ACCOUNT).await.unwrap();
            let ceiling = server.line(LINE).ceiling();
            server.service.join(LINE, ACCOUNT).await.unwrap();

            assert_eq!((first.status.number.get(), ceiling), (last - 1, CEILING));
            assert_eq!(server.line(LINE).ceiling(), raised);
        }
    }

    #[tokio::test]
    async fn a_join_that_finds_a_called_place_is_refused_when_the_store_cannot_resolve_it() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            let already = vec![JoinOutcome::Already(Standing::Waiting(CALLED))];
            mocks.store.expect_join().once().return_once(move |_, _, _, _| Ok(InEpoch::Current(already)));
            mocks.store.expect_resolve().once().return_once(move |_, _| Err(failure));

            mocks.open_server().service.join(LINE, ACCOUNT).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_poll_that_the_store_fails_puts_no_place_back() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_resolve().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();

            server.service.poll(LINE, &server.place_token(CALLED)).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_place_whose_past_the_ledger_cannot_tell_does_not_re_enter() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_resolve().once().return_once(|_, _| resolved(Resolution::Unknown));
            mocks.ledger.expect_past_grants().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();

            server.service.poll(LINE, &server.place_token(CALLED)).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_re_entry_that_the_store_fails_is_refused_and_the_next_poll_tries_again() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_resolve().times(2).returning(|_, _| resolved(Resolution::Unknown));
            mocks.ledger.expect_past_grants().times(2).returning(|_, _| Ok(vec![PastGrant::Never]));
            mocks.store.expect_re_enter().once().return_once(move |_, _| Err(failure));
            mocks
                .store
                .expect_re_enter()
                .once()
                .withf(|_, entries| entries == [ReEntry { place: place(CALLED), grant: None }])
                .return_once(|_, _| Ok(InEpoch::Current(())));
            mocks.store.expect_resolve().once().return_once(|_, _| resolved(Resolution::Admitted(grant(CALLED))));
            let server = mocks.open_server();
            let token = server.place_token(CALLED);

            let refused = server.service.poll(LINE, &token).await;

            assert_eq!(server.service.poll(LINE, &token).await.unwrap().state, PlaceState::Admitted);
            refused
        })
        .await;
    }

    /// The server takes a place from before a loss for present only after the store confirmed it.
    #[tokio::test]
    async fn a_re_entry_that_cannot_be_confirmed_is_asked_for_again() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_resolve().once().return_once(|_, _| resolved(Resolution::Unknown));
            mocks.ledger.expect_past_grants().once().return_once(|_, _| Ok(vec![PastGrant::Never]));
            mocks.store.expect_re_enter().once().return_once(|_, _| Ok(InEpoch::Current(())));
            mocks.store.expect_resolve().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();
            let mut inherited = changes(CALLED);
            inherited.counts.inherited = WAITING;
            server.line(LINE).apply(inherited, NOW);

            let refused = server.service.poll(LINE, &server.place_token(WAITING)).await;

            assert!(!server.line(LINE).knows(WAITING));
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_leave_that_the_ledger_fails_does_not_touch_the_store() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_end_pass().once().return_once(move |_, _, _| Err(failure));
            let server = mocks.open_server();

            let refused = server.service.leave(LINE, &server.place_token(WAITING)).await;

            assert!(server.line(LINE).knows(WAITING), "the place waits as before");
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_leave_that_the_store_fails_is_refused_and_may_be_repeated() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_end_pass().times(2).returning(|_, _, _| Ok(()));
            mocks.store.expect_leave().once().return_once(move |_, _| Err(failure));
            let left = InEpoch::Current(LeaveOutcome::LeftTheLine);
            mocks.store.expect_leave().once().return_once(move |_, _| Ok(left));
            let server = mocks.open_server();
            let token = server.place_token(WAITING);

            let refused = server.service.leave(LINE, &token).await;

            assert!(server.line(LINE).knows(WAITING), "the place waits as before");
            server.service.leave(LINE, &token).await.unwrap();
            assert!(!server.line(LINE).knows(WAITING));
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_leave_whose_line_does_not_open_has_ended_the_pass() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_end_pass().once().return_once(|_, _, _| Ok(()));
            mocks.ledger.expect_epoch().once().return_once(move || Err(failure));
            let server = mocks.server();
            server.know(LINE);

            server.service.leave(LINE, &server.place_token(WAITING)).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_gate_whose_ledger_fails_says_so_and_does_not_call_the_pass_invalid() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_past_grants().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();
            let pass = server.service.0.keys.sign_pass(LINE, grant(CALLED));

            server.service.gate(LINE, Some(&pass)).await
        })
        .await;
    }

    /// A shop asks for each of its requests: a ledger that fails for a moment must not turn its buyers away.
    #[tokio::test]
    async fn a_pass_that_was_live_a_moment_ago_needs_no_ledger_until_this_server_ends_it() {
        let mut mocks = Mocks::default();
        let away = || StoreError::Unavailable { operation: "ledger.past_grants", source: "away".into() };
        mocks.ledger.expect_past_grants().once().return_once(|_, _| Ok(vec![PastGrant::Granted(grant(CALLED))]));
        mocks.ledger.expect_past_grants().once().return_once(move |_, _| Err(away()));
        mocks.ledger.expect_past_grants().once().return_once(|_, _| Ok(vec![PastGrant::Granted(grant(CALLED))]));
        mocks.ledger.expect_past_grants().once().return_once(|_, _| Ok(vec![PastGrant::Ended]));
        mocks.ledger.expect_end_pass().once().return_once(|_, _, _| Ok(()));
        mocks.store.expect_leave().once().return_once(|_, _| Ok(InEpoch::Current(LeaveOutcome::EndedPass)));
        let server = mocks.open_server();
        let pass = server.service.0.keys.sign_pass(LINE, grant(CALLED));
        let gate = async || server.service.gate(LINE, Some(&pass)).await;

        assert_eq!(gate().await.unwrap(), grant(CALLED));
        gate().await.unwrap();
        server.clock.advance(Duration::from_secs(1));
        assert!(matches!(gate().await, Err(Error::Store(_))), "a second later the ledger is asked again");
        gate().await.unwrap();
        server.service.end_pass(LINE, &pass).await.unwrap();

        assert!(matches!(gate().await, Err(Error::NotAdmitted)), "the end is seen at once");
    }

    #[tokio::test]
    async fn a_pass_of_another_line_ends_nothing() {
        let server = Mocks::default().open_server();
        let pass = server.service.0.keys.sign_pass(OTHER_LINE, grant(CALLED));

        assert!(matches!(server.service.end_pass(LINE, &pass).await, Err(Error::PlaceMismatch)));
        assert!(matches!(server.service.end_pass(LINE, "nonsense").await, Err(Error::PlaceInvalid)));
    }

    #[tokio::test]
    async fn a_used_pass_whose_room_the_store_cannot_free_is_reported() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_end_pass().once().return_once(move |_, _| Err(failure));

            mocks.open_server().service.pass_used(LINE, CALLED).await
        })
        .await;
    }
}
