//! The contract suite of [`ReservationRepository`] and [`SeatEvents`]. Numbers refer to the items of the contract of
//! [`ReservationRepository`], or, after the word Events, of [`SeatEvents`].
//!
//! Nearly every item ends with an audit of the whole history, which finds a seat that was sold twice.

mod best_seats;
#[cfg(test)]
mod check_then_act;
mod claims;
mod ending;
mod events;
mod holding;
mod limits;
mod paying;
mod races;
mod reading;
mod selecting;

use std::sync::Arc;
use std::time::Duration;

use usher_concert::{
    AddOutcome, CatalogueRepository, Concert, Performance, ReplaceSeatsOutcome, SaleTimes, SeatMap, SectionPlan,
};
use usher_kernel::{
    AccountId, AttemptId, Claim, ConcertId, Fingerprint, Money, PerformanceId, ReservationId, SeatId, TicketId,
    Timestamp,
};
use usher_reservation::audit::{self, History};
use usher_reservation::model::{PassNumber, TransitionError};
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReleaseOutcome, ReservationHistory, ReservationRepository,
    ReservationRepositoryExt as _, SeatEvents, SeatFilter, SeatWish, Settled, Verdict,
};
use usher_reservation::{Reservation, SeatCounts, SeatStatus, State};

use crate::race::race_all;

pub use best_seats::*;
pub use claims::*;
pub use ending::*;
pub use events::*;
pub use holding::*;
pub use limits::*;
pub use paying::*;
pub use races::*;
pub use reading::*;
pub use selecting::*;

/// Gives each test a repository of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty repository, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The repository.
    fn repository(&self) -> Arc<dyn ReservationRepository>;

    /// The events of its seats.
    fn events(&self) -> Arc<dyn SeatEvents>;

    /// The history of its seats.
    fn history(&self) -> Arc<dyn ReservationHistory>;

    /// Makes a performance with these seats, all available.
    fn seed(&self, performance: PerformanceId, map: &SeatMap) -> impl Future<Output = ()> + Send;

    /// Ends a pass, as its owner does by leaving the line.
    fn leave(&self, performance: PerformanceId, pass: PassNumber, now: Timestamp) -> impl Future<Output = ()> + Send;
}

/// A store with concurrent transactions: one can stay open while others commit.
pub trait SideBySide: Fixture {
    /// An open transaction that holds a seat.
    type Open: Send;

    /// Marks an available seat as held, and writes the event, in a transaction that stays open. No reservation has the
    /// seat.
    fn hold_open(&self, performance: PerformanceId, seat: &SeatId) -> impl Future<Output = Self::Open> + Send;

    /// Commits it.
    fn commit(&self, open: Self::Open) -> impl Future<Output = ()> + Send;

    /// Rolls it back.
    fn roll_back(&self, open: Self::Open) -> impl Future<Output = ()> + Send;
}

