//! What every [`ReservationRepository`] does. The numbers are those of its contract.
//!
//! Each item ends with an audit of the whole history: whatever happened, no seat was sold twice.

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
use usher_reservation::board::{Applied, BoardChange};
use usher_reservation::model::{PassNumber, TransitionError};
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseCommand, ReleaseOutcome, ReservationRepository,
    SeatFilter, SeatWish, SettleCommand, Settled, Unsettled, Verdict,
};
use usher_reservation::{BoardEvent, EventFollower, Reservation, SeatBoard, SeatCounts, SeatStatus, State};

use crate::race::race_all;

/// A repository of its own for each test.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// An empty one. It lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The repository.
    fn repository(&self) -> Arc<dyn ReservationRepository>;

    /// Makes a performance with these seats, all available.
    fn seed(&self, performance: PerformanceId, map: &SeatMap) -> impl Future<Output = ()> + Send;

    /// The owner of a pass leaves the line.
    fn leave(&self, performance: PerformanceId, pass: PassNumber, now: Timestamp) -> impl Future<Output = ()> + Send;
}

/// A store whose transactions run side by side, so that one can be open while others commit.
pub trait SideBySide: Fixture {
    /// A transaction that is open, and holds a seat.
    type Open: Send;

    /// Makes a seat that is available held, and writes the event, in a transaction of its own that stays open. Nobody
    /// has the seat after it: the owner is made up.
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

/// Stamps the suite on a [`Fixture`].
#[macro_export]
macro_rules! reservation_repository_contract {
    ($fixture:ty) => {
        $crate::reservation_repository_contract! { $fixture:
            of_a_thousand_buyers_of_one_seat_exactly_one_gets_it
            a_thousand_buyers_of_a_thousand_seats_all_get_theirs
            racing_groups_that_overlap_are_held_whole_or_not_at_all
            a_group_is_held_whole_or_not_at_all_and_every_conflict_is_named
            commands_of_one_call_are_judged_one_after_the_other
            payments_of_one_call_are_judged_one_after_the_other
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
            what_belongs_to_another_account_is_not_found
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
            reservations_come_in_pages_in_the_order_of_ids
            seats_are_listed_counted_and_drawn_as_they_are
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

/// Stamps what can be shown only where transactions run side by side on a [`SideBySide`] fixture.
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
/// Enough of them that some meet.
const RACERS: u32 = crate::race::RACERS as u32;

/// A performance on sale, and what happens on it.
struct Stage<F> {
    fixture: F,
    repository: Arc<dyn ReservationRepository>,
    performance: PerformanceId,
}

impl<F: Fixture> Stage<F> {
    /// With the seats `A-1-1` to `A-1-n`.
    async fn with_seats(n: u16) -> Self {
        Self::with_hall(&[section("A", n, "VIP", PRICE)]).await
    }

    async fn with_hall(sections: &[SectionPlan]) -> Self {
        let fixture = F::fresh().await;
        let performance = PerformanceId::from_bytes(id(1));
        fixture.seed(performance, &SeatMap::from_sections(sections).unwrap()).await;
        let repository = fixture.repository();
        Self { fixture, repository, performance }
    }

    /// What buyer `n` wants, under their own pass and key.
    fn wish(&self, n: u32, seats: &[&str]) -> HoldCommand {
        HoldCommand {
            id: ReservationId::from_bytes(id(n)),
            performance: self.performance,
            account: account(n),
            pass: PassNumber(u64::from(n)),
            seats: named(seats),
            seat_limit: 4,
            now: NOW,
            held_until: NOW.plus(HOLD_TTL),
            claim: claim(n, "hold", n),
        }
    }

    /// The best seats, for buyer `n`.
    fn best(&self, n: u32, count: u32, grade: Option<&str>) -> HoldCommand {
        HoldCommand { seats: SeatWish::Best { count, grade: grade.map(str::to_owned) }, ..self.wish(n, &[]) }
    }

    /// What a buyer wants at a later time.
    fn wish_at(&self, now: Timestamp, n: u32, seats: &[&str]) -> HoldCommand {
        HoldCommand { now, held_until: now.plus(HOLD_TTL), ..self.wish(n, seats) }
    }

    async fn hold(&self, command: &HoldCommand) -> HoldOutcome {
        let mut outcomes = self.repository.hold(std::slice::from_ref(command)).await.unwrap();
        assert_eq!(outcomes.len(), 1, "one answer per command");
        outcomes.remove(0)
    }

    async fn held(&self, command: &HoldCommand) -> Reservation {
        held(self.hold(command).await)
    }

    /// How buyer `n` pays for their reservation `n`.
    fn payment(&self, n: u32, now: Timestamp) -> PayCommand {
        PayCommand {
            reservation: ReservationId::from_bytes(id(n)),
            account: account(n),
            attempt: AttemptId::from_bytes(id(n)),
            now,
            resolve_at: now.plus(MINUTE),
            claim: claim(n, "confirm", n),
        }
    }

    async fn begin(&self, command: &PayCommand) -> PayOutcome {
        self.repository.begin_payment(command).await.unwrap()
    }

    async fn begun(&self, command: &PayCommand) -> Reservation {
        match self.begin(command).await {
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
        self.begun(&self.payment(n, NOW)).await;
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
        self.repository.history(self.performance).await.unwrap()
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

/// Lets all of them ask at once, each in a call of its own.
async fn hold_at_once<H, U>(commands: Vec<HoldCommand>, hold: H) -> Vec<HoldOutcome>
where
    H: Fn(HoldCommand) -> U + Send,
    U: Future<Output = HoldOutcome> + Send + 'static,
{
    race_all(commands.into_iter().map(hold)).await
}

/// Each in a call of its own to this repository.
fn alone(repository: &Arc<dyn ReservationRepository>) -> impl Fn(HoldCommand) -> SingleHold + Send {
    let repository = Arc::clone(repository);
    move |command| {
        let repository = Arc::clone(&repository);
        Box::pin(async move { repository.hold(&[command]).await.unwrap().remove(0) })
    }
}

type SingleHold = std::pin::Pin<Box<dyn Future<Output = HoldOutcome> + Send>>;

/// One has the seat; all others are told that it is taken, and nothing else.
fn one_gets_the_seat(outcomes: &[HoldOutcome], name: &str) {
    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1, "one gets the seat");
    let n_taken = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::Taken(vec![seat(name)])).count();
    assert_eq!(n_taken, outcomes.len() - 1, "and the others are told that it is taken");
}

/// 1, as a race.
pub async fn of_a_thousand_buyers_of_one_seat_exactly_one_gets_it<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let commands = (1..=1_000).map(|n| stage.wish(n, &["A-1-1"])).collect();

    let outcomes = hold_at_once(commands, alone(&stage.repository)).await;

    one_gets_the_seat(&outcomes, "A-1-1");
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1, held: 1, ..SeatCounts::default() });
    stage.close().await;
}

/// 1, as a race: buyers of different seats are not in each other's way.
pub async fn a_thousand_buyers_of_a_thousand_seats_all_get_theirs<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1_000).await;
    let commands = (1..=1_000).map(|n| stage.wish(n, &[&format!("A-1-{n}")])).collect();

    let outcomes = hold_at_once(commands, alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1_000);
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1_000, held: 1_000, ..SeatCounts::default() });
    stage.close().await;
}

/// 1, as a race: each wants two neighbours in a ring, in batches.
pub async fn racing_groups_that_overlap_are_held_whole_or_not_at_all<F: Fixture>() {
    let stage = Stage::<F>::with_seats(u16::try_from(RACERS).unwrap()).await;
    let pair = |n: u32| [format!("A-1-{}", n + 1), format!("A-1-{}", (n + 1) % RACERS + 1)];
    let batches = (0..RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        let [one, other] = pair(n);
        // In both orders, so that locks taken in the order asked for would meet crosswise.
        let batch = [stage.wish(n + 1, &[&one, &other]), stage.wish(n + 1_001, &[&other, &one])];
        async move { repository.hold(&batch).await.unwrap() }
    });

    let outcomes: Vec<_> = race_all(batches).await.into_iter().flatten().collect();

    let n_held = outcomes.iter().filter(|outcome| is_held(outcome)).count();
    let n_taken = outcomes.iter().filter(|outcome| matches!(outcome, HoldOutcome::Taken(_))).count();
    assert_eq!(n_held + n_taken, outcomes.len());
    assert_eq!(stage.counts(NOW).await.held, 2 * n_held as u64);
    // Of three neighbouring pairs one is held at least.
    assert!(n_held >= RACERS as usize / 3, "{n_held} pairs are held");
    stage.close().await;
}

/// 1 and 4: nothing is held of a group that cannot be held whole.
pub async fn a_group_is_held_whole_or_not_at_all_and_every_conflict_is_named<F: Fixture>() {
    let stage = Stage::<F>::with_seats(5).await;
    stage.held(&stage.wish(1, &["A-1-2", "A-1-4"])).await;

    let outcome = stage.hold(&stage.wish(2, &["A-1-4", "A-1-3", "A-1-2", "A-1-1"])).await;

    assert_eq!(outcome, HoldOutcome::Taken(vec![seat("A-1-4"), seat("A-1-2")]));
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 5, available: 3, held: 2, sold: 0 });

    let whole = stage.held(&stage.wish(2, &["A-1-3", "A-1-1"])).await;

    assert_eq!(whole.seats.iter().map(|reserved| reserved.seat.as_str()).collect::<Vec<_>>(), ["A-1-3", "A-1-1"]);
    assert_eq!(whole.total.amount(), 2 * PRICE);
    assert_eq!((whole.created_at, whole.held_until, whole.version), (NOW, NOW.plus(HOLD_TTL), 1));
    stage.close().await;
}

/// 1, 5, 6 and 7, inside of one call.
pub async fn commands_of_one_call_are_judged_one_after_the_other<F: Fixture>() {
    let stage = Stage::<F>::with_seats(6).await;
    let first = stage.wish(1, &["A-1-1"]);
    let twin = HoldCommand { id: ReservationId::from_bytes(id(101)), ..first.clone() };
    let other_body = HoldCommand { claim: claim(1, "hold", 102), ..twin.clone() };
    let same_seat = stage.wish(2, &["A-1-2", "A-1-1"]);
    let after_a_refusal = stage.wish(3, &["A-1-2"]);
    let same_pass = HoldCommand {
        id: ReservationId::from_bytes(id(103)),
        claim: claim(1, "another", 103),
        ..stage.wish(1, &["A-1-3"])
    };
    let over_the_limit = HoldCommand {
        id: ReservationId::from_bytes(id(104)),
        pass: PassNumber(104),
        claim: claim(1, "third", 104),
        seat_limit: 2,
        ..stage.wish(1, &["A-1-3", "A-1-4"])
    };
    let just_within = HoldCommand { seats: named(&["A-1-3"]), ..over_the_limit.clone() };
    let commands =
        [first, twin, other_body, same_seat, after_a_refusal, same_pass, over_the_limit, just_within].to_vec();

    let outcomes = stage.repository.hold(&commands).await.unwrap();

    let [first, twin, other_body, same_seat, after_a_refusal, same_pass, over_the_limit, just_within] =
        <[HoldOutcome; 8]>::try_from(outcomes).unwrap();
    assert_eq!(twin, HoldOutcome::Replayed(held(first)));
    assert_eq!(other_body, HoldOutcome::KeyMismatch);
    assert_eq!(same_seat, HoldOutcome::Taken(vec![seat("A-1-1")]));
    assert_eq!(held(after_a_refusal).seats[0].seat, seat("A-1-2"));
    assert_eq!(same_pass, HoldOutcome::PassBusy);
    assert_eq!(over_the_limit, HoldOutcome::LimitReached);
    assert_eq!(held(just_within).seats[0].seat, seat("A-1-3"));
    assert_eq!(stage.repository.hold(&[]).await.unwrap(), []);
    stage.close().await;
}

