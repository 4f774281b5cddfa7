//! A MariaDB or MySQL server to test on.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getgid, getuid};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

use crate::process;

/// Where a server of one's own choice is, with a user who may make databases; what needs no server of its own runs on
/// it. It should be one for tests.
const URL_VARIABLE: &str = "USHER_TEST_MYSQL_URL";
/// The container image to start servers from, instead of what is installed here.
const IMAGE_VARIABLE: &str = "USHER_TEST_MYSQL_IMAGE";
/// How often another port is tried, if somebody took the one that was free.
const PORTS_MAX: u32 = 20;
/// A file system in memory, where there is one, and how much of it has to be free: a server takes up to 0.3 GiB, and
/// there may be some at once.
const MEMORY: &str = "/dev/shm";
const ROOM_MIN: u64 = 4 << 30;
/// How long a server may be silent while it makes its data, or starts.
const START_MAX: Duration = Duration::from_secs(60);

/// Makes an empty data folder in `$1`, and runs a server on it. Each line of stdin stops it, as a crash would, or starts it again
/// on the same data. The end of stdin ends both, and stdin ends with the process that holds it, however that ends.
const UNTIL_STDIN_ENDS: &str = r#"
exec 2>&1
PATH=$PATH:/usr/sbin
server=$(command -v mariadbd || command -v mysqld) || { echo "no mariadbd or mysqld on PATH: Aborting"; exit 1; }
dir=$(mktemp -d -p "$1") user=
shift
[ "$(id -u)" != 0 ] || user=--user=root
if "$server" --version | grep -q MariaDB; then
    mariadb-install-db --no-defaults $user --datadir="$dir/data" --tmpdir="$dir" --auth-root-authentication-method=normal \
        --skip-test-db --innodb-log-file-size=16M --innodb-flush-method=nosync
else
    "$server" --no-defaults $user --datadir="$dir/data" --tmpdir="$dir" --initialize-insecure --innodb-flush-method=nosync
fi
while
    "$server" --no-defaults $user --datadir="$dir/data" --tmpdir="$dir" --socket="$dir/socket" --pid-file="$dir/pid" \
        "$@" & pid=$!
    echo "process id $pid"
    read -r _; has_ended=$?
    kill -9 "$pid"
    wait "$pid"
    [ "$has_ended" = 0 ] && echo "stopped" && read -r _
do :; done
rm -rf "$dir"
"#;

#[expect(clippy::disallowed_methods, reason = "a test has no configuration but its environment")]
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The URL of the server that all tests of this process share; it keeps nothing over a power cut.
///
/// # Panics
/// If there is none, and none to start.
pub fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _server) = SHARED.get_or_init(given_or_started);
    url
}

fn given_or_started() -> (String, Option<Server>) {
    match given(URL_VARIABLE) {
        Some(url) => (url, None),
        None => {
            let server = Server::start(Durability::None, &[]);
            (server.url(), Some(server))
        }
    }
}

/// Runs a command whose tests all share one server, and ends the server with it.
///
/// # Errors
/// If the command cannot be started.
///
/// # Panics
/// If there is no server, and none to start.
pub fn run_with_shared(command: &mut Command) -> std::io::Result<ExitStatus> {
    let (url, _server) = given_or_started();
    command.env(URL_VARIABLE, url).status()
}

/// What a server does about losing power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What it acknowledged is on the disk, as in production; MySQL writes its binary log, too.
    Full,
    /// Nothing: for tests that do not crash it.
    None,
}

impl Durability {
    /// Where the data is: in memory, if it needs no disk and there is enough.
    fn folder(self) -> &'static str {
        let room = rustix::fs::statvfs(MEMORY).map_or(0, |memory| memory.f_bavail * memory.f_frsize);
        if self == Self::None && room > ROOM_MIN { MEMORY } else { "/tmp" }
    }

    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"],
            Self::None => &[
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
                "--innodb-doublewrite=0",
                "--skip-log-bin",
            ],
        }
    }
}

/// A server of a test's own, with data of its own, that ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    pid: Option<Pid>,
    guard: Child,
    log: Mutex<Receiver<String>>,
}

impl Server {
    /// Starts one on a free port. Its user `root` has no password.
    ///
    /// # Panics
    /// If there is none to start.
    pub fn start(durability: Durability, options: &[&str]) -> Self {
        Self::start_from(given(IMAGE_VARIABLE).as_deref(), durability, options)
    }

