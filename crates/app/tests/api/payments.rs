//! Payments: whatever happens to gateway and server, money and seats agree in the end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};
use usher_account::ports::AccountRepository;
use usher_adapter_sql::{
    Database, SqlAccountRepository, SqlCatalogueRepository, SqlChargeLog, SqlReservationRepository,
};
use usher_app::demo;
use usher_app::identity::password::Argon2Hasher;
use usher_app::runtime::ids::RandomIds;
use usher_app::runtime::schema;
use usher_concert::ports::CatalogueRepository;
use usher_kernel::{
    AccountId, AttemptId, Claim, Clock, Fingerprint, IdGenerator, ManualClock, PerformanceId, StoreError, Timestamp,
};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    AdmissionGate, GateOutcome, PayCommand, PayOutcome, PaymentToken, ReservationHistory as _, ReservationRepository,
    ReservationRepositoryExt as _, SaleDesk, SalePhase, SaleTerms, SeatWish,
};
use usher_reservation::{Error, HoldRequest, Ports, Reservation, Service, Settings, SimulatedGateway, State, audit};

use crate::app::{
    Admitted, Answer, Api, SaleOptions, TestApp, UsherProcess, assert_problem, eventually, id_of, json_of, new_key,
    now, section, timestamp,
};
use crate::at_once::at_once;
use crate::store::{assert_verified, captures, number, refunds, sales};

fn options(hold_ttl_s: u64) -> SaleOptions {
    SaleOptions { hold_ttl_s, ..SaleOptions::default() }
}

/// Waits until the reservation is in this state, and returns it.
async fn wait_for_status(api: &Api, who: &Admitted, reservation: &str, status: &str) -> Value {
    eventually(&format!("the reservation is {status}"), async || {
        let body = json_of(api.reservation(&who.token, reservation).await, 200).await;
        (body["status"] == status).then_some(body)
    })
    .await
}

/// A payment extends a hold to at least a minute. A declined payment must take the extension back.
#[tokio::test(flavor = "multi_thread")]
async fn a_declined_payment_gives_the_hold_back_its_original_time() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 5, "VIP", 150_000)], options(3)).await;
    let (who, next) = tokio::join!(app.admitted(&performance), app.admitted(&performance));
    let held = app.held(&who, &["A-1-1", "A-1-2"]).await;
    let reservation = id_of(&held);
    let pay = async |key: &str, token: &str| {
        Answer::of(app.confirm_request(&who.token, &reservation, key, token).send().await.unwrap()).await
    };
    let key = new_key();

    let declined = pay(&key, "tok_declined").await;

    assert_eq!(declined.verdict(), (402, "payment-declined".into()));
    assert_eq!(json_of(app.reservation(&who.token, &reservation).await, 200).await, held, "to the millisecond");
    let seats = number(app.folder(), "SELECT held_until FROM seats WHERE seat = 'A-1-1'").await;
    assert_eq!(seats, timestamp(&held["held_until"]).unix_ms());
    assert_eq!(pay(&key, "tok_declined").await.said(), declined.said(), "byte for byte");
    let taken = eventually("the hold lapses at its own time", async || {
        let response = app.hold(&next, &["A-1-1", "A-1-2"]).await;
        if response.status() == 409 {
            assert_problem(response, 409, "seat-taken").await;
            return None;
        }
        Some(json_of(response, 201).await)
    })
    .await;
    assert!(timestamp(&taken["created_at"]) >= timestamp(&held["held_until"]));
    assert_eq!(pay(&key, "tok_declined").await.said(), declined.said(), "also when the seats are another's");
    assert_eq!(captures(app.folder()).await, 0);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_declined_payment_was_the_last() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 5, "VIP", 150_000)], options(30)).await;
    let who = app.admitted(&performance).await;
    let held = app.held(&who, &["A-1-1"]).await;
    let reservation = id_of(&held);
    let pay = async |key: &str, token: &str| {
        Answer::of(app.confirm_request(&who.token, &reservation, key, token).send().await.unwrap()).await
    };
    let keys = [new_key(), new_key(), new_key()];

    let mut declined = Vec::new();
    for key in &keys {
        declined.push(pay(key, "tok_declined").await);
    }
    let fourth = pay(&new_key(), "tok_ok").await;

    assert!(declined.iter().all(|answer| answer.verdict() == (402, "payment-declined".into())), "{declined:?}");
    assert_eq!(fourth.verdict(), (409, "reservation-state".into()));
    for (key, answer) in keys.iter().zip(&declined) {
        assert_eq!(pay(key, "tok_declined").await.said(), answer.said(), "each attempt keeps its own answer");
    }
    assert_eq!(json_of(app.reservation(&who.token, &reservation).await, 200).await, held, "the hold goes on");
    assert_eq!(app.release(&who.token, &reservation).await.status(), 204);
    assert_eq!(captures(app.folder()).await, 0);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_was_declined_may_pay_in_another_way() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 5, "VIP", 150_000)], options(30)).await;
    let who = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&who, &["A-1-1"]).await);

    for _ in 0..2 {
        assert_problem(app.confirm(&who.token, &reservation, "tok_declined").await, 402, "payment-declined").await;
    }
    let confirmed = app.confirmed(&who.token, &reservation).await;

    assert_eq!(confirmed["status"], "confirmed");
    assert_eq!((captures(app.folder()).await, sales(app.folder()).await), (1, 1));
    assert_verified(app.folder()).await;
}

