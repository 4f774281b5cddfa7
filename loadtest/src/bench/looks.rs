//! Requests for the availability of a hall, as browsers send them. The control is a static route of the same server.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::report::{Figure, Goal, median};
use super::stage::{PATIENCE, Stage, done, site};
use super::wrk::Asked;
use super::{CONTROL, Outcome, OverHttp, RUNS, progress};
use crate::world::clock::eventually;
use crate::world::hall::{seat, sections};
use crate::world::passes::Credentials;

/// The hall and its owners, with [`SEATS_EACH`] seats each; every second owner has paid.
const N_SEATS: u64 = 50_000;
const N_OWNERS: u64 = 2_000;
const SEATS_EACH: usize = 4;
/// Owners who buy at the same time.
const OWNERS_AT_ONCE: usize = 64;
const ACCEPT: &str = "Accept-Encoding";

impl OverHttp<'_> {
    /// Measures the availability of a hall with seats held and sold.
    ///
    /// # Errors
    /// If a server fails, or an answer is wrong.
    pub async fn looks(&self, figures: &mut Vec<Figure>) -> Outcome<()> {
        let n_seats = usize::try_from(self.scale.people(N_SEATS))?;
        let n_owners = usize::try_from(self.scale.people(N_OWNERS))?;
        progress(&format!("a server with a hall of {n_seats} seats; {n_owners} people have {SEATS_EACH} each"));
        let stage = Stage::with_seats(site(&self.folder.join("looks"))?, &sections(n_seats)).await?;
        own_seats(&stage, n_seats, n_owners).await?;
        let path = format!("/api/v1/performances/{}/availability", stage.sale.performance());
        let n_held = n_owners / 2 * SEATS_EACH;
        let [(plain, _), (gzip, tag)] = knows_owned(&stage, &path, n_held).await?;
        let size = Figure::duration("the same compressed (control: as it is)", size(&gzip), "B", size(&plain));
        let whole = format!("availability of {n_seats} seats, {n_held} held and {n_held} sold");
        figures.extend([Figure::alone(whole, self::size(&plain), "B"), size]);

        let gzip = self.wrk.rows("gzip", [ACCEPT], [["gzip"]])?;
        let plain = self.wrk.rows("plain", [ACCEPT], [["identity"]])?;
        let known = self.wrk.rows("known", [ACCEPT, "If-None-Match"], [["gzip", &tag]])?;
        for (name, values, status) in [
            ("availability, compressed", &gzip, StatusCode::OK),
            ("availability, as it is", &plain, StatusCode::OK),
            ("availability, 304", &known, StatusCode::NOT_MODIFIED),
        ] {
            progress(name);
            let (mut control, mut looks) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let asked = |path| Asked::of("GET", path, values, self.short_span());
                control.push(self.ask(&stage, &asked(CONTROL)).await?.rate());
                looks.push(self.expect(&stage, "/availability", status, &asked(&path)).await?.rate());
            }
            let name = format!("{name} (control: {CONTROL})");
            let figure = Figure::rate(name, median(&looks), "1/s", median(&control));
            figures.push(figure.with_goal(Goal::RatioAtLeast(0.5)));
        }
        Ok(())
    }
}

/// Lets each owner hold seats at random places of the hall, and every second owner pay.
async fn own_seats(stage: &Stage, n_seats: usize, n_owners: usize) -> Outcome<()> {
    let mut seats: Vec<_> = (0..n_seats).map(seat).collect();
    seats.shuffle(&mut StdRng::seed_from_u64(1));
    let client = Client::new();
    let ask = |buyer: &Credentials, path: &str, body: &Value| {
        let request = client.post(format!("{}{path}", stage.url()));
        request.bearer_auth(&buyer.token).header("Usher-Pass", &buyer.pass).header("Idempotency-Key", path).json(body)
    };
    let (ask, path) = (&ask, &stage.reservations());
    let owners = stage.buyers(n_owners)?.into_iter().enumerate().zip(seats.chunks_exact(SEATS_EACH));
    let owning = owners.map(|((n, buyer), seats)| async move {
        let held = done(ask(&buyer, path, &json!({"seats": seats}))).await?;
        if n % 2 == 1 {
            let id = held["id"].as_str().ok_or("the answer to a hold has no id")?;
            let payment = json!({"payment": {"method": "simulated", "token": "tok_ok"}});
            done(ask(&buyer, &format!("/api/v1/reservations/{id}/confirm"), &payment)).await?;
        }
        Outcome::Ok(())
    });
    stream::iter(owning).buffer_unordered(OWNERS_AT_ONCE).try_for_each(async |()| Ok(())).await
}

/// Waits until the server shows `n_each` seats as held and as many as sold. Returns its answer, identity and
/// compressed, each with its entity tag.
async fn knows_owned(stage: &Stage, path: &str, n_each: usize) -> Outcome<[(Vec<u8>, String); 2]> {
    let (client, url) = (Client::new(), format!("{}{path}", stage.url()));
    let look = async |accepted: &str| {
        let answer = client.get(&url).header("Accept-Encoding", accepted).send().await?.error_for_status()?;
        let header =
            |name| Outcome::Ok(answer.headers().get(name).map(|value| value.to_str()).transpose()?.map(str::to_owned));
        let (tag, coding) = (header("ETag")?.ok_or("the availability has no ETag")?, header("Content-Encoding")?);
        if coding.as_deref().unwrap_or("identity") != accepted {
            return Err(format!("Accept-Encoding: {accepted} is answered with {coding:?}").into());
        }
        Outcome::Ok((answer.bytes().await?.to_vec(), tag))
    };
    let shown = eventually(PATIENCE, async || {
        let plain = look("identity").await.ok()?;
        let body: Value = serde_json::from_slice(&plain.0).ok()?;
        let states = STANDARD.decode(body["seats"].as_str()?).ok()?;
        let mut counts = BTreeMap::new();
        for state in states.iter().flat_map(|byte| [0, 2, 4, 6].map(|shift| byte >> shift & 0b11)) {
            *counts.entry(state).or_default() += 1;
        }
        let owned: [usize; 2] = [1, 2].map(|state| counts.get(&state).copied().unwrap_or_default());
        (owned == [n_each; 2]).then_some(plain)
    });
    let plain = shown.await.ok_or("the server does not show the seats that are held and sold")?;
    Ok([plain, look("gzip").await?])
}

#[expect(clippy::cast_precision_loss, reason = "some kilobytes")]
fn size(bytes: &[u8]) -> f64 {
    bytes.len() as f64
}