/// 1, 5, 9 and 10, inside of one call each: what becomes of one reservation is no other's business.
pub async fn payments_of_one_call_are_judged_one_after_the_other<F: Fixture>() {
    let stage = Stage::<F>::with_seats(7).await;
    let repository = &stage.repository;
    for n in 1..=6 {
        stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
    }
    let [first, declined, given_up] = [1, 2, 3].map(|n| stage.payment(n, NOW));
    let twin = PayCommand { attempt: AttemptId::from_bytes(id(101)), ..first.clone() };
    let other_body = PayCommand { claim: claim(1, "confirm", 101), ..twin.clone() };
    let other_key = PayCommand { claim: claim(1, "another", 101), ..twin.clone() };
    let of_another = PayCommand { account: account(9), claim: claim(9, "confirm", 9), ..stage.payment(4, NOW) };
    let commands = [first, twin, other_body, other_key, of_another, declined, given_up];

    let outcomes = repository.begin_payments(&commands).await.unwrap();

    let [first, twin, other_body, other_key, of_another, declined, given_up] =
        <[PayOutcome; 7]>::try_from(outcomes).unwrap();
    let PayOutcome::Begun(paying) = first else { panic!("{first:?}") };
    assert_eq!(twin, PayOutcome::InFlight { reservation: paying });
    assert_eq!(other_body, PayOutcome::KeyMismatch);
    assert_eq!(other_key, PayOutcome::Refused(TransitionError::WrongState));
    assert_eq!(of_another, PayOutcome::NotFound);
    assert!(matches!((declined, given_up), (PayOutcome::Begun(_), PayOutcome::Begun(_))));

    let settle = |n, verdict| SettleCommand { attempt: AttemptId::from_bytes(id(n)), verdict, now: NOW };
    let verdicts = [
        settle(1, captured(1, 1)),
        settle(1, Verdict::Declined),
        settle(2, Verdict::Declined),
        settle(2, captured(2, 1)),
        settle(3, Verdict::Unheard),
        settle(101, Verdict::Declined),
    ];
    let outcomes = repository.settle_all(&verdicts).await.unwrap();

    let [sold, again, declined, too_late, given_up, unknown] = <[Option<Settled>; 6]>::try_from(outcomes).unwrap();
    assert!(matches!(&sold, Some(Settled::Confirmed(reservation)) if reservation.seats[0].seat == seat("A-1-1")));
    assert_eq!(again, sold);
    assert!(matches!(declined, Some(Settled::Declined { ordinal: 1, .. })), "{declined:?}");
    assert_eq!((too_late, given_up), (Some(Settled::Refunded), Some(Settled::GivenUp)));
    assert_eq!(unknown, None);

    let release = |n| ReleaseCommand { reservation: ReservationId::from_bytes(id(n)), account: account(n), now: NOW };
    let releases =
        [release(1), release(2), release(2), ReleaseCommand { account: account(9), ..release(4) }, release(5)];
    let outcomes = repository.release_all(&releases).await.unwrap();

    let [confirmed, released, again, of_another, also] = <[ReleaseOutcome; 5]>::try_from(outcomes).unwrap();
    assert_eq!(confirmed, ReleaseOutcome::Refused(TransitionError::WrongState));
    assert!(matches!((released, also), (ReleaseOutcome::Released(_), ReleaseOutcome::Released(_))));
    assert_eq!((again, of_another), (ReleaseOutcome::AlreadyReleased, ReleaseOutcome::NotFound));
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 7, available: 3, held: 3, sold: 1 });
    assert_eq!(repository.begin_payments(&[]).await.unwrap(), []);
    assert_eq!(repository.settle_all(&[]).await.unwrap(), []);
    assert_eq!(repository.release_all(&[]).await.unwrap(), []);
    stage.close().await;
}

/// 1: a batch may be of several performances, with seats of the same names.
pub async fn a_batch_spans_performances<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let other = PerformanceId::from_bytes(id(2));
    stage.fixture.seed(other, &SeatMap::from_sections(&[section("A", 2, "R", 7)]).unwrap()).await;
    let here = stage.wish(1, &["A-1-1"]);
    let there = HoldCommand { performance: other, ..stage.wish(2, &["A-1-1", "A-1-2"]) };
    let nowhere = HoldCommand { performance: PerformanceId::from_bytes(id(3)), ..stage.wish(3, &["A-1-1"]) };

    let outcomes = stage.repository.hold(&[here, there, nowhere]).await.unwrap();

    let [here, there, nowhere] = <[HoldOutcome; 3]>::try_from(outcomes).unwrap();
    assert_eq!((held(here).total.amount(), held(there).total.amount()), (PRICE, 14));
    assert_eq!(nowhere, HoldOutcome::UnknownSeats(vec![0]));
    let counts = stage.repository.seat_counts(&[other, stage.performance], NOW).await.unwrap();
    assert_eq!(counts[0], SeatCounts { total: 2, held: 2, ..SeatCounts::default() });
    assert_eq!(counts[1], SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    assert!(audit::check(&stage.repository.history(other).await.unwrap()).contradictions.is_empty());
    stage.close().await;
}

/// 2.
pub async fn every_change_of_a_seat_raises_its_version_and_leaves_one_event<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Held, 2));
    assert!(matches!(stage.release(1, NOW.plus(MS)).await, ReleaseOutcome::Released(_)));
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Available, 3));
    stage.sold(2, &["A-1-1"]).await;
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Sold, 5));

    let history = stage.history().await;

    let (first, second) = (Some(ReservationId::from_bytes(id(1))), Some(ReservationId::from_bytes(id(2))));
    let until = Some(NOW.plus(HOLD_TTL));
    let events: Vec<_> = history
        .events
        .iter()
        .map(|event| (event.version, event.status, event.owner_before, event.owner, event.held_until, event.at))
        .collect();
    assert_eq!(
        events,
        [
            (2, SeatStatus::Held, None, first, until, NOW),
            (3, SeatStatus::Available, first, None, None, NOW.plus(MS)),
            (4, SeatStatus::Held, None, second, until, NOW),
            (5, SeatStatus::Sold, second, second, None, NOW),
        ]
    );
    assert_eq!(history.sales.len(), 1);
    assert_eq!((history.sales[0].seat.clone(), Some(history.sales[0].reservation)), (seat("A-1-1"), second));
    stage.close().await;
}

/// 3, with the boundary: a hold is live until just before its time.
pub async fn a_lapsed_hold_reads_as_expired_and_keeps_nobody_from_its_seats<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    let lapse = NOW.plus(HOLD_TTL);
    let just_before = lapse.minus(MS);

    assert_eq!(stage.state(1, just_before).await, State::Held);
    assert_eq!(stage.counts(just_before).await.held, 2);
    let too_early = stage.hold(&stage.wish_at(just_before, 2, &["A-1-1"])).await;
    assert_eq!(too_early, HoldOutcome::Taken(vec![seat("A-1-1")]));

    assert_eq!(stage.state(1, lapse).await, State::Expired);
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 2, ..SeatCounts::default() });
    assert_eq!(stage.seat("A-1-1", lapse).await, (SeatStatus::Available, 2));
    let filter = SeatFilter { status: Some(SeatStatus::Available), limit: 201, ..SeatFilter::default() };
    assert_eq!(stage.repository.seats(stage.performance, &filter, lapse).await.unwrap().len(), 2);
    stage.held(&stage.wish_at(lapse, 2, &["A-1-1"])).await;

    let history = stage.history().await;
    let takeover = history.events.last().unwrap();
    assert_eq!((takeover.version, takeover.at), (3, lapse));
    assert_eq!(takeover.owner_before, Some(ReservationId::from_bytes(id(1))));
    assert_eq!(takeover.owner, Some(ReservationId::from_bytes(id(2))));
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    stage.close().await;
}

/// 4.
pub async fn a_refusal_changes_nothing_and_keeps_no_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let before = stage.history().await;
    let wish = stage.wish(2, &["A-1-2", "A-1-1"]);

    let refused = [
        stage.hold(&wish).await,
        stage.hold(&HoldCommand { seats: named(&["B-1-1"]), ..wish.clone() }).await,
        stage.hold(&HoldCommand { seats: named(&["A-1-2"]), seat_limit: 0, ..wish.clone() }).await,
    ];

    let reasons =
        [HoldOutcome::Taken(vec![seat("A-1-1")]), HoldOutcome::UnknownSeats(vec![0]), HoldOutcome::LimitReached];
    assert_eq!(refused, reasons);
    assert_eq!(stage.history().await, before);
    assert_eq!(stage.repository.find_hold(&wish.claim, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.find(wish.id, wish.account, NOW).await.unwrap(), None);

    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    assert!(is_held(&stage.hold(&wish).await), "the same request is judged afresh");
    stage.close().await;
}

/// 4.
pub async fn seats_that_are_not_there_are_named_by_their_positions<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;

    let outcome = stage.hold(&stage.wish(1, &["A-1-3", "A-1-1", "B-1-1", "a-1-2"])).await;

    assert_eq!(outcome, HoldOutcome::UnknownSeats(vec![0, 2, 3]));
    stage.close().await;
}

