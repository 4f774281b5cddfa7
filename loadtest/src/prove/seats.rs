//! Proofs about the seats: servers that share a database sell each seat once, to whoever rushes for it, and what a buyer was
//! told stands, whatever happens to the database.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use usher_contract_tests::mysql_server::{self, Durability};
use usher_contract_tests::redis_server;
use usher_queue::{Grant, PlaceNumber, TokenKeys};

use super::{Context, ProofError, Verdict};
use crate::clock::{self, Stopwatch, eventually, pass};
use crate::people::account_of;
use crate::sale::Sale;
use crate::server::{Server, ServerError, Site};

const SECRET: &str = "of servers on loopback that share a database";
const N_SERVERS: usize = 2;
/// Everybody shows a pass of their own that is good for longer than a proof.
const PASS_LASTS: Duration = Duration::from_secs(3_600);
/// A request that nobody answers in this time was lost with its server.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a buyer pauses who is told to come again.
const COME_AGAIN: Duration = Duration::from_millis(50);
/// How long a buyer keeps asking until there is an answer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// At most so many findings of a kind are told one by one.
const FINDINGS_MAX: usize = 5;
const ROW_SEATS: usize = 50;

/// Servers that share a database and a line, and a sale.
struct Stage {
    context: Context,
    servers: Vec<Server>,
    sale: Sale,
    site: Site,
    client: Client,
    keys: TokenKeys,
    next_pass: AtomicU64,
    tokens: Mutex<Vec<String>>,
    database: Option<mysql_server::Server>,
    _redis: redis_server::Server,
}

/// Somebody with an access token and a pass.
struct Buyer {
    token: String,
    pass: String,
    /// Which server they ask.
    server: usize,
}

