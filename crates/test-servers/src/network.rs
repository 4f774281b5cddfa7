//! A proxy between a server and its database. It adds latency, and can drop connections without closing them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A proxy to a database. It runs until the process ends.
#[derive(Debug)]
pub struct Network {
    port: u16,
    /// Whether the connections made since the last [`Self::lose_connections`] are lost.
    are_lost: Mutex<Arc<AtomicBool>>,
}

impl Network {
    /// A proxy to the database at `url` that adds `delay` in each direction, and the URL of the database through it.
    ///
    /// # Panics
    /// If the URL names no user, or no database.
    pub fn to(url: &str, delay: Duration) -> (Arc<Self>, String) {
        let (_, behind_user) = url.split_once('@').unwrap();
        let (address, _) = behind_user.split_once('/').unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(Self { port, are_lost: Mutex::default() });
        let begin = url.replacen(address, &format!("127.0.0.1:{}", network.port), 1);
        let (accepting, address) = (Arc::clone(&network), address.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let is_lost = Arc::clone(&accepting.are_lost.lock().unwrap());
                let Ok(server) = TcpStream::connect(&address) else { continue };
                for end in [&client, &server] {
                    end.set_nodelay(true).unwrap();
                }
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let is_lost_too = Arc::clone(&is_lost);
                thread::spawn(move || carry(from_client, to_server, delay, &is_lost_too));
                thread::spawn(move || carry(server, client, delay, &is_lost));
            }
        });
        (network, begin)
    }

    /// Drops all open connections: no byte passes any more, and neither end is notified. New connections work.
    ///
    /// # Panics
    /// If the accepting thread panicked.
    pub fn lose_connections(&self) {
        let lost = std::mem::take(&mut *self.are_lost.lock().unwrap());
        lost.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, is_lost: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !delay.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "the delay is what the proxy adds")]
            thread::sleep(delay);
        }
        while is_lost.load(Ordering::SeqCst) {
            thread::park();
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    while is_lost.load(Ordering::SeqCst) {
        thread::park();
    }
    let _closed_already = to.shutdown(Shutdown::Both);
}