/// 5, with holds, one after the other.
pub async fn a_repeated_hold_is_replayed_and_another_request_is_a_mismatch<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let wish = stage.wish(1, &["A-1-1"]);
    let first = stage.held(&wish).await;
    let again = HoldCommand { id: ReservationId::from_bytes(id(99)), now: NOW.plus(MS), ..wish.clone() };

    assert_eq!(stage.hold(&again).await, HoldOutcome::Replayed(first.clone()));
    let found = stage.repository.find_hold(&wish.claim, NOW).await.unwrap();
    assert_eq!(found, Some(HoldOutcome::Replayed(first)));
    assert_eq!(stage.state(1, NOW).await, State::Held);
    assert_eq!(stage.counts(NOW).await.held, 1);

    let other_body = HoldCommand { claim: claim(1, "hold", 2), ..stage.wish(1, &["A-1-2"]) };
    assert_eq!(stage.hold(&other_body).await, HoldOutcome::KeyMismatch);
    let found = stage.repository.find_hold(&other_body.claim, NOW).await.unwrap();
    assert_eq!(found, Some(HoldOutcome::KeyMismatch));
    assert_eq!(stage.seat("A-1-2", NOW).await, (SeatStatus::Available, 1));

    // A key of another case is another key; so is the same key of another account.
    let other_case = HoldCommand { claim: claim(1, "HOLD", 2), pass: PassNumber(50), ..stage.wish(50, &["A-1-2"]) };
    assert!(is_held(&stage.hold(&other_case).await));
    assert!(is_held(&stage.hold(&stage.wish(2, &["A-1-3"])).await));

    // As it is now, not as it was.
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    match stage.hold(&again).await {
        HoldOutcome::Replayed(reservation) => assert_eq!(reservation.state, State::Released),
        other => panic!("it is replayed: {other:?}"),
    }
    stage.close().await;
}

/// 5, as a race.
pub async fn of_many_twins_one_holds_and_the_others_are_told<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let wish = stage.wish(1, &["A-1-1"]);
    let twins = (1..=RACERS).map(|n| HoldCommand { id: ReservationId::from_bytes(id(n)), ..wish.clone() }).collect();

    let outcomes = hold_at_once(twins, alone(&stage.repository)).await;

    let (made, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(is_held);
    assert_eq!(made.len(), 1, "one holds");
    let made = held(made[0].clone());
    assert!(others.iter().all(|outcome| *outcome == HoldOutcome::Replayed(made.clone())), "the others are told");
    assert_eq!(stage.history().await.reservations.len(), 1);
    stage.close().await;
}

/// 5, with the boundary.
pub async fn a_claim_is_kept_for_a_day<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let wish = stage.wish(1, &["A-1-1"]);
    stage.held(&wish).await;
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let over = NOW.plus(Claim::KEPT_FOR);
    let later = |now, n| HoldCommand { claim: claim(1, "hold", 77), ..stage.wish_at(now, n, &["A-1-2"]) };

    assert_eq!(stage.hold(&later(over.minus(MS), 2)).await, HoldOutcome::KeyMismatch);
    assert_eq!(stage.repository.find_hold(&wish.claim, over).await.unwrap(), None);
    let second = stage.held(&later(over, 2)).await;
    let replayed = stage.repository.find_hold(&claim(1, "hold", 77), over).await.unwrap();
    assert_eq!(replayed, Some(HoldOutcome::Replayed(second)));
    stage.close().await;
}

/// 5, with payments, one after the other.
pub async fn a_repeated_payment_is_in_flight_and_then_replayed<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let pay = stage.payment(1, NOW);
    let again = PayCommand { attempt: AttemptId::from_bytes(id(99)), ..pay.clone() };
    let other_body = PayCommand { claim: claim(1, "confirm", 2), ..again.clone() };
    let holds_key = PayCommand { claim: claim(1, "hold", 1), ..again.clone() };

    assert_eq!(stage.begin(&holds_key).await, PayOutcome::KeyMismatch);
    let paying = stage.begun(&pay).await;
    assert_eq!(stage.begin(&again).await, PayOutcome::InFlight { reservation: paying });
    assert_eq!(stage.begin(&other_body).await, PayOutcome::KeyMismatch);
    assert_eq!(stage.repository.find_hold(&pay.claim, NOW).await.unwrap(), Some(HoldOutcome::KeyMismatch));

    let Some(declined @ Settled::Declined { ordinal: 1, .. }) = stage.settle(1, &Verdict::Declined, NOW).await else {
        panic!("it is declined");
    };
    assert_eq!(stage.begin(&again).await, PayOutcome::Replayed(declined));
    let second = PayCommand { claim: claim(1, "confirm-2", 2), ..again.clone() };
    stage.begun(&second).await;
    let confirmed = stage.settle(99, &captured(99, 1), NOW).await.unwrap();
    assert!(matches!(confirmed, Settled::Confirmed(_)));
    assert_eq!(stage.begin(&second).await, PayOutcome::Replayed(confirmed));
    assert_eq!(stage.settle(98, &Verdict::Declined, NOW).await, None, "there is no such attempt");
    stage.close().await;
}

/// 5, as a race; and another race without a common claim: a reservation is paid for by one attempt at a time.
pub async fn of_many_payments_under_one_claim_one_begins<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    let begin_all = |claim_of: fn(u32) -> Claim, buyer: u32| {
        let racers = (0..RACERS).map(move |n| {
            let attempt = AttemptId::from_bytes(id(buyer * 1_000 + n));
            (attempt, claim_of(n))
        });
        let repository = &stage.repository;
        let template = stage.payment(buyer, NOW);
        race_all(racers.map(move |(attempt, claim)| {
            let repository = Arc::clone(repository);
            let command = PayCommand { attempt, claim, ..template.clone() };
            async move { repository.begin_payment(&command).await.unwrap() }
        }))
    };

    let twins = begin_all(|_| claim(1, "confirm", 1), 1).await;
    let rivals = begin_all(|n| claim(2, &format!("confirm-{n}"), n), 2).await;

    let begun =
        |outcomes: &[PayOutcome]| outcomes.iter().filter(|outcome| matches!(outcome, PayOutcome::Begun(_))).count();
    assert_eq!((begun(&twins), begun(&rivals)), (1, 1));
    let told = |outcome: &&PayOutcome| matches!(outcome, PayOutcome::InFlight { .. });
    assert_eq!(twins.iter().filter(told).count(), twins.len() - 1);
    let refused = |outcome: &&PayOutcome| **outcome == PayOutcome::Refused(TransitionError::WrongState);
    assert_eq!(rivals.iter().filter(refused).count(), rivals.len() - 1);
    stage.close().await;
}

/// 6, as a race: with different seats, passes and keys, so that nothing but the limit is in the way.
pub async fn a_buyer_never_has_more_seats_than_the_limit<F: Fixture>() {
    let stage = Stage::<F>::with_seats(50).await;
    let wishes = (1..=50).map(|n| HoldCommand {
        account: account(1),
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish(n, &[&format!("A-1-{n}")])
    });

    let outcomes = hold_at_once(wishes.collect(), alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 4);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == HoldOutcome::LimitReached).count(), 46);
    assert_eq!(stage.counts(NOW).await.held, 4);
    stage.close().await;
}

/// 6: what counts is what is owned, being paid, or held and live.
pub async fn seats_given_back_or_lapsed_do_not_count_against_the_limit<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let wish = |now, n: u32, seats: &[&str]| HoldCommand {
        account: account(1),
        claim: claim(1, &format!("key-{n}"), n),
        seat_limit: 3,
        ..stage.wish_at(now, n, seats)
    };
    stage.sold(1, &["A-1-1"]).await;
    stage.held(&wish(NOW, 2, &["A-1-2"])).await;
    let pay = PayCommand { account: account(1), claim: claim(1, "pay-2", 2), ..stage.payment(2, NOW) };
    stage.begun(&pay).await;
    stage.held(&wish(NOW, 3, &["A-1-3"])).await;

    // One sold, one being paid, one held.
    assert_eq!(stage.hold(&wish(NOW, 4, &["A-1-4"])).await, HoldOutcome::LimitReached);

    let third = ReservationId::from_bytes(id(3));
    assert!(matches!(stage.repository.release(third, account(1), NOW).await.unwrap(), ReleaseOutcome::Released(_)));
    stage.held(&wish(NOW, 4, &["A-1-4"])).await;
    assert_eq!(stage.hold(&wish(NOW, 5, &["A-1-5"])).await, HoldOutcome::LimitReached);

    // The fourth lapses; nobody has to write that down first. What is being paid counts on.
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&wish(lapse, 5, &["A-1-5"])).await;
    assert_eq!(stage.hold(&wish(lapse, 6, &["A-1-6"])).await, HoldOutcome::LimitReached);
    stage.close().await;
}

/// 7.
pub async fn a_pass_carries_one_live_reservation<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let second = |now, n| HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish_at(now, n, &["A-1-2"])
    };

    assert_eq!(stage.hold(&second(NOW, 2)).await, HoldOutcome::PassBusy);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    stage.held(&second(NOW, 2)).await;
    // It lapses, and the pass is free again, whether or not anybody wrote that down.
    let lapse = NOW.plus(HOLD_TTL);
    assert_eq!(stage.hold(&second(lapse.minus(MS), 3)).await, HoldOutcome::PassBusy);
    stage.held(&second(lapse, 3)).await;
    // What is being paid is live, whatever the time.
    let pay = PayCommand { account: account(1), claim: claim(1, "pay", 3), ..stage.payment(3, lapse) };
    stage.begun(&pay).await;
    let much_later = lapse.plus(2 * HOLD_TTL);
    assert_eq!(stage.hold(&second(much_later, 4)).await, HoldOutcome::PassBusy);
    stage.close().await;
}

/// 7, as a race.
pub async fn of_many_holds_under_one_pass_one_is_held<F: Fixture>() {
    let stage = Stage::<F>::with_seats(u16::try_from(RACERS).unwrap()).await;
    let wishes = (1..=RACERS).map(|n| HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        seat_limit: RACERS,
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish(n, &[&format!("A-1-{n}")])
    });

    let outcomes = hold_at_once(wishes.collect(), alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1);
    let n_busy = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::PassBusy).count();
    assert_eq!(n_busy, outcomes.len() - 1);
    stage.close().await;
}

