//! Server processes: `usher` with one database and one secret, which the driver starts and kills. Knows them by
//! their command line, their environment and their log only.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use rustix::process::Pid;

use crate::world::clock::eventually;

/// How long a server may take to listen on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The line that a server prints once it listens; its address follows.
const READY: &str = "Usher is ready on http://";
/// The beginning of the line with the address of its metrics.
const METRICS: &str = "metrics and health";
const HTTP: &str = "http://";

/// Prints the server's process id and runs the server until stdin closes: when the driver ends, however it ends. If the
/// driver ends before it reads the id, the shell goes on to the kill.
const UNTIL_STDIN_ENDS: &str = r#"
trap "" PIPE
log=$1; shift
"$@" >>"$log" 2>&1 & server=$!
echo "$server"
cat >/dev/null
kill -9 "$server" 2>/dev/null
wait "$server" 2>/dev/null
"#;

/// Why a server or a command of `usher` failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no `usher` beside this program.
    #[error("{} is missing: build it with `cargo build --package usher-app --bin usher` (and `--release`, if this is)", .0.display())]
    NoBinary(PathBuf),
    /// An operation on a process or a file failed.
    #[error("{what}")]
    Io {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server did not listen in time.
    #[error("a server did not start within {START_WITHIN:?}; see its log {}", .0.display())]
    NotReady(PathBuf),
    /// A command failed.
    #[error("`usher {command}` failed: {said}")]
    Failed {
        /// The command.
        command: String,
        /// What it printed on standard error.
        said: String,
    },
}

/// Names the operation that failed.
fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Io { what, source }
}

/// What servers share: a configuration, and a folder with the database, the logs and the histories.
#[derive(Clone, Debug)]
pub struct Site {
    folder: PathBuf,
    program: PathBuf,
    secret: String,
    environment: BTreeMap<String, String>,
    records: bool,
}

impl Site {
    /// A site in an existing folder, with the `usher` that was built beside this program, a new secret and a new SQLite
    /// file. Servers listen on free ports.
    ///
    /// # Errors
    /// [`ServerError::NoBinary`].
    pub fn new(folder: &Path) -> Result<Self, ServerError> {
        let secret: [u8; 32] = rand::random();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let (program, environment) = (usher_binary()?, BTreeMap::new());
        let site = Self { folder: folder.to_owned(), program, secret, environment, records: false };
        let secret = site.secret.clone();
        Ok(site
            .with("data.dir", &folder.display())
            .with("store.url", &format!("sqlite://{}", folder.join("usher.db").display()))
            .with("auth.secret", &secret)
            .with("http.bind", "127.0.0.1:0")
            .with("metrics.bind", "127.0.0.1:0"))
    }

