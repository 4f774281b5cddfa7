//! The faults of Redis: it forgets scripts, loses data, restarts, evicts, is silent, or its answer is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use usher_adapter_redis::{ConnectError, RedisLineStore};
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{
    AdmitTerms, At, Contribution, Cursor, Gate, InEpoch, JoinOutcome, LineChanges, LineStore as _, ReEntry, Standing,
};
use usher_queue::{AccountHash, Epoch, Place, PlaceNumber};

use crate::proxy::Proxy;
use usher_test_servers::redis_server::Server;

const FIRST: Epoch = Epoch::new(1);
const SECOND: Epoch = Epoch::new(2);
const OPENED_AT: Timestamp = Timestamp::from_unix_ms(4_000_000_000_000);
/// The longest wait for a condition, after which the test fails.
const WAIT_MAX: Duration = Duration::from_secs(20);
const CEILING: PlaceNumber = PlaceNumber::new(1_000_000);

fn at(line: u8, epoch: Epoch) -> At {
    At { performance: PerformanceId::from_bytes([line; 16]), epoch, now: OPENED_AT }
}

fn account(index: u64) -> AccountHash {
    AccountHash::from_bytes(u128::from(index).to_be_bytes())
}

fn terms(gate: Gate) -> AdmitTerms {
    AdmitTerms {
        gate,
        capacity: 10,
        rate_per_s: 0,
        tick: Duration::from_millis(250),
        pass_ttl: Duration::from_secs(300),
        presence_window: Duration::from_secs(80),
    }
}

async fn connect(url: &str) -> RedisLineStore {
    RedisLineStore::connect(url).await.expect("the server is up")
}

async fn join(store: &RedisLineStore, at: At, index: u64) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
    store.join(at, &terms(Gate::Shut), CEILING, &[account(index)]).await
}

async fn refresh(store: &RedisLineStore, at: At) -> Result<InEpoch<LineChanges>, StoreError> {
    let mut answers = store.refresh(at.epoch, at.now, &[(at.performance, Cursor::default())]).await?;
    Ok(answers.pop().expect("one answer for one line"))
}

/// Opens a line in which one account waits.
async fn open_with_one_waiting(store: &RedisLineStore, at: At) {
    store.open(at, &Contribution::default()).await.expect("the store works");
    let joined = JoinOutcome::Joined(Standing::Waiting(PlaceNumber::new(1)));
    assert_eq!(join(store, at, 1).await.expect("the store works"), InEpoch::Current(vec![joined]));
}

/// Asserts that the line opens again in the next epoch, after the numbers of this one.
async fn assert_opens_again(store: &RedisLineStore, line: u8) {
    let next = at(line, SECOND);
    let start = PlaceNumber::new(10_000);
    store.open(next, &Contribution { start, ..Contribution::default() }).await.expect("the store works");
    let joined = JoinOutcome::Joined(Standing::Waiting(start.next()));
    assert_eq!(join(store, next, 1).await.expect("the store works"), InEpoch::Current(vec![joined]));
    assert_eq!(join(store, at(line, FIRST), 1).await.expect("the store works"), InEpoch::Lost);
}

