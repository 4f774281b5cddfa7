//! Runs a server's shell script in a process of this machine or in a container, until its guard is dropped.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::container::Container;
use crate::source::{Kind, Source};

/// Most ports to try: another process may take a free port before the server does.
const PORTS_MAX: u32 = 20;
/// The highest port of a server: a Redis cluster listens 10,000 above as well.
const PORT_MAX: u16 = u16::MAX - 10_000;
/// How long a server may log nothing while it creates its data or starts.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The script logs this before the server's process id.
const PROCESS_ID: &str = "process id ";
/// The script logs this after it killed the server and kept its data.
const KILLED: &str = "killed";

/// A running script. It ends when its standard input closes: when this process ends, even by a kill.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The script's input. A line kills the server, and the next line starts it again.
    input: Option<File>,
    log: Mutex<Receiver<String>>,
    pid: Option<Pid>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Process(Child),
    Container(Container),
}

impl Guard {
    /// Starts a server on a free port, with its data below `folder`. Returns the port.
    ///
    /// # Panics
    /// If the server does not start.
    pub(crate) fn start_on_free_port(kind: &Kind, source: &Source, folder: &str, options: &[&str]) -> (u16, Self) {
        let mut log = String::new();
        for _ in 0..PORTS_MAX {
            let port = free_port();
            match Self::start(kind, source, folder, port, options) {
                Ok(guard) => return (port, guard),
                Err(said) => log = said,
            }
            if !log.contains("Address already in use") {
                break;
            }
        }
        panic!("no server to test on: {}\n{log}", kind.advice())
    }

    /// Starts a server on this port.
    ///
    /// # Errors
    /// The server's log, if it does not start.
    pub(crate) fn start(
        kind: &Kind,
        source: &Source,
        folder: &str,
        port: u16,
        options: &[&str],
    ) -> Result<Self, String> {
        let port = port.to_string();
        let mut guard = Self::run(source, kind.script, folder, &[&["--port", &port], options].concat());
        guard.wait_for(kind.ready).map(|()| guard)
    }

    fn run(source: &Source, script: &str, folder: &str, options: &[&str]) -> Self {
        let (lines, log) = mpsc::channel();
        let (input, place) = match source {
            Source::Image(image) => {
                let (input, container) = Container::run(image, script, folder, options, lines);
                (input, Place::Container(container))
            }
            Source::Installed => {
                let mut child = Command::new("sh")
                    .args(["-c", script, "sh", folder])
                    .args(options)
                    // In a group of its own, the shell gets no Ctrl-C, and cleans up.
                    .process_group(0)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("there is a shell");
                let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
                // Read to the end: a server stops when nothing reads its log.
                thread::spawn(move || {
                    for line in stdout.lines().map_while(Result::ok) {
                        let _nobody_waits_for_it = lines.send(line);
                    }
                });
                let input = child.stdin.take().expect("stdin is piped");
                (File::from(OwnedFd::from(input)), Place::Process(child))
            }
        };
        Self { input: Some(input), log: Mutex::new(log), pid: None, place }
    }

    /// Reads the log until a line contains `text`.
    ///
    /// # Errors
    /// The lines read, if the server gives up, ends, or logs nothing for [`SILENCE_MAX`].
    fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let log = self.log.get_mut().expect("no thread panics with the lock");
        let mut said = String::new();
        loop {
            let Ok(line) = log.recv_timeout(SILENCE_MAX) else { return Err(said) };
            if let Some(pid) = line.strip_prefix(PROCESS_ID) {
                self.pid = pid.trim().parse().ok().and_then(Pid::from_raw);
            }
            if line.contains(text) {
                return Ok(());
            }
            writeln!(said, "{line}").expect("a string has room");
            if has_given_up(&line) {
                return Err(said);
            }
        }
    }

    /// The server's process; `None` while it is killed.
    pub(crate) const fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Sends a signal to the server's process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid.expect("the server runs"), signal).expect("the process exists");
    }

    /// Kills the server (`kill -9`). Its data stays.
    pub(crate) fn kill(&mut self) {
        self.next_turn();
        self.wait_for(KILLED).expect("the script kills the server");
        self.pid = None;
    }

    /// Restarts the server after [`Self::kill`], on the same data and port.
    pub(crate) fn start_again(&mut self, kind: &Kind) {
        self.next_turn();
        self.wait_for(kind.ready).expect("the server starts");
    }

    fn next_turn(&mut self) {
        self.input.as_mut().expect("the input is open").write_all(b"\n").expect("the script reads");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        match &mut self.place {
            Place::Process(child) => {
                child.wait().expect("the script ends with its input");
            }
            Place::Container(container) => container.wait_until_removed(),
        }
    }
}

/// Whether a line says that the server gives up: every kind of server ends such a line with "aborting".
fn has_given_up(line: &str) -> bool {
    line.trim_end().trim_end_matches('.').to_lowercase().ends_with("aborting")
}

fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        if port <= PORT_MAX {
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_give_up_say_so_at_the_end_of_a_line() {
        for line in [
            "1:M 30 Nov 2026 00:00:00.000 # Failed listening on port 6379 (tcp), aborting.",
            "2026-11-30  0:00:00 0 [ERROR] Aborting",
            "2026-11-30T00:00:00.000000Z 0 [ERROR] [MY-010119] [Server] Aborting\r",
            "no mariadbd or mysqld: aborting",
        ] {
            assert!(has_given_up(line), "{line}");
        }
        assert!(!has_given_up("[Warning] Aborting connection 5 to db"));
    }
}
