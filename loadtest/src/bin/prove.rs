//! Runs the proofs, and writes their reports to `target/prove.json`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use usher_loadtest::prove::{PROOFS, Size};

/// Proves the promises of the line and of the seats, under crowds, while servers, Redis and the database fail.
#[derive(Debug, Parser)]
struct Cli {
    /// Run only the proof of this name; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run small versions, of some seconds each.
    #[arg(long)]
    quick: bool,
    /// Seed of all random decisions; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Write the reports to this file.
    #[arg(long, value_name = "FILE", default_value = "target/prove.json")]
    report: PathBuf,
    /// Keep the servers' logs and histories in this folder.
    #[arg(long, value_name = "FOLDER", default_value = "target/prove")]
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let cli = Cli::parse();
    let mut err = io::stderr();
    let is_known = |name: &&String| PROOFS.iter().any(|proof| proof.name == **name);
    if let Some(name) = cli.only.iter().find(|name| !is_known(name)) {
        let names: Vec<_> = PROOFS.iter().map(|proof| proof.name).collect();
        writeln!(err, "unknown proof {name}; known proofs: {}", names.join(", "))?;
        return Ok(ExitCode::FAILURE);
    }
    let size = if cli.quick { Size::Quick } else { Size::Full };
    let seed = cli.seed.unwrap_or_else(|| rand::random::<u32>().into());
    fs::create_dir_all(&cli.folder)?;
    let folder = cli.folder.canonicalize()?;
    let chosen = PROOFS.iter().filter(|proof| cli.only.is_empty() || cli.only.iter().any(|name| name == proof.name));
    let (mut reports, mut all_hold) = (Vec::new(), true);
    for proof in chosen {
        writeln!(err, "{}: {}", proof.name, proof.about)?;
        let (holds, report) = proof.report(size, seed, folder.join(proof.name)).await;
        all_hold &= holds;
        print(&report)?;
        reports.push(report);
        // Written after each proof, so that an interrupted run keeps the reports of those that ended.
        fs::write(&cli.report, serde_json::to_string_pretty(&reports)?)?;
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Value) -> io::Result<()> {
    let mut out = io::stdout();
    let name = report["name"].as_str().unwrap_or_default();
    let verdict = if report["passed"] == true { "holds" } else { "DOES NOT HOLD" };
    writeln!(out, "{name} {verdict}, after {} s, seed {}", report["seconds"], report["seed"])?;
    for (name, figure) in report["figures"].as_object().into_iter().flatten() {
        writeln!(out, "  {name:<40} {:>12.1}", figure.as_f64().unwrap_or_default())?;
    }
    for finding in report["findings"].as_array().into_iter().flatten() {
        writeln!(out, "  finding: {}", finding.as_str().unwrap_or_default())?;
    }
    Ok(())
}
