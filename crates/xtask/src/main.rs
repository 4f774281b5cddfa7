//! Checks of the repository that no compiler makes: which crate and which module may use which, and whether the texts
//! keep to the rules.
//!
//! Each check is a pure function from the files to a list of findings.

mod arrows;
mod files;
mod tidy;
mod wings;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

/// The root of the checkout, as of the build: only cargo runs this program.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Checks of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Checks which crate and which module of the app uses which, that lints and versions come from the workspace, and
    /// each crate's invariant.
    Arrows,
    /// Checks module docs, links and forbidden words, and that the tests in docs/LESSONS.md exist.
    Tidy,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (name, findings) = match Task::parse() {
        Task::Arrows => {
            let (crates, modules) = (arrows::check(&arrows::read(ROOT)?), wings::check(&files::read(ROOT)?));
            ("arrows", [crates, modules].concat())
        }
        Task::Tidy => ("tidy", tidy::check(&files::read(ROOT)?)),
    };
    let mut stderr = std::io::stderr().lock();
    for finding in &findings {
        writeln!(stderr, "{name}: {finding}")?;
    }
    if findings.is_empty() {
        writeln!(stderr, "{name}: fine")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
