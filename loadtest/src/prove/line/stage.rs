//! The setup of every proof of the line: servers on a Redis, a sale, a crowd; and the audit of what was recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use usher_kernel::Timestamp;
use usher_queue::audit::{self, Answer, History, Loss, ServerLife, Terms};
use usher_test_servers::redis_server;

use super::super::{Context, ProofError, Size, Verdict};
use super::history;
use crate::world::clock::{self, Stopwatch, eventually};
use crate::world::people::{Crowd, Directory, Habits, Progress, Visit};
use crate::world::sale::Sale;
use crate::world::servers::{Server, Site};

/// How often progress is reported.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// The servers' default tick.
const TICK: Duration = Duration::from_millis(250);
/// Most findings of a kind that are reported one by one.
const FINDINGS_MAX: usize = 5;
/// Admission resumes within this time and the longest poll interval after a loss.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// How long a proof waits for admission to resume: longer than it may take.
const GOES_ON_WITHIN: Duration = Duration::from_secs(40);

/// The setup of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) n_servers: usize,
    pub(super) capacity: u32,
    pub(super) rate_per_s: u32,
    pub(super) pass_ttl: Duration,
    pub(super) presence_window: Duration,
    pub(super) state: &'static str,
}

/// Servers, their Redis, and a sale.
pub(super) struct Stage {
    pub(super) context: Context,
    pub(super) servers: Vec<Server>,
    pub(super) sale: Sale,
    redis: Option<redis_server::Server>,
    site: Site,
    directory: Arc<Directory>,
    terms: Terms,
    parameters: BTreeMap<&'static str, Value>,
    killed: Vec<(ServerLife, Timestamp)>,
    losses: Vec<Loss>,
}

impl Stage {
    pub(super) async fn set(context: &Context, setup: Setup) -> Result<Self, ProofError> {
        let Setup { n_servers, capacity, rate_per_s, pass_ttl, presence_window, state } = setup;
        let redis = redis_server::Server::start(&[]);
        let site = Site::new(&context.folder)?.on_redis(&redis.url()).recording();
        let mut servers = Vec::with_capacity(n_servers);
        for n in 1..=n_servers {
            servers.push(site.start(&format!("server-{n}")).await?);
        }
        let (pass_ttl_s, presence_window_s) = (pass_ttl.as_secs(), presence_window.as_secs());
        let admission = json!({
            "capacity": capacity, "rate_per_s": rate_per_s, "pass_ttl_s": pass_ttl_s,
            "presence_window_s": presence_window_s, "state": state,
        });
        let sale = Sale::open(&site, &servers, &admission).await?;
        let terms = Terms {
            capacity,
            rate_per_s,
            tick: TICK,
            pass_ttl,
            presence_window,
            // A tick, and the delays of a busy machine and a shared SQLite file.
            saved_within: Duration::from_secs(2),
        };
        let parameters = BTreeMap::from([("servers", json!(n_servers)), ("admission", admission)]);
        let (context, directory, redis) = (context.clone(), Directory::of(&servers), Some(redis));
        let (killed, losses) = (Vec::new(), Vec::new());
        Ok(Self { context, servers, sale, redis, site, directory, terms, parameters, killed, losses })
    }

    pub(super) fn parameter(&mut self, name: &'static str, value: impl Into<Value>) {
        self.parameters.insert(name, value.into());
    }

    pub(super) fn redis(&self) -> &redis_server::Server {
        self.redis.as_ref().expect("there is always a Redis")
    }

    /// Starts a crowd.
    pub(super) fn gather(&mut self, n_people: usize, habits: &Habits) -> Result<Crowd, ProofError> {
        self.parameter("people", n_people);
        let tokens = self.site.mint(n_people)?;
        Ok(Crowd::gather(&self.directory, self.sale.performance(), tokens, habits, self.context.seed)?)
    }

    /// Waits until the whole crowd is done, or `at_most` has passed.
    pub(super) async fn until_over(&self, crowd: &Crowd, at_most: Duration) {
        let n_people = u64::try_from(crowd.size()).unwrap_or(u64::MAX);
        let over = || Progress::count(&crowd.progress.over) == n_people;
        self.watching(crowd, eventually(at_most, || async { over().then_some(()) })).await;
    }

