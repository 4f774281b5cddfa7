//! A Redis or Valkey server to test on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::OnceLock;

use rustix::process::Signal;

use crate::guard::Guard;
use crate::source::Kind;

pub(crate) static KIND: Kind = Kind {
    name: "redis",
    url_variable: "USHER_TEST_REDIS_URL",
    image_variable: "USHER_TEST_REDIS_IMAGE",
    default_image: "redis:8",
    programs: "redis-server|valkey-server",
    packages: &["redis-server"],
    script: r#"
exec 2>&1
trap "" PIPE
server=$(command -v redis-server || command -v valkey-server) || { echo "no redis-server or valkey-server: aborting"; exit 1; }
dir=$(mktemp -d -p "$1")
shift
"$server" --dir "$dir" --bind 127.0.0.1 --save "" --appendonly no --maxmemory-policy noeviction "$@" & pid=$!
echo "process id $pid"
cat >/dev/null
kill -9 "$pid"
wait "$pid"
rm -rf "$dir"
"#,
    ready: "eady to accept connections",
    chosen: OnceLock::new(),
};
/// Where a server creates its data folder, which stays empty.
const FOLDER: &str = "/tmp";

/// The URL of the server that all tests of this process share.
pub fn shared_url() -> &'static str {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _server) = SHARED.get_or_init(given_or_started);
    url
}

pub(crate) fn given_or_started() -> (String, Option<Server>) {
    match KIND.given_url() {
        Some(url) => (url, None),
        None => {
            let server = Server::start(&[]);
            (server.url(), Some(server))
        }
    }
}

/// A server of one test, without persistence. It ends when this is dropped.
pub struct Server {
    port: u16,
    guard: Guard,
}

impl Server {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// If no server can be started.
    pub fn start(options: &[&str]) -> Self {
        let (port, guard) = Guard::start_on_free_port(&KIND, KIND.source(), FOLDER, options);
        Self { port, guard }
    }

    /// Kills the server (`kill -9`), and starts an empty one on the same port.
    ///
    /// # Panics
    /// If the new server does not start.
    pub fn restart(self, options: &[&str]) -> Self {
        let port = self.port;
        drop(self);
        let guard = Guard::start(&KIND, KIND.source(), FOLDER, port, options).expect("the port is free again");
        Self { port, guard }
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

    /// Makes the server a replica of `primary`. Replication is asynchronous.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn follow(&self, primary: &Self) {
        assert_eq!(self.command(&format!("REPLICAOF 127.0.0.1 {}", primary.port)), "+OK");
    }

    /// Whether the replica has copied all data, and follows its primary.
    pub fn is_following(&self) -> bool {
        self.command("INFO replication").contains("master_link_status:up")
    }

    /// Ends the replication. The server keeps the data that it has copied.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn stop_following(&self) {
        assert_eq!(self.command("REPLICAOF NO ONE"), "+OK");
    }

    /// Kills the server `failed`, and takes over its address.
    ///
    /// # Panics
    /// If the port is not free.
    pub fn take_over(mut self, failed: Self) -> Self {
        let port = failed.port;
        drop(failed);
        assert_eq!(self.command(&format!("CONFIG SET port {port}")), "+OK", "the port is free again");
        self.port = port;
        self
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a command, and returns the server's answer as text.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn command(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server is up");
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("the server reads");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head).expect("the server answers");
        let head = head.trim_end().to_owned();
        let Some(length) = head.strip_prefix('$') else { return head };
        let mut text = vec![0; length.parse().expect("a length")];
        reader.read_exact(&mut text).expect("the whole answer");
        String::from_utf8(text).expect("text")
    }
}

/// A cluster of three nodes, of one test.
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    const NODES: u32 = 3;
    const SLOTS: u32 = 16_384;
    /// Most tries per node until it knows the others; a try takes some tenths of a millisecond.
    const TRIES_MAX: u32 = 200_000;

    /// Starts a cluster that covers all slots.
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

    /// The URL, with all nodes.
    pub fn url(&self) -> String {
        let [first, others @ ..] = self.nodes.as_slice() else { unreachable!("it has three nodes") };
        let others: Vec<_> = others.iter().map(|node| format!("node=127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://127.0.0.1:{}?{}", first.port, others.join("&"))
    }
}
