//! The benchmarks: ports and Redis scripts measured in this process, servers measured over HTTP. Links app and
//! adapters, so that the driver need not; never part of a server.
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
use crate::seats::Engine;

/// Measures Usher, each figure beside a control of the same run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Run only this part; all parts by default.
    #[arg(long)]
    part: Option<Part>,
    /// Run with small crowds and for a short time, to check that everything works: the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The line: on Redis, and over HTTP.
    Line,
    /// The seats: on SQLite, on MariaDB, and on MySQL if its image is present; at the port, and over HTTP.
    Seats,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Servers end when their owners are dropped, so a signal must return from here instead of ending the process.
    let (mut figures, mut head) = (Vec::new(), String::new());
    let result = tokio::select! {
        result = measure(&cli, &mut head, &mut figures) => result,
        result = interrupted() => result,
    };
    match result.and(publish(&cli.json, &head, &figures)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, the message is lost.
            drop(writeln!(io::stderr(), "bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Completes on SIGTERM and SIGINT.
async fn interrupted() -> Outcome<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err("stopped by a signal".into())
}

/// Runs the chosen parts. Adds their conditions to `head`, the text above the table.
async fn measure(cli: &Cli, head: &mut String, figures: &mut Vec<Figure>) -> Outcome<()> {
    let scale = if cli.quick { Scale::Quick } else { Scale::Full };
    let folder = tempfile::tempdir()?;
    // A missing wrk is reported now, not after minutes.
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
        let sqlite = Engine::sqlite(folder.path());
        // Boxed: the compiler limits the depth of nested futures.
        Box::pin(sqlite.measure(scale, figures)).await?;
        over_http.looks(figures).await?;
        Box::pin(seats_over_http::measure(&over_http, &sqlite, figures)).await?;
        measure_seats(&over_http, Some(Engine::mariadb().await), figures).await?;
        measure_seats(&over_http, Engine::mysql().await, figures).await?;
    }
    Ok(())
}

/// Measures the seats on a database server, and stops the server.
async fn measure_seats(over_http: &OverHttp<'_>, engine: Option<Engine>, figures: &mut Vec<Figure>) -> Outcome<()> {
    let Some(engine) = engine else { return Ok(()) };
    Box::pin(engine.measure(over_http.scale, figures)).await?;
    Box::pin(seats_over_http::measure(over_http, &engine, figures)).await
}

/// Prints and writes the figures. A failed run publishes those that it measured.
fn publish(file: &Path, head: &str, figures: &[Figure]) -> Outcome<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, json(figures)?)?;
    let mut out = io::stdout();
    writeln!(out, "\n{head}\n\n{}", table(figures))?;
    writeln!(out, "written to {}", file.display())?;
    Ok(())
}

/// The conditions of the figures of the line.
fn machine(redis: &Server) -> Outcome<String> {
    let n_cores = std::thread::available_parallelism()?;
    let version = version(&mut connect(&redis.url())?)?;
    Ok(format!(
        "{n_cores} cores, shared by servers, {version} and the load; each figure beside its control of the same run"
    ))
}
