//! The proof that polls send no command to Redis.

use std::time::Duration;

use super::super::{Context, ProofError, Verdict};
use super::stage::{Done, Setup, Stage};
use crate::world::clock::{eventually, pass};
use crate::world::people::{Crowd, Habits, Progress};
use crate::world::redis;

/// Most commands per second from one server.
const PER_SERVER_MAX: f64 = 100.0;
/// Commands per second from a server without polls: two in each of four ticks, and a merge. A server that a busy
/// machine starves sends fewer.
const AT_REST_PER_S: f64 = 9.0;
/// Factor between two spans with the same number of ticks.
const NOISE: f64 = 1.2;

pub(in crate::prove) async fn quiet_polls(context: Context) -> Result<Verdict, ProofError> {
    let n_servers = 4;
    let setup = Setup {
        n_servers,
        capacity: 500,
        rate_per_s: 0,
        pass_ttl: Duration::from_secs(300),
        presence_window: Duration::from_secs(context.sized(90, 6)),
        state: "paused",
    };
    let mut stage = Stage::set(&context, setup).await?;
    let (few, many) = context.sized((10_000, 100_000), (50, 300));
    let few_crowd = arrive(&context, &mut stage, few).await?;
    let with_few = measure(&context, &stage, &few_crowd).await?;
    let many_crowd = arrive(&context, &mut stage, many - few).await?;
    let with_many = measure(&context, &stage, &many_crowd).await?;
    stage.parameter("people", vec![few, many]);
    let (mut verdict, _) = stage.judge(vec![few_crowd, many_crowd], Done::Nobody).await?;
    let per_server = |per_s: f64| per_s / f64::from(u32::try_from(n_servers).unwrap_or(1));
    let (few_per_s, many_per_s) = (per_server(with_few.commands_per_s), per_server(with_many.commands_per_s));
    verdict.figure("commands_per_s_and_server_with_few", few_per_s);
    verdict.figure("commands_per_s_and_server_with_many", many_per_s);
    verdict.figure("polls_per_s_with_few", with_few.polls_per_s);
    verdict.figure("polls_per_s_with_many", with_many.polls_per_s);
    if many_per_s > PER_SERVER_MAX {
        verdict.findings.push(format!("each server sends {many_per_s:.0} commands a second, bound: {PER_SERVER_MAX}"));
    }
    if many_per_s > few_per_s.max(AT_REST_PER_S) * NOISE {
        verdict.findings.push(format!(
            "each server sends {many_per_s:.1} commands a second with many people and {few_per_s:.1} with few"
        ));
    }
    if with_many.polls_per_s <= with_few.polls_per_s {
        verdict.findings.push("many people do not poll more often than few".into());
    }
    Ok(verdict)
}

/// Starts a crowd, and waits until each person has a place.
async fn arrive(context: &Context, stage: &mut Stage, n_people: usize) -> Result<Crowd, ProofError> {
    const AT_MOST: Duration = Duration::from_secs(300);
    let joins_per_s = context.sized(1_200, 200);
    let habits = Habits {
        arrive_within: Duration::from_secs((n_people / joins_per_s) as u64 + 1),
        stay_ms: 0..1,
        drop_percent: 0,
        expire_percent: 0,
        absent_percent: 0,
        absent_for: Duration::ZERO,
    };
    let crowd = stage.gather(n_people, &habits)?;
    let all = u64::try_from(n_people).unwrap_or(u64::MAX);
    let everybody = || (Progress::count(&crowd.progress.joined) == all).then_some(());
    let joined = eventually(AT_MOST, || async { everybody() });
    let joined = stage.watching(&crowd, joined).await;
    joined.ok_or(ProofError::NotReached("each person has a place", AT_MOST.as_secs()))?;
    // Until the merges and marks of the last joins are sent.
    stage.watching(&crowd, pass(Duration::from_secs(2))).await;
    Ok(crowd)
}

struct Measured {
    commands_per_s: f64,
    polls_per_s: f64,
}

async fn measure(context: &Context, stage: &Stage, crowd: &Crowd) -> Result<Measured, ProofError> {
    let span = Duration::from_secs(context.sized(15, 4));
    let before = Progress::count(&crowd.progress.polls);
    let watched = stage.watching(crowd, redis::watch(&stage.redis().url(), span)).await?;
    let n_polls = u32::try_from(Progress::count(&crowd.progress.polls) - before).unwrap_or(u32::MAX);
    Ok(Measured { commands_per_s: watched.direct_per_s(), polls_per_s: f64::from(n_polls) / span.as_secs_f64() })
}
