//! Holds over HTTP, and refusals of a seat that everybody wants. Drives a server as buyers do, whose passes it signs itself.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, done};
use super::wrk::{Answered, Asked, BODY, Values};
use super::{Outcome, OverHttp, RUNS};
use crate::world::clock::eventually;
use crate::world::hall::{seat, sections};
use crate::world::passes::Credentials;
use crate::world::servers::Site;

/// How many buyers ask at once.
pub const IN_FLIGHT: usize = 256;
/// How many ask for one seat at once.
pub const AT_ONE_SEAT: usize = 200;
/// More holds than there can be in a second; three runs of two seconds have to fit into the largest hall there may be.
const N_HOLDS_PER_S: usize = 19_950;
/// Refused buyers take turns: a refusal leaves nothing behind.
const N_REFUSED: u64 = 20_000;

/// A server, and a seat for each buyer of [`RUNS`] runs.
pub struct Shop<'a> {
    over_http: &'a OverHttp<'a>,
    /// The server, and its sale.
    pub stage: Stage,
    /// Where holds are asked for.
    path: String,
    wishes: Values,
    /// How many buyers, and seats, each run has.
    each: usize,
    n_held: u64,
}

impl<'a> Shop<'a> {
    /// Starts a server of this site.
    ///
    /// # Errors
    /// If the server does not start, or refuses.
    pub async fn open(over_http: &'a OverHttp<'a>, site: Site) -> Outcome<Self> {
        let each = N_HOLDS_PER_S * usize::try_from(over_http.short_span().as_secs())?;
        let stage = Stage::with_seats(site, &sections(RUNS * each)).await?;
        let wishes = wishes(over_http, &stage, "own-seats", (0..RUNS * each).map(seat))?;
        let path = stage.reservations();
        Ok(Self { over_http, stage, path, wishes, each, n_held: 0 })
    }

    /// Lets the buyers of one of the runs, from 0, hold a seat of their own each.
    ///
    /// # Errors
    /// If an answer is not the right one.
    pub async fn hold(&mut self, run: usize) -> Outcome<Answered> {
        let used = run * self.each..(run + 1) * self.each;
        let asked = Asked { used, connections: IN_FLIGHT, ..self.asked(&self.wishes) };
        let answered = self.over_http.ask(&self.stage, &asked).await?;
        let n_answered = answered.requests;
        // The last ones may be on their way still.
        if usize::try_from(n_answered)? + IN_FLIGHT > self.each {
            return Err(format!("{} seats are too few for {n_answered} holds", self.each).into());
        }
        self.n_held += n_answered;
        Ok(answered)
    }

    /// Sees that the database has as many seats held as were answered to be, or as many more as were on their way at the
    /// ends of runs; and that nobody was answered anything else.
    ///
    /// # Errors
    /// If it is not so.
    pub async fn are_held(&self) -> Outcome<()> {
        let n_others = self.stage.answered("POST", "/reservations", |status| status != StatusCode::CREATED).await?;
        if n_others > 0 {
            return Err(format!("{n_others} holds were not answered 201").into());
        }
        let url = format!("{}/api/v1/performances/{}", self.stage.url(), self.stage.sale.performance());
        let (client, n_most) = (Client::new(), self.n_held + (RUNS * IN_FLIGHT) as u64);
        let held = eventually(PATIENCE, async || {
            let performance = done(client.get(&url)).await.ok()?;
            performance["seats"]["held"].as_u64().filter(|n_held| *n_held >= self.n_held)
        });
        match held.await {
            Some(n_held) if n_held <= n_most => Ok(()),
            n_held => Err(format!("{} holds were acknowledged, and {n_held:?} seats are held", self.n_held).into()),
        }
    }

    /// Lets others want a seat that somebody holds.
    ///
    /// # Errors
    /// If somebody is told anything else than that the seat is taken.
    pub async fn refuse(&self) -> Outcome<Answered> {
        // Nobody has come to the last one of the last run.
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
            return Err(format!("{n_others} buyers were told something else than that the seat is taken").into());
        }
        Ok(refused)
    }

    /// Somebody holds a seat; the next one is told that it is taken.
    async fn is_taken(&self, seat: &str) -> Outcome<()> {
        let (client, url) = (Client::new(), format!("{}{}", self.stage.url(), self.path));
        let mut answers = Vec::new();
        for buyer in self.stage.buyers(2)? {
            let request = client.post(&url).bearer_auth(buyer.token).header("Usher-Pass", buyer.pass);
            let request = request.header("Idempotency-Key", "hold").json(&json!({"seats": [seat]}));
            answers.push(request.send().await?.json::<Value>().await?);
        }
        let [held, refused] = answers.as_slice() else { return Err("two were asked for".into()) };
        let is_held = held["status"] == "held";
        if is_held && refused["code"] == "seat-taken" && refused["conflicts"] == json!([seat]) {
            return Ok(());
        }
        Err(format!("one holds a seat, and one is refused it: {held} {refused}").into())
    }

    fn asked<'b>(&'b self, wishes: &'b Values) -> Asked<'b> {
        Asked::of("POST", &self.path, wishes, self.over_http.short_span())
    }
}

/// Requests of new buyers for one of these seats each.
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
