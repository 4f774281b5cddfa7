//! The contract suite of [`LineStore`]. Numbers refer to the items of its contract, L-numbers to `docs/LESSONS.md`.
//!
//! The suite sets the time. Each test has a line of its own, of a random performance.

mod admission;
#[cfg(test)]
mod check_then_act;
mod joining;
mod loss;
mod passes;
mod presence;
mod races;
mod reading;

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, Gate, GoneChanges, InEpoch, JoinOutcome, LeaveOutcome,
    LineChanges, LineCounts, LineStore, ReEntry, Resolution, Standing,
};
use usher_queue::{AccountHash, Epoch, Grant, Place, PlaceNumber};

pub use admission::*;
pub use joining::*;
pub use loss::*;
pub use passes::*;
pub use presence::*;
pub use races::*;
pub use reading::*;

/// Gives each test its store.
pub trait Fixture: Send + Sync + 'static {
    /// A store. Tests may share it, because each uses a performance of its own.
    fn store() -> impl Future<Output = Arc<dyn LineStore>> + Send;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! line_store_contract {
    // All items in one test, for a store that takes longer to start than the suite takes to run.
    (whole $fixture:ty) => {
        $crate::line_store_contract! { @whole $fixture }
    };
    (@$stamp:ident $fixture:ty) => {
        $crate::line_store_contract! { @@$stamp $fixture:
            numbers_follow_the_order_of_the_joins
            ten_thousand_joins_in_one_millisecond_keep_their_order
            an_account_keeps_its_place_from_any_number_of_tabs
            no_number_is_above_the_highest_ceiling_told
            join_admits_at_once_where_nobody_waits
            join_queues_up_behind_whoever_waits
            join_waits_where_admission_would
            waiting_away_and_inside_exclude_each_other

            the_lowest_numbers_are_admitted_first
            nobody_is_admitted_over_capacity
            a_shut_gate_admits_nobody
            admit_examines_no_more_places_than_told
            admit_says_more_only_if_another_call_would_find_work
            the_rate_holds_over_any_time
            the_rate_is_used_in_full_whatever_a_tick_is_worth
            joins_and_admissions_share_the_rate
            the_rate_does_not_gather_while_the_gate_is_shut
            servers_whose_clocks_differ_gain_no_rate
            a_grant_whose_answer_was_lost_is_a_grant

            a_pass_is_live_before_its_deadline_and_not_at_it
            passes_run_out_one_by_one
            a_thousand_abandoned_passes_give_their_room_back
            leaving_frees_the_room_at_once
            ending_a_pass_by_number_frees_the_room_at_once
            a_pass_that_ended_is_never_granted_again
            a_caller_whose_clock_is_behind_brings_no_pass_back
            whoever_ended_joins_again_at_the_back
            leaving_with_a_place_that_is_not_the_present_one_does_nothing

            absent_people_are_skipped_and_return_to_the_front
            joining_again_brings_someone_away_back
            leaving_while_away_is_leaving
            who_was_seen_within_the_window_is_not_skipped
            resolving_is_being_seen
            after_a_silence_of_merges_nobody_is_skipped_for_a_window
            a_longer_window_skips_nobody_it_has_not_watched_that_long

            nothing_is_done_before_a_line_opens
            another_epoch_finds_the_line_lost
            opening_an_older_epoch_changes_nothing
            a_contribution_adds_and_takes_nothing_back
            numbers_go_on_after_the_start
            passes_of_before_a_loss_are_inside
            the_room_of_before_a_loss_stays_taken_until_it_runs_out
            nobody_is_admitted_while_the_line_holds
            a_place_re_enters_under_its_own_number
            re_entering_does_nothing_for_an_account_inside
            of_two_places_of_an_account_the_lower_number_stays
            a_place_re_enters_with_its_pass
            a_place_that_ended_does_not_re_enter
            every_method_may_be_repeated

            resolve_tells_where_places_stand
            resolve_answers_an_old_token_with_what_became_of_it
            counts_tell_the_numbers_of_the_line
            serving_only_rises_and_whoever_leaves_above_it_is_gone
            refresh_tells_what_changed_since_the_cursor
            an_old_cursor_is_told_everything
            positions_never_rise

            one_account_joining_from_many_tasks_gets_one_place
            many_accounts_joining_at_once_get_each_number_once
            schedulers_at_once_fill_the_room_and_no_more
            schedulers_at_once_keep_the_rate
            a_place_that_leaves_while_it_is_admitted_does_one_of_both
            a_crowd_goes_through_and_nobody_is_lost_or_one_too_many
        }
    };
    (@@each $fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::line_store::$item::<$fixture>().await;
        }
    )*};
    (@@whole $fixture:ty: $($item:ident)*) => {
        #[::tokio::test(flavor = "multi_thread")]
        async fn the_whole_suite_holds() {
            $($crate::line_store::$item::<$fixture>().await;)*
        }
    };
    ($fixture:ty) => {
        $crate::line_store_contract! { @each $fixture }
    };
}