/// LESSONS S17: more payments are under way than there are connections to the database, and other requests are as fast
/// as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_gateway_is_in_nobody_elses_way() {
    const N_SLOW: usize = 40;
    let app = TestApp::start().await;
    assert!(usize::try_from(app.settings().store.max_connections).unwrap() < N_SLOW);
    let performance = app.performance(&[section("A", 1, 50, "VIP", 150_000)], options(300)).await;
    let people = app.crowd(&performance, 50).await;
    let mut reservations = Vec::new();
    for (i, who) in people.iter().enumerate().take(N_SLOW) {
        reservations.push(id_of(&app.held(who, &[format!("A-1-{}", i + 1).as_str()]).await));
    }
    let slow = people.iter().zip(&reservations);
    let slow = slow.map(|(who, reservation)| app.confirm_request(&who.token, reservation, &new_key(), "tok_slow"));
    let slow = at_once(&app, slow);
    let others = async {
        eventually("the slow ones are at the gateway", async || {
            (captures(app.folder()).await == i64::try_from(N_SLOW).unwrap()).then_some(())
        })
        .await;
        for (i, who) in people.iter().enumerate().skip(N_SLOW) {
            let held = app.held(who, &[format!("A-1-{}", i + 1).as_str()]).await;
            app.confirmed(&who.token, &id_of(&held)).await;
        }
        let mut n_paying = 0;
        for (who, reservation) in people.iter().zip(&reservations) {
            let body = json_of(app.reservation(&who.token, reservation).await, 200).await;
            n_paying += usize::from(body["status"] == "paying");
        }
        n_paying
    };

    let (slow, n_paying) = tokio::join!(slow, others);

    assert_eq!(n_paying, N_SLOW, "ten others came, held and paid in the meantime");
    assert!(slow.iter().all(|answer| answer.status == 200 && answer.json()["status"] == "confirmed"), "{slow:?}");
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_answer_was_lost_ends_by_itself() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 5, "VIP", 150_000)], options(300)).await;
    let who = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&who, &["A-1-1", "A-1-2"]).await);
    let key = new_key();
    let pay = || app.confirm_request(&who.token, &reservation, &key, "tok_timeout_after_capture").send();

    assert_problem(pay().await.unwrap(), 503, "payment-unavailable").await;
    let confirmed = wait_for_status(&app, &who, &reservation, "confirmed").await;
    let repeated = json_of(pay().await.unwrap(), 200).await;

    assert_eq!(repeated, confirmed);
    assert_eq!(repeated["tickets"].as_array().unwrap().len(), 2);
    app.wait_for_place(&who.place, &performance, "done").await;
    assert_eq!((captures(app.folder()).await, refunds(app.folder()).await), (1, 0));
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_answer_was_lost_is_found_by_the_repeated_request() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 5, "VIP", 150_000)], options(300)).await;
    let who = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&who, &["A-1-1"]).await);
    let key = new_key();
    let pay = || app.confirm_request(&who.token, &reservation, &key, "tok_timeout_after_capture").send();

    assert_problem(pay().await.unwrap(), 503, "payment-unavailable").await;
    let confirmed = json_of(pay().await.unwrap(), 200).await;

    assert_eq!(confirmed["status"], "confirmed");
    assert_eq!(json_of(app.reservation(&who.token, &reservation).await, 200).await, confirmed);
    assert_eq!(number(app.folder(), "SELECT count(*) FROM simulated_charges").await, 1);
    assert_verified(app.folder()).await;
}

