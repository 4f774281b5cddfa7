//! A Redis or Valkey server to test on.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal};

use crate::process;

/// Where a server of one's own choice is; the suite of the port runs on it. It should be one for tests.
const URL_VARIABLE: &str = "USHER_TEST_REDIS_URL";
/// The container image to start servers from, instead of what is installed here.
const IMAGE_VARIABLE: &str = "USHER_TEST_REDIS_IMAGE";
const BINARIES: [&str; 2] = ["redis-server", "valkey-server"];
/// How often another port is tried, if somebody took the one that was free, or the one for the cluster, 10,000 above it,
/// is none.
const PORTS_MAX: u32 = 20;

/// Runs the server until stdin ends, and stdin ends with the process that holds it, however that ends.
const UNTIL_STDIN_ENDS: &str = r#"
dir=$(mktemp -d) program=$1; shift
"$program" --dir "$dir" "$@" & server=$!
cat >/dev/null
kill -9 "$server"
wait "$server"
rm -rf "$dir"
"#;

/// The same in a container that shares the host's network, processes and temporary files.
const IMAGE_UNTIL_STDIN_ENDS: &str = r#"
dir=$(mktemp -d) image=$1 name=usher-test-$$; shift
docker run --rm --name "$name" --network host --pid host --user "$(id -u):$(id -g)" --volume /tmp:/tmp \
    "$image" --dir "$dir" "$@" & docker=$!
cat >/dev/null
docker kill "$name" >/dev/null
wait "$docker"
rm -rf "$dir"
"#;

#[expect(clippy::disallowed_methods, reason = "a test has no configuration but its environment")]
fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The URL of the server that all tests of this process share.
pub fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _server) = SHARED.get_or_init(|| match given(URL_VARIABLE) {
        Some(url) => (url, None),
        None => {
            let server = Server::start(&[]);
            (server.url(), Some(server))
        }
    });
    url
}

/// A server of a test's own, without persistence, that ends when this is dropped.
pub struct Server {
    port: u16,
    pid: Option<Pid>,
    guard: Child,
}

impl Server {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If there is none to start.
    pub fn start(options: &[&str]) -> Self {
        let start = |_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
            let port = listener.local_addr().expect("it is bound").port();
            drop(listener);
            Self::start_on(port, options)
        };
        (0..PORTS_MAX).find_map(start).expect("the server starts on one of the free ports")
    }

    /// Ends it, as a crash would, and starts another one on the same port.
    pub fn restart(self, options: &[&str]) -> Self {
        let port = self.port;
        drop(self);
        Self::start_on(port, options).expect("the port is free again")
    }

    fn start_on(port: u16, options: &[&str]) -> Option<Self> {
        let (script, program) = match given(IMAGE_VARIABLE) {
            Some(image) => (IMAGE_UNTIL_STDIN_ENDS, image),
            None => (UNTIL_STDIN_ENDS, binary().to_owned()),
        };
        let mut guard = Command::new("sh")
            .args(["-c", script, "sh", &program, "--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let log = BufReader::new(guard.stdout.take().expect("it is piped"));
        // The log ends where the server does: somebody took the port.
        let is_ready = log.lines().map_while(Result::ok).any(|line| line.contains("eady to accept connections"));
        let mut server = Self { port, pid: None, guard };
        if !is_ready || server.command("PING") != "+PONG" {
            return None;
        }
        let info = server.command("INFO server");
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
        server.pid = pid.and_then(Pid::from_raw);
        Some(server)
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

    /// Makes it a copy of another server, which lags behind it by what is on the way.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn follow(&self, primary: &Self) {
        assert_eq!(self.command(&format!("REPLICAOF 127.0.0.1 {}", primary.port)), "+OK");
    }

    /// Whether it has copied everything and follows now.
    pub fn is_following(&self) -> bool {
        self.command("INFO replication").contains("master_link_status:up")
    }

    /// Makes it a server of its own, with the data that it has copied so far.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn stop_following(&self) {
        assert_eq!(self.command("REPLICAOF NO ONE"), "+OK");
    }

    /// Ends another server, as a crash would, and takes over its address.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn take_over(mut self, failed: Self) -> Self {
        let port = failed.port;
        drop(failed);
        assert_eq!(self.command(&format!("CONFIG SET port {port}")), "+OK", "the port is free again");
        self.port = port;
        self
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a command, and answers with the text that came back.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn command(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server is up");
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("it reads");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head).expect("it answers");
        let head = head.trim_end().to_owned();
        let Some(length) = head.strip_prefix('$') else { return head };
        let mut text = vec![0; length.parse().expect("a length")];
        reader.read_exact(&mut text).expect("as much as it said");
        String::from_utf8(text).expect("text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().expect("the shell ends with its stdin");
    }
}

/// A cluster of three, of a test's own.
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    const NODES: u32 = 3;
    const SLOTS: u32 = 16_384;
    /// How often each node is asked whether it knows the others; a try is some tenths of a millisecond.
    const TRIES_MAX: u32 = 200_000;

    /// Starts one that covers all slots.
    ///
    /// # Panics
    /// If the nodes do not find each other.
    pub fn start() -> Self {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<_> = (0..Self::NODES).map(|_| Server::start(&options)).collect();
        for (index, node) in (0..).zip(&nodes) {
            let (first, after) = (index * Self::SLOTS / Self::NODES, (index + 1) * Self::SLOTS / Self::NODES);
            assert_eq!(node.command(&format!("CLUSTER ADDSLOTSRANGE {first} {}", after - 1)), "+OK");
            assert_eq!(node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)), "+OK");
            assert_eq!(node.command(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port)), "+OK");
        }
        let is_whole = |node: &Server| {
            let info = node.command("CLUSTER INFO");
            let nodes = format!("cluster_known_nodes:{}\r", Self::NODES);
            info.contains("cluster_state:ok") && info.contains(&nodes)
        };
        for node in &nodes {
            assert!((0..Self::TRIES_MAX).any(|_| is_whole(node)), "the nodes find each other");
        }
        Self { nodes }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let [first, others @ ..] = self.nodes.as_slice() else { unreachable!("it has three nodes") };
        let others: Vec<_> = others.iter().map(|node| format!("node=127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://127.0.0.1:{}?{}", first.port, others.join("&"))
    }
}

fn binary() -> &'static str {
    let is_there = |name: &&str| {
        env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(name).is_file()))
    };
    BINARIES.into_iter().find(is_there).unwrap_or_else(|| {
        panic!(
            "no server to test on: install redis-server or valkey-server; {URL_VARIABLE} serves the port's suite only"
        )
    })
}