/// 7: used up by a confirmation, or left.
pub async fn a_pass_that_ended_carries_none<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    stage.sold(1, &["A-1-1"]).await;
    let used_up = HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        claim: claim(1, "again", 3),
        ..stage.wish(3, &["A-1-2"])
    };
    stage.fixture.leave(stage.performance, PassNumber(2), NOW).await;

    assert_eq!(stage.hold(&used_up).await, HoldOutcome::PassUsed);
    assert_eq!(stage.hold(&stage.wish(2, &["A-1-2"])).await, HoldOutcome::PassUsed);
    let new_pass = HoldCommand { pass: PassNumber(5), ..used_up };
    assert!(is_held(&stage.hold(&new_pass).await), "a new pass carries a new reservation");
    // Who leaves in the middle of a purchase can still pay.
    stage.held(&stage.wish(4, &["A-1-3"])).await;
    stage.fixture.leave(stage.performance, PassNumber(4), NOW).await;
    stage.begun(&stage.payment(4, NOW)).await;
    assert!(matches!(stage.settle(4, &captured(4, 1), NOW).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}

/// 8.
pub async fn a_payment_begins_only_on_a_live_hold_whose_seats_are_its_own<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    for n in 1..=4 {
        stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
    }
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let paying = stage.begun(&stage.payment(2, lapse.minus(MS))).await;
    assert_eq!(paying.version, 2);
    let expected =
        usher_reservation::Payment { attempt: AttemptId::from_bytes(id(2)), resolve_at: lapse.minus(MS).plus(MINUTE) };
    assert_eq!(paying.state, State::Paying(expected));
    // A clock of another server is behind: the seat of the third has been taken over already.
    stage.held(&stage.wish_at(lapse, 5, &["A-1-3"])).await;

    let other_key = PayCommand { claim: claim(2, "other", 9), ..stage.payment(2, NOW) };
    let refusals = [
        stage.begin(&stage.payment(1, NOW)).await,
        stage.begin(&other_key).await,
        stage.begin(&stage.payment(3, lapse.minus(MS))).await,
        stage.begin(&stage.payment(4, lapse)).await,
        stage.begin(&stage.payment(9, NOW)).await,
    ];

    let reasons = [
        PayOutcome::Refused(TransitionError::WrongState),
        PayOutcome::Refused(TransitionError::WrongState),
        PayOutcome::Refused(TransitionError::HoldExpired),
        PayOutcome::Refused(TransitionError::HoldExpired),
        PayOutcome::NotFound,
    ];
    assert_eq!(refusals, reasons);
    // A refusal keeps no claim.
    assert_eq!(stage.settle(4, &Verdict::Declined, lapse).await, None);
    assert_eq!(stage.repository.find_hold(&stage.payment(4, lapse).claim, lapse).await.unwrap(), None);
    stage.close().await;
}

/// 3, 8 and 9: a payment begun late extends the hold once, of its seats as well.
pub async fn a_payment_begun_late_keeps_its_seats_for_a_minute<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let begun_at = NOW.plus(HOLD_TTL).minus(MS);

    let paying = stage.begun(&stage.payment(1, begun_at)).await;

    let extended = begun_at.plus(MINUTE);
    assert_eq!(paying.held_until, extended);
    let rival = stage.wish_at(extended.minus(MS), 2, &["A-1-1"]);
    assert_eq!(stage.hold(&rival).await, HoldOutcome::Taken(vec![seat("A-1-1")]));
    assert_eq!(stage.repository.expire_lapsed(extended, 1_000).await.unwrap(), 0, "a payment does not expire");

    // Declined: back to the original time, which is over, so the seat is free at once.
    assert!(matches!(stage.settle(1, &Verdict::Declined, begun_at.plus(MS)).await, Some(Settled::Declined { .. })));
    assert_eq!(stage.state(1, begun_at.plus(MS)).await, State::Expired);
    stage.held(&stage.wish_at(begun_at.plus(MS), 3, &["A-1-1"])).await;
    stage.close().await;
}

/// 9, as a race: however many settle, with whatever tickets, it is settled once, and all are told the same.
pub async fn a_captured_payment_sells_the_seats_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-3", "A-1-1"])).await;
    stage.begun(&stage.payment(1, NOW)).await;
    let settlers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.settle(AttemptId::from_bytes(id(1)), &captured(n, 2), NOW).await.unwrap().unwrap() }
    });

    let outcomes = race_all(settlers).await;

    let Settled::Confirmed(confirmed) = &outcomes[0] else { panic!("it is confirmed: {:?}", outcomes[0]) };
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "all are told the same");
    let State::Confirmed { attempt, at, tickets } = &confirmed.state else { panic!("{confirmed:?}") };
    assert_eq!((*attempt, *at), (AttemptId::from_bytes(id(1)), NOW));
    let seats: Vec<_> = tickets.iter().map(|ticket| ticket.seat.as_str()).collect();
    assert_eq!(seats, ["A-1-3", "A-1-1"], "one ticket per seat, in their order");
    assert_ne!(tickets[0].code, tickets[1].code);
    let found = stage.repository.find(confirmed.id, confirmed.account, NOW.plus(HOLD_TTL)).await.unwrap();
    assert_eq!(found.as_ref(), Some(confirmed));
    assert_eq!(stage.counts(NOW.plus(HOLD_TTL)).await, SeatCounts { total: 3, available: 1, held: 0, sold: 2 });
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), []);
    // It was sold for good: no later verdict and no rival changes that.
    assert_eq!(stage.settle(1, &Verdict::Unheard, NOW).await.as_ref(), outcomes.first());
    let rival = stage.wish_at(NOW.plus(10 * HOLD_TTL), 2, &["A-1-1"]);
    assert_eq!(stage.hold(&rival).await, HoldOutcome::Taken(vec![seat("A-1-1")]));
    stage.close().await;
}

/// 9: three times, then never again.
pub async fn a_declined_payment_goes_back_to_the_hold_and_its_time<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let first = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let late = NOW.plus(HOLD_TTL).minus(10 * MS);

    for ordinal in 1..=3 {
        let pay = PayCommand {
            attempt: AttemptId::from_bytes(id(ordinal)),
            claim: claim(1, &format!("confirm-{ordinal}"), ordinal),
            ..stage.payment(1, late)
        };
        stage.begun(&pay).await;
        let declined = Settled::Declined { ordinal, reservation: first.id };
        assert_eq!(stage.settle(ordinal, &Verdict::Declined, late).await, Some(declined.clone()));
        assert_eq!(stage.settle(ordinal, &Verdict::Unheard, late).await, Some(declined), "it ended once");
    }

    let found = stage.repository.find(first.id, first.account, late).await.unwrap().unwrap();
    assert_eq!((&found.state, found.held_until, found.declined), (&State::Held, first.held_until, 3));
    let fourth =
        PayCommand { attempt: AttemptId::from_bytes(id(4)), claim: claim(1, "confirm-4", 4), ..stage.payment(1, late) };
    assert_eq!(stage.begin(&fourth).await, PayOutcome::Refused(TransitionError::NoAttemptsLeft));
    assert_eq!(stage.seat("A-1-1", late.plus(10 * MS)).await.0, SeatStatus::Available, "it lapses at its time");
    stage.close().await;
}

/// 9.
pub async fn an_unheard_payment_goes_back_to_the_hold_and_frees_its_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let first = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let pay = stage.payment(1, NOW);
    stage.begun(&pay).await;

    assert_eq!(stage.settle(1, &Verdict::Unheard, NOW).await, Some(Settled::GivenUp));

    let found = stage.repository.find(first.id, first.account, NOW).await.unwrap().unwrap();
    assert_eq!((&found.state, found.held_until, found.declined), (&State::Held, first.held_until, 0));
    assert_eq!(stage.settle(1, &Verdict::Declined, NOW).await, Some(Settled::GivenUp), "it ended once");
    let again = PayCommand { attempt: AttemptId::from_bytes(id(2)), ..pay };
    stage.begun(&again).await;
    assert!(matches!(stage.settle(2, &captured(2, 1), NOW).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}

/// 9: the gateway was slow, the seats lapsed meanwhile, but nobody has them now.
pub async fn a_capture_whose_seats_are_free_again_sells_them<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2", "A-1-3", "A-1-4"])).await;
    stage.begun(&stage.payment(1, NOW)).await;
    // One is its own still; one was taken and given back; of one the next hold has lapsed in turn.
    stage.held(&stage.wish_at(lapse, 2, &["A-1-2"])).await;
    assert!(matches!(stage.release(2, lapse).await, ReleaseOutcome::Released(_)));
    stage.held(&stage.wish_at(lapse, 3, &["A-1-3"])).await;
    let much_later = lapse.plus(HOLD_TTL);

    let settled = stage.settle(1, &captured(1, 4), much_later).await;

    let Some(Settled::Confirmed(confirmed)) = settled else { panic!("the seats are sold: {settled:?}") };
    assert_eq!(stage.counts(much_later).await, SeatCounts { total: 4, sold: 4, ..SeatCounts::default() });
    // Whose hold lapsed finds nothing left to pay for, or to expire.
    assert_eq!(stage.begin(&stage.payment(3, much_later)).await, PayOutcome::Refused(TransitionError::HoldExpired));
    assert_eq!(stage.repository.expire_lapsed(much_later, 1_000).await.unwrap(), 1);
    assert_eq!(stage.state(1, much_later).await, confirmed.state);
    stage.close().await;
}

/// 9, as a race.
pub async fn a_capture_whose_seats_are_gone_is_refunded_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let lapse = NOW.plus(HOLD_TTL);
    let first = stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.begun(&stage.payment(1, NOW)).await;
    stage.held(&stage.wish_at(lapse, 2, &["A-1-2"])).await;
    let settlers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.settle(AttemptId::from_bytes(id(1)), &captured(n, 2), lapse).await.unwrap() }
    });

    let outcomes = race_all(settlers).await;

    assert!(outcomes.iter().all(|outcome| *outcome == Some(Settled::Refunded)), "{outcomes:?}");
    let due = RefundDue { attempt: AttemptId::from_bytes(id(1)), amount: first.total };
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), [due]);
    assert_eq!(stage.state(1, lapse).await, State::Expired);
    // The next owner is not disturbed, and the seat that nobody took is free.
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    assert_eq!(stage.begin(&stage.payment(1, lapse)).await, PayOutcome::Replayed(Settled::Refunded));
    stage.begun(&stage.payment(2, lapse)).await;
    assert!(matches!(stage.settle(2, &captured(200, 1), lapse).await, Some(Settled::Confirmed(_))));

    stage.repository.refund_sent(due.attempt, lapse).await.unwrap();
    stage.repository.refund_sent(due.attempt, lapse).await.unwrap();
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), []);
    assert_eq!(stage.settle(1, &captured(1, 2), lapse).await, Some(Settled::Refunded));
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), [], "it is not due again");
    stage.close().await;
}

/// 9: the gateway had not heard of it, or declined, and takes the money after all.
pub async fn a_capture_that_comes_after_the_end_is_refunded_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    for (n, verdict) in [(1, Verdict::Unheard), (2, Verdict::Declined)] {
        let reservation = stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
        stage.begun(&stage.payment(n, NOW)).await;
        assert!(stage.settle(n, &verdict, NOW).await.is_some());

        assert_eq!(stage.settle(n, &captured(n, 1), NOW).await, Some(Settled::Refunded));
        assert_eq!(stage.settle(n, &captured(n, 1), NOW).await, Some(Settled::Refunded));

        let due = RefundDue { attempt: AttemptId::from_bytes(id(n)), amount: reservation.total };
        let all = stage.repository.refunds_due(10).await.unwrap();
        assert_eq!(all.iter().filter(|refund| **refund == due).count(), 1);
        assert_eq!(stage.state(n, NOW).await, State::Held, "the hold goes on");
    }
    assert_eq!(stage.repository.refunds_due(1).await.unwrap().len(), 1);
    stage.close().await;
}

