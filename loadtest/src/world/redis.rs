//! A Redis server as its operator sees it: its statistics (INFO), the commands that it runs (MONITOR), and how long
//! they take (SLOWLOG). Recognises the line's scripts by the commands that they run.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, Value, from_redis_value};

use crate::world::clock::{Stopwatch, pass};

/// Connects to a server.
///
/// # Errors
/// The server does not accept the connection.
pub fn connect(url: &str) -> RedisResult<Connection> {
    Client::open(url)?.get_connection()
}

/// One section of INFO.
fn info(connection: &mut Connection, section: &str) -> RedisResult<String> {
    redis::cmd("INFO").arg(section).query(connection)
}

/// The value of a field of INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn untold(what: &'static str) -> RedisError {
    (ErrorKind::UnexpectedReturnType, what).into()
}

/// Name and version of the server.
///
/// # Errors
/// If Redis does not answer.
pub fn version(connection: &mut Connection) -> RedisResult<String> {
    let server = info(connection, "server")?;
    let named = [("valkey_version", "Valkey"), ("redis_version", "Redis")];
    let known = named.iter().find_map(|(name, brand)| Some(format!("{brand} {}", field(&server, name)?)));
    Ok(known.unwrap_or_else(|| "a Redis of unknown version".into()))
}

/// Memory in use, in bytes.
///
/// # Errors
/// If Redis does not answer, or the field is missing.
pub fn used_memory(connection: &mut Connection) -> RedisResult<u64> {
    let memory = info(connection, "memory")?;
    let used = field(&memory, "used_memory").and_then(|bytes| bytes.parse().ok());
    used.ok_or_else(|| untold("INFO memory has no used_memory"))
}

/// Microseconds that all scripts have run so far, as Redis measures it: with the commands that they call, without
/// waiting. The difference of two reads is the time of the calls between them, if nothing else calls scripts.
///
/// # Errors
/// If Redis does not answer, or the field is missing.
pub fn script_us(connection: &mut Connection) -> RedisResult<f64> {
    let stats = info(connection, "commandstats")?;
    usec_of(&stats, "evalsha").ok_or_else(|| untold("INFO commandstats has no time of EVALSHA"))
}

/// The `usec` of a command; 0 if it has not been called.
fn usec_of(stats: &str, command: &str) -> Option<f64> {
    match field(stats, &format!("cmdstat_{command}")) {
        None => Some(0.0),
        Some(values) => values.split(',').find_map(|value| value.strip_prefix("usec="))?.parse().ok(),
    }
}

/// Durations of PING, in microseconds.
///
/// # Errors
/// If Redis does not answer.
pub fn round_trips_us(connection: &mut Connection, count: usize) -> RedisResult<Vec<f64>> {
    let mut trips = Vec::with_capacity(count);
    for _ in 0..count {
        let watch = Stopwatch::start();
        redis::cmd("PING").exec(connection)?;
        trips.push(watch.elapsed().as_secs_f64() * 1e6);
    }
    Ok(trips)
}

/// A script of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Script {
    /// Admits places.
    Admit,
    /// Merges the places that a server saw present.
    Merge,
    /// Reads the changes since the last refresh.
    Refresh,
    /// Any other.
    Other,
}

impl Script {
    /// Name in figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Merge => "merge",
            Self::Refresh => "refresh",
            Self::Other => "other",
        }
    }

    /// The script that runs this command, if only one does.
    fn that_runs(command: &str) -> Option<Self> {
        match command {
            "ZPOPMIN" => Some(Self::Admit),
            "EXPIRE" => Some(Self::Merge),
            "ZCARD" => Some(Self::Refresh),
            _ => None,
        }
    }
}

/// Commands seen on a server during [`watch`].
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Commands sent by clients.
    pub n_direct: u64,
    /// Commands called by scripts.
    pub n_by_scripts: u64,
    /// How long the server was watched.
    pub span: Duration,
    /// Examples of commands whose time grows with the line without a bound.
    pub unbounded: Vec<String>,
    /// Scripts by their SHA-1.
    pub scripts: HashMap<String, Script>,
}

