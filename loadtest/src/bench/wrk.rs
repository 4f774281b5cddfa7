//! The load generator: one thread of `wrk`. Knows nothing of what it requests.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::Outcome;

const SCRIPT: &str = include_str!("../../wrk/requests.lua");
/// Default number of connections, each with one request at a time.
pub const CONNECTIONS: usize = 64;

/// `wrk`, with the folder of its script and files.
pub struct Wrk {
    folder: PathBuf,
    script: PathBuf,
}

/// The column of [`Values`] that is the body rather than a header.
pub const BODY: &str = "(body)";

/// A file with a line for each request: values of some headers, and of the body if it has one.
pub struct Values {
    file: PathBuf,
    columns: String,
    /// The number of lines.
    pub count: usize,
}

/// A load: which requests, and for how long.
pub struct Asked<'a> {
    /// The HTTP method.
    pub method: &'static str,
    /// The path.
    pub path: &'a str,
    /// What differs between the requests, which take turns.
    pub values: &'a Values,
    /// The lines of `values` to use.
    pub used: std::ops::Range<usize>,
    /// The number of connections.
    pub connections: usize,
    /// Whether every request must be refused (4xx); otherwise none may be.
    pub is_refused: bool,
    /// The pause of each connection before each request.
    pub pause: Duration,
    /// The length of the load.
    pub span: Duration,
}

impl<'a> Asked<'a> {
    /// A load that uses all values in turn, without a pause; no request may be refused.
    #[must_use]
    pub const fn of(method: &'static str, path: &'a str, values: &'a Values, span: Duration) -> Self {
        let (used, connections, pause) = (0..values.count, CONNECTIONS, Duration::ZERO);
        Self { method, path, values, used, connections, is_refused: false, pause, span }
    }
}

/// The answers to a load.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Answered {
    /// The number of answers.
    pub requests: u64,
    duration_us: u64,
    p50_us: u64,
    p99_us: u64,
    unconnected: u64,
    unread: u64,
    unwritten: u64,
    refused: u64,
    late: u64,
}

impl Answered {
    /// Answers per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / Duration::from_micros(self.duration_us).as_secs_f64()
    }

    /// The median and the 99th percentile of the latency, in ms.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "spans of some seconds")]
    pub fn percentiles_ms(&self) -> [f64; 2] {
        [self.p50_us, self.p99_us].map(|us| us as f64 / 1_000.0)
    }

    /// Whether every request was answered as expected, and within wrk's timeout of 2 s.
    fn is_clean(&self, is_refused: bool) -> bool {
        let Self { requests, unconnected, unread, unwritten, refused, late, .. } = *self;
        let expected = if is_refused { requests } else { 0 };
        requests > 0 && refused == expected && unconnected + unread + unwritten + late == 0
    }
}

impl Wrk {
    /// The `wrk` on PATH, with its files in an existing folder.
    ///
    /// # Errors
    /// If `wrk` is not installed.
    pub fn new(folder: &Path) -> Outcome<Self> {
        // No option of wrk succeeds and does nothing, so this checks only that it starts.
        let started = Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
        match started {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("no wrk on PATH, which the benchmarks over HTTP need: install it (Debian: wrk)".into());
            }
            Err(error) => return Err(error.into()),
        }
        let script = folder.join("requests.lua");
        fs::write(&script, SCRIPT)?;
        Ok(Self { folder: folder.to_owned(), script })
    }

    /// Writes a file with the values of one header.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn values(&self, name: &str, header: &'static str, values: &[String]) -> Outcome<Values> {
        self.rows(name, [header], values.iter().map(|value| [value]))
    }

    /// Writes a file with the values of several columns: headers, and [`BODY`]. No value may be empty or contain a tab.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn rows<const N: usize>(
        &self,
        name: &str,
        columns: [&'static str; N],
        rows: impl IntoIterator<Item = [impl AsRef<str>; N]>,
    ) -> Outcome<Values> {
        let file = self.folder.join(name);
        let mut out = io::BufWriter::new(fs::File::create(&file)?);
        let mut count = 0;
        for row in rows {
            writeln!(out, "{}", row.each_ref().map(AsRef::as_ref).join("\t"))?;
            count += 1;
        }
        out.flush()?;
        Ok(Values { file, columns: columns.join(","), count })
    }

    /// Loads the server at `url`, each connection as fast as its answers come.
    ///
    /// # Errors
    /// If an answer is missing or not as expected.
    pub async fn run(&self, url: &str, asked: &Asked<'_>) -> Outcome<Answered> {
        let Asked { method, path, values, used, connections, is_refused, pause, span } = asked;
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", span.as_secs()), "-s"]).arg(&self.script);
        command.args([url, "--", method, path, values.columns.as_str()]).arg(&values.file);
        command.args([used.start, used.len()].map(|n| n.to_string())).arg(pause.as_millis().to_string());
        // wrk ends by itself, so a blocking wait will do; the `process` feature of tokio would rebuild every crate.
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
        let printed = String::from_utf8_lossy(&output.stdout);
        let answered = printed.lines().rev().find_map(|line| serde_json::from_str::<Answered>(line).ok());
        match answered {
            Some(answered) if output.status.success() && answered.is_clean(*is_refused) => Ok(answered),
            Some(answered) => Err(format!("{method} {path}: unexpected answers: {answered:?}").into()),
            None => Err(format!("wrk failed: {printed}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(refused: u64) -> Answered {
        let text = format!(
            r#"{{"requests":300,"duration_us":1500000,"p50_us":400,"p99_us":2500,"unconnected":0,"unread":0,"unwritten":0,"refused":{refused},"late":0}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_rate_is_answers_over_time() {
        assert_eq!(answered(0).rate().to_bits(), 200.0_f64.to_bits());
    }

    #[test]
    fn an_unexpected_refusal_and_a_missing_one_spoil_a_run() {
        assert!(answered(0).is_clean(false));
        assert!(!answered(1).is_clean(false));
        assert!(answered(300).is_clean(true));
        assert!(!answered(299).is_clean(true));
    }

    #[test]
    fn latencies_are_in_ms() {
        assert_eq!(answered(0).percentiles_ms().map(f64::to_bits), [0.4, 2.5].map(f64::to_bits));
    }
}