/// 9.
pub async fn payments_that_nobody_ended_are_found_when_their_time_comes<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    for (n, seats) in [(1, &["A-1-1", "A-1-2"][..]), (2, &["A-1-3"])] {
        stage.held(&stage.wish(n, seats)).await;
        stage.begun(&stage.payment(n, NOW)).await;
    }
    let due = |n, n_seats| Unsettled { attempt: AttemptId::from_bytes(id(n)), n_seats };
    let resolve_at = NOW.plus(MINUTE);

    assert_eq!(stage.repository.unsettled(resolve_at.minus(MS), 10).await.unwrap(), []);
    assert_eq!(stage.repository.unsettled(resolve_at, 10).await.unwrap().len(), 2);
    assert_eq!(stage.repository.unsettled(resolve_at, 1).await.unwrap().len(), 1);
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), NOW.plus(MS)).await.unwrap();
    assert_eq!(stage.repository.unsettled(NOW.plus(MS), 10).await.unwrap(), [due(1, 2)]);
    // It is never made later, and what has ended is not asked about again.
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), resolve_at).await.unwrap();
    assert_eq!(stage.repository.unsettled(NOW.plus(MS), 10).await.unwrap(), [due(1, 2)]);
    assert!(stage.settle(1, &Verdict::Declined, NOW.plus(MS)).await.is_some());
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), NOW).await.unwrap();
    assert_eq!(stage.repository.unsettled(resolve_at, 10).await.unwrap(), [due(2, 1)]);
    stage.close().await;
}

/// 3, 9 and 10, as a race of three, many times: a buyer who pays at the last instant, the sweeper, and the next buyer.
pub async fn confirm_and_expiry_at_the_same_instant_never_both_happen<F: Fixture>() {
    const ROUNDS: u32 = 1_000;
    let stage = Stage::<F>::with_seats(u16::try_from(ROUNDS).unwrap()).await;
    // Each lapses a minute and a bit after the one before, so that a round touches one hold only.
    let round = 2 * MINUTE;
    let lapse = |n: u32| NOW.plus(round * n);
    let holds: Vec<_> =
        (1..=ROUNDS).map(|n| HoldCommand { held_until: lapse(n), ..stage.wish(n, &[&format!("A-1-{n}")]) }).collect();
    assert!(stage.repository.hold(&holds).await.unwrap().iter().all(is_held));
    let (mut n_paid, mut n_lapsed) = (0, 0);

    for n in 1..=ROUNDS {
        let (name, now) = (format!("A-1-{n}"), lapse(n));
        let pay = async || {
            let last_instant = now.minus(MS);
            match stage.begin(&stage.payment(n, last_instant)).await {
                PayOutcome::Begun(_) => stage.settle(n, &captured(n, 1), now).await,
                PayOutcome::Refused(TransitionError::HoldExpired) => None,
                other => panic!("nothing else may come of it: {other:?}"),
            }
        };
        let expire = async || stage.repository.expire_lapsed(now, 1).await.unwrap();
        let take_over = async || stage.hold(&stage.wish_at(now, n + 10_000, &[&name])).await;
        // Each of them is the first for a while; else all at once.
        let (paid, n_expired, taken) = match n % 5 {
            0 => {
                let paid = pay().await;
                (paid, expire().await, take_over().await)
            }
            1 => {
                let n_expired = expire().await;
                (pay().await, n_expired, take_over().await)
            }
            2 => {
                let taken = take_over().await;
                (pay().await, expire().await, taken)
            }
            _ => tokio::join!(pay(), expire(), take_over()),
        };

        let is_taken = is_held(&taken);
        match paid {
            Some(Settled::Confirmed(_)) => {
                n_paid += 1;
                assert_eq!((n_expired, is_taken), (0, false), "round {n}: paid, and not expired");
                assert!(matches!(stage.state(n, now).await, State::Confirmed { .. }));
            }
            None => {
                n_lapsed += 1;
                assert!(n_expired == 1 || is_taken, "round {n}: not paid, so expired or taken over");
                assert_eq!(stage.state(n, now).await, State::Expired);
            }
            other => panic!("round {n}: {other:?}"),
        }
        // So that the next round's sweeper finds the next round's hold first.
        while stage.repository.expire_lapsed(now, 1_000).await.unwrap() > 0 {}
        if is_taken {
            let rival = stage.repository.release(ReservationId::from_bytes(id(n + 10_000)), account(n + 10_000), now);
            assert!(matches!(rival.await.unwrap(), ReleaseOutcome::Released(_)));
        }
    }

    assert_eq!(n_paid + n_lapsed, ROUNDS);
    assert!(n_paid > 0 && n_lapsed > 0, "both happened: {n_paid} paid, {n_lapsed} lapsed");
    assert_eq!(stage.history().await.sales.len(), n_paid as usize);
    stage.close().await;
}

/// 10.
pub async fn a_late_call_changes_nothing_of_the_next_owner<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.held(&stage.wish(2, &["A-1-3"])).await;
    stage.begun(&stage.payment(2, NOW)).await;
    stage.held(&stage.wish_at(lapse, 3, &["A-1-1", "A-1-3"])).await;
    let of_next = [stage.seat("A-1-1", lapse).await, stage.seat("A-1-3", lapse).await];
    assert_eq!(of_next, [(SeatStatus::Held, 3), (SeatStatus::Held, 3)]);

    // The release, and a release by a clock that is behind, before anybody wrote the end down.
    assert_eq!(stage.release(1, lapse).await, ReleaseOutcome::Refused(TransitionError::HoldExpired));
    let behind = lapse.minus(MS);
    assert!(matches!(stage.release(1, behind).await, ReleaseOutcome::Released(_)));
    assert_eq!(stage.seat("A-1-2", behind).await, (SeatStatus::Available, 3), "its own seat is free");
    // The sweeper finds nothing of the third's; the late declines and gives up nothing of it.
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 0);
    assert!(matches!(stage.settle(2, &Verdict::Declined, lapse).await, Some(Settled::Declined { .. })));
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 1);
    assert_eq!(stage.begin(&stage.payment(1, lapse)).await, PayOutcome::Refused(TransitionError::WrongState));

    assert_eq!([stage.seat("A-1-1", lapse).await, stage.seat("A-1-3", lapse).await], of_next);
    assert_eq!(stage.state(3, lapse).await, State::Held);
    stage.begun(&stage.payment(3, lapse)).await;
    assert!(matches!(stage.settle(3, &captured(3, 2), lapse).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}

/// 10, also with several sweepers at once.
pub async fn only_what_has_lapsed_expires_and_only_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(240).await;
    let lapse = NOW.plus(HOLD_TTL);
    let mut holds: Vec<_> = (1..=230).map(|n| stage.wish(n, &[&format!("A-1-{n}")])).collect();
    holds.push(stage.wish_at(NOW.plus(MS), 231, &["A-1-231"]));
    assert!(stage.repository.hold(&holds).await.unwrap().iter().all(is_held));
    stage.begun(&stage.payment(230, NOW)).await;

    assert_eq!(stage.repository.expire_lapsed(lapse.minus(MS), 1_000).await.unwrap(), 0);
    assert_eq!(stage.repository.expire_lapsed(lapse, 9).await.unwrap(), 9);
    let sweepers = (0..4).map(|_| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.expire_lapsed(lapse, 1_000).await.unwrap() }
    });
    let n_expired: u32 = race_all(sweepers).await.iter().sum();

    assert_eq!(n_expired, 220, "all but the one being paid and the one that is live, each once");
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 0);
    assert_eq!(stored_statuses(&stage.repository, stage.performance).await[0], SeatStatus::Available);
    let history = stage.history().await;
    let freed = history.events.iter().filter(|event| event.status == SeatStatus::Available);
    assert_eq!(freed.count(), 229);
    assert_eq!(stage.state(231, lapse).await, State::Held);
    stage.close().await;
}

/// 10.
pub async fn a_second_release_reports_that_nothing_was_done<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let releases = (0..RACERS).map(|_| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.release(ReservationId::from_bytes(id(1)), account(1), NOW).await.unwrap() }
    });

    let outcomes = race_all(releases).await;

    let n_done = outcomes.iter().filter(|outcome| matches!(outcome, ReleaseOutcome::Released(_))).count();
    let n_nothing = outcomes.iter().filter(|outcome| **outcome == ReleaseOutcome::AlreadyReleased).count();
    assert_eq!((n_done, n_nothing), (1, outcomes.len() - 1));
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Available, 3), "it was freed once");
    stage.held(&stage.wish(2, &["A-1-1"])).await;
    assert_eq!(stage.release(1, NOW).await, ReleaseOutcome::AlreadyReleased);
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Held, 4), "the next owner keeps it");
    let paid = stage.sold(3, &["A-1-2"]).await;
    assert_eq!(stage.release(3, NOW).await, ReleaseOutcome::Refused(TransitionError::WrongState));
    assert_eq!(stage.state(3, NOW).await, paid.state);
    stage.close().await;
}

/// 11.
pub async fn what_belongs_to_another_account_is_not_found<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let mine = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let other = account(2);
    let pay = PayCommand { account: other, claim: claim(2, "confirm", 1), ..stage.payment(1, NOW) };

    assert_eq!(stage.repository.find(mine.id, other, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.list(other, None, 10, NOW).await.unwrap(), []);
    assert_eq!(stage.repository.release(mine.id, other, NOW).await.unwrap(), ReleaseOutcome::NotFound);
    assert_eq!(stage.begin(&pay).await, PayOutcome::NotFound);
    let its_key = Claim { account: other, ..stage.wish(1, &[]).claim };
    assert_eq!(stage.repository.find_hold(&its_key, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.find(mine.id, account(1), NOW).await.unwrap(), Some(mine));
    stage.close().await;
}

/// 12, and what [`usher_reservation::best`] shows of the choice itself.
pub async fn the_best_seats_are_side_by_side_in_front_and_in_the_middle<F: Fixture>() {
    let hall = [rows_of("C", 1, 6, "S", 90), rows_of("A", 2, 6, "VIP", 150), rows_of("B", 1, 6, "R", 120)];
    let stage = Stage::<F>::with_hall(&hall).await;

    let first = stage.held(&stage.best(1, 2, None)).await;
    let of_grade = stage.held(&stage.best(2, 3, Some("R"))).await;
    let further_back = stage.held(&stage.best(3, 4, None)).await;
    let beside = stage.held(&stage.best(4, 2, None)).await;

    assert_eq!(names(&first), ["A-1-3", "A-1-4"], "of the most expensive grade, wherever its rows are");
    assert_eq!((first.total.amount(), first.seats[0].grade.as_str()), (300, "VIP"));
    assert_eq!(names(&of_grade), ["B-1-1", "B-1-2", "B-1-3"], "in the middle, one would be left alone on each side");
    assert_eq!(of_grade.total.amount(), 360);
    assert_eq!(names(&further_back), ["A-2-1", "A-2-2", "A-2-3", "A-2-4"], "where four are side by side");
    assert_eq!(names(&beside), ["A-1-1", "A-1-2"]);
    stage.close().await;
}

/// 12, and 1.
pub async fn the_best_seats_are_chosen_among_what_earlier_commands_left<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let commands = [
        stage.wish(1, &["A-1-4", "A-1-5"]),
        stage.best(2, 2, None),
        stage.wish(3, &["A-1-1", "A-1-8"]),
        HoldCommand { seat_limit: 1, ..stage.best(4, 2, None) },
        stage.best(5, 2, Some("VIP")),
        stage.wish(6, &["A-1-7"]),
        stage.best(7, 1, None),
    ];

    let outcomes = stage.repository.hold(&commands).await.unwrap();

    let seats = outcomes.iter().map(|outcome| match outcome {
        HoldOutcome::Held(reservation) => names(reservation).join(" "),
        HoldOutcome::Taken(seats) => format!("taken: {}", seats[0]),
        other => format!("{other:?}"),
    });
    let expected =
        ["A-1-4 A-1-5", "A-1-2 A-1-3", "A-1-1 A-1-8", "LimitReached", "A-1-6 A-1-7", "taken: A-1-7", "NotEnoughSeats"];
    assert_eq!(seats.collect::<Vec<_>>(), expected);
    stage.close().await;
}

