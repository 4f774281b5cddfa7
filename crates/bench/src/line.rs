//! The line on Redis without a server: admission by loop, pipeline and script, and the calls on a line of a million.

use std::time::Duration;

use redis::Connection;
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, Timestamp};
use usher_loadtest::bench::report::{Figure, Goal, median, percentile};
use usher_loadtest::bench::{Outcome, RUNS, Scale, progress};
use usher_loadtest::world::clock::Stopwatch;
use usher_loadtest::world::redis::{connect, round_trips_us, script_us, used_memory};
use usher_queue::ports::{AdmitTerms, Cursor, Gate, LineStore as _};
use usher_queue::service::EXAMINE_MAX;
use usher_test_servers::redis_server::Server;

use crate::crowd::{Crowd, account, current};

/// People in one pipeline: about as many as the script examines.
const PIPELINED: isize = 1_000;
/// The first time that stores are given.
const BEGIN: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

fn performance(n: u128) -> PerformanceId {
    PerformanceId::from_bytes(n.to_be_bytes())
}

/// Admits 10,000 people in three ways: one by one in a loop, as the system that Usher follows did; with the same
/// commands in pipelines; and by the script. The loop is the control.
///
/// # Errors
/// If Redis fails, or a person is not admitted.
pub(crate) async fn admission(server: &Server, scale: Scale) -> Outcome<Vec<Figure>> {
    let n_people = scale.people(10_000);
    progress(&format!("admitting {n_people} people three ways, {RUNS} times each"));
    let mut connection = connect(&server.url())?;
    let trip_us = median(&round_trips_us(&mut connection, 2_000)?);
    let (mut looped, mut pipelined, mut scripted) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        looped.push(admit_old_way(&mut connection, &format!("loop:{run}"), n_people, loop_one_by_one)?);
        pipelined.push(admit_old_way(&mut connection, &format!("pipelined:{run}"), n_people, pipeline)?);
        scripted.push(admit_by_script(&server.url(), performance(1 + run as u128), n_people).await?);
    }
    let control = median(&looped);
    let name = |way| format!("admit {n_people} on Redis, {way}");
    Ok(vec![
        Figure::alone("round trip to Redis (median PING)", trip_us, "us"),
        Figure::alone(name("one by one"), control, "ms"),
        Figure::duration(name("pipelined"), median(&pipelined), "ms", control),
        Figure::duration(name("by the script"), median(&scripted), "ms", control).with_goal(Goal::RatioAtLeast(8.2)),
    ])
}

/// Adds people to a sorted set, and times their move to another set, in milliseconds.
fn admit_old_way(
    connection: &mut Connection,
    name: &str,
    n_people: u64,
    admit: impl FnOnce(&mut Connection, &str, &str) -> Outcome<()>,
) -> Outcome<f64> {
    let (waiting, inside) = (format!("bench:{name}:waiting"), format!("bench:{name}:inside"));
    let mut joining = redis::pipe();
    for n in 1..=n_people {
        joining.cmd("ZADD").arg(&waiting).arg(n).arg(account(n).as_bytes()).ignore();
    }
    joining.exec(connection)?;
    let watch = Stopwatch::start();
    admit(connection, &waiting, &inside)?;
    let took = watch.elapsed();
    let n_admitted: u64 = redis::cmd("ZCARD").arg(&inside).query(connection)?;
    redis::cmd("UNLINK").arg(&waiting).arg(&inside).exec(connection)?;
    require_all(n_admitted, n_people)?;
    Ok(ms(took))
}

/// Three round trips for each person: read the first, add it to those inside, remove it from the line.
fn loop_one_by_one(connection: &mut Connection, waiting: &str, inside: &str) -> Outcome<()> {
    loop {
        let first: Vec<Vec<u8>> = redis::cmd("ZRANGE").arg(waiting).arg(0).arg(0).query(connection)?;
        let Some(account) = first.first() else { return Ok(()) };
        redis::cmd("ZADD").arg(inside).arg(BEGIN.unix_ms()).arg(account).exec(connection)?;
        redis::cmd("ZREM").arg(waiting).arg(account).exec(connection)?;
    }
}

/// Two round trips for each [`PIPELINED`] people: read them, then add and remove all of them.
fn pipeline(connection: &mut Connection, waiting: &str, inside: &str) -> Outcome<()> {
    loop {
        let first: Vec<Vec<u8>> = redis::cmd("ZRANGE").arg(waiting).arg(0).arg(PIPELINED - 1).query(connection)?;
        if first.is_empty() {
            return Ok(());
        }
        let mut admitting = redis::pipe();
        for account in &first {
            admitting.cmd("ZADD").arg(inside).arg(BEGIN.unix_ms()).arg(account).ignore();
            admitting.cmd("ZREM").arg(waiting).arg(account).ignore();
        }
        admitting.exec(connection)?;
    }
}