impl Watched {
    /// Commands sent by clients, per second.
    #[must_use]
    pub fn direct_per_s(&self) -> f64 {
        f64::from(u32::try_from(self.n_direct).unwrap_or(u32::MAX)) / self.span.as_secs_f64().max(0.001)
    }
}

/// Most examples kept in [`Watched::unbounded`].
const EXAMPLES_MAX: usize = 20;

/// Reads every command that a server runs, for `span`.
///
/// # Errors
/// If a connection breaks.
pub async fn watch(url: &str, span: Duration) -> RedisResult<Watched> {
    let (mut monitor, mut other) = (connect(url)?, connect(url)?);
    redis::cmd("MONITOR").exec(&mut monitor)?;
    let (watch, last) = (Stopwatch::start(), format!("{:032x}", rand::random::<u128>()));
    let ends = last.clone();
    let watching = tokio::task::spawn_blocking(move || {
        let (mut watched, mut script) = (Watched::default(), None);
        loop {
            let line: String = from_redis_value(monitor.recv_response()?)?;
            if line.contains(&ends) {
                return RedisResult::Ok(watched);
            }
            watched.note(&line, &mut script);
        }
    });
    pass(span).await;
    let span = watch.elapsed();
    // The monitor may have no command to read; this one ends it.
    redis::cmd("PING").arg(last).exec(&mut other)?;
    let watched = watching.await.map_err(|error| RedisError::from(std::io::Error::other(error)))??;
    Ok(Watched { span, ..watched })
}

impl Watched {
    /// Counts a line such as `1700000000.123456 [0 127.0.0.1:5000] "EVALSHA" "1f..." "18" ...`. The commands that a
    /// script calls follow its own line, with `lua` in place of the address.
    fn note(&mut self, line: &str, script: &mut Option<String>) {
        let Some((source, command)) = line.split_once(" [").and_then(|(_, rest)| rest.split_once("] ")) else { return };
        let words: Vec<&str> = command.split(' ').map(|word| word.trim_matches('"')).collect();
        let name = words[0].to_ascii_uppercase();
        if source.ends_with(" lua") {
            self.n_by_scripts += 1;
            if let (Some(kind), Some(sha)) = (Script::that_runs(&name), script.as_ref()) {
                self.scripts.entry(sha.clone()).or_insert(kind);
            }
        } else {
            self.n_direct += 1;
            *script = (name == "EVALSHA").then(|| words.get(1).copied().unwrap_or_default().to_owned());
        }
        if is_unbounded(&name, &words) && self.unbounded.len() < EXAMPLES_MAX {
            self.unbounded.push(command.to_owned());
        }
    }
}

/// Whether a command's time grows with the line.
fn is_unbounded(name: &str, words: &[&str]) -> bool {
    match name {
        "KEYS" | "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN" | "SMEMBERS" | "HGETALL" | "HKEYS" | "HVALS" | "SORT"
        | "SUNION" | "SINTER" | "SDIFF" | "ZUNION" | "ZINTER" | "ZDIFF" | "ZRANGE" | "ZREVRANGE" => true,
        // A range of one score has one member.
        "ZRANGEBYSCORE" | "ZREVRANGEBYSCORE" | "ZRANGEBYLEX" => {
            !words.contains(&"LIMIT") && words.get(2) != words.get(3)
        }
        // The list of recent changes is capped.
        "LRANGE" => !words.get(1).is_some_and(|key| key.ends_with(":recent")),
        _ => false,
    }
}

/// Makes Redis log the duration of every command, and keep the last 100,000.
///
/// # Errors
/// If the connection breaks.
pub fn start_slowlog(connection: &mut Connection) -> RedisResult<()> {
    let set = |name, value| redis::cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
    set("slowlog-log-slower-than", 0).exec(connection)?;
    set("slowlog-max-len", 100_000).exec(connection)?;
    redis::cmd("SLOWLOG").arg("RESET").exec(connection)
}

