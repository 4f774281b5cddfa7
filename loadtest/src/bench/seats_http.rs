//! Holds over HTTP, and refusals, beside those at the port, on the same database, in turn; and where the CPU time goes.
//! Drives a server as buyers do, whose passes it signs itself.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use usher_adapter_sql::{SqlCatalogueRepository, SqlReservationRepository};
use usher_app::decorators::group_commit::GroupCommit;
use usher_app::runtime::background::Background;
use usher_app::runtime::schema;
use usher_contract_tests::mysql_server;
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::SeatId;

use super::cpu::Cpu;
use super::report::{Figure, median, percentile};
use super::seats::{
    AT_ONE_SEAT, Buyers, Engine, IN_FLIGHT, PERFORMANCE, POOL_OF_SHARED, Repository, hold, hold_all, open, rate,
    refusals_ms, seat, seat_map,
};
use super::stage::{Stage, done, site};
use super::wrk::{Answered, Asked, BODY, Values};
use super::{Outcome, OverHttp, RUNS, progress};
use crate::world::clock::eventually;
use crate::world::hall::sections;
use crate::world::passes::Credentials;

/// More holds than there can be in a second; three runs of two seconds have to fit into the largest hall there may be.
const N_HOLDS_PER_S: u64 = 19_950;
const N_HOLDS_AT_PORT: u64 = 8_000;
/// Refused buyers take turns: a refusal leaves nothing behind.
const N_REFUSED: u64 = 20_000;
/// How long the server may take to see what others did.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one run of holds came to: beside the rate the CPU time of each side, in us a hold.
#[derive(Default)]
struct Holds {
    rates: Vec<f64>,
    percentiles_ms: [Vec<f64>; 2],
    server_us: Vec<f64>,
    database_us: Vec<f64>,
    load_us: Vec<f64>,
}

/// CPU time so far.
#[derive(Clone, Copy)]
struct Spent {
    server: Duration,
    database: Option<Duration>,
    load: Duration,
}

/// The seats without HTTP: the control.
struct Port {
    repository: Repository,
    background: Background,
    buyers: Buyers,
}

impl Port {
    async fn open(url: &str, n_seats: u64) -> Outcome<Self> {
        let database = open(url, POOL_OF_SHARED).await?;
        schema::up(&database).await?;
        let catalogue = SqlCatalogueRepository::new(database.clone());
        seed_through(&catalogue, PERFORMANCE, &seat_map(n_seats)?).await;
        let background = Background::default();
        let stored = Arc::new(SqlReservationRepository::new(database));
        let repository: Repository = Arc::new(GroupCommit::new(stored, &background));
        Ok(Self { repository, background, buyers: Buyers::default() })
    }
}