/// The server is killed after the gateway took the money and before its answer arrived. Of three buyers, one waits, one
/// repeats the request, and one had got 503.
#[tokio::test(flavor = "multi_thread")]
async fn payments_that_a_killed_server_left_behind_end_after_its_restart() {
    let mut usher = UsherProcess::start().await;
    let performance = usher.performance(&[section("A", 1, 5, "VIP", 150_000)], options(300)).await;
    let people = usher.crowd(&performance, 3).await;
    let (mut reservations, mut keys) = (Vec::new(), Vec::new());
    for (i, who) in people.iter().enumerate() {
        reservations.push(id_of(&usher.held(who, &[format!("A-1-{}", i + 1).as_str()]).await));
        keys.push(new_key());
    }
    let pay = |api: &Api, i: usize, token: &str| {
        api.confirm_request(&people[i].token, &reservations[i], &keys[i], token).send()
    };
    let slow = [pay(&usher, 0, "tok_slow"), pay(&usher, 1, "tok_slow")];
    let in_time = async {
        assert_problem(pay(&usher, 2, "tok_timeout_after_capture").await.unwrap(), 503, "payment-unavailable").await;
        eventually("the money is taken", async || (captures(usher.folder()).await == 3).then_some(())).await;
    };
    tokio::select! {
        answers = join_all(slow) => panic!("the gateway was too quick: {answers:?}"),
        () = in_time => {}
    }

    usher.restart().await;
    let repeated = json_of(pay(&usher, 1, "tok_slow").await.unwrap(), 200).await;
    for (who, reservation) in people.iter().zip(&reservations) {
        let confirmed = wait_for_status(&usher, who, reservation, "confirmed").await;
        assert_eq!(confirmed["tickets"].as_array().unwrap().len(), 1);
    }
    let late = json_of(pay(&usher, 0, "tok_slow").await.unwrap(), 200).await;

    assert_eq!((&repeated["status"], &late["status"]), (&json!("confirmed"), &json!("confirmed")));
    assert_eq!((captures(usher.folder()).await, sales(usher.folder()).await), (3, 3));
    assert_verified(usher.folder()).await;
}

/// LESSONS S8: an idempotency key stays usable if the server is killed during its request.
#[tokio::test(flavor = "multi_thread")]
async fn holds_that_were_under_way_when_the_server_was_killed_can_be_repeated() {
    const N: usize = 200;
    let mut usher = UsherProcess::start().await;
    let performance = usher.performance(&[section("A", 4, 50, "VIP", 150_000)], options(300)).await;
    let people: Vec<_> = usher.crowd(&performance, N).await.into_iter().map(|who| (who, new_key())).collect();
    let wish = |i: usize| json!({"seats": [format!("A-{}-{}", i / 50 + 1, i % 50 + 1)]});
    let requests = |api: &Api| {
        let requests = people.iter().enumerate().map(|(i, (who, key))| api.hold_request(who, key, &wish(i)));
        requests.collect::<Vec<_>>()
    };

    // Kills the server as soon as the first hold is stored, while most others are in progress.
    let in_flight = requests(&usher).into_iter().map(|request| async {
        let response = request.send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    });
    let in_flight = join_all(in_flight);
    let folder = usher.folder().to_owned();
    let kill = async {
        eventually("the first is held", async || {
            (number(&folder, "SELECT count(*) FROM reservations").await > 0).then_some(())
        })
        .await;
        usher.kill();
    };
    let (answered, ()) = tokio::join!(in_flight, kill);
    usher.restart().await;
    let repeated = at_once(&usher, requests(&usher)).await;

    assert!(answered.iter().any(Option::is_none), "some got no answer");
    for (first, again) in answered.iter().zip(&repeated) {
        assert_eq!(again.status, 201, "{again:?}");
        let first = first.as_ref().map(|(status, text)| (*status, text.as_str()));
        assert!(first.is_none_or(|first| first == again.said()), "what was answered before stands");
    }
    let statuses = usher.seat_statuses(&performance).await;
    assert_eq!(statuses.values().filter(|status| *status == "held").count(), N);
    assert_eq!(number(usher.folder(), "SELECT count(*) FROM reservations").await, i64::try_from(N).unwrap());
    assert_verified(usher.folder()).await;
}

