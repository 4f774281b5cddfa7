//! Random schedules: a few buyers, a few seats, and calls of a [`ReservationRepository`] in random order: concurrent,
//! repeated, late, and by clocks that differ. The audit finds no contradiction after any of them.
//!
//! `USHER_TEST_SCHEDULES` is the number of schedules (default: 200), `USHER_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Runtime;
use usher_concert::{SeatMap, SectionPlan};
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, PerformanceId, ReservationId, SeatId, TicketId, Timestamp,
};
use usher_reservation::audit::{self, AttemptRecord, AttemptState, ChargeRecord};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReleaseOutcome, ReservationRepository,
    ReservationRepositoryExt as _, SeatFilter, SeatWish, Settled, Verdict,
};
use usher_reservation::{Seat, SeatStatus, State};

use crate::race::race_all;
use crate::reservation_repository::Fixture;

/// Generates the schedules' test for a [`Fixture`].
#[macro_export]
macro_rules! reservation_schedules {
    ($fixture:ty) => {
        #[test]
        fn whatever_is_called_in_whatever_order_the_history_holds() {
            $crate::reservation_schedules::whatever_is_called_in_whatever_order_the_history_holds::<$fixture>();
        }
    };
}

const HOLD_TTL: Duration = Duration::from_secs(300);
const SEAT_LIMIT: u32 = 4;
const BUYERS: u8 = 4;
/// Two rows of one grade, and one of another.
const HALL: [(&str, u16, u16, &str, i64); 2] = [("A", 2, 4, "VIP", 150), ("B", 1, 3, "R", 100)];

/// A wish to hold seats.
#[derive(Clone, Debug)]
struct Wish {
    buyer: u8,
    /// Each buyer has two passes.
    pass: u8,
    /// Each buyer has four keys. The same key with other seats is another request.
    key: u8,
    seats: SeatWish<Index>,
}

/// A verdict of the gateway.
#[derive(Clone, Copy, Debug)]
enum Said {
    Captured,
    Declined,
    Unheard,
}

/// A call. An index selects an earlier command, reservation or attempt.
#[derive(Clone, Debug)]
enum Call {
    Hold(Vec<Wish>),
    HoldAgain { which: Index },
    BeginPayment { which: Index, key: u8 },
    Settle { which: Index, said: Said },
    ResolveEarly { which: Index },
    Release { which: Index, by: Option<u8> },
    ExpireLapsed { limit: u32 },
    Leave { buyer: u8, pass: u8 },
}

#[derive(Clone, Debug)]
enum Step {
    /// Lets time pass.
    Wait(Duration),
    /// Makes these calls at once, each by a clock that is behind by its duration.
    Calls(Vec<(Call, Duration)>),
}

fn wish() -> impl Strategy<Value = Wish> {
    let named = prop::collection::vec(any::<Index>(), 1..4).prop_map(SeatWish::Named);
    let grade = prop_oneof![2 => Just(None), 1 => Just(Some("VIP")), 1 => Just(Some("R"))];
    let best =
        (1_u32..5, grade).prop_map(|(count, grade)| SeatWish::Best { count, grade: grade.map(ToOwned::to_owned) });
    let seats = prop_oneof![named, best];
    (0..BUYERS, 0_u8..2, 0_u8..4, seats).prop_map(|(buyer, pass, key, seats)| Wish { buyer, pass, key, seats })
}

