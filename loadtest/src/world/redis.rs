//! What a Redis server sees: the commands that it is sent (MONITOR), and how long they took it (SLOWLOG). Knows the
//! protocol, and the line's scripts by the commands that they run.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::world::clock::Stopwatch;

/// A value as Redis answers it (RESP2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A text, or a message.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// Several values; a missing one has none.
    Many(Vec<Self>),
}

impl Reply {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Whole(_) | Self::Many(_) => None,
        }
    }

    fn many(&self) -> &[Self] {
        match self {
            Self::Many(values) => values,
            Self::Text(_) | Self::Whole(_) => &[],
        }
    }

    const fn whole(&self) -> Option<i64> {
        match self {
            Self::Whole(whole) => Some(*whole),
            Self::Text(_) | Self::Many(_) => None,
        }
    }
}

/// A connection of the driver's own.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects to a server on this machine.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open(port: u16) -> io::Result<Self> {
        Ok(Self(BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?)))
    }

    /// Sends a command of words, and answers with what came back.
    ///
    /// # Errors
    /// The connection broke, Redis refused, or it is not Redis.
    pub async fn command(&mut self, command: &str) -> io::Result<Reply> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        self.read().await
    }

    async fn read(&mut self) -> io::Result<Reply> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        // How many values each open array still wants, and what it has.
        let mut open: Vec<(usize, Vec<Reply>)> = Vec::new();
        loop {
            let head = self.line().await?;
            let (kind, rest) = head.split_at_checked(1).ok_or_else(invalid)?;
            let mut value = match kind {
                "+" => Reply::Text(rest.to_owned()),
                ":" => Reply::Whole(rest.parse().map_err(|_| invalid())?),
                "-" => return Err(io::Error::other(rest.to_owned())),
                "$" if rest == "-1" => Reply::Many(Vec::new()),
                "$" => {
                    let mut text = vec![0; rest.parse::<usize>().map_err(|_| invalid())? + 2];
                    self.0.read_exact(&mut text).await?;
                    text.truncate(text.len() - 2);
                    Reply::Text(String::from_utf8_lossy(&text).into_owned())
                }
                "*" => match rest.parse::<usize>() {
                    Ok(length) if length > 0 => {
                        open.push((length, Vec::with_capacity(length)));
                        continue;
                    }
                    Ok(_) | Err(_) => Reply::Many(Vec::new()),
                },
                _ => return Err(invalid()),
            };
            loop {
                let Some((length, mut values)) = open.pop() else { return Ok(value) };
                values.push(value);
                if values.len() < length {
                    open.push((length, values));
                    break;
                }
                value = Reply::Many(values);
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// A script of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Script {
    /// Lets people in.
    Admit,
    /// Notes whom a server saw.
    Merge,
    /// Reads what changed.
    Refresh,
    /// Any other.
    Other,
}

impl Script {
    /// Its name in figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Merge => "merge",
            Self::Refresh => "refresh",
            Self::Other => "other",
        }
    }

    /// What only one of them does.
    fn that_runs(command: &str) -> Option<Self> {
        match command {
            "ZPOPMIN" => Some(Self::Admit),
            "EXPIRE" => Some(Self::Merge),
            "ZCARD" => Some(Self::Refresh),
            _ => None,
        }
    }
}

/// What was seen of a server for a while.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// How many commands came from outside.
    pub n_direct: u64,
    /// How many came from scripts.
    pub n_by_scripts: u64,
    /// For how long it was watched.
    pub span: Duration,
    /// Commands whose time grows with the line, and that nothing bounds.
    pub unbounded: Vec<String>,
    /// Which script goes by which name.
    pub scripts: HashMap<String, Script>,
}

impl Watched {
    /// Commands a second from outside.
    #[must_use]
    pub fn direct_per_s(&self) -> f64 {
        f64::from(u32::try_from(self.n_direct).unwrap_or(u32::MAX)) / self.span.as_secs_f64().max(0.001)
    }
}

/// At most so many examples are kept.
const EXAMPLES_MAX: usize = 20;

/// Reads every command that a server runs, for so long.
///
/// # Errors
/// The connection broke.
pub async fn watch(port: u16, span: Duration) -> io::Result<Watched> {
    let mut connection = Connection::open(port).await?;
    connection.command("MONITOR").await?;
    let (mut watched, watch) = (Watched::default(), Stopwatch::start());
    let mut script = None::<String>;
    // Redis may have nothing to say.
    while let Some(left) = span.checked_sub(watch.elapsed()) {
        let Ok(line) = tokio::time::timeout(left, connection.line()).await else { break };
        watched.note(&line?, &mut script);
    }
    watched.span = watch.elapsed();
    Ok(watched)
}

impl Watched {
    /// Takes in a line like `+1700000000.123456 [0 127.0.0.1:5000] "EVALSHA" "1f..." "18" ...`. The commands of a script
    /// follow its own, and say `lua` instead of an address.
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
        // Of one score there is one place.
        "ZRANGEBYSCORE" | "ZREVRANGEBYSCORE" | "ZRANGEBYLEX" => {
            !words.contains(&"LIMIT") && words.get(2) != words.get(3)
        }
        // The list of the last changes is capped.
        "LRANGE" => !words.get(1).is_some_and(|key| key.ends_with(":recent")),
        _ => false,
    }
}

/// Notes from now on how long every command takes, the last 100,000 of them.
///
/// # Errors
/// The connection broke.
pub async fn start_slowlog(port: u16) -> io::Result<()> {
    let mut connection = Connection::open(port).await?;
    connection.command("CONFIG SET slowlog-log-slower-than 0").await?;
    connection.command("CONFIG SET slowlog-max-len 100000").await?;
    connection.command("SLOWLOG RESET").await.map(drop)
}

/// How long each call of a script took since [`start_slowlog`], by Redis' own clock.
///
/// # Errors
/// The connection broke.
pub async fn slowlog(port: u16, scripts: &HashMap<String, Script>) -> io::Result<HashMap<Script, Vec<Duration>>> {
    let mut connection = Connection::open(port).await?;
    let log = connection.command("SLOWLOG GET -1").await?;
    let mut scripts_took: HashMap<Script, Vec<Duration>> = HashMap::new();
    for entry in log.many() {
        let [_, _, took, command, ..] = entry.many() else { continue };
        let words = command.many();
        let is_script = words.first().and_then(Reply::text).is_some_and(|name| name.eq_ignore_ascii_case("EVALSHA"));
        let Some(sha) = words.get(1).and_then(Reply::text).filter(|_| is_script) else { continue };
        let script = scripts.get(sha).copied().unwrap_or(Script::Other);
        let took = Duration::from_micros(took.whole().and_then(|took| u64::try_from(took).ok()).unwrap_or(0));
        scripts_took.entry(script).or_default().push(took);
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
    fn commands_from_outside_and_by_scripts_are_told_apart() {
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
    fn commands_that_nothing_bounds_are_found() {
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
    fn commands_of_one_place_or_with_a_limit_are_fine() {
        let watched = noted(&[
            r#"+1.1 [0 lua] "ZRANGEBYSCORE" "k" "-inf" "5" "LIMIT" "0" "1000""#,
            r#"+1.1 [0 lua] "ZRANGEBYSCORE" "k" "7" "7""#,
            r#"+1.1 [0 lua] "LRANGE" "usher:{x}:recent" "0" "-1""#,
        ]);

        assert_eq!(watched.unbounded, [""; 0]);
    }
}