/// Opens a line, joins people, and times their admission through the port, in milliseconds.
async fn admit_by_script(url: &str, performance: PerformanceId, n_people: u64) -> Outcome<f64> {
    let mut crowd = Crowd::open(url, performance, BEGIN).await?;
    crowd.join_up_to(n_people).await?;
    let terms = AdmitTerms { gate: Gate::Open, ..crowd.terms };
    let watch = Stopwatch::start();
    let mut n_admitted = 0;
    loop {
        let admission = current(crowd.store.admit(crowd.at, &terms, EXAMINE_MAX).await?)?;
        n_admitted += admission.granted.len() as u64;
        if !admission.more {
            break;
        }
    }
    let took = watch.elapsed();
    require_all(n_admitted, n_people)?;
    Ok(ms(took))
}

fn require_all(n_admitted: u64, n_people: u64) -> Outcome<()> {
    if n_admitted == n_people {
        return Ok(());
    }
    Err(format!("{n_admitted} of {n_people} people are admitted").into())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// Measures a line of a million people: its memory in Redis, and the time of the scheduler's calls.
///
/// # Errors
/// If Redis fails, or a call has an unexpected result.
pub(crate) async fn million(server: &Server, scale: Scale) -> Outcome<Vec<Figure>> {
    let (n_people, n_few) = (scale.people(1_000_000), 1_000);
    progress(&format!("{n_people} people join a line on Redis"));
    let mut connection = connect(&server.url())?;
    let mut few = Crowd::open(&server.url(), performance(100), BEGIN).await?;
    let mut crowd = Crowd::open(&server.url(), performance(101), BEGIN).await?;

    few.join_up_to(n_few).await?;
    let before = used_memory(&mut connection)?;
    let watch = Stopwatch::start();
    crowd.join_up_to(n_people).await?;
    let join_s = watch.elapsed().as_secs_f64();
    let after = used_memory(&mut connection)?;
    let mut figures = vec![
        Figure::alone(
            format!("memory of Redis a person, {n_people} waiting"),
            per_person(after.saturating_sub(before), n_people),
            "B",
        )
        .with_goal(Goal::AtMost(200.0)),
        Figure::alone(format!("{n_people} people join through the port"), join_s, "s"),
    ];

    progress("presence, views and admission of that line");
    let calls = Calls { connection: &mut connection, few: &mut few, crowd: &mut crowd };
    figures.extend(calls.measure().await?);
    Ok(figures)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and people are far below 2^52")]
fn per_person(bytes: u64, n_people: u64) -> f64 {
    bytes as f64 / n_people as f64
}

/// The scheduler's calls on a long line. The control is the same calls on a short line.
struct Calls<'a> {
    connection: &'a mut Connection,
    few: &'a mut Crowd,
    crowd: &'a mut Crowd,
}

/// Durations of the calls of one method.
#[derive(Default)]
struct Took {
    client_ms: Vec<f64>,
    redis_ms: Vec<f64>,
}

impl Took {
    /// Times a call, at the client and in Redis.
    async fn time<T>(&mut self, connection: &mut Connection, call: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let before_us = script_us(connection)?;
        let watch = Stopwatch::start();
        let answer = call.await?;
        self.client_ms.push(ms(watch.elapsed()));
        self.redis_ms.push((script_us(connection)? - before_us) / 1e3);
        Ok(answer)
    }

    /// The median in Redis, and the 99th percentiles in Redis and at the client. Control: the median on the short line.
    fn figures(&self, name: &str, control: Option<&Self>, goal_ms: f64) -> [Figure; 3] {
        let p50 = median(&self.redis_ms);
        let median_figure = format!("{name}, in Redis, p50");
        let median_figure = match control {
            Some(control) => Figure::duration(median_figure, p50, "ms", median(&control.redis_ms)),
            None => Figure::alone(median_figure, p50, "ms"),
        };
        let p99 = Figure::alone(format!("{name}, in Redis, p99"), percentile(&self.redis_ms, 99), "ms");
        [
            median_figure,
            p99.with_goal(Goal::AtMost(goal_ms)),
            Figure::alone(format!("{name}, at the client, p99"), percentile(&self.client_ms, 99), "ms"),
        ]
    }
}

impl Calls<'_> {
    /// Longest time of a merge or a refresh in Redis.
    const READING_GOAL_MS: f64 = 1.0;
    /// Longest time of an admission in Redis.
    const ADMIT_GOAL_MS: f64 = 15.0;
    /// Every fifth person stays present: 200,000 of a million.
    const PRESENT_EVERY: u64 = 5;
    /// The clock's step between merges. The store skips absent people only after it saw a whole presence window, in
    /// steps below a quarter of it.
    const MERGE_STEP: Duration = Duration::from_secs(1);
    const MERGES: u32 = 200;
    /// One admission for so many people: two rounds of 200 calls take less than half of a million.
    const PEOPLE_PER_CALL: u64 = 5_000;

    async fn measure(self) -> Outcome<Vec<Figure>> {
        let Self { connection, few, crowd } = self;
        let n_people = crowd.n_joined;
        let n_admits = n_people / Self::PEOPLE_PER_CALL;
        let mut figures = Vec::new();

        // All have just joined, so all are present.
        let mut admits = Took::default();
        for _ in 0..n_admits {
            let n_granted = Self::admit(connection, crowd, &mut admits).await?;
            require_all(n_granted, u64::from(EXAMINE_MAX))?;
        }
        let name = format!("admit: {EXAMINE_MAX} let in of {n_people} waiting");
        figures.extend(admits.figures(&name, None, Self::ADMIT_GOAL_MS));

        let (mut refresh_few, mut refresh) = (Took::default(), Took::default());
        let (mut merge_few, mut merge) = (Took::default(), Took::default());
        let present = |n_joined| (1..=n_joined).filter(|n| n % Self::PRESENT_EVERY == 0).collect::<RoaringTreemap>();
        let (seen_few, seen) = (present(few.n_joined), present(n_people));
        for _ in 0..Self::MERGES {
            for (line, seen, merge, refresh) in [
                (&mut *few, &seen_few, &mut merge_few, &mut refresh_few),
                (&mut *crowd, &seen, &mut merge, &mut refresh),
            ] {
                line.at.now = line.at.now.plus(Self::MERGE_STEP);
                Self::merge(connection, line, seen, merge).await?;
                Self::refresh(connection, line, refresh).await?;
            }
        }
        let name = format!("mark_present: {} of {n_people}", seen.len());
        figures.extend(merge.figures(&name, Some(&merge_few), Self::READING_GOAL_MS));
        let name = format!("refresh: {n_people} waiting");
        figures.extend(refresh.figures(&name, Some(&refresh_few), Self::READING_GOAL_MS));

        // The presence of the others has expired: four of five are skipped.
        let (mut admits, mut n_granted) = (Took::default(), 0);
        for _ in 0..n_admits {
            n_granted += Self::admit(connection, crowd, &mut admits).await?;
        }
        require_all(n_granted, n_admits * u64::from(EXAMINE_MAX) / Self::PRESENT_EVERY)?;
        let name = format!("admit: {EXAMINE_MAX} examined of {n_people}, 1 in {} present", Self::PRESENT_EVERY);
        figures.extend(admits.figures(&name, None, Self::ADMIT_GOAL_MS));
        Ok(figures)
    }

    /// Calls `admit` once, and returns how many people it admitted.
    async fn admit(connection: &mut Connection, line: &Crowd, took: &mut Took) -> Outcome<u64> {
        let terms = AdmitTerms { gate: Gate::Open, ..line.terms };
        let call = async { current(line.store.admit(line.at, &terms, EXAMINE_MAX).await?) };
        let admission = took.time(connection, call).await?;
        require_all(admission.examined.into(), EXAMINE_MAX.into())?;
        Ok(admission.granted.len() as u64)
    }

    async fn merge(connection: &mut Connection, line: &Crowd, seen: &RoaringTreemap, took: &mut Took) -> Outcome<()> {
        let window = line.terms.presence_window;
        took.time(connection, async { current(line.store.mark_present(line.at, window, seen).await?) }).await
    }

    /// Calls `refresh` with a current cursor, as a server does each tick.
    async fn refresh(connection: &mut Connection, line: &Crowd, took: &mut Took) -> Outcome<()> {
        let (epoch, now, performance) = (line.at.epoch, line.at.now, line.at.performance);
        let first = line.store.refresh(epoch, now, &[(performance, Cursor::default())]).await?;
        let cursor = current(first.into_iter().next().ok_or("refresh returned no answer for the line")?)?.cursor;
        took.time(connection, async { Ok(line.store.refresh(epoch, now, &[(performance, cursor)]).await?) }).await?;
        Ok(())
    }
}