fn call() -> impl Strategy<Value = Call> {
    let which = any::<Index>;
    let said = prop_oneof![3 => Just(Said::Captured), 2 => Just(Said::Declined), 1 => Just(Said::Unheard)];
    prop_oneof![
        8 => prop::collection::vec(wish(), 1..4).prop_map(Call::Hold),
        2 => which().prop_map(|which| Call::HoldAgain { which }),
        6 => (which(), 0_u8..2).prop_map(|(which, key)| Call::BeginPayment { which, key }),
        5 => (which(), said).prop_map(|(which, said)| Call::Settle { which, said }),
        1 => which().prop_map(|which| Call::ResolveEarly { which }),
        3 => (which(), prop::option::weighted(0.2, 0..BUYERS)).prop_map(|(which, by)| Call::Release { which, by }),
        2 => prop_oneof![Just(1), Just(2), Just(1_000)].prop_map(|limit| Call::ExpireLapsed { limit }),
        1 => (0..BUYERS, 0_u8..2).prop_map(|(buyer, pass)| Call::Leave { buyer, pass }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let span = prop_oneof![
        Just(Duration::from_millis(1)),
        Just(Duration::from_secs(59)),
        Just(HOLD_TTL - Duration::from_millis(1)),
        Just(HOLD_TTL),
    ];
    let behind = prop_oneof![
        6 => Just(Duration::ZERO),
        1 => Just(Duration::from_millis(1)),
        1 => Just(Duration::from_secs(2)),
    ];
    let calls = prop_oneof![
        3 => prop::collection::vec((call(), behind.clone()), 1),
        1 => prop::collection::vec((call(), behind), 2..4),
    ];
    prop_oneof![1 => span.prop_map(Step::Wait), 4 => calls.prop_map(Step::Calls)]
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration but its environment")]
fn given(variable: &str) -> Option<u64> {
    env::var(variable).ok().filter(|value| !value.is_empty()).map(|value| value.parse().unwrap())
}

/// Default number of schedules. In fewer, not all of [`EVERYTHING`] happens.
const SCHEDULES: u32 = 200;

/// Runs the schedules that the environment asks for.
///
/// # Panics
/// If a schedule breaks a promise. The message has the shortest such schedule that was found.
#[expect(clippy::print_stderr, reason = "with the seed, a run can be repeated")]
pub fn whatever_is_called_in_whatever_order_the_history_holds<F: Fixture>() {
    let n_schedules = given("USHER_TEST_SCHEDULES").map_or(SCHEDULES, |n| n.try_into().unwrap());
    let seed = given("USHER_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("{n_schedules} schedules, USHER_TEST_SEED={seed}");
    match run::<F>(n_schedules, seed) {
        Ok(happened) => eprintln!("{happened:?}"),
        Err(broken) => panic!("USHER_TEST_SEED={seed}: {broken}"),
    }
}

/// Runs schedules, each on a performance of its own. Returns what happened in them, and how often.
///
/// # Errors
/// The shortest schedule found that breaks a promise; or, after 200 schedules or more, what never happened in them.
///
/// # Panics
/// If the fixture panics.
pub fn run<F: Fixture>(n_schedules: u32, seed: u64) -> Result<BTreeMap<&'static str, u32>, String> {
    let runtime = Runtime::new().unwrap();
    let fixture = runtime.block_on(F::fresh());
    let n_played = AtomicU32::new(0);
    let tally = Mutex::new(BTreeMap::new());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = ProptestConfig { cases: n_schedules, failure_persistence: None, ..ProptestConfig::default() };
    let schedules = prop::collection::vec(step(), 1..30);

    let played = TestRunner::new_with_rng(config, rng).run(&schedules, |steps| {
        let n = n_played.fetch_add(1, Ordering::SeqCst) + 1;
        let happened = runtime.block_on(async {
            let mut stage = Stage::set(&fixture, n).await;
            for step in &steps {
                stage.play(step).await;
            }
            stage.close().await
        });
        let mut tally = tally.lock().unwrap();
        happened.into_iter().for_each(|(what, n)| *tally.entry(what).or_insert(0) += n);
        Ok(())
    });

    played.map_err(|error| error.to_string())?;
    let tally = tally.into_inner().unwrap();
    let never: Vec<_> = EVERYTHING.iter().filter(|what| !tally.contains_key(*what)).collect();
    if n_schedules < SCHEDULES || never.is_empty() { Ok(tally) } else { Err(format!("never {never:?}")) }
}

/// The outcomes that must each occur in [`SCHEDULES`] schedules: a run proves nothing about an outcome that never
/// occurred.
const EVERYTHING: [&str; 25] = [
    "held by name",
    "held the best",
    "taken",
    "not enough seats",
    "hold replayed",
    "hold mismatched",
    "pass used",
    "pass busy",
    "limit reached",
    "taken over",
    "payment begun",
    "payment in flight",
    "payment replayed",
    "payment mismatched",
    "payment refused",
    "confirmed",
    "confirmed though lapsed",
    "declined",
    "refunded",
    "given up",
    "released",
    "released before",
    "release refused",
    "not found",
    "expired",
];

/// A performance, and the calls made on it.
struct Stage<'a, F> {
    fixture: &'a F,
    repository: Arc<dyn ReservationRepository>,
    n: u32,
    performance: PerformanceId,
    seats: Vec<SeatId>,
    now: Timestamp,
    n_ids: u32,
    commands: Vec<HoldCommand>,
    reservations: Vec<(ReservationId, u8)>,
    attempts: Vec<(AttemptId, Payment)>,
    /// The gateway's log: each attempt with the verdict captured.
    charges: BTreeMap<AttemptId, ChargeRecord>,
    /// Whether a clock was behind. Then a hold that lapsed for one server may be live for another.
    clocks_differ: bool,
    happened: BTreeMap<&'static str, u32>,
}

/// The seats and the amount that an attempt pays for.
#[derive(Clone, Copy)]
struct Payment {
    n_seats: usize,
    amount: i64,
}

/// The outcome of a call.
enum Done {
    Held(Vec<(HoldCommand, HoldOutcome)>),
    Begun(AttemptId, PayOutcome),
    Settled(Option<Settled>),
    Released(ReleaseOutcome),
    Expired(u32),
    Nothing,
}

impl<'a, F: Fixture> Stage<'a, F> {
    async fn set(fixture: &'a F, n: u32) -> Self {
        let sections = HALL.map(|(name, rows, seats_per_row, grade, price)| {
            let price = Money::new(price, "KRW".parse().unwrap()).unwrap();
            SectionPlan { name: name.into(), rows, seats_per_row, grade: grade.into(), price }
        });
        let map = SeatMap::from_sections(&sections).unwrap();
        let performance = PerformanceId::from_bytes(id(n, 0));
        fixture.seed(performance, &map).await;
        Self {
            fixture,
            repository: fixture.repository(),
            n,
            performance,
            seats: map.seats().iter().map(|plan| plan.seat.clone()).collect(),
            now: Timestamp::from_unix_ms(1_700_000_000_000),
            n_ids: 0,
            commands: Vec::new(),
            reservations: Vec::new(),
            attempts: Vec::new(),
            charges: BTreeMap::new(),
            clocks_differ: false,
            happened: BTreeMap::new(),
        }
    }

    fn next_id(&mut self) -> [u8; 16] {
        self.n_ids += 1;
        id(self.n, self.n_ids)
    }

    fn account(&self, buyer: u8) -> AccountId {
        AccountId::from_bytes(id(self.n, u32::MAX - u32::from(buyer)))
    }

    fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_insert(0) += 1;
    }

    async fn play(&mut self, step: &Step) {
        let calls = match step {
            Step::Wait(span) => {
                self.now = self.now.plus(*span);
                return;
            }
            Step::Calls(calls) => calls,
        };
        let before = match &calls[..] {
            [(Call::Hold(wishes), behind)] if wishes.len() == 1 => Some(self.seats_at(self.now.minus(*behind)).await),
            _ => None,
        };
        for (call, _) in calls {
            if let Call::Leave { buyer, pass: n } = call {
                self.fixture.leave(self.performance, pass(*buyer, *n), self.now).await;
            }
        }
        let under_way: Vec<_> = calls.iter().map(|(call, behind)| self.prepare(call, *behind)).collect();
        self.clocks_differ |= calls.iter().any(|(_, behind)| !behind.is_zero());
        for done in race_all(under_way).await {
            self.take_note(done, before.as_deref());
        }
        if !self.clocks_differ {
            self.check_buyers().await;
        }
    }

    /// A call, ready to be made.
    fn prepare(&mut self, call: &Call, behind: Duration) -> UnderWay {
        let repository = Arc::clone(&self.repository);
        let now = self.now.minus(behind);
        match call {
            Call::Hold(wishes) => {
                let commands: Vec<_> = wishes.iter().map(|wish| self.command(wish)).collect();
                self.commands.extend(commands.iter().cloned());
                hold(repository, commands, now)
            }
            Call::HoldAgain { which } => {
                if self.commands.is_empty() {
                    return nothing();
                }
                let first = which.get(&self.commands).clone();
                let id = ReservationId::from_bytes(self.next_id());
                hold(repository, vec![HoldCommand { id, ..first }], now)
            }
            Call::BeginPayment { which, key } => {
                let Some((reservation, buyer)) = some(which, &self.reservations) else { return nothing() };
                let account = self.account(buyer);
                let attempt = AttemptId::from_bytes(self.next_id());
                let key = format!("pay-{key}").parse().unwrap();
                let mut fingerprint = [0; 32];
                fingerprint[..16].copy_from_slice(reservation.as_bytes());
                let claim = Claim { account, key, fingerprint: Fingerprint(fingerprint) };
                let command = PayCommand { reservation, account, attempt, resolve_after: HOLD_TTL, claim };
                Box::pin(async move { Done::Begun(attempt, repository.begin_payment(&command, now).await.unwrap()) })
            }
            Call::Settle { which, said } => {
                let Some((attempt, payment)) = some(which, &self.attempts) else { return nothing() };
                let verdict = match said {
                    Said::Captured => self.captured(attempt, payment),
                    Said::Declined => Verdict::Declined,
                    Said::Unheard => Verdict::Unheard,
                };
                Box::pin(async move { Done::Settled(repository.settle(attempt, &verdict, now).await.unwrap()) })
            }
            Call::ResolveEarly { which } => {
                let Some((attempt, _)) = some(which, &self.attempts) else { return nothing() };
                Box::pin(async move {
                    repository.resolve_early(attempt, now).await.unwrap();
                    Done::Nothing
                })
            }
            Call::Release { which, by } => {
                let Some((reservation, buyer)) = some(which, &self.reservations) else { return nothing() };
                let account = self.account(by.unwrap_or(buyer));
                Box::pin(async move { Done::Released(repository.release(reservation, account, now).await.unwrap()) })
            }
            Call::ExpireLapsed { limit } => {
                let limit = *limit;
                Box::pin(async move { Done::Expired(repository.expire_lapsed(now, limit).await.unwrap()) })
            }
            // `play` has made this call already.
            Call::Leave { .. } => nothing(),
        }
    }

    fn command(&mut self, wish: &Wish) -> HoldCommand {
        let seats = match &wish.seats {
            SeatWish::Named(picks) => {
                let mut names: Vec<SeatId> = Vec::new();
                for pick in picks {
                    let name = pick.get(&self.seats);
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                SeatWish::Named(names)
            }
            SeatWish::Best { count, grade } => SeatWish::Best { count: *count, grade: grade.clone() },
        };
        let mut fingerprint = [0; 32];
        for (byte, text) in fingerprint.iter_mut().zip(format!("{seats:?}").bytes().rev()) {
            *byte = text;
        }
        let account = self.account(wish.buyer);
        HoldCommand {
            id: ReservationId::from_bytes(self.next_id()),
            performance: self.performance,
            account,
            pass: pass(wish.buyer, wish.pass),
            seats,
            seat_limit: SEAT_LIMIT,
            hold_ttl: HOLD_TTL,
            claim: Claim {
                account,
                key: format!("hold-{}", wish.key).parse().unwrap(),
                fingerprint: Fingerprint(fingerprint),
            },
        }
    }

    /// A captured verdict, which adds the charge to the gateway's log.
    fn captured(&mut self, attempt: AttemptId, payment: Payment) -> Verdict {
        let Payment { n_seats, amount } = payment;
        self.charges.insert(attempt, ChargeRecord { attempt, amount, is_captured: true, is_refunded: false });
        let tickets = (0..n_seats).map(|_| (TicketId::from_bytes(self.next_id()), "CODE".to_owned()));
        Verdict::Captured(tickets.collect())
    }

    /// Counts the outcome of a call. Compares a hold with the seats `before` it, if it was the only call of its step.
    fn take_note(&mut self, done: Done, before: Option<&[Seat]>) {
        match done {
            Done::Held(answers) => {
                for (command, outcome) in answers {
                    if let Some(before) = before {
                        check_hold(&command, &outcome, before);
                    }
                    self.note(of_hold(&command, &outcome));
                    if let HoldOutcome::Held(reservation) = outcome {
                        let is_owner = |buyer: &u8| self.account(*buyer) == reservation.account;
                        let buyer = (0..BUYERS).find(is_owner).unwrap();
                        self.reservations.push((reservation.id, buyer));
                    }
                }
            }
            Done::Begun(attempt, outcome) => {
                self.note(match &outcome {
                    PayOutcome::Begun(_) => "payment begun",
                    PayOutcome::InFlight { .. } => "payment in flight",
                    PayOutcome::Replayed(_) => "payment replayed",
                    PayOutcome::KeyMismatch => "payment mismatched",
                    PayOutcome::NotFound => "not found",
                    PayOutcome::Refused(_) => "payment refused",
                });
                if let PayOutcome::Begun(reservation) = outcome {
                    let amount = reservation.total.amount();
                    self.attempts.push((attempt, Payment { n_seats: reservation.seats.len(), amount }));
                }
            }
            Done::Settled(settled) => self.note(match settled.unwrap() {
                Settled::Confirmed(reservation) if self.now >= reservation.held_until => "confirmed though lapsed",
                Settled::Confirmed(_) => "confirmed",
                Settled::Declined { .. } => "declined",
                Settled::Refunded => "refunded",
                Settled::GivenUp => "given up",
            }),
            Done::Released(outcome) => self.note(match outcome {
                ReleaseOutcome::Released(_) => "released",
                ReleaseOutcome::AlreadyReleased => "released before",
                ReleaseOutcome::NotFound => "not found",
                ReleaseOutcome::Refused(_) => "release refused",
            }),
            Done::Expired(0) | Done::Nothing => {}
            Done::Expired(_) => self.note("expired"),
        }
    }

    async fn seats_at(&self, now: Timestamp) -> Vec<Seat> {
        let filter = SeatFilter { limit: 201, ..SeatFilter::default() };
        self.repository.seats(self.performance, &filter, now).await.unwrap()
    }

    /// Checks that no buyer exceeds the seat limit, and no pass has two live reservations.
    async fn check_buyers(&self) {
        for buyer in 0..BUYERS {
            let all = self.repository.list(self.account(buyer), None, 201, self.now).await.unwrap();
            let confirmed = |state: &State| matches!(state, State::Confirmed { .. });
            let owned = all.iter().filter(|one| one.is_live(self.now) || confirmed(&one.state));
            let n_seats: usize = owned.map(|one| one.seats.len()).sum();
            assert!(n_seats <= SEAT_LIMIT as usize, "buyer {buyer} has {n_seats} seats");
            let mut live: HashMap<PassNumber, u32> = HashMap::new();
            for one in all.iter().filter(|one| one.is_live(self.now)) {
                *live.entry(one.pass).or_insert(0) += 1;
            }
            assert!(live.values().all(|n| *n == 1), "buyer {buyer}: {live:?}");
        }
    }

    /// Audits the history; then ends all holds and payments, and audits it again.
    async fn close(mut self) -> BTreeMap<&'static str, u32> {
        let history = self.audited().await;
        let takeovers = history
            .events
            .iter()
            .filter(|event| event.owner.is_some() && event.owner_before.is_some() && event.owner != event.owner_before);
        for _ in 0..takeovers.count() {
            self.note("taken over");
        }
        self.now = self.now.plus(Duration::from_secs(86_400));
        let unsettled = self.repository.unsettled(self.now, 1_000).await.unwrap();
        let unsettled: Vec<_> = unsettled.iter().map(|one| one.attempt).collect();
        for &(reservation, buyer) in &self.reservations {
            let found = self.repository.find(reservation, self.account(buyer), self.now).await.unwrap().unwrap();
            if let State::Paying(payment) = found.state {
                assert!(unsettled.contains(&payment.attempt), "no sweeper would end {}", payment.attempt);
            }
        }
        for (attempt, payment) in self.attempts.clone() {
            let verdict = self.captured(attempt, payment);
            let settled = self.repository.settle(attempt, &verdict, self.now).await.unwrap().unwrap();
            assert!(matches!(settled, Settled::Confirmed(_) | Settled::Refunded), "the money is here: {settled:?}");
        }
        while self.repository.expire_lapsed(self.now, 1_000).await.unwrap() > 0 {}
        self.send_refunds().await;
        let history = self.audited().await;
        let was_taken =
            |attempt: &&AttemptRecord| matches!(attempt.state, AttemptState::Captured | AttemptState::Refunded);
        assert_eq!(history.attempts.iter().filter(was_taken).count(), self.attempts.len(), "each took money once");
        assert!(history.refunds.iter().all(|refund| refund.is_sent), "all that is due was sent");
        assert!(history.seats.iter().all(|seat| seat.status != SeatStatus::Held), "nothing is held for ever");
        self.happened
    }

    /// Sends the refunds that are due.
    async fn send_refunds(&mut self) {
        for due in self.repository.refunds_due(1_000).await.unwrap() {
            // The refunds of other schedules are not this schedule's to send.
            let Some(charge) = self.charges.get_mut(&due.attempt) else { continue };
            assert_eq!(due.amount.amount(), charge.amount, "all of it goes back");
            charge.is_refunded = true;
            self.repository.refund_sent(due.attempt, self.now).await.unwrap();
        }
    }

    async fn audited(&self) -> audit::History {
        let history = self.fixture.history().history(self.performance).await.unwrap();
        let history = audit::History { charges: self.charges.values().copied().collect(), ..history };
        assert_eq!(audit::check(&history).contradictions, Vec::<String>::new());
        assert_eq!(audit::check_charges(&history), Vec::<String>::new());
        history
    }
}

/// Checks that the outcome of a hold is true of the seats before it.
fn check_hold(command: &HoldCommand, outcome: &HoldOutcome, before: &[Seat]) {
    let is_free = |seat: &&Seat| seat.status == SeatStatus::Available;
    let is_free_seat = |name: &SeatId| before.iter().filter(is_free).any(|seat| seat.seat == *name);
    match (outcome, &command.seats) {
        (HoldOutcome::Held(reservation), _) => {
            assert!(reservation.seats.iter().all(|reserved| is_free_seat(&reserved.seat)), "{command:?}");
        }
        (HoldOutcome::Taken(taken), SeatWish::Named(names)) => {
            let expected: Vec<_> = names.iter().filter(|name| !is_free_seat(name)).cloned().collect();
            assert_eq!(*taken, expected, "{command:?}");
        }
        (HoldOutcome::NotEnoughSeats, SeatWish::Best { count, grade }) => {
            let of_grade = |seat: &&Seat| grade.as_ref().is_none_or(|grade| seat.grade == *grade);
            let n_free = before.iter().filter(is_free).filter(of_grade).count();
            assert!(n_free < *count as usize, "{n_free} seats are free: {command:?}");
        }
        _ => {}
    }
}

fn of_hold(command: &HoldCommand, outcome: &HoldOutcome) -> &'static str {
    match outcome {
        HoldOutcome::Held(_) => match command.seats {
            SeatWish::Named(_) => "held by name",
            SeatWish::Best { .. } => "held the best",
        },
        HoldOutcome::Replayed(_) => "hold replayed",
        HoldOutcome::KeyMismatch => "hold mismatched",
        HoldOutcome::UnknownSeats(_) | HoldOutcome::UnknownGrade => panic!("the hall has them: {command:?}"),
        HoldOutcome::PassUsed => "pass used",
        HoldOutcome::PassBusy => "pass busy",
        HoldOutcome::Taken(_) => "taken",
        HoldOutcome::NotEnoughSeats => "not enough seats",
        HoldOutcome::LimitReached => "limit reached",
    }
}

fn id(performance: u32, n: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..12].copy_from_slice(&performance.to_be_bytes());
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn pass(buyer: u8, n: u8) -> PassNumber {
    PassNumber(u64::from(buyer) * 2 + u64::from(n) + 1)
}

fn some<T: Copy>(which: &Index, of: &[T]) -> Option<T> {
    (!of.is_empty()).then(|| *which.get(of))
}

type UnderWay = std::pin::Pin<Box<dyn Future<Output = Done> + Send>>;

fn hold(repository: Arc<dyn ReservationRepository>, commands: Vec<HoldCommand>, now: Timestamp) -> UnderWay {
    Box::pin(async move {
        let outcomes = repository.hold(&commands, now).await.unwrap();
        assert_eq!(outcomes.len(), commands.len());
        Done::Held(commands.into_iter().zip(outcomes).collect())
    })
}

fn nothing() -> UnderWay {
    Box::pin(async { Done::Nothing })
}