/// LESSONS S3: two hundred buyers pay within a quarter of a second around the end of their holds, while others try to
/// hold the same seats.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_paid_for_as_it_ends_is_either_paid_or_expired_and_never_both() {
    const N: usize = 200;
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 4, 50, "VIP", 150_000)], options(2)).await;
    let people = app.crowd(&performance, N).await;
    let heirs = app.crowd(&performance, N).await;
    let seat = |i: usize| format!("A-{}-{}", i / 50 + 1, i % 50 + 1);
    let holds = people.iter().enumerate();
    let holds = holds.map(|(i, who)| app.hold_request(who, &new_key(), &json!({"seats": [seat(i)]})));
    let held: Vec<_> = at_once(&app, holds).await.iter().map(Answer::json).collect();
    let attempt = async |i: usize| {
        let deadline = timestamp(&held[i]["held_until"]);
        // From 200 ms before to 50 ms after.
        let offset = Duration::from_micros(1_250) * u32::try_from(i).unwrap();
        at(deadline.minus(Duration::from_millis(200)).plus(offset)).await;
        Answer::of(app.confirm(&people[i].token, &id_of(&held[i]), "tok_ok").await).await
    };
    let inherit = async |i: usize| {
        at(timestamp(&held[i]["held_until"])).await;
        Answer::of(app.hold(&heirs[i], &[seat(i).as_str()]).await).await
    };

    let (paid, inherited) = tokio::join!(join_all((0..N).map(attempt)), join_all((0..N).map(inherit)));

    let mut n_paid = 0;
    for i in 0..N {
        let status = json_of(app.reservation(&people[i].token, &id_of(&held[i])).await, 200).await["status"].clone();
        match paid[i].verdict() {
            (200, _) => {
                assert_eq!((&paid[i].json()["status"], &status), (&json!("confirmed"), &json!("confirmed")));
                assert_eq!(inherited[i].verdict(), (409, "seat-taken".into()), "{}", seat(i));
                n_paid += 1;
            }
            verdict => {
                assert_eq!((verdict, status), ((409, "hold-expired".into()), json!("expired")), "{}", seat(i));
                assert_eq!(inherited[i].status, 201, "{}: {:?}", seat(i), inherited[i]);
            }
        }
    }
    assert!((1..N).contains(&n_paid), "both happened: {n_paid} were in time");
    let sold = app.seat_statuses(&performance).await.values().filter(|status| *status == "sold").count();
    assert_eq!(sold, n_paid);
    assert_eq!(captures(app.folder()).await, i64::try_from(n_paid).unwrap(), "late buyers were not charged");
    assert_verified(app.folder()).await;
}

/// Waits until a point in time.
async fn at(moment: Timestamp) {
    #[expect(clippy::disallowed_methods, reason = "the moment is what the test is about")]
    tokio::time::sleep(moment.since(now())).await;
}

/// The reservations of one server, with a clock that the test moves, because a payment longer than its hold's last
/// minute would take too long over HTTP.
struct Server {
    reservations: Service,
    repository: Arc<SqlReservationRepository>,
}

