//! Benchmarks over HTTP. Each figure is measured beside a control in the same run, so that the speed of the machine
//! cancels out. A run fails if one answer is wrong.

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

/// The result of a benchmark; an error ends the run.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Full size, as the goals assume: minutes.
    Full,
    /// A tenth of it, in short runs: shows that the benchmarks work; the figures mean nothing.
    Quick,
}

impl Scale {
    /// A number of people, scaled.
    #[must_use]
    pub const fn people(self, full: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Quick => full / 10,
        }
    }
}

/// The control: a route with an empty handler behind the same middleware as all others.
pub const CONTROL: &str = "/healthz";

/// The context of every benchmark over HTTP.
pub struct OverHttp<'a> {
    /// The folder for its files.
    pub folder: &'a Path,
    /// The load generator.
    pub wrk: &'a Wrk,
    /// The size of the run.
    pub scale: Scale,
}

impl OverHttp<'_> {
    /// The length of one run of requests for seats: short enough that the largest hall has seats for three.
    #[must_use]
    pub const fn short_span(&self) -> Duration {
        match self.scale {
            Scale::Full => Duration::from_secs(2),
            Scale::Quick => Duration::from_secs(1),
        }
    }

    /// Loads a server.
    ///
    /// # Errors
    /// If anything but the right answers came back.
    pub async fn ask(&self, stage: &Stage, asked: &Asked<'_>) -> Outcome<Answered> {
        self.wrk.run(&stage.url(), asked).await
    }

    /// Loads a server whose every answer must have this status; `route_ends` as in [`Stage::answered`].
    ///
    /// # Errors
    /// If another answer came back.
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
        // Requests that the last run left on their way may be answered in this one.
        if n_others > asked.connections as u64 {
            return Err(format!("{} {}: {n_others} answers are not {status}", asked.method, asked.path).into());
        }
        Ok(answered)
    }
}

/// Runs of each variant, in turn with the others; the median counts.
pub const RUNS: usize = 3;

/// Reports the current step on standard error.
pub fn progress(text: &str) {
    // If standard error is closed, the report is lost.
    drop(writeln!(io::stderr(), "  {text} ..."));
}
