//! The load generator: one thread of `wrk`. Knows nothing of what it asks for.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::Outcome;

const SCRIPT: &str = include_str!("../../wrk/requests.lua");
/// How many requests are under way at once, where nothing else is said.
pub const CONNECTIONS: usize = 64;

/// `wrk`, with its script and its files in a folder.
pub struct Wrk {
    folder: PathBuf,
    script: PathBuf,
}

/// The column of [`Values`] that is no header.
pub const BODY: &str = "(body)";

/// Values of some headers, and maybe of the body, line by line for one request each.
pub struct Values {
    file: PathBuf,
    columns: String,
    /// How many there are.
    pub count: usize,
}

/// What to ask for.
pub struct Asked<'a> {
    /// The HTTP method.
    pub method: &'static str,
    /// The path.
    pub path: &'a str,
    /// What differs, request by request, in turn.
    pub values: &'a Values,
    /// Which of them.
    pub used: std::ops::Range<usize>,
    /// How many requests are under way at once.
    pub connections: usize,
    /// Whether all of them are to be refused (4xx); otherwise none.
    pub is_refused: bool,
    /// How long each connection pauses before each request.
    pub pause: Duration,
    /// For how long.
    pub span: Duration,
}

impl<'a> Asked<'a> {
    /// Each of the values in turn, as fast as answers come; nobody is to be refused.
    #[must_use]
    pub const fn of(method: &'static str, path: &'a str, values: &'a Values, span: Duration) -> Self {
        let (used, connections, pause) = (0..values.count, CONNECTIONS, Duration::ZERO);
        Self { method, path, values, used, connections, is_refused: false, pause, span }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Answered {
    /// How many answers.
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
    /// Answers a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
    pub fn rate(&self) -> f64 {
        self.requests as f64 / Duration::from_micros(self.duration_us).as_secs_f64()
    }

    /// What half of them and 99 in 100 took at most, in ms.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "spans of some seconds")]
    pub fn percentiles_ms(&self) -> [f64; 2] {
        [self.p50_us, self.p99_us].map(|us| us as f64 / 1_000.0)
    }

    /// Whether every request was answered as it should be, and none after wrk's two seconds.
    fn is_clean(&self, is_refused: bool) -> bool {
        let Self { requests, unconnected, unread, unwritten, refused, late, .. } = *self;
        let expected = if is_refused { requests } else { 0 };
        requests > 0 && refused == expected && unconnected + unread + unwritten + late == 0
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
        self.rows(name, [header], values.iter().map(|value| [value]))
    }

    /// Writes down what some headers are to say, and maybe [`BODY`]. No value is empty or has a tab in it.
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

    /// Asks the server at `url` for as long as told, as fast as it gets answers.
    ///
    /// # Errors
    /// If anything but the right answers came back.
    pub async fn run(&self, url: &str, asked: &Asked<'_>) -> Outcome<Answered> {
        let Asked { method, path, values, used, connections, is_refused, pause, span } = asked;
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", span.as_secs()), "-s"]).arg(&self.script);
        command.args([url, "--", method, path, values.columns.as_str()]).arg(&values.file);
        command.args([used.start, used.len()].map(|n| n.to_string())).arg(pause.as_millis().to_string());
        // It ends by itself after its time, so that nobody has to look after it; and tokio's processes are a feature that
        // every crate would be built anew for.
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
        let printed = String::from_utf8_lossy(&output.stdout);
        let answered = printed.lines().rev().find_map(|line| serde_json::from_str::<Answered>(line).ok());
        match answered {
            Some(answered) if output.status.success() && answered.is_clean(*is_refused) => Ok(answered),
            Some(answered) => Err(format!("{method} {path}: not every answer was right: {answered:?}").into()),
            None => Err(format!("wrk said: {printed}{}", String::from_utf8_lossy(&output.stderr)).into()),
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
    fn one_refusal_spoils_a_run_and_one_that_is_missing_another() {
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
