//! Constructs the server: adapters, decorators, services, background tasks and listeners, each after the parts that it
//! needs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpServer;
use actix_web::dev::Server;
use futures_util::future::{join, join_all, join3, try_join_all};
use tokio::runtime::Handle;
use usher_account::ports::{AccountRepository, HashingError};
use usher_adapter_memory::MemoryLineStore;
use usher_adapter_redis::RedisLineStore;
use usher_concert::ports::CatalogueRepository;
use usher_kernel::{Clock, IdGenerator, StoreError};
use usher_queue::ports::{LineLedger, LineStore, PolicyRepository};
use usher_queue::{TokenKeys, pace};
use usher_reservation::SimulatedGateway;
use usher_reservation::ports::{ReservationRepository, SeatEvents};

use crate::bridge::{CatalogueCalendar, CatalogueDesk, LineGate};
use crate::config::{self, ConfigError, LineBackend, Secret, Settings};
use crate::decorators::batched_line::{BatchedLineLedger, BatchedLineStore};
use crate::decorators::group_commit::GroupCommit;
use crate::decorators::observed::Observed;
use crate::decorators::recorded::Recorded;
use crate::demo::{self, Demo, DemoError};
use crate::durable::{self, Durable, OpenError};
use crate::http;
use crate::http::detached::Detached;
use crate::http::edge::{self, Edge};
use crate::http::services::Services;
use crate::identity::access_tokens::AccessTokens;
use crate::identity::password::Argon2Hasher;
use crate::live::boards::{Boards, FOLLOW_INTERVAL};
use crate::live::geometries::Geometries;
use crate::live::readiness::Readiness;
use crate::live::streams::Streams;
use crate::runtime::background::Background;
use crate::runtime::clock::SystemClock;
use crate::runtime::ids::RandomIds;
use crate::runtime::metrics::Metrics;
use crate::runtime::sole_server::SoleServer;

