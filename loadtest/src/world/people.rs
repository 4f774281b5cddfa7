//! A crowd: people who join a line over HTTP, poll as often as the server asks them to, and use their pass, drop it, or
//! let it expire. Keeps every answer; judges nothing.

use std::net::SocketAddr;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{RequestBuilder, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use usher_kernel::{PerformanceId, Timestamp};
use usher_queue::audit::{Person, ServerLife, Told};
use usher_queue::{AccountHash, PlaceNumber, PlaceState};

use crate::world::clock::{Stopwatch, now, pass};
use crate::world::passes::account_of;
use crate::world::servers::Server;

/// Timeout of a request; after it, a person tries another server.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// Pause before another server is tried, in ms.
const ELSEWHERE_AFTER_MS: Range<u64> = 50..400;
/// Percentage of polls that go to a random server.
const WANDER_PERCENT: u32 = 25;

/// The servers, each with its process id.
#[derive(Debug)]
pub struct Directory(Vec<(SocketAddr, AtomicU32)>);

impl Directory {
    /// The directory of these servers.
    #[must_use]
    pub fn of(servers: &[Server]) -> Arc<Self> {
        Arc::new(Self(servers.iter().map(|server| (server.address(), AtomicU32::new(server.pid()))).collect()))
    }

    /// Notes the process id of a restarted server; 0 while it is dead.
    pub fn note_life(&self, server: usize, pid: u32) {
        self.0[server].1.store(pid, Ordering::Release);
    }

    fn life(&self, server: usize) -> u32 {
        self.0[server].1.load(Ordering::Acquire)
    }
}

/// What the people of a crowd do.
#[derive(Clone, Debug)]
pub struct Habits {
    /// The span over which they arrive.
    pub arrive_within: Duration,
    /// How long a person who uses the pass stays, in ms.
    pub stay_ms: Range<u64>,
    /// Percentage of those admitted who never come back.
    pub drop_percent: u32,
    /// Percentage of those admitted who let the pass expire, and poll until it has.
    pub expire_percent: u32,
    /// Percentage who go away once while they wait.
    pub absent_percent: u32,
    /// How long they stay away.
    pub absent_for: Duration,
}

/// The purpose of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To join the line.
    Join,
    /// To learn the state of the place.
    Poll,
    /// To give the place up.
    Leave,
}

/// One call, answered or not.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its purpose.
    pub wish: Wish,
    /// When it was sent.
    pub sent: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The status of the answer; `None` if there was none.
    pub status: Option<StatusCode>,
    /// Whether the answer has a `Retry-After`.
    pub has_retry_after: bool,
}

/// The visit of one person: the answers, the calls, and the end.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The person, with the servers' answers.
    pub person: Person,
    /// Their calls.
    pub calls: Vec<Call>,
    /// Answers that a well-behaved client must never get.
    pub refusals: Vec<String>,
    /// Whether they are done: they learned how it ended, or gave up.
    pub is_over: bool,
}

/// How far a crowd has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// People with a place.
    pub joined: AtomicU64,
    /// People who were told that they are admitted.
    pub admitted: AtomicU64,
    /// People who are done.
    pub over: AtomicU64,
    /// Answered polls.
    pub polls: AtomicU64,
}

impl Progress {
    /// The current value of one of the counters.
    #[must_use]
    pub fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A crowd on its way through the line.
pub struct Crowd {
    people: Vec<JoinHandle<Visit>>,
    stop: CancellationToken,
    /// How far the crowd has come.
    pub progress: Arc<Progress>,
}

/// What all people of a crowd share.
struct Surroundings {
    client: reqwest::Client,
    directory: Arc<Directory>,
    performance: PerformanceId,
    habits: Habits,
    stop: CancellationToken,
    progress: Arc<Progress>,
}

/// Raises the limit of open files to the system's maximum: each connection is one.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If it cannot be raised, a crowd that needs more fails with its own message.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or_default();
}

impl Crowd {
    /// Starts one person for each access token. `seed` decides who does what.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn gather(
        directory: &Arc<Directory>,
        performance: PerformanceId,
        tokens: Vec<String>,
        habits: &Habits,
        seed: u64,
    ) -> Result<Self, reqwest::Error> {
        raise_file_limit();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWERED_WITHIN).build()?;
        let (stop, progress) = (CancellationToken::new(), Arc::new(Progress::default()));
        let surroundings = Arc::new(Surroundings {
            client,
            directory: Arc::clone(directory),
            performance,
            habits: habits.clone(),
            stop: stop.clone(),
            progress: Arc::clone(&progress),
        });
        let tasks = TaskTracker::new();
        let n_people = u32::try_from(tokens.len()).unwrap_or(u32::MAX).max(1);
        let people = (0_u32..).zip(tokens).map(|(n, token)| {
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n.into()));
            let arrives_after = habits.arrive_within * n / n_people;
            tasks.spawn(Visitor::new(Arc::clone(&surroundings), token, rng).visit(arrives_after))
        });
        Ok(Self { people: people.collect(), stop, progress })
    }

    /// The number of people.
    #[must_use]
    pub fn size(&self) -> usize {
        self.people.len()
    }

    /// Stops the people who are not done, and returns the visit of each person.
    pub async fn disperse(self) -> Vec<Visit> {
        self.stop.cancel();
        let mut visits = Vec::with_capacity(self.people.len());
        for person in self.people {
            match person.await {
                Ok(visit) => visits.push(visit),
                Err(error) => resume_unwind(error.into_panic()),
            }
        }
        visits
    }
}

