//! What Redis itself says of the load: time per call, memory, commands received. Knows nothing of lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use redis::Connection;

use super::Outcome;
use crate::world::clock::Stopwatch;

/// How long one wait for the next command of a monitored server may take.
const MONITOR_PATIENCE: Duration = Duration::from_millis(100);

/// One section of INFO.
///
/// # Errors
/// If Redis does not answer.
pub fn info(connection: &mut Connection, section: &str) -> Outcome<String> {
    Ok(redis::cmd("INFO").arg(section).query(connection)?)
}

/// The value of a field of INFO.
#[must_use]
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The name and the version of the server.
///
/// # Errors
/// If Redis does not answer.
pub fn version(connection: &mut Connection) -> Outcome<String> {
    let server = info(connection, "server")?;
    let named = [("valkey_version", "Valkey"), ("redis_version", "Redis")];
    let known = named.iter().find_map(|(name, brand)| Some(format!("{brand} {}", field(&server, name)?)));
    Ok(known.unwrap_or_else(|| "a Redis of unknown version".into()))
}

/// The bytes that Redis uses.
///
/// # Errors
/// If Redis does not answer, or does not say.
pub fn used_memory(connection: &mut Connection) -> Outcome<u64> {
    let memory = info(connection, "memory")?;
    Ok(field(&memory, "used_memory").ok_or("INFO memory names used_memory")?.parse()?)
}

/// The microseconds that all scripts together ran so far, as Redis itself measured: what they call is in it, waiting is
/// not. Read before and after a call, it tells the time of that call, if nobody else calls scripts.
///
/// # Errors
/// If Redis does not answer, or does not say.
pub fn script_us(connection: &mut Connection) -> Outcome<f64> {
    let stats = info(connection, "commandstats")?;
    Ok(usec_of(&stats, "evalsha").ok_or("INFO commandstats does not tell the time of EVALSHA")?)
}

/// The `usec` of a command; 0 if it was never called.
fn usec_of(stats: &str, command: &str) -> Option<f64> {
    match field(stats, &format!("cmdstat_{command}")) {
        None => Some(0.0),
        Some(values) => values.split(',').find_map(|value| value.strip_prefix("usec="))?.parse().ok(),
    }
}

/// Round trips of PING, in microseconds.
///
/// # Errors
/// If Redis does not answer.
pub fn round_trips_us(connection: &mut Connection, count: usize) -> Outcome<Vec<f64>> {
    let mut trips = Vec::with_capacity(count);
    for _ in 0..count {
        let watch = Stopwatch::start();
        redis::cmd("PING").exec(connection)?;
        trips.push(watch.elapsed().as_secs_f64() * 1e6);
    }
    Ok(trips)
}

/// How many commands Redis receives from all clients within a span. What scripts call is not counted: MONITOR marks it
/// as coming from `lua`. Blocks.
///
/// # Errors
/// If Redis does not answer.
pub fn commands_received(port: u16, span: Duration) -> Outcome<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(MONITOR_PATIENCE))?;
    stream.write_all(b"MONITOR\r\n")?;
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let watch = Stopwatch::start();
    let (mut n_received, mut line) = (0, Vec::new());
    while watch.elapsed() < span {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return Err("Redis ended the monitoring".into()),
            Ok(_) => {
                n_received += u64::from(is_received(&String::from_utf8_lossy(&line)));
                line.clear();
            }
            // What came of the line so far stays in it.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(n_received)
}

/// Whether a line of MONITOR is a command from a client: `+<time> [<db> <address>] "<command>" ...`.
fn is_received(line: &str) -> bool {
    let source = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    source.is_some_and(|(source, _)| !source.ends_with(" lua"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_command_is_read_from_its_statistics() {
        let stats = "# Commandstats\r\ncmdstat_evalsha:calls=2,usec=395,usec_per_call=197.50\r\n";

        assert_eq!(usec_of(stats, "evalsha"), Some(395.0));
        assert_eq!(usec_of(stats, "eval"), Some(0.0));
        assert_eq!(usec_of("cmdstat_evalsha:calls=2\r\n", "evalsha"), None);
    }

    #[test]
    fn what_scripts_call_was_not_received() {
        assert!(is_received("+1795385395.1 [0 127.0.0.1:37786] \"EVALSHA\" \"ab\" \"[0 lua]\"\r\n"));
        assert!(!is_received("+1795385395.1 [0 lua] \"ZADD\" \"x\" \"1\" \"y\"\r\n"));
        assert!(!is_received("+OK\r\n"));
    }
}
