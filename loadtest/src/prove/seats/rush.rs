//! A rush: everybody wants one seat, everybody wants a seat of their own, and a crowd takes the best there are until all
//! are gone.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::json;

use super::super::line::stage::count_f64;
use super::super::{Context, ProofError, Verdict};
use super::stage::{Setting, Stage, answer};
use crate::world::clock::Stopwatch;
use crate::world::hall::{seat_of, section};

/// Everybody wants one seat; everybody wants a seat of their own; and a crowd takes the best there are until all are gone.
pub(in crate::prove) async fn seat_rush(context: Context) -> Result<Verdict, ProofError> {
    let n = context.sized(1_000, 100);
    let (n_at_once, n_best) = context.sized((160, 8_000), (16, 200));
    let sections = vec![section("H", 1, "H"), section("A", n, "A"), section("B", n_best, "B")];
    // Of those who buy blocks, each gets a seat at least, or ends.
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
            (status, code) => stage.find(format!("a buyer of the one seat: {status} {code}")),
        }
    }
    if (n_held, n_taken) != (1, n - 1) {
        stage.find(format!("of {n} buyers of one seat {n_held} got it, {n_taken} were told that it is taken"));
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
            stage.find(format!("a buyer of a seat of their own: {} {}", answer.status, answer.code()));
        }
    }

    context.say(format_args!("{n_at_once} at a time take the best of {n_best} seats"));
    let rush = Rush { stage: &stage, n_seats: n_best, claimed: AtomicUsize::new(0), sold: AtomicUsize::new(0) };
    let took = Stopwatch::start();
    let crowd = (0..n_at_once as u64).map(|n| rush.buy_until_gone(StdRng::seed_from_u64(context.seed ^ n)));
    join_all(crowd).await.into_iter().collect::<Result<(), _>>()?;
    verdict.figure("best_s", took.elapsed().as_secs_f64());
    let sold = rush.sold.into_inner();
    verdict.figure("best_sold", count_f64(sold));
    if sold != n_best {
        stage.find(format!("of {n_best} seats {sold} were sold"));
    }
    stage.conclude(&mut verdict);
    Ok(verdict)
}

/// A crowd that takes the best seats until there are none.
struct Rush<'a> {
    stage: &'a Stage,
    n_seats: usize,
    /// The seats of all who asked and were not refused, whether or not they have them yet.
    claimed: AtomicUsize,
    sold: AtomicUsize,
}

impl Rush<'_> {
    /// Buys blocks of 1 to 4, each as somebody else, until not even one seat is left.
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
                        self.stage.find(format!("a hold was not confirmed: {} {}", paid.status, paid.code()));
                    }
                }
                (StatusCode::CONFLICT, "not-enough-seats") => {
                    // All who had asked by now, with seats or without: if there was room for this one too, it was refused
                    // wrongly.
                    let claimed = self.claimed.fetch_sub(wanted, Ordering::SeqCst);
                    if claimed <= self.n_seats {
                        self.stage.find(format!(
                            "{wanted} seats were refused while {claimed} of {} were asked for",
                            self.n_seats
                        ));
                    }
                    if wanted == 1 {
                        return Ok(());
                    }
                    most = wanted - 1;
                }
                (status, code) => {
                    self.stage.find(format!("a buyer of the best seats: {status} {code}"));
                    return Ok(());
                }
            }
        }
    }
}