/// 12, and 1: the same names in two performances are different seats.
pub async fn a_batch_chooses_seats_of_one_performance_and_takes_named_ones_of_another<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let (before, after) = (PerformanceId::from_bytes(id(0)), PerformanceId::from_bytes(id(2)));
    for other in [before, after] {
        stage.fixture.seed(other, &SeatMap::from_sections(&[section("A", 2, "R", 7)]).unwrap()).await;
    }
    let commands = [
        HoldCommand { performance: before, ..stage.wish(1, &["A-1-2", "A-1-1"]) },
        stage.wish(2, &["A-1-1"]),
        stage.best(3, 2, None),
        HoldCommand { performance: before, ..stage.wish(4, &["A-1-2"]) },
        HoldCommand { performance: after, ..stage.best(5, 2, Some("R")) },
        HoldCommand { performance: after, ..stage.wish(6, &["A-1-1"]) },
    ];

    let outcomes = stage.repository.hold(&commands).await.unwrap();

    let [named, here, best, taken, there, taken_too] = <[HoldOutcome; 6]>::try_from(outcomes).unwrap();
    assert_eq!((names(&held(named)), names(&held(here))), (vec!["A-1-2", "A-1-1"], vec!["A-1-1"]));
    assert_eq!((names(&held(best)), names(&held(there))), (vec!["A-1-2", "A-1-3"], vec!["A-1-1", "A-1-2"]));
    assert_eq!(taken, HoldOutcome::Taken(vec![seat("A-1-2")]));
    assert_eq!(taken_too, HoldOutcome::Taken(vec![seat("A-1-1")]));
    for other in [before, after] {
        assert!(audit::check(&stage.repository.history(other).await.unwrap()).contradictions.is_empty());
    }
    stage.close().await;
}

/// 12: a group sits apart rather than not at all.
pub async fn a_group_that_finds_no_block_gets_pieces_and_is_refused_by_nothing_but_a_lack_of_seats<F: Fixture>() {
    let hall = [rows_of("A", 1, 5, "VIP", 150), rows_of("B", 1, 3, "R", 120)];
    let stage = Stage::<F>::with_hall(&hall).await;
    stage.held(&stage.wish(1, &["A-1-3", "B-1-2"])).await;

    assert_eq!(stage.hold(&stage.best(2, 5, Some("VIP"))).await, HoldOutcome::LimitReached);
    let five = HoldCommand { seat_limit: 10, ..stage.best(2, 5, Some("VIP")) };
    assert_eq!(stage.hold(&five).await, HoldOutcome::NotEnoughSeats, "of the grade");
    let seven = HoldCommand { seat_limit: 10, ..stage.best(2, 7, None) };
    assert_eq!(stage.hold(&seven).await, HoldOutcome::NotEnoughSeats, "at all");
    let six = HoldCommand { seat_limit: 10, ..stage.best(2, 6, None) };

    let everything = stage.held(&six).await;

    assert_eq!(names(&everything), ["A-1-1", "A-1-2", "A-1-4", "A-1-5", "B-1-1", "B-1-3"]);
    assert_eq!(everything.total.amount(), 4 * 150 + 2 * 120);
    assert_eq!(stage.hold(&stage.best(3, 1, None)).await, HoldOutcome::NotEnoughSeats, "nothing is left");
    stage.close().await;
}

/// 12, and 3.
pub async fn best_seats_of_lapsed_holds_are_taken_over_and_those_of_live_ones_are_not<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.held(&stage.wish_at(NOW.plus(MS), 2, &["A-1-3"])).await;
    let best_at = |now: Timestamp, n, count| HoldCommand {
        seats: stage.best(n, count, None).seats,
        ..stage.wish_at(now, n, &[])
    };

    // In one call, at two times: by the first one's clock nothing has lapsed.
    let commands = [best_at(lapse.minus(MS), 3, 2), best_at(lapse, 4, 3), best_at(lapse, 5, 1)];
    let outcomes = stage.repository.hold(&commands).await.unwrap();

    let [too_early, in_time, too_many] = <[HoldOutcome; 3]>::try_from(outcomes).unwrap();
    assert_eq!(too_early, HoldOutcome::NotEnoughSeats);
    assert_eq!(names(&held(in_time)), ["A-1-1", "A-1-2", "A-1-4"]);
    assert_eq!(too_many, HoldOutcome::NotEnoughSeats);
    assert_eq!(stage.state(2, lapse).await, State::Held);
    stage.close().await;
}

/// 12, and 4.
pub async fn a_refused_wish_for_best_seats_changes_nothing_and_keeps_no_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.fixture.leave(stage.performance, PassNumber(9), NOW).await;
    let before = stage.history().await;
    let wish = stage.best(2, 2, None);

    let refused = [
        stage.hold(&wish).await,
        stage.hold(&HoldCommand { seats: stage.best(2, 1, Some("R")).seats, ..wish.clone() }).await,
        stage.hold(&HoldCommand { seat_limit: 1, ..wish.clone() }).await,
        stage.hold(&HoldCommand { pass: PassNumber(9), ..wish.clone() }).await,
        stage.hold(&HoldCommand { account: account(1), pass: PassNumber(1), ..wish.clone() }).await,
        stage.hold(&HoldCommand { performance: PerformanceId::from_bytes(id(9)), ..wish.clone() }).await,
    ];

    let expected = [
        HoldOutcome::NotEnoughSeats,
        HoldOutcome::UnknownGrade,
        HoldOutcome::LimitReached,
        HoldOutcome::PassUsed,
        HoldOutcome::PassBusy,
        HoldOutcome::NotEnoughSeats,
    ];
    assert_eq!(refused, expected);
    assert_eq!(stage.history().await, before);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    assert_eq!(names(&stage.held(&wish).await), ["A-1-1", "A-1-2"], "the same request, judged afresh");
    stage.close().await;
}

/// 12, and 5.
pub async fn a_repeated_wish_for_best_seats_is_answered_with_the_same_seats<F: Fixture>() {
    let stage = Stage::<F>::with_seats(6).await;
    let wish = stage.best(1, 2, None);
    let again = HoldCommand { id: ReservationId::from_bytes(id(101)), ..wish.clone() };
    let other_body = HoldCommand { claim: claim(1, "hold", 102), ..again.clone() };

    let outcomes = stage.repository.hold(&[wish, again.clone(), other_body.clone()]).await.unwrap();
    let [first, in_one_call, mismatch] = <[HoldOutcome; 3]>::try_from(outcomes).unwrap();
    let first = held(first);

    assert_eq!(names(&first), ["A-1-3", "A-1-4"]);
    assert_eq!((in_one_call, mismatch), (HoldOutcome::Replayed(first.clone()), HoldOutcome::KeyMismatch));
    assert_eq!(stage.hold(&again).await, HoldOutcome::Replayed(first.clone()));
    assert_eq!(stage.hold(&other_body).await, HoldOutcome::KeyMismatch);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let HoldOutcome::Replayed(released) = stage.hold(&again).await else { panic!("it is replayed") };
    assert_eq!((names(&released), &released.state), (names(&first), &State::Released));
    stage.close().await;
}

/// 12, and 5, as a race.
pub async fn of_many_twins_that_want_the_best_seats_one_gets_them<F: Fixture>() {
    let stage = Stage::<F>::with_seats(10).await;
    let wish = stage.best(1, 2, None);
    let twins = (0..RACERS).map(|n| HoldCommand { id: ReservationId::from_bytes(id(100 + n)), ..wish.clone() });

    let outcomes = hold_at_once(twins.collect(), alone(&stage.repository)).await;

    let first = outcomes.iter().find(|outcome| is_held(outcome)).cloned().map(held).unwrap();
    let n_replayed = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::Replayed(first.clone())).count();
    assert_eq!(n_replayed, outcomes.len() - 1);
    assert_eq!(stage.counts(NOW).await.held, 2);
    stage.close().await;
}

/// How many rush for the best seats at a time.
const RUSH: u32 = 160;

/// How many of them share a call: as if there were sixteen servers.
const TOGETHER: usize = 10;

/// How many seats somebody wants.
fn wanted(command: &HoldCommand) -> u32 {
    match &command.seats {
        SeatWish::Named(names) => u32::try_from(names.len()).unwrap(),
        SeatWish::Best { count, .. } => *count,
    }
}

/// Of those who rushed, each got a block of their own, or was refused when so many seats were not free any more. Answers
/// how many are left of the `n_free`.
fn nobody_is_refused_while_seats_are_free(outcomes: &[(u32, HoldOutcome)], n_free: u32) -> u32 {
    let n_wanted: u32 = outcomes.iter().map(|(count, _)| count).sum();
    let mut n_left = n_free;
    let mut refused = Vec::new();
    for (count, outcome) in outcomes {
        match outcome {
            HoldOutcome::Held(reservation) => {
                assert_eq!(reservation.seats.len(), *count as usize);
                n_left -= count;
            }
            HoldOutcome::NotEnoughSeats => refused.push(*count),
            other => panic!("seats are free or not: {other:?}"),
        }
    }
    assert!(n_wanted > n_free || refused.is_empty(), "{} are refused while seats are free", refused.len());
    // Seats only went away meanwhile.
    assert!(refused.iter().all(|count| *count > n_left), "{refused:?} are refused, and {n_left} seats are left");
    n_left
}

