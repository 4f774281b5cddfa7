//! A rush: all buyers want one seat; then each buyer wants a seat of their own; then a crowd takes the best available
//! seats until the hall is sold out.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::json;

use super::super::{Context, ProofError, Verdict};
use super::stage::{Setting, Stage, answer};
use crate::world::clock::Stopwatch;
use crate::world::hall::{seat_of, section};

/// All buyers want one seat; each buyer wants a seat of their own; a crowd takes the best available seats.
pub(in crate::prove) async fn seat_rush(context: Context) -> Result<Verdict, ProofError> {
    let n = context.sized(1_000, 100);
    let (n_at_once, n_best) = context.sized((160, 8_000), (16, 200));
    let sections = vec![section("H", 1, "H"), section("A", n, "A"), section("B", n_best, "B")];
    // Each buyer of a block gets one seat or more, or is refused; a refused buyer wants fewer seats next time.
    let setting = Setting::of(sections, 2 * n + n_best + 4 * n_at_once);
    let (stage, _database) = Stage::set(&context, setting).await?;
    let mut verdict =
        Verdict { parameters: json!({"buyers": n, "best": n_best, "at_once": n_at_once}), ..Verdict::default() };

    context.say(format_args!("{n} buyers want one seat"));
    let (hot, wish) = (stage.buyers(n)?, json!({"seats": ["H-1-1"]}));
    let took = Stopwatch::start();
    let answers = join_all(hot.iter().map(|buyer| answer(stage.hold(buyer, "hold", &wish)))).await;
    verdict.figure("one_seat_s", took.elapsed().as_secs_f64());
    let (mut n_held, mut n_taken) = (0, 0);
    for answer in answers {
        let answer = answer?;
        match (answer.status, answer.code()) {
            (StatusCode::CREATED, _) => n_held += 1,
            (StatusCode::CONFLICT, "seat-taken") => n_taken += 1,
            (status, code) => stage.find(format!("unexpected answer to a buyer of one seat: {status} {code}")),
        }
    }
    if (n_held, n_taken) != (1, n - 1) {
        stage.find(format!("of {n} buyers of one seat {n_held} hold it and {n_taken} are answered seat-taken"));
    }

    context.say(format_args!("{n} buyers want a seat each"));
    let own = stage.buyers(n)?;
    let took = Stopwatch::start();
    let holds = own
        .iter()
        .enumerate()
        .map(|(i, buyer)| answer(stage.hold(buyer, "hold", &json!({"seats": [seat_of("A", i)]}))));
    let answers = join_all(holds).await;
    verdict.figure("own_seats_s", took.elapsed().as_secs_f64());
    for answer in answers {
        let answer = answer?;
        if answer.status != StatusCode::CREATED {
            stage.find(format!(
                "unexpected answer to a buyer of a seat of their own: {} {}",
                answer.status,
                answer.code()
            ));
        }
    }

    context.say(format_args!("{n_at_once} buyers at a time take the best of {n_best} seats"));
    let rush = Rush { stage: &stage, n_seats: n_best, claimed: AtomicUsize::new(0), sold: AtomicUsize::new(0) };
    let took = Stopwatch::start();
    let crowd = (0..n_at_once as u64).map(|n| rush.buy_until_gone(StdRng::seed_from_u64(context.seed ^ n)));
    join_all(crowd).await.into_iter().collect::<Result<(), _>>()?;
    verdict.figure("best_s", took.elapsed().as_secs_f64());
    let sold = rush.sold.into_inner();
    verdict.count("best_sold", sold);
    if sold != n_best {
        stage.find(format!("{sold} of {n_best} seats are sold"));
    }
    stage.conclude(&mut verdict);
    Ok(verdict)
}

/// A crowd that takes the best available seats until none is left.
struct Rush<'a> {
    stage: &'a Stage,
    n_seats: usize,
    /// Seats of all requests that were not refused, answered or not.
    claimed: AtomicUsize,
    sold: AtomicUsize,
}

impl Rush<'_> {
    /// Buys blocks of 1 to 4 seats, each as another buyer, until no seat is left.
    async fn buy_until_gone(&self, mut rng: StdRng) -> Result<(), ProofError> {
        let mut most = 4;
        loop {
            let (buyer, wanted) = (self.stage.buyer()?, rng.random_range(1..=most));
            self.claimed.fetch_add(wanted, Ordering::SeqCst);
            let wish = json!({"best_available": {"count": wanted, "grade": "B"}});
            let held = answer(self.stage.hold(&buyer, "hold", &wish)).await?;
            match (held.status, held.code()) {
                (StatusCode::CREATED, _) => {
                    let id = held.body["id"].as_str().unwrap_or_default();
                    let paid = answer(self.stage.confirm(&buyer, id)).await?;
                    if paid.status == StatusCode::OK {
                        self.sold.fetch_add(paid.body["tickets"].as_array().map_or(0, Vec::len), Ordering::SeqCst);
                    } else {
                        self.stage.find(format!("unexpected answer to a payment: {} {}", paid.status, paid.code()));
                    }
                }
                (StatusCode::CONFLICT, "not-enough-seats") => {
                    // The seats of all requests so far, this one included: if they all fit, this refusal is wrong.
                    let claimed = self.claimed.fetch_sub(wanted, Ordering::SeqCst);
                    if claimed <= self.n_seats {
                        self.stage.find(format!(
                            "a block of {wanted} is refused while {claimed} of {} seats are wanted",
                            self.n_seats
                        ));
                    }
                    if wanted == 1 {
                        return Ok(());
                    }
                    most = wanted - 1;
                }
                (status, code) => {
                    self.stage.find(format!("unexpected answer to a buyer of the best seats: {status} {code}"));
                    return Ok(());
                }
            }
        }
    }
}
