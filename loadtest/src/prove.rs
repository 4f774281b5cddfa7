//! The proofs: what a line keeps whatever happens to its servers and its Redis, under crowds, each run held against the
//! history that was recorded of it; and what the seats keep, whatever happens to their database.

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

/// How large a proof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As large as its figures are told.
    Full,
    /// A few hundred people and some seconds, for machines that do something else besides: time is told, not judged.
    Quick,
}

/// Why a proof could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A server failed to run.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The sale could not be opened.
    #[error(transparent)]
    Sale(#[from] SaleError),
    /// A file or a connection failed.
    #[error("a file or a connection failed")]
    Io(#[from] io::Error),
    /// Redis could not be asked.
    #[error("Redis could not be asked")]
    Redis(#[from] redis::RedisError),
    /// There is no HTTP client.
    #[error("there is no HTTP client")]
    Http(#[from] reqwest::Error),
    /// What has to be there before the proof begins did not come about.
    #[error("{0}: not within {1} s")]
    NotReached(&'static str, u64),
}

/// What a proof is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// How large it is.
    pub size: Size,
    /// What decides who does what, and when.
    pub seed: u64,
    /// Where its files go.
    pub folder: PathBuf,
    /// The proof's name.
    pub name: &'static str,
}

impl Context {
    /// The larger or the smaller of two values.
    fn sized<T>(&self, full: T, quick: T) -> T {
        match self.size {
            Size::Full => full,
            Size::Quick => quick,
        }
    }

    /// Tells whoever waits for the proof how far it is.
    fn say(&self, what: impl fmt::Display) {
        // Nobody may be there to be told.
        writeln!(io::stderr(), "{}: {what}", self.name).unwrap_or_default();
    }
}

/// What a proof found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What it was run with.
    pub parameters: Value,
    /// Everything that is not as it was promised.
    pub findings: Vec<String>,
    /// What was measured.
    pub figures: BTreeMap<String, f64>,
}

impl Verdict {
    fn figure(&mut self, name: impl Into<String>, value: impl Into<f64>) {
        self.figures.insert(name.into(), value.into());
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Verdict, ProofError>> + Send>>;

/// A proof.
pub struct Proof {
    /// Its name.
    pub name: &'static str,
    /// What it proves.
    pub about: &'static str,
    run: fn(Context) -> Running,
}

/// Every proof.
pub const PROOFS: &[Proof] = &[
    Proof {
        name: "four-servers",
        about: "four servers on one Redis admit a crowd in order, within capacity and rate, everybody once",
        run: |context| Box::pin(line::four_servers(context)),
    },
    Proof {
        name: "killed-servers",
        about: "the same while servers are killed and come back",
        run: |context| Box::pin(line::killed_servers(context)),
    },
    Proof {
        name: "flushed",
        about: "the same while Redis is emptied under them",
        run: |context| Box::pin(line::flushed(context)),
    },
    Proof {
        name: "redis-killed",
        about: "the same while Redis is killed and comes back empty",
        run: |context| Box::pin(line::redis_killed(context)),
    },
    Proof {
        name: "failover",
        about: "the same while an old copy takes Redis' place",
        run: |context| Box::pin(line::failover(context)),
    },
    Proof {
        name: "redis-stopped",
        about: "polls are answered and joins refused at once while Redis answers nobody; then all goes on by itself",
        run: |context| Box::pin(line::redis_stopped(context)),
    },
    Proof {
        name: "monitor",
        about: "no command grows with the line, and no script holds Redis up",
        run: |context| Box::pin(line::monitor(context)),
    },
    Proof {
        name: "quiet-polls",
        about: "people who wait and poll cost Redis nothing, however many they are",
        run: |context| Box::pin(line::quiet_polls(context)),
    },
    Proof {
        name: "seat-rush",
        about: "two servers on one database sell each seat once, and refuse nobody while seats are free",
        run: |context| Box::pin(seats::seat_rush(context)),
    },
    Proof {
        name: "database-killed",
        about: "what buyers were told stands, however often the database is killed",
        run: |context| Box::pin(seats::database_killed(context)),
    },
    Proof {
        name: "aborted-holds",
        about: "who hangs up in the middle of a hold costs nobody else a purchase, and no server a connection",
        run: |context| Box::pin(seats::aborted_holds(context)),
    },
    Proof {
        name: "database-frozen",
        about: "a database that stands still is refused for, and used again by all soon after it goes on",
        run: |context| Box::pin(seats::database_frozen(context)),
    },
    Proof {
        name: "sweepers",
        about: "writers and sweepers of the same few seats are never told of a deadlock",
        run: |context| Box::pin(seats::sweepers(context)),
    },
];

impl Proof {
    /// Runs it in a folder that is emptied first.
    ///
    /// # Errors
    /// It could not be run.
    pub async fn run(&self, size: Size, seed: u64, folder: PathBuf) -> Result<Verdict, ProofError> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&folder)?,
        }
        (self.run)(Context { size, seed, folder, name: self.name }).await
    }

    /// Runs it, and answers whether it holds, and what is to be told of it.
    pub async fn report(&self, size: Size, seed: u64, folder: PathBuf) -> (bool, Value) {
        let watch = Stopwatch::start();
        let verdict = self.run(size, seed, folder).await.unwrap_or_else(|error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let findings = causes.map(|cause| format!("could not be run: {cause}")).collect();
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
