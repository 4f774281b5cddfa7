//! The line over HTTP, beside a static route of the same server under the same load.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use usher_contract_tests::redis_server::Server as RedisServer;
use usher_kernel::Timestamp;
use usher_queue::ports::At;
use usher_queue::{Epoch, PlaceNumber};

use super::crowd::{Crowd, account};
use super::report::{Figure, Goal, median};
use super::stage::{Stage, site};
use super::wrk::{Answered, Asked, CONNECTIONS, Values, Wrk};
use super::{CONTROL, Outcome, RUNS, Scale, progress};
use crate::world::passes::Signer;
use crate::world::redis::{connect, watch};

const PLACE: &str = "Usher-Place";
const AUTHORIZATION: &str = "Authorization";
/// How many places poll as fast as they are answered. One may poll ten times a second, and some share the counter for that.
const N_POLLING: u64 = 60_000;
/// How many wait when what polls cost Redis is counted.
const N_WAITING: [u64; 2] = [10_000, 100_000];
/// How long each connection pauses between polls then, so that 10,000 places are polled some 20,000 times a second.
const PAUSE: Duration = Duration::from_millis(3);
/// More accounts than can join within one run.
const N_JOINING: u64 = 500_000;
/// What a million who wait may cost a server.
const MORE_MEMORY_MB: f64 = 64.0;
/// What polls may cost Redis, whatever the crowd: four ticks a second, and what each reads and merges.
const COMMANDS_PER_S: f64 = 100.0;

/// What all benchmarks over HTTP need.
pub struct Bench<'a> {
    /// Where files go.
    pub folder: &'a Path,
    /// The load generator.
    pub wrk: &'a Wrk,
    /// Where lines are that are not in memory.
    pub redis: &'a RedisServer,
    /// How large the crowds are.
    pub scale: Scale,
}

/// A server whose line is on Redis, and the people in it, whom the driver put there through the line's port.
struct Filled {
    stage: Stage,
    crowd: Crowd,
    signer: Signer,
}

impl Filled {
    /// A server with nobody in its line.
    async fn start(bench: &Bench<'_>, name: &str) -> Outcome<Self> {
        let url = bench.redis.url();
        let stage = Stage::with_line(site(&bench.folder.join(name))?.on_redis(&url)).await?;
        let mut connection = connect(&url)?;
        let performance = stage.sale.performance();
        let key = format!("usher:{{{performance}}}:line");
        let epoch: u64 = redis::cmd("HGET").arg(key).arg("epoch").query(&mut connection)?;
        let (seconds, _): (i64, i64) = redis::cmd("TIME").query(&mut connection)?;
        let now = Timestamp::from_unix_ms(seconds * 1_000);
        let crowd = Crowd::attach(&url, At { performance, epoch: Epoch::new(epoch), now }).await?;
        Ok(Self { signer: stage.signer(), stage, crowd })
    }

    /// Lets more people join, until so many wait and the server knows it.
    async fn fill(&mut self, n_people: u64) -> Outcome<()> {
        self.crowd.join_up_to(n_people).await?;
        self.stage.knows_waiting(n_people).await
    }

    /// The tokens of so many places, spread over all of them.
    fn places(&self, count: u64) -> Vec<String> {
        let every = (self.crowd.n_joined / count).max(1);
        let numbers = (1..=self.crowd.n_joined).step_by(usize::try_from(every).unwrap_or(1));
        numbers.map(|n| self.signer.place(PlaceNumber::new(n), account(n))).collect()
    }
}

