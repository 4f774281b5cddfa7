//! Holds over HTTP, and refusals of one seat that all buyers want. The driver signs the buyers' passes itself.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, done};
use super::wrk::{Answered, Asked, BODY, Values};
use super::{Outcome, OverHttp, RUNS};
use crate::world::clock::eventually;
use crate::world::hall::{seat, sections};
use crate::world::passes::Credentials;
use crate::world::servers::Site;

/// Buyers who hold at the same time.
pub const IN_FLIGHT: usize = 256;
/// Buyers who want one seat at the same time.
pub const AT_ONE_SEAT: usize = 200;
/// Seats for one second of holds: more than can be held, and [`RUNS`] runs of 2 s still fit into the largest hall.
const N_HOLDS_PER_S: usize = 19_950;
/// Buyers who are refused; they take turns, as a refusal changes nothing.
const N_REFUSED: u64 = 20_000;

/// A server, with a seat for each buyer of [`RUNS`] runs.
pub struct Shop<'a> {
    over_http: &'a OverHttp<'a>,
    /// The server and its sale.
    pub stage: Stage,
    /// The path of its reservations.
    path: String,
    wishes: Values,
    /// Buyers, and seats, of each run.
    each: usize,
    n_held: u64,
}

impl<'a> Shop<'a> {
    /// Starts a server of a site, and prepares the requests.
    ///
    /// # Errors
    /// If the server does not start, or refuses the sale.
    pub async fn open(over_http: &'a OverHttp<'a>, site: Site) -> Outcome<Self> {
        let each = N_HOLDS_PER_S * usize::try_from(over_http.short_span().as_secs())?;
        let stage = Stage::with_seats(site, &sections(RUNS * each)).await?;
        let wishes = wishes(over_http, &stage, "own-seats", (0..RUNS * each).map(seat))?;
        let path = stage.reservations();
        Ok(Self { over_http, stage, path, wishes, each, n_held: 0 })
    }

    /// Lets each buyer of run `run` (from 0) hold a seat of their own.
    ///
    /// # Errors
    /// If an answer is wrong.
    pub async fn hold(&mut self, run: usize) -> Outcome<Answered> {
        let used = run * self.each..(run + 1) * self.each;
        let asked = Asked { used, connections: IN_FLIGHT, ..self.asked(&self.wishes) };
        let answered = self.over_http.ask(&self.stage, &asked).await?;
        let n_answered = answered.requests;
        // The last holds may still be on their way.
        if usize::try_from(n_answered)? + IN_FLIGHT > self.each {
            return Err(format!("{} seats are too few for {n_answered} holds", self.each).into());
        }
        self.n_held += n_answered;
        Ok(answered)
    }

    /// Checks that every hold was answered 201, and that the server shows all these seats as held. It may show more:
    /// those on their way at the ends of the runs.
    ///
    /// # Errors
    /// If a check fails.
    pub async fn are_held(&self) -> Outcome<()> {
        let n_others = self.stage.answered("POST", "/reservations", |status| status != StatusCode::CREATED).await?;
        if n_others > 0 {
            return Err(format!("{n_others} holds are not answered 201").into());
        }
        let url = format!("{}/api/v1/performances/{}", self.stage.url(), self.stage.sale.performance());
        let (client, n_most) = (Client::new(), self.n_held + (RUNS * IN_FLIGHT) as u64);
        let held = eventually(PATIENCE, async || {
            let performance = done(client.get(&url)).await.ok()?;
            performance["seats"]["held"].as_u64().filter(|n_held| *n_held >= self.n_held)
        });
        match held.await {
            Some(n_held) if n_held <= n_most => Ok(()),
            n_held => Err(format!("{} holds are acknowledged, and {n_held:?} seats are held", self.n_held).into()),
        }
    }

    /// Lets buyers want one seat that another buyer holds.
    ///
    /// # Errors
    /// If a buyer gets any answer but `seat-taken`.
    pub async fn refuse(&self) -> Outcome<Answered> {
        // No run comes as far as its last seat.
        let hot = seat(RUNS * self.each - 1);
        let count = usize::try_from(self.over_http.scale.people(N_REFUSED))?;
        let wishes = wishes(self.over_http, &self.stage, "hot-seat", vec![hot.clone(); count])?;
        self.is_taken(&hot).await?;
        let asked = Asked { connections: AT_ONE_SEAT, is_refused: true, ..self.asked(&wishes) };
        let refused = self.over_http.ask(&self.stage, &asked).await?;
        let n_others = self.stage.answered("POST", "/reservations", |status| !is_held_or_taken(status)).await?;
        let is_taken = |status| status == StatusCode::CONFLICT;
        let n_taken = self.stage.answered("POST", "/reservations", is_taken).await?;
        if n_others > 0 || n_taken < refused.requests {
            return Err(format!("{n_others} of the buyers of one seat are not answered 201 or 409").into());
        }
        Ok(refused)
    }

    /// Holds a seat for one buyer, and checks that the next buyer is refused it.
    async fn is_taken(&self, seat: &str) -> Outcome<()> {
        let (client, url) = (Client::new(), format!("{}{}", self.stage.url(), self.path));
        let mut answers = Vec::new();
        for buyer in self.stage.buyers(2)? {
            let request = client.post(&url).bearer_auth(buyer.token).header("Usher-Pass", buyer.pass);
            let request = request.header("Idempotency-Key", "hold").json(&json!({"seats": [seat]}));
            answers.push(request.send().await?.json::<Value>().await?);
        }
        let [held, refused] = answers.as_slice() else { return Err("two buyers were asked for".into()) };
        let is_held = held["status"] == "held";
        if is_held && refused["code"] == "seat-taken" && refused["conflicts"] == json!([seat]) {
            return Ok(());
        }
        Err(format!("expected a hold and its refusal: {held} {refused}").into())
    }

    fn asked<'b>(&'b self, wishes: &'b Values) -> Asked<'b> {
        Asked::of("POST", &self.path, wishes, self.over_http.short_span())
    }
}

/// Requests of new buyers, each for one of these seats.
fn wishes(
    over_http: &OverHttp<'_>,
    stage: &Stage,
    name: &str,
    seats: impl IntoIterator<Item = String, IntoIter: ExactSizeIterator>,
) -> Outcome<Values> {
    let seats = seats.into_iter();
    let rows = stage.buyers(seats.len())?.into_iter().zip(seats).map(|(Credentials { token, pass }, seat)| {
        [format!("Bearer {token}"), pass, "hold".to_owned(), json!({"seats": [seat]}).to_string()]
    });
    over_http.wrk.rows(name, ["Authorization", "Usher-Pass", "Idempotency-Key", BODY], rows)
}

fn is_held_or_taken(status: StatusCode) -> bool {
    status == StatusCode::CREATED || status == StatusCode::CONFLICT
}
