//! The load generator: one thread of `wrk` with 64 connections. Knows nothing of what it asks for.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::Outcome;

const SCRIPT: &str = include_str!("../../wrk/requests.lua");
/// How many requests are under way at once.
pub const CONNECTIONS: usize = 64;

/// `wrk`, with its script and its files in a folder.
pub struct Wrk {
    folder: PathBuf,
    script: PathBuf,
}

/// Values of one header, each for one request.
pub struct Values {
    file: PathBuf,
    header: &'static str,
    /// How many there are.
    pub count: usize,
}

/// What to ask for.
pub struct Asked<'a> {
    /// Where the server is: `http://` and its address.
    pub url: &'a str,
    /// The HTTP method.
    pub method: &'static str,
    /// The path.
    pub path: &'a str,
    /// What the header says, request by request, in turn.
    pub values: &'a Values,
    /// Which of them.
    pub used: std::ops::Range<usize>,
    /// How long each connection pauses before each request.
    pub pause: Duration,
    /// For how long.
    pub span: Duration,
}

/// What came back.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Answered {
    /// How many answers.
    pub requests: u64,
    duration_us: u64,
    unconnected: u64,
    unread: u64,
    unwritten: u64,
    refused: u64,
    late: u64,
}

impl Answered {
    /// Answers a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / Duration::from_micros(self.duration_us).as_secs_f64()
    }

    /// Whether every request was answered, none refused (4xx or 5xx), and none after wrk's two seconds.
    fn is_clean(&self) -> bool {
        let Self { unconnected, unread, unwritten, refused, late, .. } = *self;
        self.requests > 0 && unconnected + unread + unwritten + refused + late == 0
    }
}

impl Wrk {
    /// The `wrk` on PATH. Its files go into an existing folder.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(folder: &Path) -> Outcome<Self> {
        // It has no command that succeeds and does nothing: whether it starts is all there is to see.
        let started = Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        match started {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("the benchmarks over HTTP need wrk on PATH: install it (Debian: wrk)".into());
            }
            Err(error) => return Err(error.into()),
        }
        let script = folder.join("requests.lua");
        fs::write(&script, SCRIPT)?;
        Ok(Self { folder: folder.to_owned(), script })
    }

    /// Writes down what a header is to say.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn values(&self, name: &str, header: &'static str, values: &[String]) -> Outcome<Values> {
        let file = self.folder.join(name);
        let mut out = io::BufWriter::new(fs::File::create(&file)?);
        for value in values {
            writeln!(out, "{value}")?;
        }
        out.flush()?;
        Ok(Values { file, header, count: values.len() })
    }

    /// Asks for as long as told, as fast as it gets answers.
    ///
    /// # Errors
    /// If anything but a good answer came back.
    pub async fn run(&self, asked: &Asked<'_>) -> Outcome<Answered> {
        let Asked { url, method, path, values, used, pause, span } = asked;
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", span.as_secs()), "-s"]).arg(&self.script);
        command.args([*url, "--", method, path, values.header]).arg(&values.file);
        command.args([used.start, used.len()].map(|n| n.to_string())).arg(pause.as_millis().to_string());
        // It ends by itself after its time, so that nobody has to look after it; and tokio's processes are a feature that
        // every crate would be built anew for.
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
        let printed = String::from_utf8_lossy(&output.stdout);
        let answered = printed.lines().rev().find_map(|line| serde_json::from_str::<Answered>(line).ok());
        match answered {
            Some(answered) if output.status.success() && answered.is_clean() => Ok(answered),
            Some(answered) => Err(format!("{method} {path}: not every answer was good: {answered:?}").into()),
            None => Err(format!("wrk said: {printed}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(refused: u64) -> Answered {
        let text = format!(
            r#"{{"requests":300,"duration_us":1500000,"unconnected":0,"unread":0,"unwritten":0,"refused":{refused},"late":0}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_rate_is_answers_over_time() {
        assert_eq!(answered(0).rate().to_bits(), 200.0_f64.to_bits());
    }

    #[test]
    fn one_refusal_spoils_a_run() {
        assert!(answered(0).is_clean());
        assert!(!answered(1).is_clean());
    }
}
