//! Servers whose lines on Redis hold large crowds: commands to Redis, polls and memory. The crowds are put into the
//! lines through the port, and polled over HTTP.

use std::time::Duration;

use usher_kernel::Timestamp;
use usher_loadtest::bench::line::{N_POLLING, PLACE};
use usher_loadtest::bench::report::{Figure, Goal, median};
use usher_loadtest::bench::stage::{Stage, site};
use usher_loadtest::bench::wrk::Asked;
use usher_loadtest::bench::{CONTROL, Outcome, OverHttp, RUNS, progress};
use usher_loadtest::world::passes::Signer;
use usher_loadtest::world::redis::{connect, watch};
use usher_queue::ports::At;
use usher_queue::{Epoch, PlaceNumber};
use usher_test_servers::redis_server::Server as RedisServer;

use crate::crowd::{Crowd, account};

/// People waiting while commands to Redis are counted.
const N_WAITING: [u64; 2] = [10_000, 100_000];
/// Pause of each connection between polls while commands are counted: some 20,000 polls a second of 10,000 places.
const PAUSE: Duration = Duration::from_millis(3);
/// Most memory that a server may need for a million waiting people.
const MORE_MEMORY_MB: f64 = 64.0;
/// Most commands to Redis per second under polls, for any crowd: four ticks a second with their reads and merges.
const COMMANDS_PER_S: f64 = 100.0;

/// The context of the benchmarks of the line on Redis over HTTP.
pub(crate) struct Bench<'a> {
    /// The driver.
    pub(crate) over_http: &'a OverHttp<'a>,
    /// The Redis of the lines.
    pub(crate) redis: &'a RedisServer,
}

/// A server with its line on Redis, and a crowd that was put there through the port.
struct Filled {
    stage: Stage,
    crowd: Crowd,
    signer: Signer,
}

impl Filled {
    /// Starts a server with an empty line.
    async fn start(bench: &Bench<'_>, name: &str) -> Outcome<Self> {
        let url = bench.redis.url();
        let stage = Stage::with_line(site(&bench.over_http.folder.join(name))?.on_redis(&url)).await?;
        let mut connection = connect(&url)?;
        let performance = stage.sale.performance();
        let key = format!("usher:{{{performance}}}:line");
        let epoch: u64 = redis::cmd("HGET").arg(key).arg("epoch").query(&mut connection)?;
        let (seconds, _): (i64, i64) = redis::cmd("TIME").query(&mut connection)?;
        let now = Timestamp::from_unix_ms(seconds * 1_000);
        let crowd = Crowd::attach(&url, At { performance, epoch: Epoch::new(epoch), now }).await?;
        Ok(Self { signer: stage.signer(), stage, crowd })
    }

    /// Joins more people, up to `n_people`, and waits until the server counts them.
    async fn fill(&mut self, n_people: u64) -> Outcome<()> {
        self.crowd.join_up_to(n_people).await?;
        self.stage.knows_waiting(n_people).await
    }

    /// Tokens of `count` places, spread evenly over the line.
    fn places(&self, count: u64) -> Vec<String> {
        let every = (self.crowd.n_joined / count).max(1);
        let numbers = (1..=self.crowd.n_joined).step_by(usize::try_from(every).unwrap_or(1));
        numbers.map(|n| self.signer.place(PlaceNumber::new(n), account(n))).collect()
    }
}

impl Bench<'_> {
    /// Runs all these benchmarks.
    ///
    /// # Errors
    /// If a server fails, or an answer is wrong.
    pub(crate) async fn measure(&self, figures: &mut Vec<Figure>) -> Outcome<()> {
        progress(&format!("two servers with their lines on Redis, {N_POLLING} people waiting at one"));
        let mut few = Filled::start(self, "on-redis").await?;
        few.fill(N_POLLING).await?;
        self.crowds(&few, figures).await?;
        self.over_http.rates(&few.stage, "line on Redis", &few.places(N_POLLING), figures).await
    }

    /// Measures a server and its Redis as its crowd grows; `few` is a server with a small crowd.
    async fn crowds(&self, few: &Filled, figures: &mut Vec<Figure>) -> Outcome<()> {
        let (thousand, million) = (1_000, self.over_http.scale.people(1_000_000));
        let mut many = Filled::start(self, "a-million").await?;

        // Before memory is compared, each place is polled and each connection has its buffers.
        many.fill(thousand).await?;
        let places = many.places(thousand);
        many.stage.poll(&places).await?;
        let values = self.over_http.wrk.values("thousand", PLACE, &places)?;
        self.over_http.ask(&many.stage, &Asked::of("GET", CONTROL, &values, self.over_http.span())).await?;
        let few_bytes = many.stage.server.resident_bytes()?;

        let mut control = None;
        for n_people in N_WAITING.map(|n_people| self.over_http.scale.people(n_people)) {
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
        let few_values = self.over_http.wrk.values("few", PLACE, &places[0])?;
        let many_values = self.over_http.wrk.values("many", PLACE, &places[1])?;
        let (mut few_rates, mut many_rates) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            few_rates.push(self.over_http.poll_rate(&few.stage, &few_values).await?);
            many_rates.push(self.over_http.poll_rate(&many.stage, &many_values).await?);
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

    /// Commands per second that Redis receives from servers while places are polled.
    async fn commands_per_s(&self, line: &Filled) -> Outcome<f64> {
        let values = self.over_http.wrk.values("polling", PLACE, &line.places(N_WAITING[0]))?;
        let span = 2 * self.over_http.span();
        let queue = line.stage.queue();
        // Longer than the count.
        let polls = Asked::of("GET", &queue, &values, span + Duration::from_secs(1));
        let polls = Asked { pause: PAUSE, ..polls };
        let counting = async { Ok(watch(&self.redis.url(), span).await?) };
        let (_, watched) = tokio::try_join!(self.over_http.ask(&line.stage, &polls), counting)?;
        Ok(watched.direct_per_s())
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one process are far below 2^52")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