/// 12, as a race: everybody wants the same seats, and none of them stays behind.
pub async fn a_rush_for_the_best_seats_sells_every_one_of_them<F: Fixture>() {
    let stage = Stage::<F>::with_hall(&[rows_of("A", 40, 30, "VIP", 150), rows_of("B", 20, 20, "R", 120)]).await;
    let mut n_left = 1_600;
    let mut buyers = 1_u32..;
    let mut n_rounds = 0;

    while n_left > 0 {
        let half = n_left > 800;
        let wishes: Vec<_> = buyers.by_ref().take(RUSH as usize).map(|n| stage.best(n, n % 4 + 1, None)).collect();
        let rushing = wishes.chunks(TOGETHER).map(|batch| {
            let (repository, batch) = (Arc::clone(&stage.repository), batch.to_vec());
            async move {
                let outcomes = repository.hold(&batch).await.unwrap();
                batch.iter().map(wanted).zip(outcomes).collect::<Vec<_>>()
            }
        });
        let outcomes: Vec<_> = race_all(rushing).await.into_iter().flatten().collect();
        n_left = nobody_is_refused_while_seats_are_free(&outcomes, n_left);
        assert!(!half || outcomes.into_iter().all(|(_, outcome)| are_side_by_side(&held(outcome))));
        n_rounds += 1;
        assert!(n_rounds < 100, "{n_left} seats are never sold");
    }

    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1_600, held: 1_600, ..SeatCounts::default() });
    stage.close().await;
}

fn are_side_by_side(reservation: &Reservation) -> bool {
    let place = |name: &str| {
        let (row, number) = name.rsplit_once('-').unwrap();
        (row.to_owned(), number.parse::<u16>().unwrap())
    };
    let places: Vec<_> = names(reservation).into_iter().map(place).collect();
    places.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1)
}

/// 12, as a race, with seats that are named, chosen, and given back at once, in batches.
pub async fn who_names_seats_and_who_wants_the_best_are_not_in_each_others_way<F: Fixture>() {
    let stage = Stage::<F>::with_hall(&[rows_of("A", 20, 20, "VIP", 150)]).await;
    let given_back: Vec<_> = (1..=20).map(|n| stage.wish(2_000 + n, &[&format!("A-{n}-10")])).collect();
    assert!(stage.repository.hold(&given_back).await.unwrap().iter().all(is_held));
    let racers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        let (row, number) = (n % 4 + 1, 2 * (n % 8) + 3);
        let [one, other] = [format!("A-{row}-{number}"), format!("A-{row}-{}", number + 1)];
        let named = stage.wish(n, &[&other, &one]);
        let best = stage.best(1_000 + n, 2, None);
        let batch = match n % 3 {
            0 => vec![named, best],
            1 => vec![best],
            _ => vec![named],
        };
        async move {
            if n <= 20 {
                let (reservation, owner) = (ReservationId::from_bytes(id(2_000 + n)), account(2_000 + n));
                let released = repository.release(reservation, owner, NOW).await.unwrap();
                assert!(matches!(released, ReleaseOutcome::Released(_)));
            }
            repository.hold(&batch).await.unwrap()
        }
    });

    let outcomes: Vec<_> = race_all(racers).await.into_iter().flatten().collect();

    let is_refused = |outcome: &&HoldOutcome| !is_held(outcome);
    assert!(outcomes.iter().filter(is_refused).all(|outcome| matches!(outcome, HoldOutcome::Taken(_))));
    let best = outcomes.iter().filter_map(|outcome| match outcome {
        HoldOutcome::Held(reservation) if reservation.pass > PassNumber(1_000) => Some(reservation),
        _ => None,
    });
    let n_best = (1..=RACERS).filter(|n| n % 3 != 2).count();
    assert_eq!(best.filter(|reservation| are_side_by_side(reservation)).count(), n_best, "all of them");
    stage.close().await;
}

/// Pages of an account's reservations, as they read.
pub async fn reservations_come_in_pages_in_the_order_of_ids<F: Fixture>() {
    let stage = Stage::<F>::with_seats(5).await;
    for n in [4, 2, 5, 1, 3] {
        let wish = HoldCommand {
            account: account(1),
            seat_limit: 10,
            claim: claim(1, &format!("key-{n}"), n),
            ..stage.wish(n, &[&format!("A-1-{n}")])
        };
        stage.held(&wish).await;
    }
    let page = async |after: Option<u32>, limit, now| -> Vec<Reservation> {
        let after = after.map(|n| ReservationId::from_bytes(id(n)));
        stage.repository.list(account(1), after, limit, now).await.unwrap()
    };
    let ids = |page: &[Reservation]| page.iter().map(|one| *one.id.as_bytes()).collect::<Vec<_>>();

    assert_eq!(ids(&page(None, 2, NOW).await), [id(1), id(2)]);
    assert_eq!(ids(&page(Some(2), 10, NOW).await), [id(3), id(4), id(5)]);
    assert_eq!(page(Some(5), 10, NOW).await, []);
    let lapsed = page(None, 10, NOW.plus(HOLD_TTL)).await;
    assert!(lapsed.iter().all(|reservation| reservation.state == State::Expired));
    stage.close().await;
}

/// 3: lists and counts as they read, the map as written down.
pub async fn seats_are_listed_counted_and_drawn_as_they_are<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = PerformanceId::from_bytes(id(1));
    let map = SeatMap::from_sections(&[section("B", 3, "VIP", 9), section("A", 2, "R", 5)]).unwrap();
    fixture.seed(performance, &map).await;
    let repository = fixture.repository();
    let stage = Stage { fixture, repository, performance };
    stage.sold(1, &["B-1-3"]).await;
    stage.held(&stage.wish(2, &["A-1-1"])).await;
    let list = async |filter: SeatFilter, now| -> Vec<String> {
        let seats = stage.repository.seats(performance, &filter, now).await.unwrap();
        seats.into_iter().map(|one| one.seat.to_string()).collect()
    };
    let all = SeatFilter { limit: 201, ..SeatFilter::default() };
    let of = |status| SeatFilter { status: Some(status), ..all.clone() };
    let lapse = NOW.plus(HOLD_TTL);

    assert_eq!(list(all.clone(), NOW).await, ["B-1-1", "B-1-2", "B-1-3", "A-1-1", "A-1-2"]);
    assert_eq!(list(SeatFilter { limit: 2, ..all.clone() }, NOW).await, ["B-1-1", "B-1-2"]);
    assert_eq!(list(SeatFilter { after: Some(2), ..all.clone() }, NOW).await, ["A-1-1", "A-1-2"]);
    assert_eq!(list(SeatFilter { grade: Some("R".into()), ..all.clone() }, NOW).await, ["A-1-1", "A-1-2"]);
    assert_eq!(list(of(SeatStatus::Sold), NOW).await, ["B-1-3"]);
    assert_eq!(list(of(SeatStatus::Held), NOW).await, ["A-1-1"]);
    assert_eq!(list(of(SeatStatus::Held), lapse).await, [""; 0]);
    assert_eq!(list(of(SeatStatus::Available), lapse).await, ["B-1-1", "B-1-2", "A-1-1", "A-1-2"]);
    let first = stage.repository.seats(performance, &all, NOW).await.unwrap().remove(0);
    assert_eq!((first.index, first.section.as_str(), first.row, first.number), (0, "B", 1, 1));
    assert_eq!((first.grade.as_str(), first.price.amount()), ("VIP", 9));

    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 5, available: 3, held: 1, sold: 1 });
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 5, available: 4, held: 0, sold: 1 });
    let nothing = stage.repository.seat_counts(&[PerformanceId::from_bytes(id(9))], NOW).await.unwrap();
    assert_eq!(nothing, [SeatCounts::default()]);

    use SeatStatus::{Available, Held, Sold};
    let drawn = stored_statuses(&stage.repository, performance).await;
    assert_eq!(drawn, [Available, Available, Sold, Held, Available]);
    stage.close().await;
}

/// A server that follows the seats: what it does in a step, and the board that it has.
struct Server {
    repository: Arc<dyn ReservationRepository>,
    follower: EventFollower,
    board: SeatBoard,
}

impl Server {
    /// Begins to follow: the event below which nothing is open, then the seats.
    async fn begin(repository: Arc<dyn ReservationRepository>, performance: PerformanceId) -> Self {
        let follower = EventFollower::after(repository.settled_event().await.unwrap());
        let board = SeatBoard::new(&repository.board(performance, EVENTS_MAX).await.unwrap().unwrap());
        Self { repository, follower, board }
    }

    /// Reads what is new, a little at a time.
    async fn step(&mut self, now: Timestamp) {
        const LIMIT: u32 = 10;
        loop {
            let (after, missing) = (self.follower.highest(), self.follower.missing());
            let events = self.repository.events(after, &missing, LIMIT).await.unwrap();
            self.follower.observe(events.iter().map(|event| event.id), now);
            for event in &events {
                assert_ne!(self.board.apply(event), Applied::Outdated);
            }
            self.board.settle(self.follower.settled());
            if events.iter().filter(|event| event.id > after).count() < LIMIT as usize {
                return;
            }
        }
    }

    fn statuses(&self) -> Vec<SeatStatus> {
        (0..).map_while(|index| self.board.status(index)).collect()
    }
}

const EVENTS_MAX: u32 = 10_000;

/// The seats as the store has them now.
async fn stored_statuses(repository: &Arc<dyn ReservationRepository>, performance: PerformanceId) -> Vec<SeatStatus> {
    let board = repository.board(performance, 0).await.unwrap().unwrap();
    board.seats.iter().map(|seat| seat.status).collect()
}

/// 13 and 14.
pub async fn every_change_and_every_new_map_leaves_an_event_that_can_be_followed<F: Fixture>() {
    use SeatStatus::{Available, Held, Sold};
    let stage = Stage::<F>::with_seats(3).await;
    let other = PerformanceId::from_bytes(id(2));
    stage.fixture.seed(other, &SeatMap::from_sections(&[section("B", 1, "R", PRICE)]).unwrap()).await;
    stage.sold(1, &["A-1-3"]).await;
    stage.held(&stage.wish(2, &["A-1-1", "A-1-2"])).await;
    assert!(matches!(stage.release(2, NOW).await, ReleaseOutcome::Released(_)));
    let elsewhere =
        HoldCommand { performance: other, seats: SeatWish::Named(vec![seat("B-1-1")]), ..stage.wish(3, &[]) };
    stage.held(&elsewhere).await;
    let events = async |after, missing: &[u64], limit| stage.repository.events(after, missing, limit).await.unwrap();
    let ids = |events: &[BoardEvent]| events.iter().map(|event| event.id).collect::<Vec<_>>();

    let all = events(0, &[], EVENTS_MAX).await;
    let all_ids = ids(&all);

    assert!(all_ids.is_sorted_by(|one, next| one < next), "{all_ids:?}");
    let of = |performance| all.iter().filter(move |event| event.performance == performance).map(|event| event.change);
    assert_eq!(of(stage.performance).next(), Some(BoardChange::Map { map_version: 1 }));
    let is_map = |change: &BoardChange| matches!(change, BoardChange::Map { .. });
    assert_eq!(of(stage.performance).chain(of(other)).filter(is_map).count(), 2, "one for each new map");
    let of_seat = |performance, nth: u32| {
        let standings = of(performance).filter_map(move |change| match change {
            BoardChange::Seat { index, now } if index == Some(nth) => Some((now.status, now.version)),
            BoardChange::Seat { .. } | BoardChange::Map { .. } => None,
        });
        standings.collect::<Vec<_>>()
    };
    assert_eq!(of_seat(stage.performance, 0), [(Held, 2), (Available, 3)]);
    assert_eq!(of_seat(stage.performance, 1), [(Held, 2), (Available, 3)]);
    assert_eq!(of_seat(stage.performance, 2), [(Held, 2), (Sold, 3)]);
    assert_eq!(of_seat(other, 0), [(Held, 2)]);
    let last = all_ids[all_ids.len() - 1];
    assert_eq!(events(last, &[], 10).await, []);
    assert_eq!(events(all_ids[1], &[], 3).await, all[2..5]);
    let asked_for = [all_ids[0], all_ids[3], last + 1_000];
    assert_eq!(events(all_ids[5], &asked_for, 2).await, [&all[0..1], &all[3..4], &all[6..8]].concat());
    stage.close().await;
}

