//! A MariaDB or MySQL server to test on.

use std::sync::OnceLock;

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

use crate::container::block_on;
use crate::guard::Guard;
use crate::source::{Kind, Source};

pub(crate) static KIND: Kind = Kind {
    name: "mysql",
    url_variable: "USHER_TEST_MYSQL_URL",
    image_variable: "USHER_TEST_MYSQL_IMAGE",
    default_image: "mysql:9",
    programs: "mariadbd|mysqld",
    packages: &["mariadb-server-core", "mariadb-client-core"],
    script: r#"
exec 2>&1
trap "" PIPE
PATH=$PATH:/usr/sbin
server=$(command -v mariadbd || command -v mysqld) || { echo "no mariadbd or mysqld: aborting"; exit 1; }
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
        --bind-address=127.0.0.1 --max-connections=1000 --loose-mysqlx=OFF "$@" & pid=$!
    echo "process id $pid"
    read -r _; has_ended=$?
    kill -9 "$pid"
    wait "$pid"
    [ "$has_ended" = 0 ] && echo "killed" && read -r _
do :; done
rm -rf "$dir"
"#,
    ready: "ready for connections",
    chosen: OnceLock::new(),
};
/// A file system in memory, if the machine has one.
const MEMORY: &str = "/dev/shm";
/// Free bytes that [`MEMORY`] must have: a server takes up to 0.3 GiB, and several may run at once.
const ROOM_MIN: u64 = 4 << 30;

/// The URL of the server that all tests of this process share. It is not durable ([`Durability::None`]).
///
/// # Panics
/// If no server is given, and none can be started.
pub fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _server) = SHARED.get_or_init(given_or_started);
    url
}

pub(crate) fn given_or_started() -> (String, Option<Server>) {
    match KIND.given_url() {
        Some(url) => (url, None),
        None => {
            let server = Server::start(Durability::None, &[]);
            (server.url(), Some(server))
        }
    }
}

/// How a server protects commits from a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Writes each acknowledged commit to the disk, as in production. MySQL also writes its binary log.
    Full,
    /// Nothing: for tests that do not crash it.
    None,
}

impl Durability {
    /// The folder of the data: in memory, if the data need not be durable and there is room.
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

/// A server of one test, with data of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    guard: Guard,
}

impl Server {
    /// Starts a server on a free port. Its user `root` has no password.
    ///
    /// # Panics
    /// If no server can be started.
    pub fn start(durability: Durability, options: &[&str]) -> Self {
        Self::start_on(KIND.source(), durability, options)
    }

    /// Starts a server from an image, or from the programs of this machine.
    ///
    /// # Panics
    /// If no server can be started.
    pub fn start_from(image: Option<&str>, durability: Durability, options: &[&str]) -> Self {
        let source = image.map_or(Source::Installed, |image| Source::Image(image.to_owned()));
        Self::start_on(&source, durability, options)
    }

    fn start_on(source: &Source, durability: Durability, options: &[&str]) -> Self {
        let options = [durability.options(), options].concat();
        let (port, guard) = Guard::start_on_free_port(&KIND, source, durability.folder(), &options);
        Self { port, guard }
    }

    /// The server's URL: `mysql://root@127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}", self.port)
    }

    /// The server's port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id; `None` while it is killed.
    pub fn pid(&self) -> Option<u32> {
        self.guard.pid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Pauses the server (SIGSTOP) until [`Self::resume`]: connections stay open, and no request is answered.
    ///
    /// # Panics
    /// If the server is gone.
    pub fn pause(&self) {
        self.guard.signal(Signal::STOP);
    }

    /// Resumes the server (SIGCONT).
    ///
    /// # Panics
    /// If the server is gone.
    pub fn resume(&self) {
        self.guard.signal(Signal::CONT);
    }

    /// Kills the server (`kill -9`). Its data stays.
    ///
    /// # Panics
    /// If the server is gone.
    pub fn kill(&mut self) {
        self.guard.kill();
    }

    /// Restarts the server after [`Self::kill`], on the same data and port.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_again(&mut self) {
        self.guard.start_again(&KIND);
    }
}

/// An empty database on the shared server, dropped with this value.
#[derive(Debug)]
pub struct ScratchDatabase {
    name: String,
    url: String,
}

impl ScratchDatabase {
    /// Creates a database.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn fresh() -> Self {
        let name = format!("usher_test_{:016x}", rand::random::<u64>());
        let url = create_database(shared_url(), &name).await;
        Self { name, url }
    }

    /// The database's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs a statement in the database.
    ///
    /// # Panics
    /// If the statement fails.
    pub async fn execute(&self, statement: &str) {
        execute(&self.url, statement.to_owned()).await;
    }
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        block_on(execute(shared_url(), format!("DROP DATABASE {}", self.name)));
    }
}

/// Creates an empty database on a server, and returns its URL.
///
/// # Panics
/// If the server refuses.
pub async fn create_database(server_url: &str, name: &str) -> String {
    execute(server_url, format!("CREATE DATABASE {name}")).await;
    let (server, options) = server_url.split_once('?').map_or((server_url, ""), |(server, options)| (server, options));
    let options = if options.is_empty() { String::new() } else { format!("?{options}") };
    format!("{}/{name}{options}", server.trim_end_matches('/'))
}

async fn execute(url: &str, statement: String) {
    let mut connection = MySqlConnection::connect(url).await.expect("the server accepts the connection");
    connection.execute(AssertSqlSafe(statement)).await.expect("the statement succeeds");
    connection.close().await.expect("the connection closes");
}
