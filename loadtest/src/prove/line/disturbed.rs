//! Proofs of the line in which servers are killed, or Redis is killed, emptied, paused, or replaced by a stale replica.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::StatusCode;
use usher_kernel::Timestamp;
use usher_test_servers::redis_server;

use super::super::{Context, ProofError, Size, Verdict};
use super::stage::{Done, Setup, Stage};
use super::undisturbed::{habits, over_within, rush};
use crate::world::clock::{self, eventually, pass};
use crate::world::people::{Call, Habits, Wish};

/// How long Redis is paused.
const STOPPED_FOR: Duration = Duration::from_secs(5);
/// Longest time until a join is refused while Redis is paused.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);
/// How far the stale replica lags behind.
const LAG: Duration = Duration::from_secs(1);

pub(in crate::prove) async fn killed_servers(context: Context) -> Result<Verdict, ProofError> {
    let mut stage = Stage::set(&context, rush(&context)).await?;
    let n_kills = context.sized(50, 3);
    stage.parameter("kills", n_kills);
    let crowd = stage.gather(context.sized(20_000, 200), &habits(&context))?;
    stage.until_full(&crowd, 1, 1).await?;
    let mut rng = StdRng::seed_from_u64(context.seed);
    for n in 1..=n_kills {
        let server = rng.random_range(0..stage.servers.len());
        stage.kill_and_restart(server).await?;
        if n % 10 == 0 {
            context.say(format_args!("{n} of {n_kills} kills"));
        }
        pass(Duration::from_millis(rng.random_range(500..2_000))).await;
    }
    stage.until_over(&crowd, over_within(&context)).await;
    Ok(stage.judge(vec![crowd], Done::Everybody).await?.0)
}

pub(in crate::prove) async fn flushed(context: Context) -> Result<Verdict, ProofError> {
    lossy(context, Disaster::Flush, 10).await
}

pub(in crate::prove) async fn redis_killed(context: Context) -> Result<Verdict, ProofError> {
    lossy(context, Disaster::Kill, 5).await
}

pub(in crate::prove) async fn failover(context: Context) -> Result<Verdict, ProofError> {
    lossy(context, Disaster::Failover, 5).await
}

/// How Redis loses its data.
#[derive(Clone, Copy, Debug)]
enum Disaster {
    /// FLUSHALL.
    Flush,
    /// Redis is killed, and restarts empty.
    Kill,
    /// Redis is killed, and a stale replica takes its address.
    Failover,
}

impl Disaster {
    async fn strike(self, stage: &mut Stage) -> Result<(), ProofError> {
        const AT_MOST: Duration = Duration::from_secs(30);
        match self {
            Self::Flush => stage.lose(|redis| {
                redis.command("FLUSHALL");
                redis
            }),
            Self::Kill => stage.lose(|redis| redis.restart(&[])),
            Self::Failover => {
                let copy = redis_server::Server::start(&[]);
                copy.follow(stage.redis());
                let copied = eventually(AT_MOST, || async { copy.is_following().then_some(()) }).await;
                copied.ok_or(ProofError::NotReached("the replica has copied everything", AT_MOST.as_secs()))?;
                copy.stop_following();
                pass(LAG).await;
                stage.lose(|primary| copy.take_over(primary));
            }
        }
        Ok(())
    }
}

/// Loses the line again and again under a crowd.
async fn lossy(context: Context, disaster: Disaster, n_losses: u32) -> Result<Verdict, ProofError> {
    // A quick proof admits slowly, so that people are left to be admitted after each loss.
    let rush = rush(&context);
    let mut stage = Stage::set(&context, Setup { rate_per_s: context.sized(rush.rate_per_s, 12), ..rush }).await?;
    let n_losses = context.sized(n_losses, 2);
    let (n_waiting, n_inside) = context.sized((10_000, 450), (60, 5));
    stage.parameter("losses", n_losses);
    let habits = Habits { arrive_within: Duration::from_secs(context.sized(40, 4)), ..habits(&context) };
    let crowd = stage.gather(context.sized(25_000, 300), &habits)?;
    stage.until_full(&crowd, n_waiting, n_inside).await?;
    for n in 1..=n_losses {
        let before = stage.admitted_in_epoch().await.unwrap_or(0);
        disaster.strike(&mut stage).await?;
        context.say(format_args!("loss {n} of {n_losses}"));
        stage.until_admission_goes_on(&crowd, before, context.sized(200, 5)).await;
    }
    // The audit includes the time after the last loss.
    stage.watching(&crowd, pass(Duration::from_secs(context.sized(10, 2)))).await;
    Ok(stage.judge(vec![crowd], Done::Nobody).await?.0)
}