impl OverHttp<'_> {
    /// Holds of one seat each, and refusals of one that everybody wants, beside the same at the port.
    ///
    /// # Errors
    /// If a server fails, or an answer is not the right one.
    pub(super) async fn holds(&self, engine: &Engine, figures: &mut Vec<Figure>) -> Outcome<()> {
        let name = engine.name;
        let each = N_HOLDS_PER_S * self.short_span().as_secs();
        let each_at_port = self.scale.people(N_HOLDS_AT_PORT);
        let (n_seats, runs) = (RUNS as u64 * each + 1, RUNS as u64);
        progress(&format!("{name}: a server with a hall of some {n_seats} seats"));
        let folder = self.folder.join(format!("holds-{name}"));
        let (mut site, port_url) = (site(&folder)?, folder.join("port.db"));
        let mut port_url = format!("sqlite://{}", port_url.display());
        if let Some(server) = &engine.server {
            site = site.with("store.url", &mysql_server::create_database(&server.url(), "http").await);
            site.run(&["migrate", "up"], "")?;
            port_url = mysql_server::create_database(&server.url(), "port").await;
        }
        let stage = Stage::with_seats(site, &sections(usize::try_from(n_seats)?)).await?;
        let mut port = Port::open(&port_url, runs * each_at_port + 1).await?;
        let wishes = self.wishes(&stage, runs * each, "own-seats", seat)?;

        progress(&format!("{name}: holds over HTTP, {IN_FLIGHT} connections"));
        let (mut http, mut control, mut n_held) = (Holds::default(), Holds::default(), 0);
        for run in 0..RUNS {
            let before = spent(&stage, engine)?;
            let at_port = (Cpu::of_this()?.own, hold_all(&port.repository, &mut port.buyers, each_at_port).await?);
            let after = spent(&stage, engine)?;
            control.rates.push(rate(at_port.1, each_at_port));
            control.server_us.push(us(Cpu::of_this()?.own - at_port.0, each_at_port));
            control.database_us.extend(each_of(before.database, after.database, each_at_port));

            let (first, before) = (run * usize::try_from(each)?, spent(&stage, engine)?);
            let used = first..first + usize::try_from(each)?;
            let answered = self.post(&stage, &wishes, used, IN_FLIGHT, false).await?;
            let after = spent(&stage, engine)?;
            let n_answered = answered.requests;
            // The last ones may be on their way still.
            if n_answered + IN_FLIGHT as u64 > each {
                return Err(format!("{each} seats are too few for {n_answered} holds").into());
            }
            n_held += n_answered;
            http.rates.push(answered.rate());
            for (values, value) in http.percentiles_ms.iter_mut().zip(answered.percentiles_ms()) {
                values.push(value);
            }
            http.server_us.push(us(after.server - before.server, n_answered));
            http.database_us.extend(each_of(before.database, after.database, n_answered));
            http.load_us.push(us(after.load - before.load, n_answered));
        }
        are_held(&stage, n_held).await?;
        figures.extend(hold_figures(name, &http, &control));

        progress(&format!("{name}: {AT_ONE_SEAT} connections want one seat that is held"));
        // Nobody has come to the last one of the last run.
        let hot = seat(runs * each)?;
        let wishes = self.wishes(&stage, self.scale.people(N_REFUSED), "hot-seat", |_| Ok(hot.clone()))?;
        is_taken(&stage, &hot).await?;
        let refused = self.post(&stage, &wishes, 0..wishes.count, AT_ONE_SEAT, true).await?;
        let n_others = stage.answered("POST", "/reservations", |status| !is_held_or_taken(status)).await?;
        let n_taken = stage.answered("POST", "/reservations", |status| status == StatusCode::CONFLICT).await?;
        if n_others > 0 || n_taken < refused.requests {
            return Err(format!("{n_others} buyers were told something else than that the seat is taken").into());
        }
        let owner = port.buyers.next();
        hold(&port.repository, owner).await?;
        let control = refusals_ms(&port.repository, &mut port.buyers, owner).await?;
        for (percent, value) in [50, 99].into_iter().zip(refused.percentiles_ms()) {
            let text = format!(
                "{name}: refusal over HTTP of a seat that {AT_ONE_SEAT} want, p{percent} (control: at the port)"
            );
            figures.push(Figure::duration(text, value, "ms", percentile(&control, percent)));
        }
        port.background.stop(Duration::from_secs(5)).await;
        stage.verify()
    }

    /// Asks for seats as the rows of `values` do.
    async fn post(
        &self,
        stage: &Stage,
        values: &Values,
        used: std::ops::Range<usize>,
        connections: usize,
        is_refused: bool,
    ) -> Outcome<Answered> {
        let (url, path, pause, span) = (stage.url(), stage.reservations(), Duration::ZERO, self.short_span());
        let asked =
            Asked { url: &url, method: "POST", path: &path, values, used, connections, is_refused, pause, span };
        self.wrk.run(&asked).await
    }

    /// Requests of new buyers for a seat each, from 1.
    fn wishes(
        &self,
        stage: &Stage,
        count: u64,
        name: &str,
        wanted: impl Fn(u64) -> Outcome<SeatId>,
    ) -> Outcome<Values> {
        let columns = ["Authorization", "Usher-Pass", "Idempotency-Key", BODY];
        let buyers = stage.buyers(count)?;
        let rows = (1..).zip(buyers).map(|(n, Credentials { token, pass })| {
            Ok([
                format!("Bearer {token}"),
                pass,
                "hold".to_owned(),
                json!({"seats": [wanted(n)?.to_string()]}).to_string(),
            ])
        });
        self.wrk.rows(name, columns, rows.collect::<Outcome<Vec<_>>>()?)
    }
}