    /// Waits for `something`, and reports the crowd's progress meanwhile.
    pub(super) async fn watching<T>(&self, crowd: &Crowd, something: impl Future<Output = T>) -> T {
        tokio::pin!(something);
        loop {
            if let Ok(done) = tokio::time::timeout(SAY_EVERY, &mut something).await {
                return done;
            }
            let Progress { joined, admitted, over, polls } = &*crowd.progress;
            let [joined, admitted, over, polls] = [joined, admitted, over, polls].map(Progress::count);
            let n_people = crowd.size();
            self.context.say(format_args!(
                "of {n_people} people {joined} joined, {admitted} are admitted, {over} are done; {polls} polls"
            ));
        }
    }

    /// Waits until at least so many people wait, and so many are active.
    pub(super) async fn until_full(&self, crowd: &Crowd, waiting: u64, active: u64) -> Result<(), ProofError> {
        const AT_MOST: Duration = Duration::from_secs(60);
        let full = eventually(AT_MOST, || async {
            let stats = self.sale.stats().await.ok()?;
            let reached = |name: &str, least| stats[name].as_u64().is_some_and(|count| count >= least);
            (reached("waiting", waiting) && reached("active", active)).then_some(())
        });
        let is_full = self.watching(crowd, full).await;
        is_full.ok_or(ProofError::NotReached("the line is long enough and the room full enough", AT_MOST.as_secs()))
    }

    /// How many people were admitted in the current epoch; `None` while the server does not answer.
    pub(super) async fn admitted_in_epoch(&self) -> Option<u64> {
        self.sale.stats().await.ok()?["admitted_total"].as_u64()
    }

    /// Waits until a new epoch has admitted `n_more` people; the last one had admitted `before`. If that never happens,
    /// the audit finds it.
    pub(super) async fn until_admission_goes_on(&self, crowd: &Crowd, before: u64, n_more: u64) {
        let is_new = AtomicBool::new(false);
        let goes_on = eventually(GOES_ON_WITHIN, || async {
            let admitted = self.admitted_in_epoch().await?;
            let is_new = is_new.fetch_or(admitted < before, Ordering::Relaxed) || admitted < before;
            (is_new && admitted >= n_more).then_some(())
        });
        self.watching(crowd, goes_on).await;
    }

    /// Kills a server (`kill -9`), and restarts it.
    pub(super) async fn kill_and_restart(&mut self, server: usize) -> Result<(), ProofError> {
        self.directory.note_life(server, 0);
        self.killed.push((ServerLife(self.servers[server].pid()), clock::now()));
        self.servers[server].kill()?;
        self.servers[server].restart().await?;
        self.directory.note_life(server, self.servers[server].pid());
        Ok(())
    }

    /// Loses the data of Redis in this way.
    pub(super) fn lose(&mut self, how: impl FnOnce(redis_server::Server) -> redis_server::Server) {
        let began = clock::now();
        self.redis = self.redis.take().map(how);
        self.losses.push(Loss { began, ended: clock::now() });
    }

    /// Stops the crowds, and audits what was recorded. People who are not done are a finding if `all` is
    /// [`Done::Everybody`].
    pub(super) async fn judge(mut self, crowds: Vec<Crowd>, all: Done) -> Result<(Verdict, Vec<Visit>), ProofError> {
        self.context.say("auditing");
        let mut visits = Vec::new();
        for crowd in crowds {
            visits.extend(crowd.disperse().await);
        }
        // No request is under way, so each history is complete.
        self.servers.clear();
        let mut verdict = Verdict::default();
        let history = self.history(&visits, &mut verdict)?;
        let watch = Stopwatch::start();
        let findings = audit::check(&history, &self.terms);
        verdict.figure("check_ms", watch.elapsed().as_secs_f64() * 1_000.0);
        tell(&mut verdict.findings, findings.contradictions);
        for (name, count) in [
            ("people", findings.n_people),
            ("answers", findings.n_told),
            ("grants", findings.n_grants),
            ("granted_again_after_a_loss", findings.n_granted_again),
            ("ran_out_unrecorded", findings.n_unrecorded),
            ("epochs", findings.n_epochs),
            ("servers_killed", self.killed.len()),
            ("losses", self.losses.len()),
        ] {
            verdict.count(name, count);
        }
        tell(&mut verdict.findings, visits.iter().flat_map(|visit| visit.refusals.iter().cloned()));
        let calls = || visits.iter().flat_map(|visit| &visit.calls);
        let n_calls = |status| calls().filter(|call| call.status == status).count();
        verdict.count("calls", calls().count());
        verdict.count("calls_without_answer", n_calls(None));
        verdict.count("calls_answered_503", n_calls(Some(StatusCode::SERVICE_UNAVAILABLE)));
        verdict.count("calls_answered_408", n_calls(Some(StatusCode::REQUEST_TIMEOUT)));
        verdict.count("calls_answered_429", n_calls(Some(StatusCode::TOO_MANY_REQUESTS)));
        let n_left = visits.iter().filter(|visit| !visit.is_over).count();
        verdict.count("people_not_done", n_left);
        if all == Done::Everybody && n_left > 0 {
            verdict.findings.push(format!("{n_left} people are not done"));
        }
        self.judge_losses(&history, &mut verdict);
        verdict.parameters = json!(self.parameters);
        Ok((verdict, visits))
    }

