//! A shop while its database is killed, and while it is paused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use super::super::{Context, ProofError, Size, Verdict};
use super::shop::{SECTION, Shop};
use super::stage::{GIVE_UP_AFTER, Setting, Stage};
use crate::world::clock::{self, Stopwatch, eventually, pass};
use crate::world::hall::section;

/// How long the database is paused.
const FROZEN_FOR: Duration = Duration::from_secs(10);
/// Longest wait for an answer while the database is paused, with a margin for a busy machine: some 7 s for a hold, and
/// twice as long for a payment under way, whose state must be recorded before its buyer is answered.
const HOLDS_ANSWERED_WITHIN: Duration = Duration::from_secs(9);
const PAYMENTS_ANSWERED_WITHIN: Duration = Duration::from_secs(16);
/// How soon after that all buyers are served again.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long after that a transaction may stay open.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Waits for as many purchases as there are concurrent buyers, and returns whether they happen.
async fn goes_on(shop: &Shop, n_at_once: usize) -> bool {
    let before = shop.n_bought();
    eventually(GIVE_UP_AFTER, || async { (shop.n_bought() > before + n_at_once).then_some(()) }).await.is_some()
}

fn tell_of_shop(shop: &Shop, n_bought: usize, verdict: &mut Verdict) {
    verdict.count("bought", n_bought);
    verdict.count("asked_again", shop.stage.n_asked_again.load(Ordering::SeqCst));
}

/// Buyers hold and pay while the database is killed, and retry until they are answered. Every acknowledged purchase
/// must survive.
pub(in crate::prove) async fn database_killed(context: Context) -> Result<Verdict, ProofError> {
    let (n_kills, n_at_once, n_seats) = context.sized((20, 32, 10_000), (1, 8, 2_000));
    let parameters = json!({"kills": n_kills, "at_once": n_at_once});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let setting = Setting::of(vec![section(SECTION, n_seats, "A")], n_seats);
    let (stage, mut database) = Stage::set(&context, setting).await?;
    let shop = Shop::open(stage, n_at_once, n_seats);

    let killing = async {
        for n in 1..=n_kills {
            if !goes_on(&shop, n_at_once).await {
                shop.stage.find("purchases do not resume after the database restarted".into());
                break;
            }
            database = tokio::task::spawn_blocking(move || {
                database.kill();
                database.start_again();
                database
            })
            .await
            .map_err(|error| ProofError::Io(std::io::Error::other(error)))?;
            context.say(format_args!("killed {n} times; {} purchases", shop.n_bought()));
        }
        if !goes_on(&shop, n_at_once).await {
            shop.stage.find("purchases do not resume after the last restart".into());
        }
        Ok(database)
    };
    // The database must live until its contents are checked.
    let _database = shop.while_buying(killing).await?;

    let n_bought = shop.ask_for_all_again().await?;
    tell_of_shop(&shop, n_bought, &mut verdict);
    shop.stage.conclude(&mut verdict);
    Ok(verdict)
}

/// Buyers hold and pay while the database is paused. They are refused meanwhile, and served soon after it resumes; no
/// server loses a connection.
pub(in crate::prove) async fn database_frozen(context: Context) -> Result<Verdict, ProofError> {
    let (n_freezes, n_at_once, n_seats) = context.sized((3, 32, 20_000), (1, 8, 4_000));
    let parameters = json!({"freezes": n_freezes, "at_once": n_at_once, "frozen_s": FROZEN_FOR.as_secs()});
    let mut verdict = Verdict { parameters, ..Verdict::default() };
    let setting = Setting::of(vec![section(SECTION, n_seats, "A")], n_seats);
    let (stage, database) = Stage::set(&context, setting).await?;
    let shop = Shop::open(stage, n_at_once, n_seats);
    let n_refused = || shop.stage.n_refused.load(Ordering::SeqCst);

    let freezing = async {
        let mut longest = Duration::ZERO;
        for n in 1..=n_freezes {
            if !goes_on(&shop, n_at_once).await {
                shop.stage.find("purchases do not resume after a pause".into());
                break;
            }
            let n_refused_before = n_refused();
            database.pause();
            match context.size {
                Size::Full => pass(FROZEN_FOR).await,
                // Until a buyer is refused; if none is, that is a finding below.
                Size::Quick => {
                    let matters = || async { (n_refused() > n_refused_before).then_some(()) };
                    eventually(GIVE_UP_AFTER, matters).await.unwrap_or_default();
                }
            }
            let n_refused_meanwhile = n_refused() - n_refused_before;
            database.resume();
            let (since, watch) = (clock::now(), Stopwatch::start());
            let back = eventually(GIVE_UP_AFTER, || async { shop.all_served_since(since).then_some(watch.elapsed()) });
            let back = back.await;
            if n_refused_meanwhile == 0 {
                shop.stage.find("no request is refused while the database is paused".into());
            }
            let Some(back) = back else {
                shop.stage.find(format!("not all buyers are served {GIVE_UP_AFTER:?} after the database resumed"));
                break;
            };
            longest = longest.max(back);
            context.say(format_args!(
                "paused {n} times, {n_refused_meanwhile} requests refused; all buyers are served again after {back:?}"
            ));
        }
        Ok(longest)
    };
    let longest = shop.while_buying(freezing).await?;

    verdict.figure("all_served_again_after_s", longest.as_secs_f64());
    verdict.count("refused", n_refused());
    for (name, expected, bound) in [
        ("longest_hold_s", StatusCode::CREATED, HOLDS_ANSWERED_WITHIN),
        ("longest_payment_s", StatusCode::OK, PAYMENTS_ANSWERED_WITHIN),
    ] {
        let longest = shop.stage.longest(expected);
        verdict.figure(name, longest.as_secs_f64());
        if context.size == Size::Full && longest > bound {
            shop.stage.find(format!("{name}: {longest:?}, bound: {bound:?}"));
        }
    }
    if context.size == Size::Full && longest > BACK_WITHIN {
        shop.stage.find(format!(
            "all buyers are served again {longest:?} after the database resumed, bound: {BACK_WITHIN:?}"
        ));
    }
    if shop.stage.until_nothing_is_open(context.sized(CLOSED_WITHIN, GIVE_UP_AFTER)).await.is_none() {
        shop.stage.find("a transaction stays open".into());
    }
    let n_bought = shop.ask_for_all_again().await?;
    tell_of_shop(&shop, n_bought, &mut verdict);
    shop.stage.count_connections().await?;
    shop.stage.conclude(&mut verdict);
    Ok(verdict)
}
