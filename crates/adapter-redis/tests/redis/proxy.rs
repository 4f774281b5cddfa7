//! A TCP proxy that can lose an answer, and forward new connections to another server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy between a store and its server.
pub(crate) struct Proxy {
    /// The port on which it listens.
    pub(crate) port: u16,
    /// The port to which it forwards new connections.
    pub(crate) server_port: AtomicU16,
    /// All bytes that were sent to the server.
    sent: Mutex<Vec<u8>>,
    /// How many connections it accepted.
    pub(crate) n_accepted: AtomicUsize,
    /// Whether to lose the next answer, and to close its connection.
    pub(crate) loses_next: AtomicBool,
}

impl Proxy {
    /// Starts a proxy in front of the server on this port. It ends with the process.
    pub(crate) fn start(server_port: u16) -> Arc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let proxy = Arc::new(Self {
            port,
            server_port: AtomicU16::new(server_port),
            sent: Mutex::default(),
            n_accepted: AtomicUsize::new(0),
            loses_next: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&proxy);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.n_accepted.fetch_add(1, Ordering::SeqCst);
                let server_port = accepting.server_port.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { break };
                let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { break };
                let (to, back) = (Arc::clone(&accepting), Arc::clone(&accepting));
                thread::spawn(move || to.pass_on(from_client, server));
                thread::spawn(move || back.pass_back(from_server, client));
            }
        });
        proxy
    }

    fn pass_on(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            self.sent.lock().expect("it is not poisoned").extend_from_slice(&buffer[..length]);
            if server.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _closed_already = server.shutdown(Shutdown::Both);
    }

    fn pass_back(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            if self.loses_next.swap(false, Ordering::SeqCst) || client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _closed_already = client.shutdown(Shutdown::Both);
    }

    /// How often these bytes were sent to the server.
    pub(crate) fn count_sent(&self, bytes: &[u8]) -> usize {
        self.sent.lock().expect("it is not poisoned").windows(bytes.len()).filter(|window| *window == bytes).count()
    }
}