/// Duration of each call of a script since [`start_slowlog`], by Redis' own clock.
///
/// # Errors
/// If the connection breaks.
pub fn slowlog(
    connection: &mut Connection,
    scripts: &HashMap<String, Script>,
) -> RedisResult<HashMap<Script, Vec<Duration>>> {
    // Id, time, duration in us, command and arguments, client address, client name.
    type Entry = (i64, i64, u64, Vec<Vec<u8>>, Value, Value);
    let log: Vec<Entry> = redis::cmd("SLOWLOG").arg("GET").arg(-1).query(connection)?;
    let mut scripts_took: HashMap<Script, Vec<Duration>> = HashMap::new();
    for (_, _, took_us, words, _, _) in log {
        let [name, sha, ..] = words.as_slice() else { continue };
        if name.eq_ignore_ascii_case(b"EVALSHA") {
            let script = scripts.get(&*String::from_utf8_lossy(sha)).copied().unwrap_or(Script::Other);
            scripts_took.entry(script).or_default().push(Duration::from_micros(took_us));
        }
    }
    Ok(scripts_took)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(lines: &[&str]) -> Watched {
        let (mut watched, mut script) = (Watched::default(), None);
        lines.iter().for_each(|line| watched.note(line, &mut script));
        watched
    }

    #[test]
    fn time_of_a_command_is_read_from_its_statistics() {
        let stats = "# Commandstats\r\ncmdstat_evalsha:calls=2,usec=395,usec_per_call=197.50\r\n";

        assert_eq!(usec_of(stats, "evalsha"), Some(395.0));
        assert_eq!(usec_of(stats, "eval"), Some(0.0));
        assert_eq!(usec_of("cmdstat_evalsha:calls=2\r\n", "evalsha"), None);
    }

    #[test]
    fn commands_of_clients_and_of_scripts_are_counted_apart() {
        let watched = noted(&[
            r#"+1.1 [0 127.0.0.1:5000] "EVALSHA" "aa" "18""#,
            r#"+1.1 [0 lua] "HMGET" "k" "epoch""#,
            r#"+1.1 [0 lua] "ZPOPMIN" "k" "1""#,
            r#"+1.2 [0 127.0.0.1:5000] "EVALSHA" "bb" "18""#,
            r#"+1.2 [0 lua] "ZCARD" "k""#,
            r#"+1.3 [0 127.0.0.1:5000] "PING""#,
        ]);

        assert_eq!((watched.n_direct, watched.n_by_scripts), (3, 3));
        let expected = HashMap::from([("aa".to_owned(), Script::Admit), ("bb".to_owned(), Script::Refresh)]);
        assert_eq!(watched.scripts, expected);
        assert_eq!(watched.unbounded, [""; 0]);
    }

    #[test]
    fn unbounded_commands_are_found() {
        for command in [
            r#""KEYS" "*""#,
            r#""scan" "0""#,
            r#""ZRANGE" "k" "0" "-1""#,
            r#""ZRANGEBYSCORE" "k" "-inf" "5""#,
            r#""LRANGE" "usher:{x}:log" "0" "-1""#,
            r#""HGETALL" "k""#,
        ] {
            assert_eq!(noted(&[&format!("+1.1 [0 lua] {command}")]).unbounded, [command]);
        }
    }

    #[test]
    fn commands_on_one_score_or_with_a_limit_are_bounded() {
        let watched = noted(&[
            r#"+1.1 [0 lua] "ZRANGEBYSCORE" "k" "-inf" "5" "LIMIT" "0" "1000""#,
            r#"+1.1 [0 lua] "ZRANGEBYSCORE" "k" "7" "7""#,
            r#"+1.1 [0 lua] "LRANGE" "usher:{x}:recent" "0" "-1""#,
        ]);

        assert_eq!(watched.unbounded, [""; 0]);
    }
}