/// How often the sweeper frees lapsed holds and resolves unanswered payments.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a server reads new sales, changed policies and sold-out sales.
const CALENDAR_INTERVAL: Duration = Duration::from_secs(1);
/// How long the background steps may take to end, and then the last step of the lines.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How often a server asks whether the servers that it depends on answer.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How many ports above the configured one are tried for metrics.
const METRICS_PORTS_MAX: u16 = 100;
/// Connections for metrics and health: a few Prometheus servers and probes.
const METRICS_CONNECTIONS_MAX: usize = 64;
/// How long a payment may take before the sweeper asks the gateway. Longer than a gateway takes to answer.
const RESOLVE_PAYMENTS_AFTER: Duration = Duration::from_secs(10);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store of the durable ports cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The line's Redis cannot be used.
    #[error("the line's store cannot be used")]
    Redis(#[from] usher_adapter_redis::ConnectError),
    /// The secret cannot be read or created.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The password hasher cannot be set up.
    #[error("the password hasher cannot be set up")]
    Hasher(#[from] HashingError),
    /// The lines cannot be opened.
    #[error("the lines cannot be opened")]
    Line(#[from] usher_queue::Error),
    /// Another server uses the SQLite file, and has a line in its memory.
    #[error(
        "another server uses {path}, and keeps the line in its memory: stop it, or let both share a line with \
         line.backend = \"redis\""
    )]
    NotAlone {
        /// The SQLite file.
        path: String,
    },
    /// The lock of the SQLite file cannot be taken.
    #[error("the lock of {path} cannot be taken")]
    Lock {
        /// The SQLite file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The line's history cannot be written.
    #[error("cannot write the line's history to {path}")]
    History {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The demo cannot be set up.
    #[error("the demo cannot be set up")]
    Demo(#[from] DemoError),
    /// Two metrics have one name.
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The address is in use, or not one of this machine.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A server that listens and is ready to run.
pub struct Application {
    /// The listener of all requests, and that of purchases if there is one.
    servers: Vec<Server>,
    metrics_server: Server,
    address: SocketAddr,
    metrics_address: SocketAddr,
    readiness: Readiness,
    demo: Option<Demo>,
    background: Background,
    line: usher_queue::Service,
    sole_server: Option<SoleServer>,
    streams: Streams,
    drain: Duration,
    shutdown_timeout: Duration,
}

impl Application {
    /// Builds the server: opens the store, brings the schema of an embedded store up to date, opens the lines, and
    /// binds the sockets. Everything is then ready for the first request.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build(settings: &Settings, with_demo: bool) -> Result<Self, StartError> {
        Self::build_on(Durable::open(settings).await?, settings, with_demo).await
    }

    /// Builds the server on an open store.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn build_on(durable: Durable, settings: &Settings, with_demo: bool) -> Result<Self, StartError> {
        let sole_server = require_sole_server(settings)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let ids: Arc<dyn IdGenerator> = Arc::new(RandomIds::new(Arc::clone(&clock)));
        let metrics = Arc::new(Metrics::new()?);
        let background = Background::default();
        let tick = Duration::from_millis(settings.line.tick_ms);
        let secret = settings.secret()?;
        let previous = settings.secret_previous().map(Secret::expose);

        let Durable { accounts, catalogue, charges, ledger, policies, reservations, seat_events, store: durable } =
            durable;
        let store: Arc<dyn LineStore> = match settings.line.backend {
            LineBackend::Memory => Arc::new(MemoryLineStore::new()),
            LineBackend::Redis => Arc::new(RedisLineStore::connect(settings.line.redis_url.text()).await?),
        };
        let payments = Arc::new(SimulatedGateway::new(charges));

        let accounts: Arc<dyn AccountRepository> = Arc::new(Observed::new(accounts, Arc::clone(&metrics)));
        let catalogue: Arc<dyn CatalogueRepository> = Arc::new(Observed::new(catalogue, Arc::clone(&metrics)));
        let ledger: Arc<dyn LineLedger> = Arc::new(Observed::new(ledger, Arc::clone(&metrics)));
        let policies: Arc<dyn PolicyRepository> = Arc::new(Observed::new(policies, Arc::clone(&metrics)));
        let store: Arc<dyn LineStore> = Arc::new(Observed::new(store, Arc::clone(&metrics)));
        // Below the batches, so that the history has the calls that reach the store.
        let store: Arc<dyn LineStore> = match settings.history() {
            Some(path) => Arc::new(
                Recorded::new(store, Arc::clone(&clock), &path)
                    .map_err(|source| StartError::History { path: path.display().to_string(), source })?,
            ),
            None => store,
        };
        let ledger: Arc<dyn LineLedger> = Arc::new(BatchedLineLedger::new(ledger, &background));
        // Batches save round trips, and the store in memory has none.
        let store: Arc<dyn LineStore> = match settings.line.backend {
            LineBackend::Memory => store,
            LineBackend::Redis => Arc::new(BatchedLineStore::new(store, &background)),
        };
        let seat_events: Arc<dyn SeatEvents> = Arc::new(Observed::new(seat_events, Arc::clone(&metrics)));
        // Observed below the batches, so that each measurement is one transaction.
        let reservations: Arc<dyn ReservationRepository> = Arc::new(Observed::new(reservations, Arc::clone(&metrics)));
        let reservations: Arc<dyn ReservationRepository> = if settings.store.group_commit {
            Arc::new(GroupCommit::new(reservations, &background))
        } else {
            reservations
        };

        let boards = Boards::new(seat_events, Arc::clone(&clock), &background);
        let line = usher_queue::Service::new(
            usher_queue::Ports {
                store,
                ledger,
                policies,
                calendar: Arc::new(CatalogueCalendar {
                    catalogue: Arc::clone(&catalogue),
                    reservations: Arc::clone(&reservations),
                }),
                clock: Arc::clone(&clock),
            },
            TokenKeys::new(secret.expose(), previous),
            settings.line.service(),
        );
        let reservations = usher_reservation::Service::new(
            usher_reservation::Ports {
                reservations,
                payments,
                sales: Arc::new(CatalogueDesk::new(Arc::clone(&catalogue), line.clone())),
                gate: Arc::new(LineGate(line.clone())),
                clock: Arc::clone(&clock),
                ids: Arc::clone(&ids),
            },
            usher_reservation::Settings { resolve_payments_after: RESOLVE_PAYMENTS_AFTER },
        );
        let hash_threads = match settings.auth.hash_threads {
            0 => (n_cores() / 2).max(1),
            threads => threads,
        };
        let hasher = Arc::new(Argon2Hasher::new(hash_threads, settings.auth.hash_queue)?);
        let accounts = usher_account::Service::new(accounts, hasher, Arc::clone(&clock), Arc::clone(&ids));

        let demo = match with_demo {
            true => Some(demo::set_up(&catalogue, &accounts, &clock, &ids).await?),
            false => None,
        };
        line.refresh_calendar().await?;
        match line.tick().await {
            // Another server may be opening the line. The next ticks try again.
            Ok(()) | Err(usher_queue::Error::LineUnavailable) => {}
            Err(error) => return Err(error.into()),
        }
        let send_timeout = Duration::from_millis(settings.http.send_timeout_ms.into());
        let streams = Streams::new(settings.http.streams_max, send_timeout, Arc::clone(&metrics));
        let readiness = Readiness::default();
        ask_dependencies(&durable, &line, &readiness, &metrics).await;
        start_background(&background, &line, &reservations, &boards, &streams, &metrics, tick);
        start_asking(&background, durable, &line, &readiness, &metrics);

        let services = Arc::new(Services {
            accounts,
            catalogue: usher_concert::Service::new(catalogue, Arc::clone(&clock), Arc::clone(&ids)),
            line: line.clone(),
            reservations,
            access_tokens: Arc::new(AccessTokens::new(secret.expose(), previous, settings.auth.token_ttl())),
            clock,
            ids,
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            detached: Detached::new(background.tasks().clone(), Handle::current()),
            edge: Arc::new(Edge::new(&settings.http)),
            streams: streams.clone(),
            boards,
            geometries: Arc::new(Geometries::default()),
            has_swagger_ui: settings.http.swagger_ui,
            sale_defaults: settings.reservation.sale_defaults(),
        });
        let (server, address) = listen(&services, &settings.http, settings.http.bind)?;
        let mut servers = vec![server];
        if let Some(bind) = settings.http.purchase_bind {
            servers.push(listen(&services, &settings.http, bind)?.0);
        }
        let (metrics_server, metrics_address) = listen_for_metrics(metrics, &readiness, settings.metrics.bind)?;
        Ok(Self {
            servers,
            metrics_server,
            address,
            metrics_address,
            readiness,
            demo,
            background,
            line,
            sole_server,
            streams,
            drain: Duration::from_secs(settings.http.drain_s),
            shutdown_timeout: Duration::from_secs(settings.http.shutdown_timeout_s),
        })
    }

    /// The address that the server listens on. With port 0 configured, it has the port that the system chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of metrics and health. Its port may be above the configured one.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// The demo, if there is one.
    #[must_use]
    pub const fn demo(&self) -> Option<&Demo> {
        self.demo.as_ref()
    }

    /// Serves until `stop` completes. Then reports that it is not ready, and accepts requests for the drain time. After
    /// it, answers the requests under way and finishes the background steps, within the shutdown timeout and four seconds.
    ///
    /// # Errors
    /// If the server's sockets fail.
    pub async fn run_until_stopped(self, stop: impl Future<Output = ()>) -> Result<(), std::io::Error> {
        let Self {
            servers,
            metrics_server,
            readiness,
            background,
            line,
            sole_server,
            streams,
            drain,
            shutdown_timeout,
            ..
        } = self;
        let handles: Vec<_> = servers.iter().map(Server::handle).collect();
        let metrics_handle = metrics_server.handle();
        let stopping = async {
            stop.await;
            readiness.drain();
            if !drain.is_zero() {
                tracing::info!(?drain, "draining: not ready, but accepting requests");
                drain_for(drain).await;
            }
            tracing::info!("stopping: answering the requests under way");
            streams.end();
            join_all(handles.iter().map(|handle| handle.stop(true))).await;
            // Last, so that health is reported while requests are answered. Nobody waits for metrics.
            metrics_handle.stop(false).await;
        };
        let (result, metrics_result, ()) = join3(try_join_all(servers), metrics_server, stopping).await;
        // Saves the people who joined and were admitted since the last step, so that they keep their order.
        match tokio::time::timeout(STOP_WITHIN, line.tick()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lines were not saved at the end"),
            Err(_) => tracing::warn!("the lines were not saved in time at the end"),
        }
        background.stop(shutdown_timeout.min(STOP_WITHIN)).await;
        // Until here, no other server may open the lines.
        drop(sole_server);
        tracing::info!("stopped");
        result.and(metrics_result)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a load balancer takes this time to notice, and tells nobody when it did"
)]
async fn drain_for(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Makes sure that no other server uses the database, if the line is in this server's memory.
fn require_sole_server(settings: &Settings) -> Result<Option<SoleServer>, StartError> {
    if settings.line.backend != LineBackend::Memory {
        return Ok(None);
    }
    let Some(file) = settings.sqlite_file() else {
        if !settings.store.is_memory() {
            tracing::warn!(
                "line.backend is `memory`: only one server may use this database. Set it to `redis` to run several"
            );
        }
        return Ok(None);
    };
    let path = file.display().to_string();
    match SoleServer::lock(&file) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(StartError::NotAlone { path }),
        Err(source) => Err(StartError::Lock { path, source }),
    }
}

/// Asks the store and the line's store whether they answer, and notes it.
async fn ask_dependencies(
    durable: &durable::Store,
    line: &usher_queue::Service,
    readiness: &Readiness,
    metrics: &Metrics,
) {
    let (store, line) = join(durable.ping(), line.ping()).await;
    for (dependency, outcome) in [("store", store), ("line", line)] {
        metrics.observe_dependency(dependency, outcome.is_ok());
        readiness.note(dependency, &outcome);
    }
}

fn start_asking(
    background: &Background,
    durable: durable::Store,
    line: &usher_queue::Service,
    readiness: &Readiness,
    metrics: &Arc<Metrics>,
) {
    let asked = Arc::new((durable, line.clone(), readiness.clone(), Arc::clone(metrics)));
    background.every("dependencies", ASK_INTERVAL, move || {
        let asked = Arc::clone(&asked);
        async move {
            let (durable, line, readiness, metrics) = &*asked;
            ask_dependencies(durable, line, readiness, metrics).await;
            Ok::<_, StoreError>(())
        }
    });
}

fn start_background(
    background: &Background,
    line: &usher_queue::Service,
    reservations: &usher_reservation::Service,
    boards: &Boards,
    streams: &Streams,
    metrics: &Arc<Metrics>,
    tick: Duration,
) {
    let (service, streams, metrics) = (line.clone(), streams.clone(), Arc::clone(metrics));
    background.every("admission", tick, move || {
        let (service, streams, metrics) = (service.clone(), streams.clone(), Arc::clone(&metrics));
        async move {
            let result = service.tick().await;
            let lines = service.live_lines();
            streams.call(lines.iter().map(|line| (line.performance, line.stats.counts.serving)));
            metrics.observe_lines(lines);
            result
        }
    });
    let service = line.clone();
    background.every("calendar", CALENDAR_INTERVAL, move || {
        let service = service.clone();
        async move { service.refresh_calendar().await }
    });
    let service = line.clone();
    background.every("presence", pace::MERGE_INTERVAL, move || {
        let service = service.clone();
        async move { service.merge_presence().await }
    });
    let service = reservations.clone();
    background.every("sweep", SWEEP_INTERVAL, move || {
        let service = service.clone();
        async move { service.sweep().await.map(|_| ()) }
    });
    let following = boards.clone();
    background.every("boards", FOLLOW_INTERVAL, move || {
        let following = following.clone();
        async move { following.follow().await }
    });
    // In its own task, so that reading a large map does not delay the events.
    let reading = boards.clone();
    background.every("boards anew", FOLLOW_INTERVAL, move || {
        let reading = reading.clone();
        async move { reading.read_again().await }
    });
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn listen(
    services: &Arc<Services>,
    settings: &config::Http,
    bind: SocketAddr,
) -> Result<(Server, SocketAddr), StartError> {
    let &config::Http { workers, max_connections, head_timeout_ms, send_timeout_ms, shutdown_timeout_s, .. } = settings;
    let services = Arc::clone(services);
    let mut server = HttpServer::new(move || http::app(&services))
        // The command handles the signals, so that a program that embeds the server can stop it in another way.
        .disable_signals()
        .client_request_timeout(Duration::from_millis(head_timeout_ms))
        // A client that closed its side is gone. With half-closed connections, its stream would go on.
        .h1_allow_half_closed(false)
        .on_connect(move |connection, _| edge::bound_sending(connection, send_timeout_ms))
        .shutdown_timeout(shutdown_timeout_s);
    if workers > 0 {
        server = server.workers(workers);
    }
    // The framework counts connections per worker.
    let n_workers = if workers > 0 { workers } else { n_cores() };
    let server = server.max_connections(max_connections.div_ceil(n_workers)).bind(bind);
    let server = server.map_err(|source| StartError::Bind { address: bind.to_string(), source })?;
    let address = server.addrs().first().copied().unwrap_or(bind);
    Ok((server.run(), address))
}

/// Listens for metrics and health, on a thread of their own: a busy server still reports how it is.
fn listen_for_metrics(
    metrics: Arc<Metrics>,
    readiness: &Readiness,
    bind: SocketAddr,
) -> Result<(Server, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { address: bind.to_string(), source };
    let listener = listen_near(bind).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let readiness = readiness.clone();
    let server = HttpServer::new(move || http::metrics_app(Arc::clone(&metrics), readiness.clone()))
        .disable_signals()
        .workers(1)
        .max_connections(METRICS_CONNECTIONS_MAX)
        .listen(listener)
        .map_err(failed)?;
    Ok((server.run(), address))
}

/// A listener on this port, or on the first free one above it, so that servers on one machine need no settings for it.
fn listen_near(bind: SocketAddr) -> io::Result<TcpListener> {
    let ports = bind.port()..=bind.port().saturating_add(if bind.port() == 0 { 0 } else { METRICS_PORTS_MAX });
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        match TcpListener::bind(SocketAddr::new(bind.ip(), port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            bound => return bound,
        }
    }
    Err(last)
}
