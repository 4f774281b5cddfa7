//! The setup of every proof of the seats: two servers on one database and one Redis, a sale, buyers with passes, and
//! their requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use usher_concert::SectionPlan;
use usher_kernel::Timestamp;
use usher_test_servers::mysql_server::{self, Durability};
use usher_test_servers::mysql_watcher::Watcher;
use usher_test_servers::network::Network;
use usher_test_servers::redis_server;

use super::super::{Context, ProofError, Verdict};
use crate::world::clock::{self, Stopwatch, pass};
use crate::world::passes::{Credentials, Signer};
use crate::world::sale::{HOLD_TTL_S, Offer, Sale};
use crate::world::servers::{Server, ServerError, Site};

pub(super) const N_SERVERS: usize = 2;
/// Database connections of each server.
const POOL: usize = 16;
/// Timeout of a request: without an answer by then, its server is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Pause of a buyer before a retry.
pub(super) const COME_AGAIN: Duration = Duration::from_millis(50);
/// How long a buyer retries.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// Most findings that are reported.
const FINDINGS_MAX: usize = 20;
/// How long reads may take to occupy all connections. Shorter than the 5 s after which a server gives up a read: such a
/// read would go on waiting in the database, and hide a lost connection.
const PILE_UP_WITHIN: Duration = Duration::from_secs(4);
/// More readers than connections: some are refused, and retry.
const N_READERS: usize = 2 * N_SERVERS * POOL;
/// Attempts to occupy all connections: other work of the servers interferes.
const PILE_UPS_MAX: usize = 5;

/// The setup of a proof.
pub(super) struct Setting {
    /// The sections on sale.
    pub(super) sections: Vec<SectionPlan>,
    /// How many buyers [`Stage::buyer`] can return.
    pub(super) n_buyers: usize,
    pub(super) hold_ttl_s: u32,
    /// One-way delay between servers and database.
    pub(super) delay: Duration,
    /// Each server's `store.group_commit`: whether holds, payments and releases share transactions.
    pub(super) group_commit: [bool; N_SERVERS],
}

impl Setting {
    /// The default setup.
    pub(super) const fn of(sections: Vec<SectionPlan>, n_buyers: usize) -> Self {
        Self { sections, n_buyers, hold_ttl_s: HOLD_TTL_S, delay: Duration::ZERO, group_commit: [true; N_SERVERS] }
    }
}

/// Servers that share a database and a line, and a sale.
pub(super) struct Stage {
    pub(super) context: Context,
    /// The database's URL, without the delay between it and the servers.
    url: String,
    servers: Vec<Server>,
    sale: Sale,
    site: Site,
    client: Client,
    buyers: Mutex<Vec<Buyer>>,
    findings: Mutex<Vec<String>>,
    pub(super) n_refused: AtomicUsize,
    pub(super) n_asked_again: AtomicUsize,
    /// The longest wait for an answer in [`Self::until_answered`], by expected status.
    longest: Mutex<HashMap<StatusCode, Duration>>,
    _redis: redis_server::Server,
}

/// A buyer with credentials, who sends requests to one server.
#[derive(Clone)]
pub(super) struct Buyer {
    shows: Credentials,
    /// The index of that server.
    server: usize,
}

impl Buyer {
    /// The same buyer at the next server.
    pub(super) fn elsewhere(&self) -> Self {
        Self { server: (self.server + 1) % N_SERVERS, ..self.clone() }
    }
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// When the request was sent.
    pub(super) asked_at: Timestamp,
    /// Whether it is a problem document with a `Retry-After`.
    says_when: bool,
}