/// The sale of the demo, always open. Every account is admitted, under its own number.
struct OpenToAll;

#[async_trait]
impl SaleDesk for OpenToAll {
    async fn terms(&self, _: PerformanceId, _: Timestamp) -> Result<Option<SaleTerms>, StoreError> {
        Ok(Some(SaleTerms { phase: SalePhase::Open, seat_limit: 4, hold_ttl: Duration::from_secs(300) }))
    }
}

#[async_trait]
impl AdmissionGate for OpenToAll {
    fn check(&self, pass: &str, _: AccountId, _: PerformanceId, _: Timestamp) -> GateOutcome {
        pass.parse().map_or(GateOutcome::Invalid, |number| GateOutcome::Admitted(PassNumber(number)))
    }

    async fn pass_used(&self, _: PerformanceId, _: PassNumber) {}
}

/// The database and the clock, which outlive the servers.
struct Machine {
    database: Database,
    clock: Arc<ManualClock>,
    ids: Arc<dyn IdGenerator>,
    performance: PerformanceId,
    folder: tempfile::TempDir,
}

impl Machine {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usher.db").display());
        let database = Database::open(&usher_adapter_sql::Settings::new(url, 4)).await.unwrap();
        schema::up(&database).await.unwrap();
        let clock = Arc::new(ManualClock::new(now()));
        let as_clock = || Arc::clone(&clock) as Arc<dyn Clock>;
        let ids: Arc<dyn IdGenerator> = Arc::new(RandomIds::new(as_clock()));
        let catalogue: Arc<dyn CatalogueRepository> = Arc::new(SqlCatalogueRepository::new(database.clone()));
        let accounts: Arc<dyn AccountRepository> = Arc::new(SqlAccountRepository::new(database.clone()));
        let hasher = Arc::new(Argon2Hasher::new(1, 1).unwrap());
        let accounts = usher_account::Service::new(accounts, hasher, as_clock(), Arc::clone(&ids));
        let demo = demo::set_up(&catalogue, &accounts, &as_clock(), &ids).await.unwrap();
        Self { database, clock, ids, performance: demo.performance, folder }
    }

    fn start(&self) -> Server {
        let repository = Arc::new(SqlReservationRepository::new(self.database.clone()));
        let ports = Ports {
            reservations: Arc::clone(&repository) as Arc<dyn ReservationRepository>,
            payments: Arc::new(SimulatedGateway::new(Arc::new(SqlChargeLog::new(self.database.clone())))),
            sales: Arc::new(OpenToAll),
            gate: Arc::new(OpenToAll),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ids: Arc::clone(&self.ids),
        };
        let settings = Settings { resolve_payments_after: Duration::from_secs(10) };
        Server { reservations: Service::new(ports, settings), repository }
    }

    async fn hold(&self, server: &Server, buyer: u8, seat: &str) -> Result<Reservation, Error> {
        let request = HoldRequest {
            performance: self.performance,
            account: account(buyer),
            pass: Some(buyer.to_string()),
            seats: SeatWish::Named(vec![seat.to_owned()]),
            claim: claim(buyer, "hold"),
        };
        server.reservations.hold(request).await
    }

    async fn pay(&self, server: &Server, buyer: u8, of: &Reservation, token: &str) -> Result<Reservation, Error> {
        let token = PaymentToken(token.to_owned());
        server.reservations.confirm(of.id, account(buyer), token, claim(buyer, "pay")).await
    }

    async fn contradictions(&self, server: &Server) -> Vec<String> {
        let history = server.repository.history(self.performance).await.unwrap();
        [audit::check(&history).contradictions, audit::check_charges(&history)].concat()
    }
}

fn account(buyer: u8) -> AccountId {
    AccountId::from_bytes([buyer; 16])
}

