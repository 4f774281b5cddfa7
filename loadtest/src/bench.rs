//! The benchmarks: each measures its figure beside a control in the same run, so that the machine cancels out.
//! Judges nothing by itself but that every answer was the right one.

pub mod cpu;
pub mod holds;
pub mod line;
pub mod looks;
pub mod report;
pub mod stage;
pub mod wrk;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use stage::Stage;
use wrk::{Answered, Asked, Wrk};

/// What a benchmark comes back with; the error ends the run.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How large the crowds are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As the goals say: minutes.
    Full,
    /// A tenth of it, and short runs: to see that it works.
    Quick,
}

impl Scale {
    /// A number of people at this scale.
    #[must_use]
    pub const fn people(self, full: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Quick => full / 10,
        }
    }
}

/// The route that does nothing, behind everything that all routes are behind.
pub const CONTROL: &str = "/healthz";

/// What all benchmarks over HTTP need.
pub struct OverHttp<'a> {
    /// Where files go.
    pub folder: &'a Path,
    /// The load generator.
    pub wrk: &'a Wrk,
    /// How large the crowds are.
    pub scale: Scale,
}

impl OverHttp<'_> {
    /// How long one run of the load on the seats is: short enough that the largest hall there may be has seats for three.
    #[must_use]
    pub const fn short_span(&self) -> Duration {
        match self.scale {
            Scale::Full => Duration::from_secs(2),
            Scale::Quick => Duration::from_secs(1),
        }
    }

    /// Asks a server for as long as told, as fast as it answers.
    ///
    /// # Errors
    /// If anything but the right answers came back.
    pub async fn ask(&self, stage: &Stage, asked: &Asked<'_>) -> Outcome<Answered> {
        self.wrk.run(&stage.url(), asked).await
    }

    /// The same, where every answer is to have one status; `route_ends` as in [`Stage::answered`].
    ///
    /// # Errors
    /// If anything else came back.
    pub async fn expect(
        &self,
        stage: &Stage,
        route_ends: &str,
        status: StatusCode,
        asked: &Asked<'_>,
    ) -> Outcome<Answered> {
        let others = || stage.answered(asked.method, route_ends, |answered| answered != status);
        let others_before = others().await?;
        let answered = self.ask(stage, asked).await?;
        let n_others = others().await? - others_before;
        // Those of the run before that were on their way at its end may be answered now.
        if n_others > asked.connections as u64 {
            return Err(format!("{} {}: {n_others} answers were not {status}", asked.method, asked.path).into());
        }
        Ok(answered)
    }
}

/// How often each variant is run, in turn with the others; the median counts.
pub const RUNS: usize = 3;

/// Says what is being done.
pub fn progress(text: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "  {text} ..."));
}
