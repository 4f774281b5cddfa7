//! Proofs in which nothing goes wrong.

use std::time::Duration;

use super::stage::{Done, Setup, Stage, between, count_f64};
use super::{Context, ProofError, Size, Verdict};
use crate::people::Habits;
use crate::redis::{self, Script};

/// Admission looks at up to 1,000 places in one script.
const ADMIT_WITHIN: Duration = Duration::from_millis(15);
/// Every server merges each second and refreshes each tick.
const MERGE_AND_REFRESH_WITHIN: Duration = Duration::from_millis(1);

/// A line that a crowd goes through in some minutes, or seconds.
pub(super) fn rush(context: &Context) -> Setup {
    Setup {
        n_servers: 4,
        capacity: context.sized(500, 60),
        // Above what the room lets through, and below what it would at once.
        rate_per_s: context.sized(200, 40),
        pass_ttl: Duration::from_secs(context.sized(10, 4)),
        presence_window: Duration::from_secs(context.sized(20, 6)),
        state: "open",
    }
}

/// A crowd that does all that people do.
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

/// How long a crowd may take to go through.
pub(super) fn over_within(context: &Context) -> Duration {
    Duration::from_secs(context.sized(420, 90))
}

pub(super) async fn four_servers(context: Context) -> Result<Verdict, ProofError> {
    let mut stage = Stage::set(&context, rush(&context)).await?;
    let crowd = stage.gather(context.sized(20_000, 200), &habits(&context))?;
    stage.until_over(&crowd, over_within(&context)).await;
    Ok(stage.judge(vec![crowd], Done::Everybody).await?.0)
}

pub(super) async fn monitor(context: Context) -> Result<Verdict, ProofError> {
    let mut stage = Stage::set(&context, rush(&context)).await?;
    let port = stage.redis().port();
    let crowd = stage.gather(context.sized(10_000, 200), &habits(&context))?;
    stage.until_full(&crowd, 1, context.sized(100, 10)).await?;
    // Every fourth of what is allowed, so that what is told of the worst is what was measured.
    redis::start_slowlog(port, MERGE_AND_REFRESH_WITHIN / 4).await?;
    // Reading along slows Redis down by as much as it says, so it is for a part only; joins, polls, leaves are in it.
    let watched = stage.watching(&crowd, redis::watch(port, Duration::from_secs(context.sized(10, 2)))).await?;
    stage.watching(&crowd, between(Duration::from_secs(context.sized(40, 2)))).await;
    let slow = redis::slow(port, &watched.scripts).await?;
    let (mut verdict, _) = stage.judge(vec![crowd], Done::WhoeverIs).await?;
    verdict.figure("watched_commands", f64::from(u32::try_from(watched.n_direct).unwrap_or(u32::MAX)));
    verdict.figure("watched_commands_of_scripts", f64::from(u32::try_from(watched.n_by_scripts).unwrap_or(u32::MAX)));
    verdict.figure("unbounded_commands", count_f64(watched.unbounded.len()));
    if watched.scripts.len() < 3 || watched.n_by_scripts == 0 {
        verdict.findings.push("the scripts of admission, merge and refresh were not all seen".into());
    }
    let unbounded = watched.unbounded.iter().map(|command| format!("grows with the line: {command}"));
    verdict.findings.extend(unbounded);
    for (script, within) in [
        (Script::Admit, ADMIT_WITHIN),
        (Script::Merge, MERGE_AND_REFRESH_WITHIN),
        (Script::Refresh, MERGE_AND_REFRESH_WITHIN),
    ] {
        let took = slow.get(&script).map_or(&[][..], Vec::as_slice);
        let longest = took.iter().max().copied().unwrap_or_default();
        let n_longer = took.iter().filter(|took| **took > within).count();
        verdict.figure(format!("{}_slowest_ms", script.as_str()), longest.as_secs_f64() * 1_000.0);
        verdict.figure(format!("{}_too_slow", script.as_str()), count_f64(n_longer));
        if context.size == Size::Full && longest > within {
            verdict.findings.push(format!("a script of {} takes {longest:?}", script.as_str()));
        }
    }
    Ok(verdict)
}