/// Later than any real clock, so that no store drops its keys as expired.
const OPENED_AT: Timestamp = Timestamp::from_unix_ms(4_000_000_000_000);
const FIRST: Epoch = Epoch::new(1);
const SECOND: Epoch = Epoch::new(2);
const PASS_TTL: Duration = Duration::from_secs(300);
const WINDOW: Duration = Duration::from_secs(80);
const BUCKET: Duration = Duration::from_secs(20);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND_LONG: Duration = Duration::from_secs(1);
/// Most places that a call examines, as in the scheduler.
const EXAMINE_MAX: u32 = 1_000;

/// One line in a store, and a server's epoch, time, terms and ceiling for it.
#[derive(Clone)]
struct Scene {
    store: Arc<dyn LineStore>,
    at: At,
    terms: AdmitTerms,
    ceiling: PlaceNumber,
}

impl Scene {
    /// A line before `open`. Its terms: an open gate, a capacity of 100, no rate limit.
    async fn unopened<F: Fixture>() -> Self {
        let at = At { performance: random_performance(), epoch: FIRST, now: OPENED_AT };
        let terms = AdmitTerms {
            gate: Gate::Open,
            capacity: 100,
            rate_per_s: 0,
            tick: Duration::from_millis(250),
            pass_ttl: PASS_TTL,
            presence_window: WINDOW,
        };
        Self { store: F::store().await, at, terms, ceiling: PlaceNumber::new(1_000_000) }
    }

    /// A line that is open, with nothing contributed.
    async fn open<F: Fixture>() -> Self {
        Self::opened_with::<F>(&Contribution::default()).await
    }

    async fn opened_with<F: Fixture>(contribution: &Contribution) -> Self {
        let scene = Self::unopened::<F>().await;
        scene.opens(contribution).await;
        scene
    }

    /// A line in which these accounts wait, from number 1 on.
    async fn with_waiting<F: Fixture>(indices: Range<u64>) -> Self {
        let scene = Self::open::<F>().await;
        scene.queue_up(indices).await;
        scene
    }

    fn later(&mut self, span: Duration) {
        self.at.now = self.at.now.plus(span);
    }

    /// The same line under other terms.
    fn under(&self, change: impl FnOnce(&mut AdmitTerms)) -> Self {
        let mut scene = self.clone();
        change(&mut scene.terms);
        scene
    }

    fn with_capacity(&self, capacity: u32) -> Self {
        self.under(|terms| terms.capacity = capacity)
    }

    fn with_gate(&self, gate: Gate) -> Self {
        self.under(|terms| terms.gate = gate)
    }

    fn in_epoch(&self, epoch: Epoch) -> Self {
        Self { at: At { epoch, ..self.at }, ..self.clone() }
    }

    fn place(&self, number: u64, index: u64) -> Place {
        Place { performance: self.at.performance, number: PlaceNumber::new(number), account: account(index) }
    }

    async fn opens(&self, contribution: &Contribution) {
        self.store.open(self.at, contribution).await.expect("the store works");
    }

    async fn contribute(&self, contribution: &Contribution) {
        current(self.store.contribute(self.at, contribution).await);
    }

    async fn join(&self, accounts: &[AccountHash]) -> Vec<JoinOutcome> {
        current(self.store.join(self.at, &self.terms, self.ceiling, accounts).await)
    }

    async fn join_one(&self, index: u64) -> JoinOutcome {
        only(self.join(&[account(index)]).await)
    }