/// 15.
pub async fn a_board_is_as_its_events_left_it<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let before = stage.repository.board(stage.performance, EVENTS_MAX).await.unwrap().unwrap();
    stage.sold(1, &["A-1-4"]).await;
    stage.held(&stage.wish(2, &["A-1-1", "A-1-2"])).await;

    let after = stage.repository.board(stage.performance, EVENTS_MAX).await.unwrap().unwrap();
    let cut_off = stage.repository.board(stage.performance, 2).await.unwrap().unwrap();
    let unknown = stage.repository.board(PerformanceId::from_bytes(id(9)), EVENTS_MAX).await.unwrap();

    assert_eq!((before.map_version, before.seats.len(), before.events.len()), (1, 4, 1));
    let mut replayed = SeatBoard::new(&before);
    for event in &after.events[1..] {
        assert_eq!(replayed.apply(event), Applied::Changed);
    }
    assert_eq!(replayed.packed(), SeatBoard::new(&after).packed());
    assert_eq!(replayed.packed(), [0b10_00_01_01]);
    assert_eq!(after.events[..1], before.events[..]);
    assert_eq!(cut_off.events, after.events[3..], "the latest two, in their order");
    assert_eq!(cut_off.seats, after.seats);
    assert_eq!(unknown, None);
    stage.close().await;
}

/// 14 and 16, as a race: a server that begins in the middle of it misses nothing, and sees nothing twice as news.
pub async fn whoever_follows_the_events_sees_all_that_racing_buyers_do<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let buyers = (1..=RACERS).map(|n| {
        let names: Vec<_> = [n % 8 + 1, (n + 3) % 8 + 1].map(|n| format!("A-1-{n}")).into();
        let (wish, repository) = (stage.wish(n, &[&names[0], &names[1]]), Arc::clone(&stage.repository));
        async move {
            let mut is_held_once = false;
            while !is_held_once {
                is_held_once = is_held(&repository.hold(std::slice::from_ref(&wish)).await.unwrap()[0]);
                tokio::task::yield_now().await;
            }
            let released = repository.release(wish.id, wish.account, NOW).await.unwrap();
            assert!(matches!(released, ReleaseOutcome::Released(_)), "{released:?}");
        }
    });
    let buyers: Vec<_> = buyers.collect();
    let follow = {
        let (repository, performance) = (Arc::clone(&stage.repository), stage.performance);
        async move |server: &mut Option<Server>| {
            let server = match server {
                Some(server) => server,
                None => server.insert(Server::begin(Arc::clone(&repository), performance).await),
            };
            server.step(NOW).await;
        }
    };

    let racing = race_all(buyers);
    tokio::pin!(racing);
    let mut servers = [None, None];
    let mut n_steps = 0;
    loop {
        tokio::select! {
            _ = &mut racing => break,
            () = follow(&mut servers[n_steps % 2]) => n_steps += 1,
        }
    }
    for server in &mut servers {
        follow(server).await;
    }

    let stored = stored_statuses(&stage.repository, stage.performance).await;
    let n_events = stage.history().await.events.len();
    assert_eq!(n_events, 4 * RACERS as usize, "each holds two seats once, and gives them back");
    for server in servers.into_iter().flatten() {
        assert_eq!(server.statuses(), stored);
        assert_eq!(server.board.sequence(), server.board.highest());
    }
    stage.close().await;
}

/// 13 and 16: as it was seen on MariaDB, where whoever followed by id alone never saw the change that committed late.
pub async fn a_change_that_stays_open_among_others_is_in_nobodys_way_and_is_not_missed<F: SideBySide>() {
    use SeatStatus::{Available, Held};
    let stage = Stage::<F>::with_seats(3).await;
    let mut servers = [
        Server::begin(stage.fixture.repository(), stage.performance).await,
        Server::begin(stage.fixture.repository(), stage.performance).await,
    ];
    let before = stage.repository.events(0, &[], EVENTS_MAX).await.unwrap().last().unwrap().id;

    let open = stage.fixture.hold_open(stage.performance, &seat("A-1-1")).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    for server in &mut servers {
        server.step(NOW).await;
        assert_eq!(server.statuses(), [Available, Held, Available], "the others' are seen");
        assert!(server.board.sequence() <= before, "and what is open is not passed over");
    }
    stage.held(&stage.wish(3, &["A-1-3"])).await;
    stage.fixture.commit(open).await;
    let late = Server::begin(stage.fixture.repository(), stage.performance).await;
    let three_seconds_later = NOW.plus(3_000 * MS);

    for server in servers.iter_mut().chain(&mut [late]) {
        server.step(three_seconds_later).await;
        assert_eq!(server.statuses(), [Held; 3]);
        assert_eq!(server.board.sequence(), server.board.highest());
    }
    // The owner of the seat is made up, so the audit would rightly complain.
    drop(stage);
}

/// 13: its id is never used, and holds nobody up for ever.
pub async fn an_event_that_was_rolled_back_is_waited_for_and_given_up<F: SideBySide>() {
    use SeatStatus::{Available, Held};
    let stage = Stage::<F>::with_seats(2).await;
    let mut server = Server::begin(stage.fixture.repository(), stage.performance).await;

    let open = stage.fixture.hold_open(stage.performance, &seat("A-1-1")).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    server.step(NOW).await;
    stage.fixture.roll_back(open).await;
    server.step(NOW.plus(EventFollower::OPEN_MAX).minus(MS)).await;
    let waited_for = server.follower.missing();
    server.step(NOW.plus(EventFollower::OPEN_MAX)).await;

    assert_eq!(waited_for.len(), 1);
    assert_eq!(server.follower.missing(), [0_u64; 0]);
    assert_eq!(server.statuses(), [Available, Held]);
    assert_eq!(server.board.sequence(), server.board.highest());
    stage.close().await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::race::Gap;

    /// Looks whether the seat is free, and then takes it: what everybody writes first.
    #[derive(Default)]
    struct CheckThenAct {
        owner: Mutex<Option<ReservationId>>,
        gap: Gap,
    }

    impl CheckThenAct {
        async fn hold(&self, command: HoldCommand) -> HoldOutcome {
            let is_free = self.owner.lock().unwrap().is_none();
            // The gap that an answer of a database leaves.
            self.gap.wait_for_others().await;
            if !is_free {
                return HoldOutcome::Taken(vec![seat("A-1-1")]);
            }
            *self.owner.lock().unwrap() = Some(command.id);
            HoldOutcome::Held(reservation(&command))
        }
    }

    fn reservation(command: &HoldCommand) -> Reservation {
        let price = Money::new(PRICE, "KRW".parse().unwrap()).unwrap();
        Reservation {
            id: command.id,
            performance: command.performance,
            account: command.account,
            pass: command.pass,
            seats: vec![usher_reservation::ReservedSeat { seat: seat("A-1-1"), grade: "VIP".into(), price }],
            total: price,
            created_at: command.now,
            held_until: command.held_until,
            held_until_original: command.held_until,
            declined: 0,
            version: 1,
            state: State::Held,
        }
    }

    fn wish(n: u32) -> HoldCommand {
        HoldCommand {
            id: ReservationId::from_bytes(id(n)),
            performance: PerformanceId::from_bytes(id(1)),
            account: account(n),
            pass: PassNumber(u64::from(n)),
            seats: named(&["A-1-1"]),
            seat_limit: 4,
            now: NOW,
            held_until: NOW.plus(HOLD_TTL),
            claim: claim(n, "hold", n),
        }
    }

    #[tokio::test]
    #[should_panic(expected = "one gets the seat")]
    async fn holding_by_what_was_seen_is_rejected() {
        let control = Arc::new(CheckThenAct::default());
        let commands = (1..=1_000).map(wish).collect();

        let outcomes = hold_at_once(commands, |command| {
            let control = Arc::clone(&control);
            async move { control.hold(command).await }
        })
        .await;

        one_gets_the_seat(&outcomes, "A-1-1");
    }

    /// Looks for the first free block, and then takes it: what is picked above the lock, everybody picks.
    #[derive(Default)]
    struct ChooseThenTake {
        n_taken: Mutex<u32>,
        gap: Gap,
    }

    impl ChooseThenTake {
        async fn hold(&self, count: u32) -> (u32, HoldOutcome) {
            let seen = *self.n_taken.lock().unwrap();
            self.gap.wait_for_others().await;
            let mut n_taken = self.n_taken.lock().unwrap();
            if *n_taken != seen {
                return (count, HoldOutcome::NotEnoughSeats);
            }
            *n_taken += count;
            let price = Money::new(PRICE, "KRW".parse().unwrap()).unwrap();
            let seats = (seen..seen + count).map(|i| usher_reservation::ReservedSeat {
                seat: seat(&format!("A-1-{}", i + 1)),
                grade: "VIP".into(),
                price,
            });
            (count, HoldOutcome::Held(Reservation { seats: seats.collect(), ..reservation(&wish(1)) }))
        }
    }

    #[tokio::test]
    #[should_panic(expected = "are refused while seats are free")]
    async fn choosing_before_the_step_that_takes_is_rejected() {
        let control = Arc::new(ChooseThenTake::default());
        let rushing = (0..RUSH).map(|n| {
            let control = Arc::clone(&control);
            async move { control.hold(n % 4 + 1).await }
        });

        let outcomes = race_all(rushing).await;

        nobody_is_refused_while_seats_are_free(&outcomes, 1_600);
    }

    #[tokio::test]
    async fn only_the_rush_rejects_the_control() {
        let control = ChooseThenTake::default();

        let outcomes = [control.hold(2).await, control.hold(3).await];

        assert_eq!(nobody_is_refused_while_seats_are_free(&outcomes, 10), 5);
    }

    #[tokio::test]
    async fn only_the_race_rejects_the_control() {
        let control = CheckThenAct::default();

        let outcomes = [control.hold(wish(1)).await, control.hold(wish(2)).await];

        one_gets_the_seat(&outcomes, "A-1-1");
    }
}