/// Makes a performance with these seats, all available, through a catalogue that shares the repository's store.
///
/// # Panics
/// If the catalogue refuses.
pub async fn seed_through(catalogue: &impl CatalogueRepository, performance: PerformanceId, map: &SeatMap) {
    let before_the_sale = Timestamp::EPOCH;
    let concert = Concert {
        id: ConcertId::from_uuid(performance.uuid()),
        title: "Title".into(),
        description: String::new(),
        venue: "Venue".into(),
        running_time_min: 90,
    };
    let claim = |key: &str| Claim {
        account: AccountId::from_bytes([255; 16]),
        key: format!("{key}-{performance}").parse().unwrap(),
        fingerprint: Fingerprint([0; 32]),
    };
    let added = catalogue.add_concert(&concert, &claim("concert"), before_the_sale).await.unwrap();
    assert_eq!(added, AddOutcome::Added);
    let opens_at = before_the_sale.plus(Duration::from_millis(1));
    let new = Performance {
        id: performance,
        concert: concert.id,
        starts_at: Timestamp::from_unix_ms(i64::MAX),
        sale: SaleTimes { opens_at, closes_at: Timestamp::from_unix_ms(i64::MAX) },
        seat_limit_per_buyer: 4,
        hold_ttl: Duration::from_secs(300),
        map_version: 0,
    };
    let added = catalogue.add_performance(&new, &claim("performance"), before_the_sale).await.unwrap();
    assert_eq!(added, AddOutcome::Added);
    let replaced = catalogue.replace_seats(performance, map, before_the_sale).await.unwrap();
    assert_eq!(replaced, ReplaceSeatsOutcome::Replaced { map_version: 1 });
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! reservation_repository_contract {
    ($fixture:ty) => {
        $crate::reservation_repository_contract! { $fixture:
            of_a_thousand_buyers_of_one_seat_exactly_one_gets_it
            a_thousand_buyers_of_a_thousand_seats_all_get_theirs
            racing_groups_that_overlap_are_held_whole_or_not_at_all

            a_group_is_held_whole_or_not_at_all_and_every_conflict_is_named
            commands_of_one_call_are_judged_one_after_the_other
            a_batch_spans_performances
            every_change_of_a_seat_raises_its_version_and_leaves_one_event
            a_lapsed_hold_reads_as_expired_and_keeps_nobody_from_its_seats
            a_refusal_changes_nothing_and_keeps_no_claim
            seats_that_are_not_there_are_named_by_their_positions

            a_repeated_hold_is_replayed_and_another_request_is_a_mismatch
            of_many_twins_one_holds_and_the_others_are_told
            a_claim_is_kept_for_a_day
            a_repeated_payment_is_in_flight_and_then_replayed
            of_many_payments_under_one_claim_one_begins

            a_buyer_never_has_more_seats_than_the_limit
            seats_given_back_or_lapsed_do_not_count_against_the_limit
            a_pass_carries_one_live_reservation
            of_many_holds_under_one_pass_one_is_held
            a_pass_that_ended_carries_none

            payments_of_one_call_are_judged_one_after_the_other
            a_payment_begins_only_on_a_live_hold_whose_seats_are_its_own
            a_payment_begun_late_keeps_its_seats_for_a_minute
            a_captured_payment_sells_the_seats_once
            a_declined_payment_goes_back_to_the_hold_and_its_time
            an_unheard_payment_goes_back_to_the_hold_and_frees_its_claim
            a_capture_whose_seats_are_free_again_sells_them
            a_capture_whose_seats_are_gone_is_refunded_once
            a_capture_that_comes_after_the_end_is_refunded_once
            payments_that_nobody_ended_are_found_when_their_time_comes

            confirm_and_expiry_at_the_same_instant_never_both_happen
            a_late_call_changes_nothing_of_the_next_owner
            only_what_has_lapsed_expires_and_only_once
            a_second_release_reports_that_nothing_was_done

            the_best_seats_are_side_by_side_in_front_and_in_the_middle
            the_best_seats_are_chosen_among_what_earlier_commands_left
            a_batch_chooses_seats_of_one_performance_and_takes_named_ones_of_another
            a_group_that_finds_no_block_gets_pieces_and_is_refused_by_nothing_but_a_lack_of_seats
            best_seats_of_lapsed_holds_are_taken_over_and_those_of_live_ones_are_not
            a_refused_wish_for_best_seats_changes_nothing_and_keeps_no_claim
            a_repeated_wish_for_best_seats_is_answered_with_the_same_seats
            of_many_twins_that_want_the_best_seats_one_gets_them
            a_rush_for_the_best_seats_sells_every_one_of_them
            who_names_seats_and_who_wants_the_best_are_not_in_each_others_way

            what_belongs_to_another_account_is_not_found
            reservations_come_in_pages_in_the_order_of_ids
            seats_are_listed_counted_and_drawn_as_they_are
            queries_select_what_the_rules_say_of_the_stored_values
            the_best_seats_are_chosen_among_all_that_are_free
            the_sweeper_expires_exactly_what_has_lapsed

            every_change_and_every_new_map_leaves_an_event_that_can_be_followed
            a_board_is_as_its_events_left_it
            whoever_follows_the_events_sees_all_that_racing_buyers_do
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::reservation_repository::$item::<$fixture>().await;
        }
    )*};
}