    fn history(&self, visits: &[Visit], verdict: &mut Verdict) -> Result<History, ProofError> {
        let (mut answers, mut n_torn) = (Vec::new(), 0);
        for path in self.site.histories()? {
            let recording = history::read(&path, self.sale.performance())?;
            answers.extend(recording.recorded);
            n_torn += recording.n_torn;
        }
        if n_torn > self.killed.len() {
            verdict.findings.push(format!("{n_torn} lines of histories are unreadable"));
        }
        let people = visits.iter().map(|visit| visit.person.clone()).collect();
        Ok(History { recorded: answers, people, killed: self.killed.clone(), losses: self.losses.clone() })
    }

    /// Checks that admission resumed in time after each loss.
    fn judge_losses(&self, history: &History, verdict: &mut Verdict) {
        if self.losses.is_empty() {
            return;
        }
        let told = history.people.iter().flat_map(|person| &person.told);
        let longest_poll = told.map(|told| told.poll_after).max().unwrap_or_default();
        let admitted = history.recorded.iter().filter(|recorded| matches!(recorded.answer, Answer::Admitted(_)));
        let mut admitted: Vec<_> = admitted.map(|recorded| recorded.ended).collect();
        admitted.sort_unstable();
        let mut longest = Duration::ZERO;
        for (n, loss) in self.losses.iter().enumerate() {
            let next = admitted.get(admitted.partition_point(|&at| at < loss.ended));
            match next {
                Some(next) => longest = longest.max(next.since(loss.ended)),
                None => verdict.findings.push(format!("no person is admitted after loss {}", n + 1)),
            }
        }
        verdict.figure("longest_poll_interval_s", longest_poll.as_secs_f64());
        verdict.figure("longest_without_admission_s", longest.as_secs_f64());
        if self.context.size == Size::Full && longest > BACK_WITHIN + longest_poll {
            verdict.findings.push(format!("no person is admitted for {longest:?} after a loss"));
        }
    }
}

/// Which people must be done when a proof ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Everybody,
    Nobody,
}

/// Adds findings, at most [`FINDINGS_MAX`] of each kind. Findings of a kind differ only in numbers.
fn tell(findings: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for finding in more {
        let kind = finding.split(|letter: char| letter.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
        let n_told = kinds.entry(kind).or_default();
        *n_told += 1;
        if *n_told <= FINDINGS_MAX {
            findings.push(finding);
        }
    }
    for (kind, count) in kinds {
        if count > FINDINGS_MAX {
            findings.push(format!("{count} findings of this kind: {kind}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Negative control of all proofs of the line: a broken promise of real servers reaches the verdict.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_that_admits_more_than_its_capacity_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { size: Size::Quick, seed: 1, folder: folder.path().to_owned(), name: "more-than-said" };
        let (pass_ttl, presence_window) = (Duration::from_secs(4), Duration::from_secs(6));
        let setup = Setup { n_servers: 2, capacity: 5, rate_per_s: 0, pass_ttl, presence_window, state: "open" };
        let mut stage = Stage::set(&context, setup).await.unwrap();
        stage.sale.patch(&json!({"capacity": 6})).await.unwrap();
        let habits = Habits {
            arrive_within: Duration::from_secs(1),
            stay_ms: 500..501,
            drop_percent: 0,
            expire_percent: 0,
            absent_percent: 0,
            absent_for: Duration::ZERO,
        };
        let crowd = stage.gather(20, &habits).unwrap();
        stage.until_over(&crowd, Duration::from_secs(60)).await;

        let (verdict, _) = stage.judge(vec![crowd], Done::Everybody).await.unwrap();

        let finds = |what: &str| verdict.findings.iter().any(|finding| finding.contains(what));
        assert!(finds("6 are inside at "), "{:?}", verdict.findings);
        assert!(verdict.findings.iter().all(|finding| finding.contains("are inside at ")), "{:?}", verdict.findings);
    }
}