impl Answer {
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Stage {
    /// Sets up servers and sale, on a database that ends when it is dropped.
    pub(super) async fn set(context: &Context, setting: Setting) -> Result<(Self, mysql_server::Server), ProofError> {
        let Setting { sections, n_buyers, hold_ttl_s, delay, group_commit } = setting;
        let database = mysql_server::Server::start(Durability::Full, &[]);
        let url = mysql_server::create_database(&database.url(), "usher").await;
        let redis = redis_server::Server::start(&[]);
        let site = Site::new(&context.folder)?.on_redis(&redis.url());
        let site = site.with("store.url", &url);
        site.run(&["migrate", "up"], "")?;
        let mut servers = Vec::with_capacity(N_SERVERS);
        for (n, group_commit) in (1..).zip(group_commit) {
            let way = if delay.is_zero() { url.clone() } else { Network::to(&url, delay).1 };
            let site = site.clone().with("store.url", &way).with("store.max_connections", &POOL);
            let site = site.with("store.group_commit", &group_commit);
            servers.push(site.start(&format!("server-{n}")).await?);
        }
        let offer = Offer { admission: &json!({"state": "open"}), sections: &sections, hold_ttl_s };
        let sale = Sale::open_with(&site, &servers, offer).await?;
        let buyers = Signer::of(&site, sale.performance()).buyers(&site, n_buyers + N_READERS)?;
        let buyers = buyers.into_iter().enumerate().map(|(n, shows)| Buyer { shows, server: n % N_SERVERS });
        let stage = Self {
            context: context.clone(),
            url,
            buyers: Mutex::new(buyers.collect()),
            client: Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?,
            servers,
            sale,
            site,
            findings: Mutex::default(),
            n_refused: AtomicUsize::new(0),
            n_asked_again: AtomicUsize::new(0),
            longest: Mutex::default(),
            _redis: redis,
        };
        Ok((stage, database))
    }

    /// A new buyer, of those that the setup asked for.
    pub(super) fn buyer(&self) -> Result<Buyer, ProofError> {
        let buyer = self.buyers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        buyer.ok_or(ProofError::NotReached("a buyer is left", 0))
    }

    pub(super) fn buyers(&self, count: usize) -> Result<Vec<Buyer>, ProofError> {
        (0..count).map(|_| self.buyer()).collect()
    }

    pub(super) fn ask(&self, buyer: &Buyer, method: Method, path: &str, key: &str) -> RequestBuilder {
        let url = format!("http://{}/api/v1/{path}", self.servers[buyer.server].address());
        let request = self.client.request(method, url).bearer_auth(&buyer.shows.token);
        request.header("Usher-Pass", &buyer.shows.pass).header("Idempotency-Key", key)
    }

    pub(super) fn hold(&self, buyer: &Buyer, key: &str, wish: &Value) -> RequestBuilder {
        let path = format!("performances/{}/reservations", self.sale.performance());
        self.ask(buyer, Method::POST, &path, key).json(wish)
    }

    pub(super) fn confirm(&self, buyer: &Buyer, reservation: &str) -> RequestBuilder {
        let payment = json!({"payment": {"method": "simulated", "token": "tok_ok"}});
        let path = format!("reservations/{reservation}/confirm");
        self.ask(buyer, Method::POST, &path, &format!("confirm-{reservation}")).json(&payment)
    }

    /// Lists the buyer's reservations.
    pub(super) fn list(&self, buyer: &Buyer) -> RequestBuilder {
        self.ask(buyer, Method::GET, "reservations", "-")
    }

    /// Sends a request until it is answered with the expected status. Until then only 503 with `Retry-After` and
    /// `idempotency-in-flight` are allowed; anything else is a finding.
    pub(super) async fn until_answered(
        &self,
        request: impl Fn() -> RequestBuilder,
        expected: StatusCode,
    ) -> Option<Answer> {
        let until = clock::now().plus(GIVE_UP_AFTER);
        while clock::now() < until {
            let watch = Stopwatch::start();
            let answered = answer(request()).await;
            self.took(expected, watch.elapsed());
            match answered {
                Ok(answer) if answer.status == expected => return Some(answer),
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                    self.n_refused.fetch_add(1, Ordering::SeqCst);
                    if !answer.says_when {
                        self.find(format!("a 503 has no Retry-After: {}", answer.body));
                    }
                }
                Ok(answer) if answer.code() == "idempotency-in-flight" => {}
                Ok(answer) => {
                    self.find(format!("unexpected answer to a buyer: {} {}", answer.status, answer.code()));
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

    fn took(&self, expected: StatusCode, span: Duration) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = longest.entry(expected).or_default();
        *longest = span.max(*longest);
    }

    /// The longest wait for one answer to a request that expects this status, whatever the answer was.
    pub(super) fn longest(&self, expected: StatusCode) -> Duration {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.get(&expected).copied().unwrap_or_default()
    }

    /// Adds a finding.
    pub(super) fn find(&self, finding: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// A connection to the database itself.
    pub(super) async fn watcher(&self) -> Watcher {
        Watcher::of(&self.url).await
    }

    /// Checks that no server has lost a connection: reads of a locked table must occupy all of them at once.
    pub(super) async fn count_connections(&self) -> Result<(), ProofError> {
        let (all, mut most) = (N_SERVERS * POOL, 0);
        let (mut holder, mut watcher) = (self.watcher().await, self.watcher().await);
        let readers = self.buyers(N_READERS)?;
        for _ in 0..PILE_UPS_MAX {
            holder.lock("reservations").await;
            let reading =
                join_all(readers.iter().map(|reader| self.until_answered(|| self.list(reader), StatusCode::OK)));
            let counting = async {
                let watch = Stopwatch::start();
                while most < all && watch.elapsed() < PILE_UP_WITHIN {
                    most = most.max(watcher.n_waiting_for_tables().await);
                    pass(COME_AGAIN).await;
                }
                holder.unlock().await;
            };
            tokio::join!(reading, counting);
            if most >= all {
                return Ok(());
            }
        }
        self.find(format!("the servers use {most} of {all} connections at once"));
        Ok(())
    }

    /// Waits until no transaction is open in the database, and returns how long that took; `None` if one stays open.
    pub(super) async fn until_nothing_is_open(&self, at_most: Duration) -> Option<Duration> {
        let (mut watcher, watch) = (self.watcher().await, Stopwatch::start());
        while watcher.n_open().await > 0 {
            if watch.elapsed() > at_most {
                return None;
            }
        }
        Some(watch.elapsed())
    }

    /// Ends the servers, runs `usher verify` on the database, and adds all findings to the verdict.
    pub(super) fn conclude(mut self, verdict: &mut Verdict) {
        self.servers.clear();
        match self.site.run(&["verify"], "") {
            Ok(_) => {}
            Err(ServerError::Failed { said, .. }) => self.find(format!("usher verify: {said}")),
            Err(error) => self.find(format!("usher verify could not be run: {error}")),
        }
        verdict.findings.append(&mut self.findings.into_inner().unwrap_or_else(PoisonError::into_inner));
        verdict.findings.truncate(FINDINGS_MAX);
    }
}

/// Sends a request, and reads its answer.
pub(super) async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let asked_at = clock::now();
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers());
    let is_problem = headers.get(CONTENT_TYPE).is_some_and(|it| it == "application/problem+json");
    let says_when = is_problem && headers.contains_key(RETRY_AFTER);
    let body = if status == StatusCode::NO_CONTENT { Value::Null } else { response.json().await? };
    let says_when = says_when && body["retry_after_ms"].is_u64();
    Ok(Answer { status, body, asked_at, says_when })
}
