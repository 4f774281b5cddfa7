//! Clients that disconnect: their connections are reset at any moment of a request, while the database is slow to
//! reach. No other client may be affected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::iter;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Request, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::{Context, ProofError, Verdict};
use super::shop::{SECTION, Shop};
use super::stage::{GIVE_UP_AFTER, Setting, Stage};
use crate::world::hall::{seat_of, section};

/// One-way delay to the database; a round trip takes twice as long.
const DELAY: Duration = Duration::from_millis(10);
/// Longest time from a request to the disconnect, for holds and for lists. Most are not answered by then.
const HANGS_UP_WITHIN: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(40)];
/// How many clients disconnect at the same time.
const AT_ONCE: usize = 8;
/// How long after the last purchase a transaction may stay open.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Many clients disconnect during a hold; then others buy.
pub(in crate::prove) async fn aborted_holds(context: Context) -> Result<Verdict, ProofError> {
    let (n_aborted, n_honest) = context.sized((300, 60), (40, 12));
    let parameters = json!({"aborted": n_aborted, "honest": n_honest, "round_trip_ms": 2 * DELAY.as_millis()});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let setting = Setting {
        delay: DELAY,
        // Holds that share a transaction share its fate; without sharing, each disconnect may leave one open.
        group_commit: [true, false],
        ..Setting::of(vec![section(SECTION, n_honest + n_aborted, "A")], n_honest + n_aborted)
    };
    let (stage, _database) = Stage::set(&context, setting).await?;

    context.say(format_args!("{n_aborted} clients disconnect during a hold, and during a list"));
    let n_answered = AtomicUsize::new(0);
    let aborted = iter(0..n_aborted).map(async |n| {
        let buyer = stage.buyer()?;
        let mut rng = StdRng::seed_from_u64(context.seed.wrapping_add(n as u64));
        let wish = json!({"seats": [seat_of(SECTION, n_honest + n)]});
        let requests = [stage.hold(&buyer, "hold", &wish), stage.list(&buyer)];
        for (request, at_most) in requests.into_iter().zip(HANGS_UP_WITHIN) {
            if hang_up(request, rng.random_range(Duration::ZERO..at_most)).await? {
                n_answered.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok::<_, ProofError>((buyer, wish))
    });
    let aborted: Vec<_> = aborted.buffer_unordered(AT_ONCE).collect().await;
    let aborted = aborted.into_iter().collect::<Result<Vec<_>, _>>()?;
    verdict.count("answered_before_they_hung_up", n_answered.into_inner());

    context.say(format_args!("{n_honest} buyers buy at once"));
    let shop = Shop::open(stage, n_honest, n_honest);
    join_all((0..n_honest).map(|n| shop.buy(n, n))).await.into_iter().collect::<Result<(), _>>()?;
    let mut watcher = shop.stage.watcher().await;
    let n_bought = shop.n_bought();
    let n_sold = watcher.number("SELECT COUNT(*) FROM sold").await;
    let n_confirmed = watcher.number("SELECT COUNT(*) FROM reservations WHERE state = 'confirmed'").await;
    if (n_bought, n_sold, n_confirmed) != (n_honest, n_honest as i64, n_honest as i64) {
        shop.stage.find(format!(
            "{n_bought} of {n_honest} purchases are acknowledged; the database has {n_sold} sold seats and {n_confirmed} \
             confirmed reservations"
        ));
    }
    verdict.count("confirmed_in_the_database", n_confirmed);

    match shop.stage.until_nothing_is_open(context.sized(CLOSED_WITHIN, GIVE_UP_AFTER)).await {
        Some(took) => verdict.figure("nothing_is_open_after_s", took.as_secs_f64()),
        None => shop.stage.find("a transaction stays open".into()),
    }
    let n_held = watcher.number("SELECT COUNT(*) FROM reservations WHERE state = 'held'").await;
    verdict.count("held_by_those_who_hung_up", n_held);
    context.say("every client repeats its request at the other server");
    shop.ask_for_all_again().await?;
    let again = iter(aborted).map(async |(buyer, wish)| {
        let buyer = buyer.elsewhere();
        shop.stage.until_answered(|| shop.stage.hold(&buyer, "hold", &wish), StatusCode::CREATED).await;
    });
    again.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    verdict.count("asked_again", shop.stage.n_asked_again.load(Ordering::SeqCst));
    shop.stage.count_connections().await?;
    shop.stage.conclude(&mut verdict);
    Ok(verdict)
}

/// Sends a whole request, and resets the connection after a while. Returns whether an answer arrived before.
async fn hang_up(request: RequestBuilder, after: Duration) -> Result<bool, ProofError> {
    let request = request.build()?;
    let address = (request.url().host_str().unwrap_or_default(), request.url().port().unwrap_or_default());
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(&on_the_wire(&request)).await?;
    let mut first = [0];
    let answered = tokio::time::timeout(after, connection.read(&mut first)).await.is_ok();
    // Without linger, closing sends a reset.
    connection.set_zero_linger()?;
    Ok(answered)
}

/// The bytes of a request in HTTP/1.1.
fn on_the_wire(request: &Request) -> Vec<u8> {
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: usher\r\ncontent-length: {}\r\n",
        request.method(),
        request.url().path(),
        body.len()
    );
    let mut bytes = head.into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_ref());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