fn claim(buyer: u8, what: &str) -> Claim {
    Claim {
        account: account(buyer),
        key: format!("{what}-{buyer}").parse().unwrap(),
        fingerprint: Fingerprint([1; 32]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_seats_that_are_gone_goes_back_exactly_once() {
    let machine = Machine::new().await;
    let first = machine.start();
    let paid = machine.hold(&first, 1, "A-1-1").await.unwrap();
    let lost = machine.pay(&first, 1, &paid, "tok_timeout_after_capture").await;
    drop(first);
    machine.clock.advance(Duration::from_secs(301));

    let (second, third) = (machine.start(), machine.start());
    let heir = machine.hold(&second, 2, "A-1-1").await.unwrap();
    let (one, other) = tokio::join!(second.reservations.sweep(), third.reservations.sweep());
    let late = machine.pay(&second, 1, &paid, "tok_timeout_after_capture").await;
    let again = second.reservations.sweep().await.unwrap();
    let bought = machine.pay(&second, 2, &heir, "tok_ok").await.unwrap();

    assert!(matches!(lost, Err(Error::PaymentUnavailable)), "{lost:?}");
    assert!(one.unwrap().n_settled + other.unwrap().n_settled >= 1);
    assert!(matches!(late, Err(Error::HoldExpired)), "{late:?}");
    assert_eq!((again.n_settled, again.n_refunded), (0, 0), "and not a second time");
    assert!(matches!(bought.state, State::Confirmed { .. }));
    assert_eq!(machine.contradictions(&second).await, Vec::<String>::new());
    let folder = machine.folder.path();
    assert_eq!((captures(folder).await, sales(folder).await, refunds(folder).await), (2, 1, 1));
    assert_eq!(number(folder, "SELECT count(*) FROM refunds WHERE sent_at IS NOT NULL").await, 1);
    let theirs = second.reservations.find(paid.id, account(1)).await.unwrap();
    assert_eq!(theirs.state, State::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_seats_that_lapsed_and_that_nobody_took_buys_them() {
    let machine = Machine::new().await;
    let first = machine.start();
    let paid = machine.hold(&first, 1, "A-1-1").await.unwrap();
    let lost = machine.pay(&first, 1, &paid, "tok_timeout_after_capture").await;
    drop(first);
    machine.clock.advance(Duration::from_secs(3_600));

    let second = machine.start();
    let swept = second.reservations.sweep().await.unwrap();

    assert!(matches!(lost, Err(Error::PaymentUnavailable)), "{lost:?}");
    assert_eq!((swept.n_settled, swept.n_refunded), (1, 0));
    let bought = second.reservations.find(paid.id, account(1)).await.unwrap();
    assert!(matches!(bought.state, State::Confirmed { .. }), "{bought:?}");
    assert_eq!(machine.contradictions(&second).await, Vec::<String>::new());
    let folder = machine.folder.path();
    assert_eq!((captures(folder).await, sales(folder).await, refunds(folder).await), (1, 1, 0));
}

/// LESSONS S8, for a server that is killed between its own transaction and the call of the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_never_reached_the_gateway_gives_the_hold_back() {
    let machine = Machine::new().await;
    let server = machine.start();
    let held = machine.hold(&server, 1, "A-1-1").await.unwrap();
    let command = PayCommand {
        reservation: held.id,
        account: account(1),
        attempt: AttemptId::from_uuid(machine.ids.next_uuid()),
        resolve_after: Duration::from_secs(10),
        claim: claim(1, "pay"),
    };
    let begun = server.repository.begin_payment(&command, machine.clock.now()).await.unwrap();
    machine.clock.advance(Duration::from_secs(10));

    let swept = server.reservations.sweep().await.unwrap();
    let after = server.reservations.find(held.id, account(1)).await.unwrap();
    let bought = machine.pay(&server, 1, &held, "tok_ok").await.unwrap();

    assert!(matches!(begun, PayOutcome::Begun(_)), "{begun:?}");
    assert_eq!(swept.n_settled, 1);
    assert_eq!((after.state, after.held_until), (State::Held, held.held_until));
    assert!(matches!(bought.state, State::Confirmed { .. }), "the same key works again");
    assert_eq!(machine.contradictions(&server).await, Vec::<String>::new());
    assert_eq!(captures(machine.folder.path()).await, 1);
}
