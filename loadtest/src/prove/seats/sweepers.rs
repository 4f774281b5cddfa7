//! Writers and sweepers in each other's way: few seats, holds that lapse, and everybody takes, pays, gives back and comes
//! late. The database may find deadlocks among them; nobody is to be told of one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::json;
use usher_kernel::Timestamp;

use super::super::line::stage::count_f64;
use super::super::{Context, ProofError, Verdict};
use super::stage::{Answer, Buyer, GIVE_UP_AFTER, Setting, Stage, answer};
use crate::world::clock::{self, Stopwatch, pass};
use crate::world::hall::{seat_of, section};

const SECTION: &str = "A";
const N_WRITERS: usize = 8;
const SEATS_PER_HOLD: usize = 4;
/// How many of the seats that are not sold everybody wants: few, so that they meet.
const IN_SIGHT: usize = 32;
/// The shortest that there is, so that holds lapse under the sweepers, which look every second.
const HOLD_TTL_S: u32 = 1;
/// A writer is so many people, one after the other: one account may not ask as often as a program does.
const PEOPLE_PER_WRITER: usize = 25;
/// How far around its end somebody comes who comes as a hold ends.
const AROUND_ITS_END: Duration = Duration::from_millis(150);
/// How long somebody pauses who has nobody left to ask as, and how often it is looked whether the sweepers are done.
const PAUSE: Duration = Duration::from_millis(20);

/// Writers take seats for a while.
pub(in crate::prove) async fn sweepers(context: Context) -> Result<Verdict, ProofError> {
    let (span, n_seats) = context.sized((Duration::from_secs(60), 20_000), (Duration::from_secs(3), 2_000));
    let parameters = json!({"writers": N_WRITERS, "seats_per_hold": SEATS_PER_HOLD, "seats_in_sight": IN_SIGHT,
                            "span_s": span.as_secs(), "hold_ttl_s": HOLD_TTL_S});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let n_buyers = n_seats / SEATS_PER_HOLD + N_WRITERS * PEOPLE_PER_WRITER;
    let setting = Setting {
        hold_ttl_s: HOLD_TTL_S,
        // Who shares a transaction is in nobody's way.
        group_commit: [true, false],
        ..Setting::of(vec![section(SECTION, n_seats, "A")], n_buyers)
    };
    let (stage, _database) = Stage::set(&context, setting).await?;
    let mut watcher = stage.watcher().await;
    let n_deadlocks_before = watcher.n_deadlocks().await;

    context.say(format_args!("{N_WRITERS} writers meet for {span:?}"));
    let floor = Floor {
        stage: &stage,
        unsold: Mutex::new((0..n_seats).map(|n| seat_of(SECTION, n)).collect()),
        is_over: AtomicBool::new(false),
        seen: Seen::default(),
    };
    let writing = join_all((0..N_WRITERS as u64).map(|n| floor.write(StdRng::seed_from_u64(context.seed ^ n))));
    let closing = async {
        pass(span).await;
        floor.is_over.store(true, Ordering::SeqCst);
    };
    let (written, ()) = tokio::join!(writing, closing);
    written.into_iter().collect::<Result<(), _>>()?;

    // What is left lapses, and the sweepers free it by themselves.
    let watch = Stopwatch::start();
    while watcher.number("SELECT COUNT(*) FROM reservations WHERE state = 'held'").await > 0 {
        if watch.elapsed() > GIVE_UP_AFTER {
            stage.find("lapsed holds stay held".into());
            break;
        }
        pass(PAUSE).await;
    }
    let n_lapsed = watcher.number("SELECT COUNT(*) FROM reservations WHERE state = 'expired'").await;
    let swept = "SELECT COUNT(DISTINCT id) FROM (SELECT reservations.id FROM seat_events \
                 JOIN reservations ON reservations.id = owner_before AND state = 'expired' \
                 WHERE seat_events.status = 'available') AS swept";
    let n_swept = watcher.number(swept).await;
    let n_deadlocks = watcher.n_deadlocks().await - n_deadlocks_before;
    let seen = floor.seen.counts();
    for (name, count) in seen {
        verdict.figure(name, count_f64(count));
        if count == 0 {
            stage.find(format!("it never came about: {name}"));
        }
    }
    for (name, count) in [("lapsed", n_lapsed), ("lapsed_and_swept", n_swept)] {
        verdict.figure(name, count as f64);
        if count == 0 {
            stage.find(format!("it never came about: {name}"));
        }
    }
    verdict.figure("deadlocks_in_the_database", n_deadlocks as f64);
    stage.conclude(&mut verdict);
    Ok(verdict)
}

/// What people met.
#[derive(Default)]
struct Seen {
    held: AtomicUsize,
    taken: AtomicUsize,
    bought: AtomicUsize,
    released: AtomicUsize,
    late: AtomicUsize,
}

