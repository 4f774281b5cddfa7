//! The command line.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use usher_account::{Password, Role, SignUp};
use usher_adapter_sql::{Database, SqlAccountRepository, SqlCatalogueRepository, SqlReservationRepository};
use usher_concert::Page;
use usher_concert::ports::CatalogueRepository as _;
use usher_kernel::{AccountId, Clock, IdGenerator, PerformanceId, StoreError};
use usher_reservation::audit;
use usher_reservation::ports::ReservationHistory as _;

use crate::composition::{Application, StartError};
use crate::config::{self, ConfigError, LineBackend, Secret, Settings};
use crate::demo::{self, Demo};
use crate::durable::Durable;
use crate::http::openapi::Document;
use crate::identity::access_tokens::{AccessTokens, Bearer, SigningError};
use crate::identity::password::Argon2Hasher;
use crate::runtime::clock::SystemClock;
use crate::runtime::ids::RandomIds;
use crate::runtime::schema::{self, SchemaError};
use crate::runtime::telemetry;

/// A waiting room and seats for concerts.
#[derive(Debug, Parser)]
#[command(name = "usher", version)]
struct Cli {
    /// A file whose values replace the defaults; the environment (USHER__SECTION__KEY) replaces both.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or Ctrl-C.
    Serve {
        /// Adds one concert with one open performance of 50 seats, and an operator account.
        #[arg(long)]
        demo: bool,
    },
    /// Checks the configuration, and prints what it means. Starts nothing.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Asks the server of this configuration, at metrics.bind, whether it runs. Exits with 1 if it does not answer in 1 s.
    Health,
    /// Adds the demo to the store: a concert with an open performance of 50 seats, and an operator. Running it again adds
    /// only what is missing.
    Demo,
    /// Changes the schema of the database, or shows it.
    #[command(subcommand)]
    Migrate(Migrate),
    /// Manages operators.
    #[command(subcommand)]
    Operator(Operator),
    /// Manages access tokens.
    #[command(subcommand)]
    Token(Token),
    /// Replays the events of the seats, and compares them with seats, sales and payments.
    Verify {
        /// Verifies only this performance.
        #[arg(long, value_name = "ID")]
        performance: Option<PerformanceId>,
    },
    /// Prints the OpenAPI document.
    Openapi,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ConfigCommand {
    /// Reads the defaults, the file and the environment. Exits with 1 and names the first setting that is wrong.
    Check,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Migrate {
    /// Applies every migration that is not applied.
    Up,
    /// Reverts the latest migration.
    Down,
    /// Lists the migrations.
    Status {
        /// Exits with 1 if a migration is pending.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Operator {
    /// Creates an operator account. Reads the password from standard input.
    Create {
        /// Its mail address.
        #[arg(long)]
        email: String,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Token {
    /// Prints access tokens for random buyers, one per line.
    Mint {
        /// The number of tokens.
        #[arg(long, default_value_t = 1)]
        count: u64,
    },
}

/// How long `usher health` waits, and how much of the answer it reads.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
const HEALTH_ANSWER_MAX: u64 = 1_024;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Account(#[from] usher_account::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the password hasher cannot be set up")]
    Hasher(#[from] usher_account::HashingError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("input or output failed")]
    Io(#[from] io::Error),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error with its causes, in one line.
fn complain(error: &CommandError) {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut causes: Vec<String> = causes.map(ToString::to_string).collect();
    // Some errors have the text of their cause in their own.
    causes.dedup_by(|cause, error| error.contains(cause.as_str()));
    // If standard error is closed, the message is lost.
    drop(writeln!(io::stderr(), "usher: {}", causes.join(": ")));
}

fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    if matches!(cli.command, Command::Openapi) {
        io::stdout().write_all(Document::new().text().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::load(cli.config.as_deref())?;
    telemetry::init(&settings.log)?;
    tokio::runtime::Runtime::new()?.block_on(run_with(cli.command, &settings))
}

async fn run_with(command: Command, settings: &Settings) -> Result<ExitCode, CommandError> {
    match command {
        Command::Serve { demo } => serve(settings, demo).await?,
        Command::Config(ConfigCommand::Check) => describe(settings)?,
        Command::Health => health(settings.metrics.bind).await?,
        Command::Demo => set_up_demo(settings).await?,
        Command::Migrate(direction) => return migrate(settings, direction).await,
        Command::Operator(Operator::Create { email }) => create_operator(settings, &email).await?,
        Command::Token(Token::Mint { count }) => mint(settings, count)?,
        Command::Verify { performance } => return verify(settings, performance).await,
        // `run` has answered this command without a configuration.
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Raises the soft limit of open files to the hard limit, because each connection is a file. The usual soft limit of
/// 1,024 exists for programs that call `select`.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "cannot raise the limit of open files");
    }
}

async fn serve(settings: &Settings, with_demo: bool) -> Result<(), CommandError> {
    raise_file_limit();
    warn_of_public_address(&settings.http);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let application = Box::pin(Application::build(settings, with_demo)).await?;
    welcome(&application)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    application.run_until_stopped(stop).await?;
    Ok(())
}

/// Says what it means that other machines reach the server directly.
fn warn_of_public_address(http: &config::Http) {
    if !http.bind.ip().is_loopback() && http.trusted_proxies.0.is_empty() {
        tracing::warn!(
            bind = %http.bind,
            "other machines reach this address over plain HTTP: passwords and tokens are not encrypted, and cookies are \
             not Secure. Put a proxy with TLS in front, and name it in http.trusted_proxies"
        );
    }
}

/// Prints the addresses to standard output, whatever is logged: with port 0, nothing else tells the port.
fn welcome(application: &Application) -> io::Result<()> {
    let (mut out, address) = (io::stdout(), application.address());
    writeln!(out, "Usher is ready on http://{address}")?;
    writeln!(out, "  every call, to try out   http://{address}/swagger-ui/")?;
    writeln!(out, "  metrics and health       http://{}/metrics", application.metrics_address())?;
    if let Some(demo) = application.demo() {
        describe_demo(demo, &format!("http://{address}"))?;
    }
    writeln!(out, "Ctrl-C stops it.")
}

/// Refuses a command if the store is in memory, where only the server's own process can reach it.
fn refuse_memory(settings: &Settings, reason: &str) -> Result<(), CommandError> {
    if settings.store.is_memory() {
        return Err(CommandError::Refused(format!("store.url is memory://, {reason}")));
    }
    Ok(())
}

async fn migrate(settings: &Settings, direction: Migrate) -> Result<ExitCode, CommandError> {
    refuse_memory(settings, "which has no schema to migrate: set it to a sqlite:// or mysql:// database")?;
    let database = Database::open(&settings.database()).await?;
    let mut out = io::stdout();
    match direction {
        Migrate::Up => {
            for name in schema::up(&database).await? {
                writeln!(out, "applied {name}")?;
            }
        }
        Migrate::Down => match schema::down(&database).await? {
            Some(name) => writeln!(out, "reverted {name}")?,
            None => writeln!(out, "nothing to revert")?,
        },
        Migrate::Status { check } => {
            for name in schema::applied(&database).await? {
                writeln!(out, "applied {name}")?;
            }
            let pending = schema::pending(&database).await?;
            for name in &pending {
                writeln!(out, "pending {name}")?;
            }
            if check && !pending.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what the configuration means, without its secrets.
fn describe(settings: &Settings) -> Result<(), CommandError> {
    let mut out = io::stdout();
    let store = if settings.store.is_memory() {
        "the memory of the server".into()
    } else if settings.store.is_sqlite() {
        settings.store_url()
    } else {
        // Its URL may hold a password.
        "MySQL or MariaDB".into()
    };
    let line = match settings.line.backend {
        LineBackend::Memory => "the memory of the server",
        LineBackend::Redis => "Redis",
    };
    writeln!(out, "The configuration is valid.")?;
    writeln!(out, "  requests            http://{}", settings.http.bind)?;
    if let Some(bind) = settings.http.purchase_bind {
        writeln!(out, "  holds and confirms  http://{bind}")?;
    }
    writeln!(out, "  metrics and health  http://{}", settings.metrics.bind)?;
    writeln!(out, "  store               {store}")?;
    writeln!(out, "  line                {line}")?;
    Ok(())
}

/// Asks a server whether it runs.
async fn health(mut address: SocketAddr) -> Result<(), CommandError> {
    if address.ip().is_unspecified() {
        // The server listens on every address of this machine.
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let ask = async {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.take(HEALTH_ANSWER_MAX).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let refused = |reason: String| CommandError::Refused(format!("no healthy server on {address}: {reason}"));
    match tokio::time::timeout(HEALTH_WITHIN, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => Ok(writeln!(io::stdout(), "ok")?),
        Ok(Ok(answer)) => Err(refused(answer.lines().next().unwrap_or("an empty answer").to_owned())),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {HEALTH_WITHIN:?}"))),
    }
}

async fn set_up_demo(settings: &Settings) -> Result<(), CommandError> {
    refuse_memory(settings, "which ends with this command: start `usher serve --demo` instead")?;
    let Durable { accounts, catalogue, .. } = Durable::open(settings).await.map_err(StartError::from)?;
    let (clock, ids) = clock_and_ids();
    let hasher = Arc::new(Argon2Hasher::new(1, 0)?);
    let accounts = usher_account::Service::new(accounts, hasher, Arc::clone(&clock), Arc::clone(&ids));
    let demo = demo::set_up(&catalogue, &accounts, &clock, &ids).await.map_err(StartError::from)?;
    describe_demo(&demo, "")?;
    Ok(())
}

fn clock_and_ids() -> (Arc<dyn Clock>, Arc<dyn IdGenerator>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    (Arc::clone(&clock), Arc::new(RandomIds::new(clock)))
}

/// Prints where the demo's performance is below `base`, and who operates it.
fn describe_demo(demo: &Demo, base: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "  the demo's performance   {base}/api/v1/performances/{}", demo.performance)?;
    match &demo.operator_password {
        Some(password) => writeln!(out, "  its operator, shown once {} {password}", demo::OPERATOR_EMAIL),
        None => writeln!(out, "  its operator             {} (as printed the first time)", demo::OPERATOR_EMAIL),
    }
}

async fn create_operator(settings: &Settings, email: &str) -> Result<(), CommandError> {
    let reason = "which would lose the account when this command ends: start `usher serve --demo`, which creates an \
                  operator, or set store.url to a sqlite:// or mysql:// database";
    refuse_memory(settings, reason)?;
    let mut password = String::new();
    io::stdin().read_line(&mut password)?;
    let password = Password::new(password.trim_end_matches(['\r', '\n']));
    let wish = SignUp::new(email, password, "Operator").map_err(|violations| {
        let reasons: Vec<_> = violations.iter().map(|it| format!("{} {}", it.field, it.message)).collect();
        CommandError::Refused(reasons.join("; "))
    })?;
    let database = Database::open(&settings.database()).await?;
    schema::bring_up_to_date(&database).await?;
    let (clock, ids) = clock_and_ids();
    let hasher = Arc::new(Argon2Hasher::new(1, 0)?);
    let accounts = usher_account::Service::new(Arc::new(SqlAccountRepository::new(database)), hasher, clock, ids);
    let account = accounts.sign_up(wish, Role::Operator).await?;
    writeln!(io::stdout(), "{}", account.id)?;
    Ok(())
}

fn mint(settings: &Settings, count: u64) -> Result<(), CommandError> {
    if settings.auth.secret.is_empty() {
        let reason =
            "where each process makes a secret of its own: set auth.secret for this command and for the server";
        refuse_memory(settings, reason)?;
    }
    let (secret, clock) = (settings.secret()?, Arc::new(SystemClock::new()));
    let previous = settings.secret_previous().map(Secret::expose);
    let access_tokens = AccessTokens::new(secret.expose(), previous, settings.auth.token_ttl());
    let ids = RandomIds::new(clock.clone());
    let mut out = io::BufWriter::new(io::stdout().lock());
    for _ in 0..count {
        let bearer = Bearer { account: AccountId::from_uuid(ids.next_uuid()), role: Role::Buyer };
        writeln!(out, "{}", access_tokens.sign(bearer, clock.now())?)?;
    }
    Ok(out.flush()?)
}

/// Prints a summary of each performance, and every contradiction.
async fn verify(settings: &Settings, performance: Option<PerformanceId>) -> Result<ExitCode, CommandError> {
    let reason = "which only the server itself can read: set it to the sqlite:// or mysql:// database to verify";
    refuse_memory(settings, reason)?;
    let database = Database::open(&settings.database()).await?;
    schema::require_up_to_date(&database).await?;
    let catalogue = SqlCatalogueRepository::new(database.clone());
    let reservations = SqlReservationRepository::new(database);
    let performances = match performance {
        Some(id) => match catalogue.performance(id).await? {
            Some(_) => vec![id],
            None => return Err(CommandError::Refused(format!("there is no performance {id}"))),
        },
        None => all_performances(&catalogue).await?,
    };
    let mut out = io::BufWriter::new(io::stdout());
    let mut n_contradictions = 0;
    for &performance in &performances {
        let history = reservations.history(performance).await?;
        let audit::Findings { n_seats, n_events, n_sales, n_captures, mut contradictions } = audit::check(&history);
        contradictions.extend(audit::check_charges(&history));
        writeln!(
            out,
            "performance {performance}: {n_seats} seats, {n_events} events, {n_sales} sales, {n_captures} payments: \
             {} contradictions",
            contradictions.len(),
        )?;
        for contradiction in &contradictions {
            writeln!(out, "  {contradiction}")?;
        }
        n_contradictions += contradictions.len();
    }
    for attempt in reservations.strays().await? {
        writeln!(out, "attempt {attempt}: has a charge or a refund, but belongs to no performance")?;
        n_contradictions += 1;
    }
    writeln!(out, "checked {} performances: {n_contradictions} contradictions", performances.len())?;
    out.flush()?;
    Ok(if n_contradictions == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn all_performances(catalogue: &SqlCatalogueRepository) -> Result<Vec<PerformanceId>, StoreError> {
    let mut all = Vec::new();
    let mut after_concert = None;
    loop {
        let concerts = catalogue.concerts(Page { after: after_concert, limit: Page::<()>::LIMIT_MAX }).await?;
        let Some(last) = concerts.last() else { return Ok(all) };
        after_concert = Some(last.id);
        for concert in &concerts {
            let mut after = None;
            loop {
                let page = Page { after, limit: Page::<()>::LIMIT_MAX };
                let performances = catalogue.performances(concert.id, page).await?;
                let Some(last) = performances.last() else { break };
                after = Some(last.id);
                all.extend(performances.iter().map(|performance| performance.id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_is_named_before_or_after_the_command() {
        for arguments in [["usher", "--config", "x", "serve"], ["usher", "serve", "--config", "x"]] {
            assert_eq!(Cli::try_parse_from(arguments).unwrap().config, Some("x".into()));
        }
    }
}