    /// Joins these accounts while the gate is shut, so that they wait.
    async fn queue_up(&self, indices: Range<u64>) -> Vec<Place> {
        let outcomes = self.with_gate(Gate::Shut).join(&accounts(indices.clone())).await;
        let place = |(index, outcome)| match outcome {
            JoinOutcome::Joined(Standing::Waiting(number)) => self.place(number.get(), index),
            other => panic!("{index} waits behind a shut gate, but {other:?}"),
        };
        indices.zip(outcomes).map(place).collect()
    }

    async fn admit(&self) -> Admission {
        self.admit_examining(EXAMINE_MAX).await
    }

    async fn admit_examining(&self, examine_max: u32) -> Admission {
        current(self.store.admit(self.at, &self.terms, examine_max).await)
    }

    /// Calls `admit` once, and returns the numbers that it admitted.
    async fn admit_numbers(&self) -> Vec<u64> {
        numbers(&self.admit().await.granted)
    }

    async fn resolve(&self, places: &[Place]) -> Vec<Resolution> {
        current(self.store.resolve(self.at, places).await)
    }

    async fn resolve_one(&self, place: Place) -> Resolution {
        only(self.resolve(&[place]).await)
    }

    async fn re_enter(&self, place: Place, grant: Option<Grant>) {
        current(self.store.re_enter(self.at, &[ReEntry { place, grant }]).await);
    }

    async fn leave(&self, place: Place) -> LeaveOutcome {
        current(self.store.leave(self.at, place).await)
    }

    async fn end_pass(&self, number: u64) {
        current(self.store.end_pass(self.at, PlaceNumber::new(number)).await);
    }

    async fn mark_present(&self, seen: &[u64]) {
        let seen = seen.iter().copied().collect();
        current(self.store.mark_present(self.at, self.terms.presence_window, &seen).await);
    }

    /// Lets time pass while a server merges these numbers as present, at least every eighth of the window.
    async fn watch(&mut self, span: Duration, seen: &[u64]) {
        let end = self.at.now.plus(span);
        while self.at.now < end {
            self.later((self.terms.presence_window / 8).min(end.since(self.at.now)));
            self.mark_present(seen).await;
        }
    }

    async fn changes(&self, cursor: Cursor) -> LineChanges {
        let lines = [(self.at.performance, cursor)];
        let answers = self.store.refresh(self.at.epoch, self.at.now, &lines).await.expect("the store works");
        current(Ok(only(answers)))
    }

    async fn counts(&self) -> LineCounts {
        self.changes(Cursor::default()).await.counts
    }
}

fn current<T>(answer: Result<InEpoch<T>, StoreError>) -> T {
    match answer.expect("the store works") {
        InEpoch::Current(answer) => answer,
        InEpoch::Lost => panic!("the line is open in this epoch, but the store says that it is lost"),
    }
}

fn only<T>(answers: Vec<T>) -> T {
    let [answer] = <[T; 1]>::try_from(answers).unwrap_or_else(|answers| panic!("{} answers to one", answers.len()));
    answer
}

fn account(index: u64) -> AccountHash {
    AccountHash::from_bytes(u128::from(index).to_be_bytes())
}

fn accounts(indices: Range<u64>) -> Vec<AccountHash> {
    indices.map(account).collect()
}

fn numbers(grants: &[Grant]) -> Vec<u64> {
    grants.iter().map(|grant| grant.number.get()).collect()
}

/// The numbers in an answer, which lists them or has the whole set.
fn learned(gone: GoneChanges) -> RoaringTreemap {
    match gone {
        GoneChanges::Since(numbers) => numbers.iter().map(|number| number.get()).collect(),
        GoneChanges::All(all) => all,
    }
}

const fn joined(number: u64) -> JoinOutcome {
    JoinOutcome::Joined(Standing::Waiting(PlaceNumber::new(number)))
}

const fn already(number: u64) -> JoinOutcome {
    JoinOutcome::Already(Standing::Waiting(PlaceNumber::new(number)))
}

const fn waiting(number: u64, ahead: u64) -> Resolution {
    Resolution::Waiting { number: PlaceNumber::new(number), ahead }
}

/// Random, so that tests which share a server do not share a line. `RandomState` is seeded by the system.
fn random_performance() -> PerformanceId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&RandomState::new().hash_one(0).to_be_bytes());
    bytes[8..].copy_from_slice(&RandomState::new().hash_one(1).to_be_bytes());
    PerformanceId::from_bytes(bytes)
}
