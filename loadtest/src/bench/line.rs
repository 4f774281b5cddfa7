//! Polls and joins of a line over HTTP. The control is a static route of the same server under the same load.

use std::time::Duration;

use reqwest::StatusCode;

use super::report::{Figure, Goal, median};
use super::stage::{Stage, site};
use super::wrk::{Asked, CONNECTIONS, Values};
use super::{CONTROL, Outcome, OverHttp, RUNS, Scale, progress};

/// The header that names a place.
pub const PLACE: &str = "Usher-Place";
/// Places that are polled as fast as they are answered. Each may be polled ten times a second, and some share the
/// counter of their rate limit.
pub const N_POLLING: u64 = 60_000;
const AUTHORIZATION: &str = "Authorization";
/// Accounts for one run: more than can join in it.
const N_JOINING: u64 = 500_000;

impl OverHttp<'_> {
    /// The length of one run of polls or joins.
    #[must_use]
    pub const fn span(&self) -> Duration {
        match self.scale {
            Scale::Full => Duration::from_secs(5),
            Scale::Quick => Duration::from_secs(1),
        }
    }

    /// Measures a line in the server's memory.
    ///
    /// # Errors
    /// If the server fails, or an answer is wrong.
    pub async fn line_in_memory(&self, figures: &mut Vec<Figure>) -> Outcome<()> {
        progress(&format!("a server with its line in memory; {N_POLLING} people join"));
        let stage = Stage::with_line(site(&self.folder.join("in-memory"))?).await?;
        let places = stage.join(usize::try_from(N_POLLING)?).await?;
        self.rates(&stage, "line in memory", &places, figures).await
    }

    /// Measures polls and joins, each beside the static route.
    ///
    /// # Errors
    /// If the server fails, or an answer is wrong.
    pub async fn rates(&self, stage: &Stage, store: &str, places: &[String], figures: &mut Vec<Figure>) -> Outcome<()> {
        progress(&format!("polls, {store}"));
        let values = self.wrk.values("places", PLACE, places)?;
        let (mut control, mut polls) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            control.push(self.ask(stage, &Asked::of("GET", CONTROL, &values, self.span())).await?.rate());
            polls.push(self.poll_rate(stage, &values).await?);
        }
        let poll = Figure::rate(format!("polls, {store}"), median(&polls), "1/s", median(&control));
        figures.push(poll.with_goal(Goal::RatioAtLeast(0.7)));

        progress(&format!("joins, {store}"));
        let each = usize::try_from(self.scale.people(N_JOINING))?.max(usize::try_from(N_JOINING / 5)?);
        let values = self.wrk.values("joining", AUTHORIZATION, &stage.mint(RUNS * each)?)?;
        let queue = stage.queue();
        let (mut control, mut joins, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..RUNS {
            let mine = run * each..(run + 1) * each;
            let control_of_mine = Asked { used: mine.clone(), ..Asked::of("GET", CONTROL, &values, self.span()) };
            control.push(self.ask(stage, &control_of_mine).await?.rate());
            let join = |used| Asked { used, ..Asked::of("POST", &queue, &values, self.span()) };
            let joined = self.expect(stage, "/queue", StatusCode::CREATED, &join(mine.clone())).await?;
            joins.push(joined.rate());
            // The last joins may still be on their way.
            let n_joined = usize::try_from(joined.requests)?;
            if n_joined + CONNECTIONS > each {
                return Err(format!("{each} accounts are too few for {n_joined} joins").into());
            }
            let had = mine.start..mine.start + n_joined.saturating_sub(CONNECTIONS).max(1);
            again.push(self.expect(stage, "/queue", StatusCode::OK, &join(had)).await?.rate());
        }
        let control = median(&control);
        let join = Figure::rate(format!("joins of new accounts, {store}"), median(&joins), "1/s", control);
        let again = Figure::rate(format!("joins of the same accounts again, {store}"), median(&again), "1/s", control);
        figures.extend([join.with_goal(Goal::RatioAtLeast(0.3)), again]);
        Ok(())
    }

    /// Polls of these places per second.
    ///
    /// # Errors
    /// If an answer is wrong.
    pub async fn poll_rate(&self, stage: &Stage, places: &Values) -> Outcome<f64> {
        Ok(self.ask(stage, &Asked::of("GET", &stage.queue(), places, self.span())).await?.rate())
    }
}