pub(in crate::prove) async fn redis_stopped(context: Context) -> Result<Verdict, ProofError> {
    let setup = Setup { capacity: context.sized(200, 30), ..rush(&context) };
    let mut stage = Stage::set(&context, setup).await?;
    // No person goes away, so a person who is counted as away was forgotten.
    let arrive_within = Duration::from_secs(context.sized(30, 12));
    let habits = Habits { arrive_within, absent_percent: 0, ..habits(&context) };
    let crowd = stage.gather(context.sized(6_000, 300), &habits)?;
    stage.until_full(&crowd, 1, 10).await?;
    stage.watching(&crowd, pass(Duration::from_secs(3))).await;
    let stopped = clock::now();
    stage.redis().pause();
    stage.watching(&crowd, pass(STOPPED_FOR)).await;
    stage.redis().resume();
    let resumed = clock::now();
    context.say("Redis is resumed");
    let n_away_max = AtomicU64::new(0);
    // For longer than the presence window: a lost presence would have expired.
    let looks = eventually(setup.presence_window + Duration::from_secs(5), || async {
        if let Ok(stats) = stage.sale.stats().await {
            n_away_max.fetch_max(stats["away"].as_u64().unwrap_or(0), Ordering::Relaxed);
        }
        None::<()>
    });
    stage.watching(&crowd, looks).await;
    let n_away_max = n_away_max.into_inner();
    stage.until_over(&crowd, over_within(&context)).await;
    let (mut verdict, visits) = stage.judge(vec![crowd], Done::Everybody).await?;
    let calls: Vec<_> = visits.iter().flat_map(|visit| &visit.calls).copied().collect();
    judge_stop(&context, &calls, stopped, resumed, &mut verdict);
    verdict.count("away_at_most", n_away_max);
    if n_away_max > 0 {
        verdict.findings.push(format!("{n_away_max} people who kept polling are counted as away"));
    }
    Ok(verdict)
}

/// Judges the calls sent while Redis was paused, early enough to be answered before it was resumed.
fn judge_stop(context: &Context, calls: &[Call], stopped: Timestamp, resumed: Timestamp, verdict: &mut Verdict) {
    let last = resumed.minus(REFUSED_WITHIN).minus(Duration::from_millis(100));
    let meanwhile = |wish| {
        let calls = calls.iter().filter(move |call| call.wish == wish && call.sent > stopped && call.sent < last);
        calls.copied().collect::<Vec<_>>()
    };
    let (joins, polls) = (meanwhile(Wish::Join), meanwhile(Wish::Poll));
    let is_answered = |call: &&Call| call.status == Some(StatusCode::OK);
    let is_refused = |call: &&Call| call.status == Some(StatusCode::SERVICE_UNAVAILABLE) && call.has_retry_after;
    let refused: Vec<_> = joins.iter().filter(is_refused).copied().collect();
    let answered: Vec<_> = polls.iter().filter(is_answered).copied().collect();
    let longest = |calls: &[Call]| calls.iter().map(|call| call.took).max().unwrap_or_default();
    verdict.count("stopped_joins", joins.len());
    verdict.count("stopped_joins_refused", refused.len());
    verdict.figure("stopped_join_slowest_ms", longest(&joins).as_secs_f64() * 1_000.0);
    verdict.count("stopped_polls", polls.len());
    verdict.count("stopped_polls_answered", answered.len());
    verdict.figure("stopped_poll_answered_slowest_ms", longest(&answered).as_secs_f64() * 1_000.0);
    if joins.is_empty() || answered.is_empty() {
        verdict.findings.push("no join was sent, or no poll answered, while Redis was paused".into());
    }
    // On a busy machine a join may wait until Redis is resumed, and then succeeds.
    let has_to_be_refused = |call: &Call| context.size == Size::Full || call.sent.plus(call.took) < resumed;
    let n_other = joins.iter().filter(|call| has_to_be_refused(call) && !is_refused(call)).count();
    if n_other > 0 {
        verdict
            .findings
            .push(format!("{n_other} joins are not refused with 503 and Retry-After while Redis is paused"));
    }
    if longest(&joins) > REFUSED_WITHIN && context.size == Size::Full {
        verdict.findings.push(format!("a join is refused after {:?} while Redis is paused", longest(&joins)));
    }
}