/// An answer that was one.
struct Answer {
    status: StatusCode,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Stage {
    async fn set(
        context: &Context,
        durability: Durability,
        sections: &Value,
        n_buyers: usize,
    ) -> Result<Self, ProofError> {
        let database = mysql_server::Server::start(durability, &[]);
        let url = mysql_server::create_database(&database.url(), "usher").await;
        let redis = redis_server::Server::start(&[]);
        let site = Site::new(&context.folder)?.on_redis(&redis.url());
        let site = site.with("store.url", &url).with("auth.secret", SECRET);
        site.run(&["migrate", "up"], "")?;
        let mut servers = Vec::with_capacity(N_SERVERS);
        for n in 1..=N_SERVERS {
            servers.push(site.start(&format!("server-{n}")).await?);
        }
        let sale = Sale::open_with(&site, &servers, &json!({"state": "open"}), sections).await?;
        Ok(Self {
            context: context.clone(),
            tokens: Mutex::new(site.mint(n_buyers)?),
            client: Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?,
            keys: TokenKeys::new(SECRET.as_bytes(), None),
            next_pass: AtomicU64::new(1),
            servers,
            sale,
            site,
            database: Some(database),
            _redis: redis,
        })
    }

    /// A new buyer. As many as were asked for when the stage was set.
    fn buyer(&self) -> Result<Buyer, ProofError> {
        let token = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let account = token.as_deref().and_then(account_of);
        let (token, account) = token.zip(account).ok_or(ProofError::NotReached("there are buyers enough", 0))?;
        let number = self.next_pass.fetch_add(1, Ordering::Relaxed);
        let expires_at = clock::now().plus(PASS_LASTS);
        let grant = Grant { number: PlaceNumber::new(number), account, expires_at };
        let pass = self.keys.sign_pass(self.sale.performance(), grant);
        Ok(Buyer { token, pass, server: usize::try_from(number).unwrap_or(0) % self.servers.len() })
    }

    fn buyers(&self, count: usize) -> Result<Vec<Buyer>, ProofError> {
        (0..count).map(|_| self.buyer()).collect()
    }

    fn ask(&self, buyer: &Buyer, method: Method, path: &str, key: &str) -> RequestBuilder {
        let url = format!("http://{}/api/v1/{path}", self.servers[buyer.server].address());
        let request = self.client.request(method, url).bearer_auth(&buyer.token);
        request.header("Usher-Pass", &buyer.pass).header("Idempotency-Key", key)
    }

    fn hold(&self, buyer: &Buyer, wish: &Value) -> RequestBuilder {
        let path = format!("performances/{}/reservations", self.sale.performance());
        self.ask(buyer, Method::POST, &path, "hold").json(wish)
    }

    fn confirm(&self, buyer: &Buyer, reservation: &str) -> RequestBuilder {
        let payment = json!({"payment": {"method": "simulated", "token": "tok_ok"}});
        self.ask(buyer, Method::POST, &format!("reservations/{reservation}/confirm"), "confirm").json(&payment)
    }

    /// Ends the servers and lets `usher verify` look at what they left.
    fn verify(&mut self, verdict: &mut Verdict) {
        self.servers.clear();
        match self.site.run(&["verify"], "") {
            Ok(_) => {}
            Err(ServerError::Failed { said, .. }) => verdict.findings.push(format!("usher verify: {said}")),
            Err(error) => verdict.findings.push(format!("usher verify could not be run: {error}")),
        }
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    Ok(Answer { status: response.status(), body: response.json().await? })
}

fn section(name: &str, n_seats: usize, grade: &str) -> Value {
    let price = json!({"amount": 100, "currency": "KRW"});
    json!({"name": name, "rows": n_seats.div_ceil(ROW_SEATS), "seats_per_row": ROW_SEATS.min(n_seats), "grade": grade,
           "price": price})
}

/// The n-th seat of a section, from 0.
fn seat(section: &str, n: usize) -> String {
    format!("{section}-{}-{}", n / ROW_SEATS + 1, n % ROW_SEATS + 1)
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Everybody wants one seat; everybody wants a seat of their own; and a crowd takes the best there are until all are gone.
pub(super) async fn seat_rush(context: Context) -> Result<Verdict, ProofError> {
    let n = context.sized(1_000, 100);
    let (n_at_once, n_best) = context.sized((160, 8_000), (16, 200));
    let sections = json!([section("H", 1, "H"), section("A", n, "A"), section("B", n_best, "B")]);
    // Of those who buy blocks, each gets a seat at least, or ends.
    let stage = Stage::set(&context, Durability::Full, &sections, 2 * n + n_best + 4 * n_at_once).await?;
    let mut verdict =
        Verdict { parameters: json!({"buyers": n, "best": n_best, "at_once": n_at_once}), ..Verdict::default() };

    context.say(format_args!("{n} buyers want one seat"));
    let (hot, wish) = (stage.buyers(n)?, json!({"seats": ["H-1-1"]}));
    let took = Stopwatch::start();
    let answers = join_all(hot.iter().map(|buyer| answer(stage.hold(buyer, &wish)))).await;
    verdict.figure("one_seat_s", seconds(took.elapsed()));
    let (mut n_held, mut n_taken) = (0, 0);
    for answer in answers {
        let answer = answer?;
        match (answer.status, answer.code()) {
            (StatusCode::CREATED, _) => n_held += 1,
            (StatusCode::CONFLICT, "seat-taken") => n_taken += 1,
            (status, code) => verdict.findings.push(format!("a buyer of the one seat: {status} {code}")),
        }
    }
    if (n_held, n_taken) != (1, n - 1) {
        verdict
            .findings
            .push(format!("of {n} buyers of one seat {n_held} got it, {n_taken} were told that it is taken"));
    }

    context.say(format_args!("{n} buyers want a seat each"));
    let own = stage.buyers(n)?;
    let took = Stopwatch::start();
    let holds = own.iter().enumerate().map(|(i, buyer)| answer(stage.hold(buyer, &json!({"seats": [seat("A", i)]}))));
    let answers = join_all(holds).await;
    verdict.figure("own_seats_s", seconds(took.elapsed()));
    for answer in answers {
        let answer = answer?;
        if answer.status != StatusCode::CREATED {
            verdict.findings.push(format!("a buyer of a seat of their own: {} {}", answer.status, answer.code()));
        }
    }

    context.say(format_args!("{n_at_once} at a time take the best of {n_best} seats"));
    let rush = Rush {
        stage: &stage,
        n_seats: n_best,
        claimed: AtomicUsize::new(0),
        sold: AtomicUsize::new(0),
        findings: Mutex::default(),
    };
    let took = Stopwatch::start();
    let crowd = (0..n_at_once as u64).map(|n| rush.buy_until_gone(StdRng::seed_from_u64(context.seed ^ n)));
    join_all(crowd).await.into_iter().collect::<Result<(), _>>()?;
    verdict.figure("best_s", seconds(took.elapsed()));
    let Rush { sold, findings, .. } = rush;
    let sold = sold.into_inner();
    verdict.figure("best_sold", count(sold));
    verdict.findings.extend(findings.into_inner().unwrap_or_else(PoisonError::into_inner));
    if sold != n_best {
        verdict.findings.push(format!("of {n_best} seats {sold} were sold"));
    }
    let mut stage = stage;
    stage.verify(&mut verdict);
    verdict.findings.truncate(4 * FINDINGS_MAX);
    Ok(verdict)
}

/// A crowd that takes the best seats until there are none.
struct Rush<'a> {
    stage: &'a Stage,
    n_seats: usize,
    /// The seats of all who asked and were not refused, whether or not they have them yet.
    claimed: AtomicUsize,
    sold: AtomicUsize,
    findings: Mutex<Vec<String>>,
}

impl Rush<'_> {
    /// Buys blocks of 1 to 4, each as somebody else, until not even one seat is left.
    async fn buy_until_gone(&self, mut rng: StdRng) -> Result<(), ProofError> {
        let mut most = 4;
        loop {
            let (buyer, wanted) = (self.stage.buyer()?, rng.random_range(1..=most));
            self.claimed.fetch_add(wanted, Ordering::SeqCst);
            let wish = json!({"best_available": {"count": wanted, "grade": "B"}});
            let held = answer(self.stage.hold(&buyer, &wish)).await?;
            match (held.status, held.code()) {
                (StatusCode::CREATED, _) => {
                    let id = held.body["id"].as_str().unwrap_or_default();
                    let paid = answer(self.stage.confirm(&buyer, id)).await?;
                    if paid.status == StatusCode::OK {
                        self.sold.fetch_add(paid.body["tickets"].as_array().map_or(0, Vec::len), Ordering::SeqCst);
                    } else {
                        self.find(format!("a hold was not confirmed: {} {}", paid.status, paid.code()));
                    }
                }
                (StatusCode::CONFLICT, "not-enough-seats") => {
                    // All who had asked by now, with seats or without: if there was room for this one too, it was refused
                    // wrongly.
                    let claimed = self.claimed.fetch_sub(wanted, Ordering::SeqCst);
                    if claimed <= self.n_seats {
                        self.find(format!(
                            "{wanted} seats were refused while {claimed} of {} were asked for",
                            self.n_seats
                        ));
                    }
                    if wanted == 1 {
                        return Ok(());
                    }
                    most = wanted - 1;
                }
                (status, code) => {
                    self.find(format!("a buyer of the best seats: {status} {code}"));
                    return Ok(());
                }
            }
        }
    }

    fn find(&self, finding: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }
}

/// Buyers hold and pay while the database is killed under them, and each asks on until there is an answer. What they were
/// told stands.
pub(super) async fn database_killed(context: Context) -> Result<Verdict, ProofError> {
    let (n_kills, n_at_once, n_seats) = context.sized((20, 32, 10_000), (1, 8, 2_000));
    let sections = json!([section("A", n_seats, "A")]);
    let mut stage = Stage::set(&context, Durability::Full, &sections, n_seats).await?;
    let parameters = json!({"kills": n_kills, "at_once": n_at_once});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let database = stage.database.take();
    let Some(mut database) = database else { return Err(ProofError::NotReached("there is a database", 0)) };
    let shop = Arc::new(Shop {
        stage,
        is_over: AtomicUsize::new(0),
        next_seat: AtomicUsize::new(0),
        bought: Mutex::default(),
        findings: Mutex::default(),
        n_asked_again: AtomicUsize::new(0),
    });

    let buying = {
        let shop = Arc::clone(&shop);
        async move { join_all((0..n_at_once).map(|_| shop.buy_on(n_seats))).await }
    };
    let killing = async move |shop: &Shop| {
        for n in 1..=n_kills {
            let before = shop.n_bought();
            // Each time some have bought since.
            let goes_on = eventually(GIVE_UP_AFTER, || async { (shop.n_bought() > before + n_at_once).then_some(()) });
            if goes_on.await.is_none() {
                shop.find("nobody could buy after the database came back".into());
                break;
            }
            database = tokio::task::spawn_blocking(move || {
                database.kill();
                database.start_again();
                database
            })
            .await
            .map_err(|error| ProofError::Io(std::io::Error::other(error)))?;
            shop.stage.context.say(format_args!("killed {n} times; {} have bought", shop.n_bought()));
        }
        let before = shop.n_bought();
        let goes_on = eventually(GIVE_UP_AFTER, || async { (shop.n_bought() > before + n_at_once).then_some(()) });
        if goes_on.await.is_none() {
            shop.find("nobody could buy after the last time".into());
        }
        shop.is_over.store(1, Ordering::SeqCst);
        Ok::<_, ProofError>(database)
    };
    let (bought, killed) = tokio::join!(buying, killing(&shop));
    // It lives until the end: what it holds is looked at.
    let _database = killed?;
    bought.into_iter().collect::<Result<(), _>>()?;

    let bought = std::mem::take(&mut *shop.bought.lock().unwrap_or_else(PoisonError::into_inner));
    verdict.figure("bought", count(bought.len()));
    verdict.figure("asked_again", count(shop.n_asked_again.load(Ordering::SeqCst)));
    context.say(format_args!("{} purchases are asked for again", bought.len()));
    for Bought { buyer, reservation, told } in &bought {
        let again = answer(shop.stage.confirm(buyer, reservation)).await?;
        if again.status != StatusCode::OK || again.body != *told {
            shop.find(format!("a purchase is answered otherwise: {} {}", again.status, again.code()));
        }
        let path = format!("reservations/{reservation}");
        let found = answer(shop.stage.ask(buyer, Method::GET, &path, "-")).await?;
        if found.body["status"] != "confirmed" || found.body["tickets"] != told["tickets"] {
            shop.find(format!("an acknowledged purchase is not there: {} {}", found.status, found.body["status"]));
        }
    }
    let mut shop = Arc::into_inner(shop).ok_or(ProofError::NotReached("all buyers are gone", 0))?;
    verdict.findings.append(&mut shop.findings.into_inner().unwrap_or_else(PoisonError::into_inner));
    verdict.findings.truncate(FINDINGS_MAX);
    shop.stage.verify(&mut verdict);
    Ok(verdict)
}

/// Where people buy one seat after the other.
struct Shop {
    stage: Stage,
    is_over: AtomicUsize,
    next_seat: AtomicUsize,
    bought: Mutex<Vec<Bought>>,
    findings: Mutex<Vec<String>>,
    n_asked_again: AtomicUsize,
}

/// A purchase that was acknowledged, and how.
struct Bought {
    buyer: Buyer,
    reservation: String,
    told: Value,
}

impl Shop {
    async fn buy_on(&self, n_seats: usize) -> Result<(), ProofError> {
        while self.is_over.load(Ordering::SeqCst) == 0 {
            let n = self.next_seat.fetch_add(1, Ordering::SeqCst);
            if n >= n_seats {
                self.find("all seats were sold before the end".into());
                return Ok(());
            }
            let buyer = self.stage.buyer()?;
            let wish = json!({"seats": [seat("A", n)]});
            let Some(held) = self.until_answered(|| self.stage.hold(&buyer, &wish), StatusCode::CREATED).await else {
                continue;
            };
            let reservation = held["id"].as_str().unwrap_or_default().to_owned();
            let paid = self.until_answered(|| self.stage.confirm(&buyer, &reservation), StatusCode::OK).await;
            if let Some(told) = paid {
                let bought = Bought { buyer, reservation, told };
                self.bought.lock().unwrap_or_else(PoisonError::into_inner).push(bought);
            }
        }
        Ok(())
    }

    /// Asks the same until the answer is one. Nothing but 503, and that the same is under way, may come before it.
    async fn until_answered(&self, request: impl Fn() -> RequestBuilder, expected: StatusCode) -> Option<Value> {
        let until = clock::now().plus(GIVE_UP_AFTER);
        while clock::now() < until {
            match answer(request()).await {
                Ok(Answer { status, body }) if status == expected => return Some(body),
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {}
                Ok(answer) if answer.code() == "idempotency-in-flight" => {}
                Ok(answer) => {
                    self.find(format!("a buyer is told: {} {}", answer.status, answer.code()));
                    return None;
                }
                Err(error) => {
                    self.find(format!("a server did not answer: {error}"));
                    return None;
                }
            }
            self.n_asked_again.fetch_add(1, Ordering::SeqCst);
            pass(COME_AGAIN).await;
        }
        self.find(format!("no answer within {GIVE_UP_AFTER:?}"));
        None
    }

    fn n_bought(&self) -> usize {
        self.bought.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn find(&self, finding: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }
}