impl Seen {
    fn counts(&self) -> [(&'static str, usize); 5] {
        let Self { held, taken, bought, released, late } = self;
        [
            ("held", held),
            ("refused_as_taken", taken),
            ("bought", bought),
            ("released", released),
            ("came_too_late", late),
        ]
        .map(|(name, count)| (name, count.load(Ordering::SeqCst)))
    }
}

fn note(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

/// Where the writers meet.
struct Floor<'a> {
    stage: &'a Stage,
    unsold: Mutex<Vec<String>>,
    is_over: AtomicBool,
    seen: Seen,
}

/// What becomes of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Paid,
    Released,
    /// Nobody comes for it.
    Left,
}

/// A hold whose owner comes again.
struct Held {
    buyer: Buyer,
    reservation: String,
    seats: Vec<String>,
    fate: Fate,
    due: Timestamp,
}

impl Floor<'_> {
    /// Takes seats until it is over, and does with them what comes to mind.
    async fn write(&self, mut rng: StdRng) -> Result<(), ProofError> {
        let mut people: VecDeque<Buyer> = self.stage.buyers(PEOPLE_PER_WRITER)?.into();
        let mut holds: Vec<Held> = Vec::new();
        let mut n_wishes = 0_u64;
        while !self.is_over.load(Ordering::SeqCst) {
            let now = clock::now();
            if let Some(due) = holds.iter().position(|held| held.due <= now) {
                let held = holds.swap_remove(due);
                people.push_back(self.come_again(held).await?);
                continue;
            }
            let Some(buyer) = people.pop_front() else {
                pass(PAUSE).await;
                continue;
            };
            let seats = self.choose(&mut rng);
            n_wishes += 1;
            let wish = json!({"seats": seats});
            let held = answer(self.stage.hold(&buyer, &format!("hold-{n_wishes}"), &wish)).await?;
            match (held.status, held.code()) {
                (StatusCode::CREATED, _) => {
                    note(&self.seen.held);
                    let reservation = held.body["id"].as_str().unwrap_or_default().to_owned();
                    let (fate, due) = self.fate(&mut rng);
                    holds.push(Held { buyer, reservation, seats, fate, due });
                }
                (StatusCode::CONFLICT, "seat-taken") => {
                    note(&self.seen.taken);
                    people.push_back(buyer);
                }
                _ => {
                    self.find("holds", &held);
                    people.push_back(buyer);
                }
            }
        }
        Ok(())
    }

    /// Some of the seats in sight, in any order.
    fn choose(&self, rng: &mut StdRng) -> Vec<String> {
        let unsold = self.unsold.lock().unwrap_or_else(PoisonError::into_inner);
        let in_sight = &unsold[..IN_SIGHT.min(unsold.len())];
        in_sight.choose_multiple(rng, SEATS_PER_HOLD).cloned().collect()
    }

    /// What becomes of a hold that was just made, and when.
    fn fate(&self, rng: &mut StdRng) -> (Fate, Timestamp) {
        let n_unsold = self.unsold.lock().unwrap_or_else(PoisonError::into_inner).len();
        let fate = match rng.random_range(0..20) {
            // If it were the last seats, nobody would meet any more.
            0..8 if n_unsold > 2 * IN_SIGHT => Fate::Paid,
            0..19 => Fate::Released,
            _ => Fate::Left,
        };
        let (now, ttl) = (clock::now(), Duration::from_secs(HOLD_TTL_S.into()));
        let due = match fate {
            Fate::Left => now.plus(ttl + AROUND_ITS_END),
            // Who comes late keeps the others from the seats for long.
            Fate::Paid | Fate::Released if rng.random_range(0..20) > 0 => now,
            Fate::Paid | Fate::Released => {
                now.plus(ttl - AROUND_ITS_END + rng.random_range(Duration::ZERO..2 * AROUND_ITS_END))
            }
        };
        (fate, due)
    }

    /// The owner of a hold comes again. Answers who may take seats next.
    async fn come_again(&self, held: Held) -> Result<Buyer, ProofError> {
        let Held { buyer, reservation, seats, fate, .. } = held;
        let answered = match fate {
            Fate::Paid => answer(self.stage.confirm(&buyer, &reservation)).await?,
            Fate::Released => {
                let path = format!("reservations/{reservation}");
                answer(self.stage.ask(&buyer, Method::DELETE, &path, "-")).await?
            }
            Fate::Left => return Ok(buyer),
        };
        match (fate, answered.status, answered.code()) {
            (Fate::Paid, StatusCode::OK, _) => {
                note(&self.seen.bought);
                self.unsold.lock().unwrap_or_else(PoisonError::into_inner).retain(|seat| !seats.contains(seat));
                // The pass is used up.
                return self.stage.buyer();
            }
            (Fate::Released, StatusCode::NO_CONTENT, _) => note(&self.seen.released),
            (_, StatusCode::CONFLICT, "hold-expired") => note(&self.seen.late),
            _ => self.find(if fate == Fate::Paid { "pays" } else { "releases" }, &answered),
        }
        Ok(buyer)
    }

    fn find(&self, does: &str, answer: &Answer) {
        self.stage.find(format!("who {does} is told: {} {}", answer.status, answer.code()));
    }
}
