//! Runs the proofs, and writes what came of them to `target/prove.json`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use usher_loadtest::prove::{PROOFS, Size};

/// Proves what the line and the seats keep under crowds, whatever happens to their servers, Redis and the database.
#[derive(Debug, Parser)]
struct Cli {
    /// Only the proof of this name; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Small versions, of some seconds each.
    #[arg(long)]
    quick: bool,
    /// What decides who does what, and when; otherwise made up.
    #[arg(long)]
    seed: Option<u64>,
    /// Where to write what came of them.
    #[arg(long, value_name = "FILE", default_value = "target/prove.json")]
    report: PathBuf,
    /// Where the servers' files go.
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
        writeln!(err, "there is no proof {name}; there are {}", names.join(", "))?;
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
        // Written each time, so that what is done is told even if the rest is not awaited.
        fs::write(&cli.report, serde_json::to_string_pretty(&reports)?)?;
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Value) -> io::Result<()> {
    let mut out = io::stdout();
    let verdict = if report["passed"] == true { "holds" } else { "DOES NOT HOLD" };
    writeln!(out, "{} {verdict}, after {} s, seed {}", report["name"], report["seconds"], report["seed"])?;
    for (name, figure) in report["figures"].as_object().into_iter().flatten() {
        writeln!(out, "  {name:<40} {:>12.1}", figure.as_f64().unwrap_or_default())?;
    }
    for finding in report["findings"].as_array().into_iter().flatten() {
        writeln!(out, "  found: {}", finding.as_str().unwrap_or_default())?;
    }
    Ok(())
}