/// Generates the tests that need concurrent transactions, for a [`SideBySide`] fixture.
#[macro_export]
macro_rules! reservation_repository_side_by_side_contract {
    ($fixture:ty) => {
        $crate::reservation_repository_contract! { $fixture:
            a_change_that_stays_open_among_others_is_in_nobodys_way_and_is_not_missed
            an_event_that_was_rolled_back_is_waited_for_and_given_up
        }
    };
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const MS: Duration = Duration::from_millis(1);
const HOLD_TTL: Duration = Duration::from_secs(300);
const MINUTE: Duration = Reservation::PAYING_AT_LEAST;
const PRICE: i64 = 150_000;
/// Tasks in a race.
const RACERS: u32 = crate::race::RACERS as u32;

/// A performance on sale, and the ports under test.
struct Stage<F> {
    fixture: F,
    repository: Arc<dyn ReservationRepository>,
    events: Arc<dyn SeatEvents>,
    performance: PerformanceId,
}

impl<F: Fixture> Stage<F> {
    /// A performance with the seats `A-1-1` to `A-1-n`.
    async fn with_seats(n: u16) -> Self {
        Self::with_hall(&[section("A", n, "VIP", PRICE)]).await
    }

    async fn with_hall(sections: &[SectionPlan]) -> Self {
        let fixture = F::fresh().await;
        let performance = PerformanceId::from_bytes(id(1));
        fixture.seed(performance, &SeatMap::from_sections(sections).unwrap()).await;
        Self::new(fixture, performance)
    }

    fn new(fixture: F, performance: PerformanceId) -> Self {
        let (repository, events) = (fixture.repository(), fixture.events());
        Self { fixture, repository, events, performance }
    }

    /// Buyer `n` holds these seats, with a pass and a key of their own.
    fn wish(&self, n: u32, seats: &[&str]) -> HoldCommand {
        HoldCommand {
            id: ReservationId::from_bytes(id(n)),
            performance: self.performance,
            account: account(n),
            pass: PassNumber(u64::from(n)),
            seats: named(seats),
            seat_limit: 4,
            hold_ttl: HOLD_TTL,
            claim: claim(n, "hold", n),
        }
    }

    /// Buyer `n` holds the best seats.
    fn best(&self, n: u32, count: u32, grade: Option<&str>) -> HoldCommand {
        HoldCommand { seats: SeatWish::Best { count, grade: grade.map(str::to_owned) }, ..self.wish(n, &[]) }
    }

    async fn hold(&self, command: &HoldCommand) -> HoldOutcome {
        self.hold_at(NOW, command).await
    }

    async fn hold_at(&self, now: Timestamp, command: &HoldCommand) -> HoldOutcome {
        let mut outcomes = self.repository.hold(std::slice::from_ref(command), now).await.unwrap();
        assert_eq!(outcomes.len(), 1, "one answer per command");
        outcomes.remove(0)
    }

    async fn held(&self, command: &HoldCommand) -> Reservation {
        self.held_at(NOW, command).await
    }

    async fn held_at(&self, now: Timestamp, command: &HoldCommand) -> Reservation {
        held(self.hold_at(now, command).await)
    }

    /// Buyer `n` pays for reservation `n`.
    fn payment(&self, n: u32) -> PayCommand {
        PayCommand {
            reservation: ReservationId::from_bytes(id(n)),
            account: account(n),
            attempt: AttemptId::from_bytes(id(n)),
            resolve_after: MINUTE,
            claim: claim(n, "confirm", n),
        }
    }

    async fn begin(&self, command: &PayCommand) -> PayOutcome {
        self.begin_at(NOW, command).await
    }

    async fn begin_at(&self, now: Timestamp, command: &PayCommand) -> PayOutcome {
        self.repository.begin_payment(command, now).await.unwrap()
    }

    async fn begun(&self, command: &PayCommand) -> Reservation {
        self.begun_at(NOW, command).await
    }

    async fn begun_at(&self, now: Timestamp, command: &PayCommand) -> Reservation {
        match self.begin_at(now, command).await {
            PayOutcome::Begun(reservation) => reservation,
            other => panic!("the payment begins: {other:?}"),
        }
    }

    async fn settle(&self, n: u32, verdict: &Verdict, now: Timestamp) -> Option<Settled> {
        self.repository.settle(AttemptId::from_bytes(id(n)), verdict, now).await.unwrap()
    }

    /// Buyer `n` holds these seats and pays for them.
    async fn sold(&self, n: u32, seats: &[&str]) -> Reservation {
        self.held(&self.wish(n, seats)).await;
        self.begun(&self.payment(n)).await;
        match self.settle(n, &captured(n, seats.len()), NOW).await {
            Some(Settled::Confirmed(reservation)) => reservation,
            other => panic!("the payment is settled: {other:?}"),
        }
    }

    async fn release(&self, n: u32, now: Timestamp) -> ReleaseOutcome {
        self.repository.release(ReservationId::from_bytes(id(n)), account(n), now).await.unwrap()
    }

    async fn state(&self, n: u32, now: Timestamp) -> State {
        let found = self.repository.find(ReservationId::from_bytes(id(n)), account(n), now).await.unwrap();
        found.unwrap().state
    }

    /// Status and version of a seat, as it reads at `now`.
    async fn seat(&self, name: &str, now: Timestamp) -> (SeatStatus, u32) {
        let filter = SeatFilter { limit: 201, ..SeatFilter::default() };
        let seats = self.repository.seats(self.performance, &filter, now).await.unwrap();
        let found = seats.into_iter().find(|one| one.seat == seat(name)).unwrap();
        (found.status, found.version)
    }

    async fn counts(&self, now: Timestamp) -> SeatCounts {
        self.repository.seat_counts(&[self.performance], now).await.unwrap()[0]
    }

    async fn history(&self) -> History {
        self.history_of(self.performance).await
    }

    async fn history_of(&self, performance: PerformanceId) -> History {
        self.fixture.history().history(performance).await.unwrap()
    }

    /// Audits everything that happened.
    async fn close(self) {
        let findings = audit::check(&self.history().await);
        assert_eq!(findings.contradictions, Vec::<String>::new());
        drop(self.fixture);
    }
}

fn id(n: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn account(n: u32) -> AccountId {
    AccountId::from_bytes(id(n))
}

fn seat(name: &str) -> SeatId {
    name.parse().unwrap()
}

fn named(names: &[&str]) -> SeatWish<SeatId> {
    SeatWish::Named(names.iter().map(|name| seat(name)).collect())
}

fn claim(account_n: u32, key: &str, body: u32) -> Claim {
    let mut fingerprint = [0; 32];
    fingerprint[..4].copy_from_slice(&body.to_be_bytes());
    Claim { account: account(account_n), key: key.parse().unwrap(), fingerprint: Fingerprint(fingerprint) }
}

fn section(name: &str, n_seats: u16, grade: &str, price: i64) -> SectionPlan {
    let price = Money::new(price, "KRW".parse().unwrap()).unwrap();
    SectionPlan { name: name.into(), rows: 1, seats_per_row: n_seats, grade: grade.into(), price }
}

fn rows_of(name: &str, rows: u16, n_seats: u16, grade: &str, price: i64) -> SectionPlan {
    SectionPlan { rows, ..section(name, n_seats, grade, price) }
}

fn captured(n: u32, n_seats: usize) -> Verdict {
    let tickets = (0..u32::try_from(n_seats).unwrap()).map(|i| {
        let number = n * 1_000 + i;
        (TicketId::from_bytes(id(number)), format!("CODE{number}"))
    });
    Verdict::Captured(tickets.collect())
}

fn held(outcome: HoldOutcome) -> Reservation {
    match outcome {
        HoldOutcome::Held(reservation) => reservation,
        other => panic!("the seats are held: {other:?}"),
    }
}

fn names(reservation: &Reservation) -> Vec<&str> {
    reservation.seats.iter().map(|reserved| reserved.seat.as_str()).collect()
}

fn is_held(outcome: &HoldOutcome) -> bool {
    matches!(outcome, HoldOutcome::Held(_))
}

/// Makes all these holds at once, each in a call of its own.
async fn hold_at_once<H, U>(commands: Vec<HoldCommand>, hold: H) -> Vec<HoldOutcome>
where
    H: Fn(HoldCommand) -> U + Send,
    U: Future<Output = HoldOutcome> + Send + 'static,
{
    race_all(commands.into_iter().map(hold)).await
}

/// Holds each command in a call of its own to this repository.
fn alone(repository: &Arc<dyn ReservationRepository>) -> impl Fn(HoldCommand) -> SingleHold + Send {
    let repository = Arc::clone(repository);
    move |command| {
        let repository = Arc::clone(&repository);
        Box::pin(async move { repository.hold(&[command], NOW).await.unwrap().remove(0) })
    }
}

type SingleHold = std::pin::Pin<Box<dyn Future<Output = HoldOutcome> + Send>>;

/// The stored status of each seat.
async fn stored_statuses(events: &dyn SeatEvents, performance: PerformanceId) -> Vec<SeatStatus> {
    let board = events.board(performance, 0).await.unwrap().unwrap();
    board.seats.iter().map(|seat| seat.status).collect()
}
