//! Proofs of the line in which nothing fails.

use std::time::Duration;

use super::super::{Context, ProofError, Size, Verdict};
use super::stage::{Done, Setup, Stage};
use crate::world::clock::pass;
use crate::world::people::Habits;
use crate::world::redis::{self, Script};

/// The percentile that is judged. Redis measures by the wall clock, which goes on while it waits for a core that the
/// other processes use; so the slowest call is reported and not judged.
const JUDGED_PERCENT: usize = 99;
/// Bound of an admission, which examines hundreds of places in one script.
const ADMIT_WITHIN: Duration = Duration::from_millis(15);
/// Bound of a merge, which each server calls every second, and of a refresh, which it calls every tick.
const MERGE_AND_REFRESH_WITHIN: Duration = Duration::from_millis(1);

/// A line that a crowd passes in minutes, or in seconds if the proof is quick.
pub(super) fn rush(context: &Context) -> Setup {
    Setup {
        n_servers: 4,
        capacity: context.sized(500, 60),
        // Above the rate at which room becomes free, and low enough to be felt while the room is empty.
        rate_per_s: context.sized(200, 40),
        pass_ttl: Duration::from_secs(context.sized(10, 4)),
        presence_window: Duration::from_secs(context.sized(20, 6)),
        state: "open",
    }
}

/// A crowd in which every habit occurs.
pub(super) fn habits(context: &Context) -> Habits {
    Habits {
        arrive_within: Duration::from_secs(context.sized(15, 2)),
        stay_ms: 100..1_000,
        drop_percent: 6,
        expire_percent: 6,
        absent_percent: 5,
        // Longer than the presence window.
        absent_for: Duration::from_secs(context.sized(25, 8)),
    }
}

/// How long a crowd may take to pass the line.
pub(super) fn over_within(context: &Context) -> Duration {
    Duration::from_secs(context.sized(420, 90))
}

pub(in crate::prove) async fn four_servers(context: Context) -> Result<Verdict, ProofError> {
    let mut stage = Stage::set(&context, rush(&context)).await?;
    let crowd = stage.gather(context.sized(20_000, 200), &habits(&context))?;
    stage.until_over(&crowd, over_within(&context)).await;
    Ok(stage.judge(vec![crowd], Done::Everybody).await?.0)
}

pub(in crate::prove) async fn monitor(context: Context) -> Result<Verdict, ProofError> {
    let mut stage = Stage::set(&context, rush(&context)).await?;
    let url = stage.redis().url();
    let mut connection = redis::connect(&url)?;
    let crowd = stage.gather(context.sized(10_000, 200), &habits(&context))?;
    stage.until_full(&crowd, 1, context.sized(100, 10)).await?;
    redis::start_slowlog(&mut connection)?;
    // MONITOR slows Redis down, so it runs for a part of the proof, in which people join, poll and leave.
    let watched = stage.watching(&crowd, redis::watch(&url, Duration::from_secs(context.sized(10, 2)))).await?;
    stage.watching(&crowd, pass(Duration::from_secs(context.sized(40, 2)))).await;
    let slowlog = redis::slowlog(&mut connection, &watched.scripts)?;
    let (mut verdict, _) = stage.judge(vec![crowd], Done::Nobody).await?;
    verdict.count("watched_commands", watched.n_direct);
    verdict.count("watched_commands_of_scripts", watched.n_by_scripts);
    verdict.count("unbounded_commands", watched.unbounded.len());
    if watched.scripts.len() < 3 || watched.n_by_scripts == 0 {
        verdict.findings.push("the scripts of admission, merge and refresh were not all called".into());
    }
    let unbounded = watched.unbounded.iter().map(|command| format!("a command grows with the line: {command}"));
    verdict.findings.extend(unbounded);
    for (script, within) in [
        (Script::Admit, ADMIT_WITHIN),
        (Script::Merge, MERGE_AND_REFRESH_WITHIN),
        (Script::Refresh, MERGE_AND_REFRESH_WITHIN),
    ] {
        let mut took = slowlog.get(&script).cloned().unwrap_or_default();
        took.sort_unstable();
        let rank = (took.len() * JUDGED_PERCENT).div_ceil(100);
        let judged = rank.checked_sub(1).and_then(|index| took.get(index)).copied().unwrap_or_default();
        let (name, ms) = (script.as_str(), |took: Duration| took.as_secs_f64() * 1_000.0);
        verdict.count(format!("{name}_calls"), took.len());
        verdict.figure(format!("{name}_p{JUDGED_PERCENT}_ms"), ms(judged));
        verdict.figure(format!("{name}_slowest_ms"), ms(took.last().copied().unwrap_or_default()));
        if context.size == Size::Full && judged > within {
            verdict.findings.push(format!("{name}: p{JUDGED_PERCENT} is {judged:?}, bound: {within:?}"));
        }
    }
    Ok(verdict)
}