/// Reads until the store answers: the client reconnects by itself.
async fn refresh_when_connected(store: &RedisLineStore, at: At) -> InEpoch<LineChanges> {
    let asked = async {
        loop {
            match refresh(store, at).await {
                Ok(answer) => break answer,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, asked).await.expect("the connection comes back")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_the_scripts_has_lost_the_line() {
    let server = Server::start(&[]);
    let store = connect(&server.url()).await;
    open_with_one_waiting(&store, at(1, FIRST)).await;

    assert_eq!(server.command("SCRIPT FLUSH"), "+OK");

    assert_eq!(refresh(&store, at(1, FIRST)).await.unwrap(), InEpoch::Lost);
    assert_eq!(join(&store, at(1, FIRST), 2).await.unwrap(), InEpoch::Lost);
    assert_opens_again(&store, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_flushed_has_lost_the_line() {
    let server = Server::start(&[]);
    let store = connect(&server.url()).await;
    open_with_one_waiting(&store, at(1, FIRST)).await;

    assert_eq!(server.command("FLUSHALL"), "+OK");

    assert_eq!(refresh(&store, at(1, FIRST)).await.unwrap(), InEpoch::Lost);
    assert_eq!(join(&store, at(1, FIRST), 2).await.unwrap(), InEpoch::Lost);
    assert_opens_again(&store, 1).await;
}

/// An append-only file may lack the last second. The scripts are gone after a restart, but another line that opens in
/// the same epoch loads them again. That must not bring the earlier lines back.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarted_has_lost_its_lines_whatever_it_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let keeps_all = ["--dir", folder, "--appendonly", "yes", "--appendfsync", "always"];
    let server = Server::start(&keeps_all);
    let store = connect(&server.url()).await;
    open_with_one_waiting(&store, at(1, FIRST)).await;

    let server = server.restart(&keeps_all);

    assert_eq!(refresh_when_connected(&store, at(1, FIRST)).await, InEpoch::Lost);
    assert_ne!(server.command("DBSIZE"), ":0", "the line's keys are still there");
    store.open(at(2, FIRST), &Contribution::default()).await.unwrap();
    store.open(at(1, FIRST), &Contribution::default()).await.unwrap();
    assert!(matches!(refresh(&store, at(2, FIRST)).await.unwrap(), InEpoch::Current(_)));
    assert_eq!(refresh(&store, at(1, FIRST)).await.unwrap(), InEpoch::Lost);
    assert_eq!(join(&store, at(1, FIRST), 1).await.unwrap(), InEpoch::Lost);
    assert_opens_again(&store, 1).await;
}

/// The first line of an epoch loads the scripts for all lines. No call finds only some of them.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_open_at_once_are_all_open() {
    let server = Server::start(&[]);
    let store = Arc::new(connect(&server.url()).await);

    for epoch in (1..=5).map(Epoch::new) {
        let open = |line| {
            let store = Arc::clone(&store);
            async move {
                store.open(at(line, epoch), &Contribution::default()).await.expect("the store works");
                join(&store, at(line, epoch), 1).await.expect("the store works")
            }
        };
        let mut opened = (0..64).map(open).collect::<JoinSet<_>>();
        while let Some(joined) = opened.join_next().await {
            assert!(matches!(joined.unwrap(), InEpoch::Current(_)));
        }
    }
}

/// Three servers that share the slots.
async fn cluster() -> Vec<Server> {
    let servers: Vec<_> = (0..3).map(|_| Server::start(&["--cluster-enabled", "yes"])).collect();
    for (server, slots) in servers.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
        assert_eq!(server.command(&format!("CLUSTER ADDSLOTSRANGE {slots}")), "+OK");
        assert_eq!(server.command(&format!("CLUSTER MEET 127.0.0.1 {}", servers[0].port())), "+OK");
    }
    let knows_all = |server: &Server| {
        let info = server.command("CLUSTER INFO");
        ["cluster_state:ok", "cluster_known_nodes:3", "cluster_slots_ok:16384"]
            .iter()
            .all(|wanted| info.contains(wanted))
    };
    let together = async {
        let mut again = tokio::time::interval(Duration::from_millis(50));
        while !servers.iter().all(knows_all) {
            again.tick().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, together).await.expect("the servers find each other");
    servers
}

/// Each line is on one server, with all its keys, and one round trip reads lines of all servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_spreads_the_lines_and_keeps_each_together() {
    let servers = cluster().await;
    let store = connect(&format!("redis-cluster://127.0.0.1:{}", servers[0].port())).await;

    for line in 0..30 {
        open_with_one_waiting(&store, at(line, FIRST)).await;
        let admission = store.admit(at(line, FIRST), &terms(Gate::Open), 10).await.unwrap();
        assert!(matches!(admission, InEpoch::Current(admission) if admission.granted.len() == 1));
    }
    let lines: Vec<_> = (0..30).map(|line| (at(line, FIRST).performance, Cursor::default())).collect();
    let answers = store.refresh(FIRST, OPENED_AT, &lines).await.unwrap();

    assert!(answers.iter().all(|answer| matches!(answer, InEpoch::Current(changes) if changes.counts.active == 1)));
    assert!(servers.iter().all(|server| server.command("DBSIZE") != ":0"), "each server has some of the lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_evict_the_line_is_refused() {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]);

    let refused = RedisLineStore::connect(&server.url()).await.err();

    assert!(matches!(refused, Some(ConnectError::Evicts { policy }) if policy == "allkeys-lru"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_refused() {
    let server = Server::start(&[]);
    let url = server.url();
    drop(server);

    assert!(matches!(RedisLineStore::connect(&url).await.err(), Some(ConnectError::Redis(_))));
}

/// How often each command ran since the server started, including calls by scripts.
fn commands(server: &Server) -> Vec<(String, u64)> {
    let text = server.command("INFO commandstats");
    let command = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(command).collect()
}

/// Calls every method, on a line with a crowd in which people wait, are away, are inside, leave and come back.
#[tokio::test(flavor = "multi_thread")]
async fn no_command_looks_through_the_keys() {
    let server = Server::start(&[]);
    let store = connect(&server.url()).await;
    let mut at = at(1, FIRST);
    let gone = (50..=100).collect();
    store.open(at, &Contribution { start: PlaceNumber::new(100), gone, ..Contribution::default() }).await.unwrap();
    let crowd: Vec<_> = (0..2_000).map(account).collect();
    let open = terms(Gate::Open);

    for _ in 0..12 {
        let _joined = store.join(at, &open, CEILING, &crowd).await.unwrap();
        at.now = at.now.plus(open.presence_window / 8);
        let seen = (101..1_500).step_by(2).collect();
        let _merged = store.mark_present(at, open.presence_window, &seen).await.unwrap();
    }
    at.now = at.now.plus(open.presence_window / 8);
    let admission = store.admit(at, &AdmitTerms { capacity: 400, ..open }, 1_000).await.unwrap();
    let place = |number| Place { performance: at.performance, number: PlaceNumber::new(number), account: account(1) };
    let _stands = store.resolve(at, &[place(102)]).await.unwrap();
    let _re_entered = store.re_enter(at, &[ReEntry { place: place(60), grant: None }]).await.unwrap();
    let _left = store.leave(at, place(60)).await.unwrap();
    let _ended = store.end_pass(at, PlaceNumber::new(101)).await.unwrap();
    let _changes = refresh(&store, at).await.unwrap();

    assert!(matches!(admission, InEpoch::Current(admission) if admission.granted.len() >= 300));
    let commands = commands(&server);
    let n_calls = |name: &str| commands.iter().find(|(known, _)| known == name).map_or(0, |(_, calls)| *calls);
    assert!(n_calls("evalsha") > 20 && n_calls("zadd") > 2_000, "the scripts' calls are counted: {commands:?}");
    for banned in ["keys", "scan", "sscan", "hscan", "zscan", "eval", "randomkey"] {
        assert_eq!(n_calls(banned), 0, "{banned}");
    }
}

/// The read of each tick costs Redis the same, whether ten people wait or ten thousand.
#[tokio::test(flavor = "multi_thread")]
async fn the_read_of_a_tick_costs_the_same_for_any_crowd() {
    let server = Server::start(&[]);
    let store = connect(&server.url()).await;
    let at = at(1, FIRST);
    store.open(at, &Contribution::default()).await.unwrap();

    let mut costs = Vec::new();
    for crowd in [0..10, 10..10_000] {
        let crowd: Vec<_> = crowd.map(account).collect();
        let _joined = store.join(at, &terms(Gate::Shut), CEILING, &crowd).await.unwrap();
        let total = || commands(&server).iter().map(|(_, calls)| calls).sum::<u64>();
        let before = total();
        let _changes = refresh(&store, at).await.unwrap();
        costs.push(total() - before);
    }

    assert_eq!(costs[0], costs[1]);
}

/// The server runs the call, and the connection breaks before the answer: the caller gets a timeout, because the effect
/// is unknown, and the client does not send the call again.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_was_lost_is_sent_once() {
    const INDEX: u64 = 0x5eed_0123_4567_89ab;
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port());
    let store = connect(&format!("redis://127.0.0.1:{}", proxy.port)).await;
    let at = at(1, FIRST);
    store.open(at, &Contribution::default()).await.unwrap();
    let n_connections = proxy.n_accepted.load(Ordering::SeqCst);

    proxy.loses_next.store(true, Ordering::SeqCst);
    let lost = join(&store, at, INDEX).await;
    assert!(matches!(lost, Err(StoreError::Timeout { .. })), "{lost:?}");

    let reconnected = async {
        while proxy.n_accepted.load(Ordering::SeqCst) == n_connections {
            tokio::task::yield_now().await;
        }
        // Uses each connection again, so that a command still in its buffer would be sent.
        for _ in 0..4 * n_connections {
            assert!(matches!(refresh_when_connected(&store, at).await, InEpoch::Current(_)));
        }
    };
    tokio::time::timeout(WAIT_MAX, reconnected).await.expect("the connection comes back");
    assert_eq!(proxy.count_sent(account(INDEX).as_bytes()), 1);
    let already = JoinOutcome::Already(Standing::Waiting(PlaceNumber::new(1)));
    assert_eq!(join(&store, at, INDEX).await.unwrap(), InEpoch::Current(vec![already]));
}

/// The connection to a demoted primary stays open, but accepts no writes. The client leaves it, and reconnects to the
/// new primary at the same address, which never had the line.
#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_primary_is_left_for_the_new_one() {
    let (old, new) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::start(old.port());
    let store = connect(&format!("redis://127.0.0.1:{}", proxy.port)).await;
    open_with_one_waiting(&store, at(1, FIRST)).await;

    proxy.server_port.store(new.port(), Ordering::SeqCst);
    assert_eq!(old.command(&format!("REPLICAOF 127.0.0.1 {}", new.port())), "+OK");
    let found = async {
        loop {
            match join(&store, at(1, FIRST), 2).await {
                Ok(answer) => break answer,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            tokio::task::yield_now().await;
        }
    };

    assert_eq!(tokio::time::timeout(WAIT_MAX, found).await.expect("the new primary is found"), InEpoch::Lost);
    assert_opens_again(&store, 1).await;
}

/// A caller gets a timeout in time, however long the server is silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_a_timeout() {
    let server = Server::start(&[]);
    let store = connect(&server.url()).await;
    let at = at(1, FIRST);
    store.open(at, &Contribution::default()).await.unwrap();

    assert_eq!(server.command("CLIENT PAUSE 60000 ALL"), "+OK");
    let silent = tokio::time::timeout(Duration::from_secs(4), join(&store, at, 1)).await;

    let answer = silent.expect("the timeout comes in time");
    assert!(matches!(answer, Err(StoreError::Timeout { .. })), "{answer:?}");
}
