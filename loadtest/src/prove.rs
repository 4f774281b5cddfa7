//! Proofs: the promises of the line under crowds while its servers and its Redis fail, audited against the recorded
//! history; and the promises of the seats while their database fails.

mod line;
mod seats;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::{fmt, fs};

use serde_json::{Value, json};

use crate::world::clock::Stopwatch;
use crate::world::sale::SaleError;
use crate::world::servers::ServerError;

/// The size of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Full size, as in docs/PERFORMANCE.md: minutes.
    Full,
    /// A few hundred people and some seconds, for busy machines: reports times without judging them.
    Quick,
}

/// Why a proof could not run.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A server or a command of `usher` failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The sale could not be opened.
    #[error(transparent)]
    Sale(#[from] SaleError),
    /// A file or a connection failed.
    #[error("a file or a connection failed")]
    Io(#[from] io::Error),
    /// A command to Redis failed.
    #[error("a command to Redis failed")]
    Redis(#[from] redis::RedisError),
    /// An HTTP client could not be set up, or a request failed.
    #[error("an HTTP request failed")]
    Http(#[from] reqwest::Error),
    /// A precondition of the proof was not reached.
    #[error("not reached within {1} s: {0}")]
    NotReached(&'static str, u64),
}

/// The parameters of a proof.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its size.
    pub size: Size,
    /// Seed of all random decisions.
    pub seed: u64,
    /// The folder for its files.
    pub folder: PathBuf,
    /// Its name.
    pub name: &'static str,
}

impl Context {
    /// The value for this size.
    fn sized<T>(&self, full: T, quick: T) -> T {
        match self.size {
            Size::Full => full,
            Size::Quick => quick,
        }
    }

    /// Reports progress on standard error.
    fn say(&self, what: impl fmt::Display) {
        // If standard error is closed, the report is lost.
        writeln!(io::stderr(), "{}: {what}", self.name).unwrap_or_default();
    }
}

/// The result of a proof.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Its parameters.
    pub parameters: Value,
    /// Every broken promise; the proof holds if there is none.
    pub findings: Vec<String>,
    /// What it measured.
    pub figures: BTreeMap<String, f64>,
}

impl Verdict {
    fn figure(&mut self, name: impl Into<String>, value: impl Into<f64>) {
        self.figures.insert(name.into(), value.into());
    }

    fn count(&mut self, name: impl Into<String>, count: impl TryInto<u32>) {
        self.figure(name, count.try_into().unwrap_or(u32::MAX));
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Verdict, ProofError>> + Send>>;

/// A proof.
pub struct Proof {
    /// Its name.
    pub name: &'static str,
    /// What it proves, in a line.
    pub about: &'static str,
    run: fn(Context) -> Running,
}

/// All proofs.
pub const PROOFS: &[Proof] = &[
    Proof {
        name: "four-servers",
        about: "four servers on one Redis admit a crowd in order, within capacity and rate, each person once",
        run: |context| Box::pin(line::four_servers(context)),
    },
    Proof {
        name: "killed-servers",
        about: "the line keeps its promises while servers are killed and restarted",
        run: |context| Box::pin(line::killed_servers(context)),
    },
    Proof {
        name: "flushed",
        about: "the line keeps its promises while Redis is emptied (FLUSHALL)",
        run: |context| Box::pin(line::flushed(context)),
    },
    Proof {
        name: "redis-killed",
        about: "the line keeps its promises while Redis is killed and restarts empty",
        run: |context| Box::pin(line::redis_killed(context)),
    },
    Proof {
        name: "failover",
        about: "the line keeps its promises while a stale replica takes over from Redis",
        run: |context| Box::pin(line::failover(context)),
    },
    Proof {
        name: "redis-stopped",
        about: "while Redis is paused, polls are answered and joins refused at once; then the line resumes by itself",
        run: |context| Box::pin(line::redis_stopped(context)),
    },
    Proof {
        name: "monitor",
        about: "no Redis command grows with the line, and no script blocks Redis for long",
        run: |context| Box::pin(line::monitor(context)),
    },
    Proof {
        name: "quiet-polls",
        about: "polls of waiting people send no command to Redis, however many people poll",
        run: |context| Box::pin(line::quiet_polls(context)),
    },
    Proof {
        name: "seat-rush",
        about: "two servers on one database sell each seat once, and refuse no buyer while seats are free",
        run: |context| Box::pin(seats::seat_rush(context)),
    },
    Proof {
        name: "database-killed",
        about: "acknowledged purchases survive, however often the database is killed",
        run: |context| Box::pin(seats::database_killed(context)),
    },
    Proof {
        name: "aborted-holds",
        about: "a client that disconnects during a hold costs no other buyer a purchase, and no server a connection",
        run: |context| Box::pin(seats::aborted_holds(context)),
    },
    Proof {
        name: "database-frozen",
        about: "requests are refused while the database is paused, and served soon after it resumes",
        run: |context| Box::pin(seats::database_frozen(context)),
    },
    Proof {
        name: "sweepers",
        about: "no client sees a deadlock while writers and sweepers contend for the same seats",
        run: |context| Box::pin(seats::sweepers(context)),
    },
];

impl Proof {
    /// Runs the proof in this folder, which is emptied first.
    ///
    /// # Errors
    /// The proof could not run.
    pub async fn run(&self, size: Size, seed: u64, folder: PathBuf) -> Result<Verdict, ProofError> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&folder)?,
        }
        (self.run)(Context { size, seed, folder, name: self.name }).await
    }

    /// Runs the proof, and returns whether it holds, with its report.
    pub async fn report(&self, size: Size, seed: u64, folder: PathBuf) -> (bool, Value) {
        let watch = Stopwatch::start();
        let verdict = self.run(size, seed, folder).await.unwrap_or_else(|error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let findings = causes.map(|cause| format!("could not run: {cause}")).collect();
            Verdict { findings, ..Verdict::default() }
        });
        let holds = verdict.findings.is_empty();
        let report = json!({
            "name": self.name, "about": self.about, "parameters": verdict.parameters, "seed": seed, "passed": holds,
            "findings": verdict.findings, "figures": verdict.figures, "seconds": watch.elapsed().as_secs(),
        });
        (holds, report)
    }
}