    /// The site with the setting `section.key`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &(impl ToString + ?Sized)) -> Self {
        let variable = format!("USHER__{}", key.to_uppercase().replace('.', "__"));
        self.environment.insert(variable, value.to_string());
        self
    }

    /// The site with its lines on this Redis.
    #[must_use]
    pub fn on_redis(self, url: &str) -> Self {
        self.with("line.backend", "redis").with("line.redis_url", url)
    }

    /// The site with `line.history` set for each server.
    #[must_use]
    pub const fn recording(mut self) -> Self {
        self.records = true;
        self
    }

    /// The secret that signs place tokens, passes and access tokens.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Runs a command of `usher` with `input` on standard input, and returns what it prints.
    ///
    /// # Errors
    /// [`ServerError::Failed`], or the process cannot be run.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<String, ServerError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(&self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed("cannot run usher"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(failed("cannot write to usher"))?;
        }
        let output = child.wait_with_output().map_err(failed("cannot read from usher"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ServerError::Failed { command: arguments.join(" "), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Mints access tokens of new buyers.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn mint(&self, count: usize) -> Result<Vec<String>, ServerError> {
        let printed = self.run(&["token", "mint", "--count", &count.to_string()], "")?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Starts a server and waits until it listens. `name` names its log and its history.
    ///
    /// # Errors
    /// The server cannot be started, or does not listen in time.
    pub async fn start(&self, name: &str) -> Result<Server, ServerError> {
        self.start_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn start_at(&self, name: &str, bind: SocketAddr) -> Result<Server, ServerError> {
        let (log, history) = (self.folder.join(format!("{name}.log")), self.history_of(name));
        let written_before = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut command = Command::new("sh");
        command
            .args(["-c", UNTIL_STDIN_ENDS, "sh"])
            .args([log.as_path(), self.program.as_path()])
            .arg("serve")
            .envs(&self.environment)
            // In a group of its own, the shell gets no Ctrl-C, and kills the server.
            .process_group(0)
            .env("USHER__HTTP__BIND", bind.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell reports a killed server there.
            .stderr(Stdio::null());
        if self.records {
            command.env("USHER__LINE__HISTORY", history);
        }
        let mut guard = command.spawn().map_err(failed("cannot start a shell"))?;
        let pid = read_pid(&mut guard).map_err(failed("cannot read the process id of a server"))?;
        let mut server =
            Server { site: self.clone(), name: name.to_owned(), address: bind, metrics_address: bind, pid, guard };
        let listens = eventually(START_WITHIN, || async { addresses_in(&log, written_before) }).await;
        (server.address, server.metrics_address) = listens.ok_or(ServerError::NotReady(log))?;
        Ok(server)
    }

    /// The history of the server of this name.
    fn history_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.history"))
    }

    /// All histories of the site.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn histories(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder)?.collect::<Result<Vec<_>, _>>()?;
        let paths = entries.into_iter().map(|entry| entry.path());
        Ok(paths.filter(|path| path.extension().is_some_and(|it| it == "history")).collect())
    }
}

/// The `usher` that was built beside this program.
fn usher_binary() -> Result<PathBuf, ServerError> {
    let this = env::current_exe().map_err(failed("cannot find the path of this program"))?;
    // Test binaries are one folder further down.
    let folder = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(&this);
    let program = folder.join("usher");
    if program.is_file() { Ok(program) } else { Err(ServerError::NoBinary(program)) }
}

fn read_pid(guard: &mut Child) -> io::Result<Pid> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = String::new();
    BufReader::new(guard.stdout.take().ok_or_else(invalid)?).read_line(&mut line)?;
    line.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(invalid)
}

/// The address that a server printed, in its log after the first `written_before` bytes.
fn addresses_in(log: &Path, written_before: u64) -> Option<(SocketAddr, SocketAddr)> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(bytes.get(usize::try_from(written_before).ok()?..)?);
    // An unfinished line may hold half an address.
    let lines: Vec<_> = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).collect();
    let requests = lines.iter().find_map(|line| line.strip_prefix(READY))?;
    let metrics =
        lines.iter().find_map(|line| line.trim_start().strip_prefix(METRICS)?.trim_start().strip_prefix(HTTP))?;
    Some((requests.parse().ok()?, metrics.strip_suffix("/metrics")?.parse().ok()?))
}

/// A server process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    site: Site,
    name: String,
    address: SocketAddr,
    metrics_address: SocketAddr,
    pid: Pid,
    guard: Child,
}

impl Server {
    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its metrics.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Its process id, which changes with each restart.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills the process (`kill -9`), and waits until it is gone.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        drop(self.guard.stdin.take());
        self.guard.wait().map(drop).map_err(failed("cannot wait for a server"))
    }

    /// Restarts the server at the same address; kills it first if it still runs.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.kill()?;
        *self = self.site.start_at(&self.name, self.address).await?;
        Ok(())
    }

    /// The resident memory of the process (VmRSS), in bytes. Linux only.
    ///
    /// # Errors
    /// The process is gone, or the system does not report it.
    pub fn resident_bytes(&self) -> Result<u64, ServerError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .map_err(failed("cannot read the status of a server"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| failed("the status of a server has no VmRSS")(io::ErrorKind::InvalidData.into()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If waiting fails, the server is not running.
        drop(self.kill());
    }
}