/// What holds cost over HTTP, beside what they cost at the port.
fn hold_figures(name: &str, http: &Holds, control: &Holds) -> Vec<Figure> {
    let text = format!("{name}: holds over HTTP a second, {IN_FLIGHT} connections (control: at the port)");
    let mut figures = vec![Figure::rate(text, median(&http.rates), "1/s", median(&control.rates))];
    for (percent, values) in [50, 99].into_iter().zip(&http.percentiles_ms) {
        figures.push(Figure::alone(format!("{name}: hold over HTTP, p{percent}"), median(values), "ms"));
    }
    let text = format!("{name}: CPU of the server for a hold (control: of who holds at the port)");
    figures.push(Figure::duration(text, median(&http.server_us), "us", median(&control.server_us)));
    if !http.database_us.is_empty() {
        let text = format!("{name}: CPU of the database for a hold (control: at the port)");
        figures.push(Figure::duration(text, median(&http.database_us), "us", median(&control.database_us)));
    }
    figures.push(Figure::alone(format!("{name}: CPU of the load generator for a hold"), median(&http.load_us), "us"));
    figures
}

/// The database has as many seats held as were answered to be, or as many more as were on their way at the ends of runs;
/// and nobody was answered anything else.
async fn are_held(stage: &Stage, n_answered: u64) -> Outcome<()> {
    let n_others = stage.answered("POST", "/reservations", |status| status != StatusCode::CREATED).await?;
    if n_others > 0 {
        return Err(format!("{n_others} holds were not answered 201").into());
    }
    let (client, url) = (Client::new(), format!("{}/api/v1/performances/{}", stage.url(), stage.sale.performance()));
    let n_most = n_answered + (RUNS * IN_FLIGHT) as u64;
    let held = eventually(PATIENCE, async || {
        let performance = done(client.get(&url)).await.ok()?;
        performance["seats"]["held"].as_u64().filter(|n_held| *n_held >= n_answered)
    });
    match held.await {
        Some(n_held) if n_held <= n_most => Ok(()),
        n_held => Err(format!("{n_answered} holds were acknowledged, and {n_held:?} seats are held").into()),
    }
}

/// Somebody holds a seat; the next one is told that it is taken.
async fn is_taken(stage: &Stage, seat: &SeatId) -> Outcome<()> {
    let client = Client::new();
    let url = format!("{}{}", stage.url(), stage.reservations());
    let mut answers = Vec::new();
    for buyer in stage.buyers(2)? {
        let request = client.post(&url).bearer_auth(buyer.token).header("Usher-Pass", buyer.pass);
        let request = request.header("Idempotency-Key", "hold").json(&json!({"seats": [seat.to_string()]}));
        answers.push(request.send().await?.json::<Value>().await?);
    }
    let [held, refused] = answers.as_slice() else { return Err("two were asked for".into()) };
    if held["status"] == "held" && refused["code"] == "seat-taken" && refused["conflicts"] == json!([seat.to_string()])
    {
        return Ok(());
    }
    Err(format!("one holds a seat, and one is refused it: {held} {refused}").into())
}

fn is_held_or_taken(status: StatusCode) -> bool {
    status == StatusCode::CREATED || status == StatusCode::CONFLICT
}

fn spent(stage: &Stage, engine: &Engine) -> Outcome<Spent> {
    let database = engine.server.as_ref().and_then(mysql_server::Server::pid).map(Cpu::of).transpose()?;
    Ok(Spent {
        server: Cpu::of(stage.server.pid())?.own,
        database: database.map(|cpu| cpu.own),
        load: Cpu::of_this()?.ended_children,
    })
}

fn each_of(before: Option<Duration>, after: Option<Duration>, count: u64) -> Option<f64> {
    Some(us(after? - before?, count))
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn us(span: Duration, count: u64) -> f64 {
    span.as_secs_f64() * 1e6 / count as f64
}