impl Bench<'_> {
    /// All of them.
    ///
    /// # Errors
    /// If a server fails, or an answer is not the right one.
    pub async fn measure(&self, figures: &mut Vec<Figure>) -> Outcome<()> {
        progress(&format!("two servers with their lines on Redis, {N_POLLING} people waiting at one"));
        let mut few = Filled::start(self, "on-redis").await?;
        few.fill(N_POLLING).await?;
        self.crowds(&few, figures).await?;
        self.rates(&few.stage, "line on Redis", &few.places(N_POLLING), figures).await?;
        drop(few);

        progress(&format!("a server with its line in memory; {N_POLLING} people join"));
        let stage = Stage::with_line(site(&self.folder.join("in-memory"))?).await?;
        let places = stage.join(usize::try_from(N_POLLING)?).await?;
        self.rates(&stage, "line in memory", &places, figures).await
    }

    /// How long one run of the load is.
    const fn span(&self) -> Duration {
        match self.scale {
            Scale::Full => Duration::from_secs(5),
            Scale::Quick => Duration::from_secs(1),
        }
    }

    /// What a growing crowd costs a server and its Redis; `few` is the server with a small crowd.
    async fn crowds(&self, few: &Filled, figures: &mut Vec<Figure>) -> Outcome<()> {
        let (thousand, million) = (1_000, self.scale.people(1_000_000));
        let mut many = Filled::start(self, "a-million").await?;

        // Connections have their buffers, and each place was seen, before memory is compared.
        many.fill(thousand).await?;
        let places = many.places(thousand);
        many.stage.poll(&places).await?;
        let values = self.wrk.values("thousand", PLACE, &places)?;
        self.ask(&many.stage, "GET", CONTROL, &values, 0..values.count).await?;
        let few_bytes = many.stage.server.resident_bytes()?;

        let mut control = None;
        for n_people in N_WAITING.map(|n_people| self.scale.people(n_people)) {
            progress(&format!("commands that Redis receives while {n_people} people wait and poll"));
            many.fill(n_people).await?;
            let received = self.commands_per_s(&many).await?;
            let name = format!("commands to Redis a second under polls, {n_people} waiting");
            let figure = match control {
                None => Figure::alone(name, received, "1/s"),
                Some(control) => Figure::rate(name, received, "1/s", control),
            };
            figures.push(figure.with_goal(Goal::AtMost(COMMANDS_PER_S)));
            control = Some(received);
        }

        progress(&format!("{million} people join; polls beside those of {}", few.crowd.n_joined));
        many.fill(million).await?;
        let places = [few, &many].map(|line| line.places(N_POLLING));
        let few_values = self.wrk.values("few", PLACE, &places[0])?;
        let many_values = self.wrk.values("many", PLACE, &places[1])?;
        let (mut few_rates, mut many_rates) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            few_rates.push(self.poll_rate(&few.stage, &few_values).await?);
            many_rates.push(self.poll_rate(&many.stage, &many_values).await?);
        }
        let many_bytes = many.stage.server.resident_bytes()?;
        let name = format!("polls, {million} waiting (control: {} waiting)", few.crowd.n_joined);
        figures.push(Figure::rate(name, median(&many_rates), "1/s", median(&few_rates)));
        let name = format!("memory that usher needs more for {million} waiting (control: all of it for {thousand})");
        let mut memory = Figure::alone(name, mb(many_bytes) - mb(few_bytes), "MB");
        memory.control = Some(mb(few_bytes));
        figures.push(memory.with_goal(Goal::AtMost(MORE_MEMORY_MB)));
        Ok(())
    }

    /// Polls, and counts what Redis receives meanwhile, from the server alone.
    async fn commands_per_s(&self, line: &Filled) -> Outcome<f64> {
        let values = self.wrk.values("polling", PLACE, &line.places(N_WAITING[0]))?;
        let span = 2 * self.span();
        let (url, queue) = (line.stage.url(), line.stage.queue());
        let asked = Asked {
            url: &url,
            method: "GET",
            path: &queue,
            values: &values,
            used: 0..values.count,
            connections: CONNECTIONS,
            is_refused: false,
            pause: PAUSE,
            // The load lasts longer than the counting.
            span: span + Duration::from_secs(1),
        };
        let counting = async { Ok(watch(&self.redis.url(), span).await?) };
        let (_, watched) = tokio::try_join!(self.wrk.run(&asked), counting)?;
        Ok(watched.direct_per_s())
    }

    /// Polls and joins beside the static route.
    async fn rates(&self, stage: &Stage, store: &str, places: &[String], figures: &mut Vec<Figure>) -> Outcome<()> {
        progress(&format!("polls, {store}"));
        let values = self.wrk.values("places", PLACE, places)?;
        let (mut control, mut polls) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            control.push(self.ask(stage, "GET", CONTROL, &values, 0..values.count).await?.rate());
            polls.push(self.poll_rate(stage, &values).await?);
        }
        let poll = Figure::rate(format!("polls, {store}"), median(&polls), "1/s", median(&control));
        figures.push(poll.with_goal(Goal::RatioAtLeast(0.7)));

        progress(&format!("joins, {store}"));
        let each = usize::try_from(self.scale.people(N_JOINING))?.max(usize::try_from(N_JOINING / 5)?);
        let values = self.wrk.values("joining", AUTHORIZATION, &stage.mint(RUNS * each)?)?;
        let (mut control, mut joins, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..RUNS {
            let mine = run * each..(run + 1) * each;
            control.push(self.ask(stage, "GET", CONTROL, &values, mine.clone()).await?.rate());
            let joined = self.join(stage, &values, mine.clone(), StatusCode::CREATED).await?;
            joins.push(joined.rate());
            // The last ones may be on their way still.
            let n_joined = usize::try_from(joined.requests)?;
            if n_joined + CONNECTIONS > each {
                return Err(format!("{each} accounts are too few for {n_joined} joins").into());
            }
            let had = mine.start..mine.start + n_joined.saturating_sub(CONNECTIONS).max(1);
            again.push(self.join(stage, &values, had, StatusCode::OK).await?.rate());
        }
        let control = median(&control);
        let join = Figure::rate(format!("joins of new accounts, {store}"), median(&joins), "1/s", control);
        let again = Figure::rate(format!("joins of the same accounts again, {store}"), median(&again), "1/s", control);
        figures.extend([join.with_goal(Goal::RatioAtLeast(0.3)), again]);
        Ok(())
    }

    async fn poll_rate(&self, stage: &Stage, values: &Values) -> Outcome<f64> {
        Ok(self.ask(stage, "GET", &stage.queue(), values, 0..values.count).await?.rate())
    }

    /// Joins, which must be answered with one status.
    async fn join(&self, stage: &Stage, values: &Values, used: Range<usize>, status: StatusCode) -> Outcome<Answered> {
        let others_before = stage.answered("POST", "/queue", |answered| answered != status).await?;
        let answered = self.ask(stage, "POST", &stage.queue(), values, used).await?;
        let n_others = stage.answered("POST", "/queue", |answered| answered != status).await? - others_before;
        // Those of the run before that were on their way at its end may be answered now.
        if n_others > CONNECTIONS as u64 {
            return Err(format!("{n_others} joins were not answered {status}").into());
        }
        Ok(answered)
    }

    async fn ask(
        &self,
        stage: &Stage,
        method: &'static str,
        path: &str,
        values: &Values,
        used: Range<usize>,
    ) -> Outcome<Answered> {
        let (url, pause, span) = (stage.url(), Duration::ZERO, self.span());
        let (connections, is_refused) = (CONNECTIONS, false);
        self.wrk.run(&Asked { url: &url, method, path, values, used, connections, is_refused, pause, span }).await
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one process are far below 2^52")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
