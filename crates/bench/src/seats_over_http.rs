//! Holds and refusals over HTTP, in turn with those at the port of the same database; and the CPU time of each side.

use std::time::Duration;

use usher_loadtest::bench::cpu::Cpu;
use usher_loadtest::bench::holds::{AT_ONE_SEAT, IN_FLIGHT, Shop};
use usher_loadtest::bench::report::{Figure, median, percentile};
use usher_loadtest::bench::stage::{Stage, site};
use usher_loadtest::bench::{Outcome, OverHttp, RUNS, progress};
use usher_test_servers::mysql_server;

use crate::seats::{Engine, POOL_OF_SHARED, Port, hold, hold_all, open, rate, refusals_ms};

const N_HOLDS_AT_PORT: u64 = 8_000;

/// The results of runs of holds. CPU times are in us per hold.
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

/// Measures holds of one seat each, and refusals of one seat that all buyers want; the control is the same at the port.
///
/// # Errors
/// If a server fails, or an answer is wrong.
pub(crate) async fn measure(over_http: &OverHttp<'_>, engine: &Engine, figures: &mut Vec<Figure>) -> Outcome<()> {
    let name = engine.name;
    progress(&format!("{name}: a server with a hall of its own"));
    let folder = over_http.folder.join(format!("holds-{name}"));
    let (mut site, mut port_url) = (site(&folder)?, format!("sqlite://{}", folder.join("port.db").display()));
    if let Some(server) = &engine.server {
        site = site.with("store.url", &mysql_server::create_database(&server.url(), "http").await);
        site.run(&["migrate", "up"], "")?;
        port_url = mysql_server::create_database(&server.url(), "port").await;
    }
    let mut shop = Shop::open(over_http, site).await?;
    let each_at_port = over_http.scale.people(N_HOLDS_AT_PORT);
    let mut port = Port::open(open(&port_url, POOL_OF_SHARED).await?, RUNS as u64 * each_at_port + 1).await?;

    progress(&format!("{name}: holds over HTTP, {IN_FLIGHT} connections"));
    let (mut http, mut control) = (Holds::default(), Holds::default());
    for run in 0..RUNS {
        let before = spent(&shop.stage, engine)?;
        let at_port = (Cpu::of_this()?.own, hold_all(&port.repository, &mut port.buyers, each_at_port).await?);
        let after = spent(&shop.stage, engine)?;
        control.rates.push(rate(at_port.1, each_at_port));
        control.server_us.push(us(Cpu::of_this()?.own - at_port.0, each_at_port));
        control.database_us.extend(each_of(before.database, after.database, each_at_port));

        let before = spent(&shop.stage, engine)?;
        let answered = shop.hold(run).await?;
        let after = spent(&shop.stage, engine)?;
        http.rates.push(answered.rate());
        for (values, value) in http.percentiles_ms.iter_mut().zip(answered.percentiles_ms()) {
            values.push(value);
        }
        http.server_us.push(us(after.server - before.server, answered.requests));
        http.database_us.extend(each_of(before.database, after.database, answered.requests));
        http.load_us.push(us(after.load - before.load, answered.requests));
    }
    shop.are_held().await?;
    figures.extend(hold_figures(name, &http, &control));

    progress(&format!("{name}: {AT_ONE_SEAT} connections want one seat that is held"));
    let refused = shop.refuse().await?;
    let owner = port.buyers.next();
    hold(&port.repository, owner).await?;
    let control = refusals_ms(&port.repository, &mut port.buyers, owner).await?;
    for (percent, value) in [50, 99].into_iter().zip(refused.percentiles_ms()) {
        let text =
            format!("{name}: refusal over HTTP of a seat that {AT_ONE_SEAT} want, p{percent} (control: at the port)");
        figures.push(Figure::duration(text, value, "ms", percentile(&control, percent)));
    }
    port.background.stop(Duration::from_secs(5)).await;
    shop.stage.verify()
}

/// The figures of holds over HTTP; the control is holds at the port.
fn hold_figures(name: &str, http: &Holds, control: &Holds) -> Vec<Figure> {
    let text = format!("{name}: holds over HTTP a second, {IN_FLIGHT} connections (control: at the port)");
    let mut figures = vec![Figure::rate(text, median(&http.rates), "1/s", median(&control.rates))];
    for (percent, values) in [50, 99].into_iter().zip(&http.percentiles_ms) {
        figures.push(Figure::alone(format!("{name}: hold over HTTP, p{percent}"), median(values), "ms"));
    }
    let text = format!("{name}: CPU of the server for a hold (control: of the holds at the port)");
    figures.push(Figure::duration(text, median(&http.server_us), "us", median(&control.server_us)));
    if !http.database_us.is_empty() {
        let text = format!("{name}: CPU of the database for a hold (control: at the port)");
        figures.push(Figure::duration(text, median(&http.database_us), "us", median(&control.database_us)));
    }
    figures.push(Figure::alone(format!("{name}: CPU of the load generator for a hold"), median(&http.load_us), "us"));
    figures
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
