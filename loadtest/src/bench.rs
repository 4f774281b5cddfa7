//! The benchmarks: each measures its figure beside a control in the same run, so that the machine cancels out.
//! Judges nothing by itself but that every answer was the right one.

pub mod cpu;
pub mod crowd;
pub mod http;
pub mod line;
pub mod looks;
pub mod report;
pub mod seats;
pub mod seats_http;
pub mod stage;
pub mod wrk;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use wrk::Wrk;

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
const CONTROL: &str = "/healthz";

/// What benchmarks of the seats over HTTP need.
struct OverHttp<'a> {
    /// Where files go.
    folder: &'a Path,
    /// The load generator.
    wrk: &'a Wrk,
    /// How large the halls are.
    scale: Scale,
}

impl OverHttp<'_> {
    /// How long one run of the load is: short enough that the largest hall there may be has seats for three.
    const fn short_span(&self) -> Duration {
        match self.scale {
            Scale::Full => Duration::from_secs(2),
            Scale::Quick => Duration::from_secs(1),
        }
    }
}

/// How often each variant is run, in turn with the others; the median counts.
pub const RUNS: usize = 3;

/// Says what is being done.
pub fn progress(text: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "  {text} ..."));
}