    /// Starts one from an image, or what is installed here.
    ///
    /// # Panics
    /// If there is none to start.
    pub fn start_from(image: Option<&str>, durability: Durability, options: &[&str]) -> Self {
        let mut log = String::new();
        for _ in 0..PORTS_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
            let port = listener.local_addr().expect("it is bound").port();
            drop(listener);
            match Self::start_on(port, image, durability, options) {
                Ok(server) => return server,
                Err(said) => log = said,
            }
            if !log.contains("Address already in use") {
                break;
            }
        }
        panic!(
            "no server to test on: install mariadb-server or mysql-server, or set {IMAGE_VARIABLE}; {URL_VARIABLE} is \
             not for tests that crash their server\n{log}"
        )
    }

    fn start_on(port: u16, image: Option<&str>, durability: Durability, options: &[&str]) -> Result<Self, String> {
        let folder = durability.folder();
        let mut command = match image {
            Some(image) => {
                let mut docker = Command::new("docker");
                let user = format!("{}:{}", getuid().as_raw(), getgid().as_raw());
                docker
                    .args(["run", "--rm", "--interactive", "--network", "host", "--pid", "host", "--user", &user])
                    .args(["--volume", &format!("{folder}:{folder}"), "--entrypoint", "sh", image]);
                docker
            }
            None => Command::new("sh"),
        };
        let mut guard = command
            .args(["-c", UNTIL_STDIN_ENDS, "sh", folder, "--bind-address=127.0.0.1", &format!("--port={port}")])
            .args(["--max-connections=1000", "--loose-mysqlx=OFF"])
            .args(durability.options())
            .args(options)
            // Ctrl-C is not for it: it has to clean up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("there is a shell, and docker for an image");
        let stdout = BufReader::new(guard.stdout.take().expect("it is piped"));
        let (lines, log) = mpsc::channel();
        // Somebody has to read it to the end: a server that cannot write its log stops.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _nobody_waits_for_it = lines.send(line);
            }
        });
        let mut server = Self { port, pid: None, guard, log: Mutex::new(log) };
        server.wait_for("ready for connections").map(|()| server)
    }

    /// Reads on in its log until a line has this text, or answers what it said instead.
    fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let log = self.log.get_mut().expect("nobody panics with it");
        let mut said = String::new();
        loop {
            let Ok(line) = log.recv_timeout(START_MAX) else { return Err(said) };
            if let Some(pid) = line.strip_prefix("process id ") {
                self.pid = pid.parse().ok().and_then(Pid::from_raw);
            }
            if line.contains(text) {
                return Ok(());
            }
            writeln!(said, "{line}").expect("a string has room");
            if line.contains("Aborting") {
                return Err(said);
            }
        }
    }

    /// Where it is: `mysql://root@127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process id; nothing while it is killed.
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Stops it where it is, until [`Self::resume`]: connections stand, and nobody is answered.
    ///
    /// # Panics
    /// If it is gone.
    pub fn pause(&self) {
        process::send(self.pid, Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// If it is gone.
    pub fn resume(&self) {
        process::send(self.pid, Signal::CONT);
    }

    /// Ends it, as a crash would (`kill -9`). Its data stays.
    ///
    /// # Panics
    /// If it is gone.
    pub fn kill(&mut self) {
        self.next_turn();
        self.wait_for("stopped").expect("it is killed");
        self.pid = None;
    }

    /// Starts it again after [`Self::kill`], on the same data and port.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.next_turn();
        self.wait_for("ready for connections").expect("it starts");
    }

    fn next_turn(&mut self) {
        let stdin = self.guard.stdin.as_mut().expect("it is piped");
        stdin.write_all(b"\n").expect("the guard reads");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().expect("the guard ends with its stdin");
    }
}

/// An empty database on the shared server, that is gone with the test.
#[derive(Debug)]
pub struct ScratchDatabase {
    name: String,
    url: String,
}

impl ScratchDatabase {
    /// Makes one.
    ///
    /// # Panics
    /// If the server does not let us.
    pub async fn fresh() -> Self {
        let name = format!("usher_test_{:016x}", rand::random::<u64>());
        let url = create_database(shared_url(), &name).await;
        Self { name, url }
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes something in it.
    ///
    /// # Panics
    /// If the server does not.
    pub async fn execute(&self, statement: &str) {
        execute(&self.url, statement.to_owned()).await;
    }
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {}", self.name);
        // In a thread of its own: this one may be in the middle of a runtime.
        let dropped = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(execute(shared_url(), drop));
        });
        dropped.join().expect("the database can be dropped");
    }
}

/// Makes an empty database on a server, and answers where it is.
///
/// # Panics
/// If the server does not let us.
pub async fn create_database(server_url: &str, name: &str) -> String {
    execute(server_url, format!("CREATE DATABASE {name}")).await;
    let (server, options) = server_url.split_once('?').map_or((server_url, ""), |(server, options)| (server, options));
    let options = if options.is_empty() { String::new() } else { format!("?{options}") };
    format!("{}/{name}{options}", server.trim_end_matches('/'))
}

async fn execute(url: &str, statement: String) {
    let mut connection = MySqlConnection::connect(url).await.expect("the server is there");
    connection.execute(AssertSqlSafe(statement)).await.expect("the server does it");
    connection.close().await.expect("it says good-bye");
}