#[derive(Deserialize)]
struct PlaceBody {
    place: String,
    number: u64,
    state: String,
    position: u64,
    poll_after_ms: u64,
    pass: Option<PassBody>,
}

#[derive(Deserialize)]
struct PassBody {
    expires_at: String,
}

fn state_of(name: &str) -> Option<PlaceState> {
    use PlaceState::{Admitted, Done, Expired, Waiting};
    [Waiting, Admitted, Done, Expired].into_iter().find(|state| state.as_str() == name)
}

fn read_time(text: &str) -> Option<Timestamp> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Timestamp::from_unix_ms(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()?))
}

/// The crowd was stopped.
struct SentHome;

/// The outcome of a call.
enum Reply {
    Place(Told, String),
    Nothing,
    ComeBackIn(Duration),
}

/// What a person does with the pass.
enum Plan {
    Use(Duration),
    Drop,
    LetExpire,
}

struct Visitor {
    here: Arc<Surroundings>,
    token: String,
    rng: StdRng,
    server: usize,
    visit: Visit,
}

impl Visitor {
    fn new(here: Arc<Surroundings>, token: String, mut rng: StdRng) -> Self {
        let account = account_of(&token).unwrap_or(AccountHash::from_bytes([0; 16]));
        let person = Person { account, came: Timestamp::EPOCH, told: Vec::new(), left: None, kept_asking: true };
        let visit = Visit { person, calls: Vec::new(), refusals: Vec::new(), is_over: false };
        let server = rng.random_range(0..here.directory.0.len());
        Self { here, token, rng, server, visit }
    }

    async fn visit(mut self, arrives_after: Duration) -> Visit {
        match self.run(arrives_after).await {
            Ok(()) => {
                self.visit.is_over = true;
                self.here.progress.over.fetch_add(1, Ordering::Relaxed);
            }
            // A person who never arrived did not wait.
            Err(SentHome) => self.visit.person.kept_asking &= self.visit.person.came > Timestamp::EPOCH,
        }
        self.visit
    }

