//! Contention of writers and sweepers: few seats and short holds, which owners pay, release, abandon, or touch as they
//! lapse. The database may detect deadlocks; no client may see one.

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

use super::super::{Context, ProofError, Verdict};
use super::stage::{Answer, Buyer, GIVE_UP_AFTER, Setting, Stage, answer};
use crate::world::clock::{self, Stopwatch, pass};
use crate::world::hall::{seat_of, section};

const SECTION: &str = "A";
const N_WRITERS: usize = 8;
const SEATS_PER_HOLD: usize = 4;
/// How many of the unsold seats the writers choose from: few, so that they contend.
const IN_SIGHT: usize = 32;
/// The shortest lifetime, so that holds lapse while the sweepers run, which they do every second.
const HOLD_TTL_S: u32 = 1;
/// Accounts of each writer, used in turn: the rate limit of one account is below the rate of a writer.
const PEOPLE_PER_WRITER: usize = 25;
/// How far from the end of a hold a late owner may come, before or after.
const AROUND_ITS_END: Duration = Duration::from_millis(150);
/// Pause of a writer without a free account, and between two checks whether the sweepers are done.
const PAUSE: Duration = Duration::from_millis(20);

/// Writers hold, pay and release the same few seats while sweepers end lapsed holds.
pub(in crate::prove) async fn sweepers(context: Context) -> Result<Verdict, ProofError> {
    let (span, n_seats) = context.sized((Duration::from_secs(60), 20_000), (Duration::from_secs(3), 2_000));
    let parameters = json!({"writers": N_WRITERS, "seats_per_hold": SEATS_PER_HOLD, "seats_in_sight": IN_SIGHT,
                            "span_s": span.as_secs(), "hold_ttl_s": HOLD_TTL_S});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let n_buyers = n_seats / SEATS_PER_HOLD + N_WRITERS * PEOPLE_PER_WRITER;
    let setting = Setting {
        hold_ttl_s: HOLD_TTL_S,
        // Holds that share a transaction do not contend.
        group_commit: [true, false],
        ..Setting::of(vec![section(SECTION, n_seats, "A")], n_buyers)
    };
    let (stage, _database) = Stage::set(&context, setting).await?;
    let mut watcher = stage.watcher().await;
    let n_deadlocks_before = watcher.n_deadlocks().await;

    context.say(format_args!("{N_WRITERS} writers contend for {span:?}"));
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

    // The remaining holds lapse, and the sweepers end them.
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
        verdict.count(name, count);
        if count == 0 {
            stage.find(format!("this never happened: {name}"));
        }
    }
    for (name, count) in [("lapsed", n_lapsed), ("lapsed_and_swept", n_swept)] {
        verdict.count(name, count);
        if count == 0 {
            stage.find(format!("this never happened: {name}"));
        }
    }
    verdict.count("deadlocks_in_the_database", n_deadlocks);
    stage.conclude(&mut verdict);
    Ok(verdict)
}

/// Counts of the outcomes of holds.
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

/// The seats for which the writers contend.
struct Floor<'a> {
    stage: &'a Stage,
    unsold: Mutex<Vec<String>>,
    is_over: AtomicBool,
    seen: Seen,
}

/// What the owner does with a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Paid,
    Released,
    /// The owner does not come back.
    Left,
}

/// A hold, and when its owner comes back.
struct Held {
    buyer: Buyer,
    reservation: String,
    seats: Vec<String>,
    fate: Fate,
    due: Timestamp,
}

impl Floor<'_> {
    /// Holds seats until the proof ends, and pays, releases or abandons them at random.
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

    /// Random seats of those in sight, in random order.
    fn choose(&self, rng: &mut StdRng) -> Vec<String> {
        let unsold = self.unsold.lock().unwrap_or_else(PoisonError::into_inner);
        let in_sight = &unsold[..IN_SIGHT.min(unsold.len())];
        in_sight.choose_multiple(rng, SEATS_PER_HOLD).cloned().collect()
    }

    /// What the owner does with a new hold, and when.
    fn fate(&self, rng: &mut StdRng) -> (Fate, Timestamp) {
        let n_unsold = self.unsold.lock().unwrap_or_else(PoisonError::into_inner).len();
        let fate = match rng.random_range(0..20) {
            // The last seats are not sold, so that the writers go on contending.
            0..8 if n_unsold > 2 * IN_SIGHT => Fate::Paid,
            0..19 => Fate::Released,
            _ => Fate::Left,
        };
        let (now, ttl) = (clock::now(), Duration::from_secs(HOLD_TTL_S.into()));
        let due = match fate {
            Fate::Left => now.plus(ttl + AROUND_ITS_END),
            // Few owners come late: each keeps the seats from the other writers.
            Fate::Paid | Fate::Released if rng.random_range(0..20) > 0 => now,
            Fate::Paid | Fate::Released => {
                now.plus(ttl - AROUND_ITS_END + rng.random_range(Duration::ZERO..2 * AROUND_ITS_END))
            }
        };
        (fate, due)
    }

    /// Lets the owner of a hold come back. Returns the buyer for the next hold.
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
                // The pass is used.
                return self.stage.buyer();
            }
            (Fate::Released, StatusCode::NO_CONTENT, _) => note(&self.seen.released),
            (_, StatusCode::CONFLICT, "hold-expired") => note(&self.seen.late),
            _ => self.find(if fate == Fate::Paid { "pays" } else { "releases" }, &answered),
        }
        Ok(buyer)
    }

    fn find(&self, does: &str, answer: &Answer) {
        self.stage.find(format!("unexpected answer to a buyer who {does}: {} {}", answer.status, answer.code()));
    }
}
