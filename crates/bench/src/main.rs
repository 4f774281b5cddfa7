//! The benchmarks of ports and scripts, which link app and adapters, and of what is held against them over HTTP. Measures;
//! never part of a server.
//!
//! Prints a table, and writes `target/bench.json`.

mod crowd;
mod line;
mod line_over_http;
mod seats;
mod seats_over_http;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use usher_loadtest::bench::report::{Figure, json, table};
use usher_loadtest::bench::wrk::Wrk;
use usher_loadtest::bench::{Outcome, OverHttp, Scale};
use usher_loadtest::world::redis::{connect, version};
use usher_test_servers::redis_server::Server;

use crate::line_over_http::Bench;

/// Measures Usher beside a control in the same run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Only this part; otherwise all.
    #[arg(long)]
    part: Option<Part>,
    /// Small crowds and short runs, to see that it works: the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Where the figures go.
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The line: on Redis, and over HTTP.
    Line,
    /// The seats: on SQLite, MariaDB, and MySQL where there is its image; at the port, and over HTTP.
    Seats,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // What was started ends when its owner is dropped, so a signal must come back to here.
    let (mut figures, mut head) = (Vec::new(), String::new());
    let result = tokio::select! {
        result = measure(&cli, &mut head, &mut figures) => result,
        result = interrupted() => result,
    };
    match result.and(publish(&cli.json, &head, &figures)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error gone there is nobody left to tell.
            drop(writeln!(io::stderr(), "bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Completes when somebody wants the run to end.
async fn interrupted() -> Outcome<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err("stopped by a signal".into())
}

/// Runs what is asked for. `head` says what the figures are of.
async fn measure(cli: &Cli, head: &mut String, figures: &mut Vec<Figure>) -> Outcome<()> {
    let scale = if cli.quick { Scale::Quick } else { Scale::Full };
    let folder = tempfile::tempdir()?;
    // What is missing is told before minutes went by.
    let wrk = Wrk::new(folder.path())?;
    let over_http = OverHttp { folder: folder.path(), wrk: &wrk, scale };
    if cli.part.is_none_or(|part| part == Part::Line) {
        let redis = Server::start(&[]);
        *head = machine(&redis)?;
        figures.extend(line::admission(&redis, scale).await?);
        figures.extend(line::million(&redis, scale).await?);
        Bench { over_http: &over_http, redis: &redis }.measure(figures).await?;
        over_http.line_in_memory(figures).await?;
    }
    if cli.part.is_none_or(|part| part == Part::Seats) {
        *head = [head.as_str(), &seats::machine()?].join("\n").trim().to_owned();
        // In a box: the compiler follows futures within futures only so deep.
        Box::pin(seats::measure(&over_http, figures)).await?;
    }
    Ok(())
}

/// Writes the figures to where they are asked for, of a run that failed those that it came to.
fn publish(file: &Path, head: &str, figures: &[Figure]) -> Outcome<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, json(figures)?)?;
    let mut out = io::stdout();
    writeln!(out, "\n{head}\n\n{}", table(figures))?;
    writeln!(out, "also in {}", file.display())?;
    Ok(())
}

/// What the figures are of.
fn machine(redis: &Server) -> Outcome<String> {
    let n_cores = std::thread::available_parallelism()?;
    let version = version(&mut connect(&redis.url())?)?;
    Ok(format!(
        "{n_cores} cores, shared by servers, {version} and the load; each figure is beside its control of the same run"
    ))
}