    async fn run(&mut self, arrives_after: Duration) -> Result<(), SentHome> {
        let habits = self.here.habits.clone();
        self.wait(arrives_after).await?;
        self.visit.person.came = now();
        let (mut last, place) = self.join().await?;
        self.here.progress.joined.fetch_add(1, Ordering::Relaxed);
        let mut goes_away = self.rng.random_range(0..100) < habits.absent_percent;
        while last.state == PlaceState::Waiting {
            self.wait(last.poll_after).await?;
            if goes_away {
                goes_away = false;
                self.wait(habits.absent_for).await?;
            }
            last = self.poll(&place).await?;
        }
        if last.state != PlaceState::Admitted {
            return Ok(());
        }
        self.here.progress.admitted.fetch_add(1, Ordering::Relaxed);
        match self.plan() {
            Plan::Use(stay) => {
                self.wait(stay).await?;
                self.leave(&place).await?;
                self.poll(&place).await.map(drop)
            }
            Plan::Drop => {
                self.visit.person.kept_asking = false;
                Ok(())
            }
            Plan::LetExpire => {
                while last.state == PlaceState::Admitted {
                    let runs_out_in = last.pass_until.map_or(Duration::ZERO, |until| until.since(now()));
                    let late = Duration::from_millis(self.rng.random_range(0..1_000));
                    self.wait(runs_out_in + late).await?;
                    last = self.poll(&place).await?;
                }
                Ok(())
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let habits = self.here.habits.clone();
        match self.rng.random_range(0..100) {
            roll if roll < habits.drop_percent => Plan::Drop,
            roll if roll < habits.drop_percent + habits.expire_percent => Plan::LetExpire,
            _ => Plan::Use(Duration::from_millis(self.rng.random_range(habits.stay_ms.clone()))),
        }
    }

    async fn wait(&self, span: Duration) -> Result<(), SentHome> {
        tokio::select! {
            () = self.here.stop.cancelled() => Err(SentHome),
            () = pass(span) => Ok(()),
        }
    }

    async fn join(&mut self) -> Result<(Told, String), SentHome> {
        loop {
            let url = self.url();
            let request = self.here.client.post(url).bearer_auth(&self.token);
            match self.call(Wish::Join, request).await {
                Reply::Place(told, place) => return Ok((told, place)),
                Reply::Nothing => self.go_elsewhere().await?,
                Reply::ComeBackIn(span) => self.come_back(span).await?,
            }
        }
    }

    async fn poll(&mut self, place: &str) -> Result<Told, SentHome> {
        if self.rng.random_range(0..100) < WANDER_PERCENT {
            self.server = self.rng.random_range(0..self.here.directory.0.len());
        }
        loop {
            let url = self.url();
            let request = self.here.client.get(url).header("Usher-Place", place);
            match self.call(Wish::Poll, request).await {
                Reply::Place(told, _) => {
                    self.here.progress.polls.fetch_add(1, Ordering::Relaxed);
                    return Ok(told);
                }
                Reply::Nothing => self.go_elsewhere().await?,
                Reply::ComeBackIn(span) => self.come_back(span).await?,
            }
        }
    }

    async fn leave(&mut self, place: &str) -> Result<(), SentHome> {
        self.visit.person.left = Some(now());
        loop {
            let url = self.url();
            let request = self.here.client.delete(url).header("Usher-Place", place);
            match self.call(Wish::Leave, request).await {
                Reply::Nothing if self.has_left() => return Ok(()),
                Reply::Nothing | Reply::Place(..) => self.go_elsewhere().await?,
                Reply::ComeBackIn(span) => self.come_back(span).await?,
            }
        }
    }

    /// Whether the last answer says that the place is given up.
    fn has_left(&self) -> bool {
        self.visit.calls.last().is_some_and(|call| call.status == Some(StatusCode::NO_CONTENT))
    }

    fn url(&self) -> String {
        let address = self.here.directory.0[self.server].0;
        format!("http://{address}/api/v1/performances/{}/queue", self.here.performance)
    }

    async fn go_elsewhere(&mut self) -> Result<(), SentHome> {
        let n_servers = self.here.directory.0.len();
        self.server = (self.server + self.rng.random_range(1..n_servers.max(2))) % n_servers;
        let span = Duration::from_millis(self.rng.random_range(ELSEWHERE_AFTER_MS));
        self.wait(span).await
    }

    /// Waits as long as the server asked, and a little longer, as real clocks do.
    async fn come_back(&mut self, span: Duration) -> Result<(), SentHome> {
        let late = Duration::from_millis(self.rng.random_range(ELSEWHERE_AFTER_MS));
        self.wait(span + late).await?;
        self.go_elsewhere().await
    }

    async fn call(&mut self, wish: Wish, request: RequestBuilder) -> Reply {
        let life = self.here.directory.life(self.server);
        let (sent, watch) = (now(), Stopwatch::start());
        let response = request.send().await;
        let mut call = Call { wish, sent, took: watch.elapsed(), status: None, has_retry_after: false };
        let Ok(response) = response else {
            self.visit.calls.push(call);
            return Reply::Nothing;
        };
        let status = response.status();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        call.has_retry_after = retry_after.is_some();
        let body = response.bytes().await;
        call.took = watch.elapsed();
        let Ok(body) = body else {
            self.visit.calls.push(call);
            return Reply::Nothing;
        };
        call.status = Some(status);
        self.visit.calls.push(call);
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            return retry_after.map_or(Reply::Nothing, |seconds| Reply::ComeBackIn(Duration::from_secs(seconds)));
        }
        // The server answers 408 on an idle connection and closes it. A request that crosses it was not read and may be
        // repeated (RFC 9110, 15.5.9).
        if status == StatusCode::NO_CONTENT || status == StatusCode::REQUEST_TIMEOUT {
            return Reply::Nothing;
        }
        let is_same_life = life != 0 && life == self.here.directory.life(self.server);
        match read_place(&body).filter(|_| status.is_success()) {
            Some((told, place)) => {
                let by = is_same_life.then_some(ServerLife(life));
                let told = Told { by, sent, answered: now(), ..told };
                self.visit.person.told.push(told);
                Reply::Place(told, place)
            }
            None => {
                let text = String::from_utf8_lossy(&body);
                self.visit.refusals.push(format!("{wish:?} is answered {status}: {text}"));
                Reply::Nothing
            }
        }
    }
}

fn read_place(body: &[u8]) -> Option<(Told, String)> {
    let body: PlaceBody = serde_json::from_slice(body).ok()?;
    let pass_until = match body.pass {
        Some(pass) => Some(read_time(&pass.expires_at)?),
        None => None,
    };
    let told = Told {
        by: None,
        sent: Timestamp::EPOCH,
        answered: Timestamp::EPOCH,
        number: PlaceNumber::new(body.number),
        state: state_of(&body.state)?,
        position: body.position,
        poll_after: Duration::from_millis(body.poll_after_ms),
        pass_until,
    };
    Some((told, body.place))
}
