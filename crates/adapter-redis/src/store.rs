//! The line store on Redis. Each method is one script, which documents it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fred::clients::Pool;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::scripts::Script;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, Gate, GoneChanges, InEpoch, JoinOutcome, LeaveOutcome,
    LineChanges, LineCounts, LineStore, ReEntry, Resolution, Standing,
};
use usher_queue::{AccountHash, Epoch, Grant, Place, PlaceNumber, pace};

use crate::bits::{self, Segment};
use crate::reply::{Reply, wrong_shape};
use crate::scripts::{Scripts, Verb};
use crate::{ConnectError, client, keys};

/// The most accounts, places or entries in one script call, which takes some milliseconds of Redis' time. A longer
/// slice takes several calls, one after the other. Each of its members is a step of its own either way.
const CHUNK: usize = 500;
/// The same for the grants with which a line opens. This happens once an epoch, so it may take longer, and one call
/// then restores all grants of a usual line.
const GRANTS_CHUNK: usize = 5_000;
/// The longest span that scripts get. Longer ones never end in practice, and would not fit into a number of Lua.
const SPAN_MAX_MS: u128 = 1 << 50;

/// Keeps the lines on Redis or Valkey: on a single server, behind Sentinel, or in a cluster. Any number of Usher's
/// servers share them.
///
/// A line holds 2^32 - 1 numbers at most. Above that it answers [`JoinOutcome::CeilingReached`], whatever the ledger
/// reserved.
///
/// Redis must run with `maxmemory-policy noeviction`. It may lose everything at any time, and the store notices: a
/// restart removes the scripts of the epoch, and each line knows the epoch and the run of the server in which it was
/// opened.
pub struct RedisLineStore {
    pool: Pool,
    /// The scripts of the epoch that was used last.
    scripts: Mutex<Arc<Scripts>>,
}

impl RedisLineStore {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or another URL that [fred understands][fred]:
    /// `rediss` for TLS, optionally with the suffix `-cluster` or `-sentinel`.
    ///
    /// [fred]: fred::types::config::Config::from_url
    ///
    /// # Errors
    /// [`ConnectError`] if no server answers there, or if Redis may evict the lines.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let pool = client::connect(url).await?;
        Ok(Self { pool, scripts: Mutex::new(Arc::new(Scripts::of(Epoch::ZERO))) })
    }

    /// The scripts of an epoch. Hashes them once, as long as no call uses another epoch.
    fn scripts(&self, epoch: Epoch) -> Arc<Scripts> {
        // The lock guards one pointer, which a panic cannot leave half written.
        let mut last = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if last.epoch() != epoch {
            *last = Arc::new(Scripts::of(epoch));
        }
        Arc::clone(&last)
    }

    /// An open connection. Fails at once if there is none: a command that waited for one would run long after its
    /// caller timed out.
    fn client(&self, verb: Verb) -> Result<&fred::clients::Client, StoreError> {
        let client = self.pool.next_connected();
        if client.is_connected() {
            return Ok(client);
        }
        Err(client::convert(verb.operation(), Error::new(ErrorKind::Routing, "not connected to Redis")))
    }

    /// Runs the script of a verb on a line.
    async fn run(&self, verb: Verb, at: At, args: Vec<Value>) -> Result<InEpoch<Value>, StoreError> {
        let scripts = self.scripts(at.epoch);
        let answer = evalsha(self.client(verb)?, scripts.get(verb), at.performance, args).await;
        in_epoch(verb, answer)
    }

    /// Runs the script of a verb on a slice, in chunks of [`CHUNK`].
    async fn run_in_chunks<T: Sync, O: Send>(
        &self,
        verb: Verb,
        at: At,
        head: &[Value],
        slice: &[T],
        mut arg: impl FnMut(&mut Vec<Value>, &T) + Send,
        mut read: impl FnMut(&mut Reply, &T) -> Result<O, StoreError> + Send,
    ) -> Result<InEpoch<Vec<O>>, StoreError> {
        let mut answers = Vec::with_capacity(slice.len());
        for chunk in Chunks::of(slice, CHUNK) {
            let mut args = Vec::from(head);
            chunk.iter().for_each(|item| arg(&mut args, item));
            let InEpoch::Current(answer) = self.run(verb, at, args).await? else {
                return Ok(InEpoch::Lost);
            };
            let mut reply = Reply::new(verb.operation(), answer)?;
            for item in chunk {
                answers.push(read(&mut reply, item)?);
            }
        }
        Ok(InEpoch::Current(answers))
    }

    /// Runs `open`. Loads the scripts of the epoch if the server does not have them yet.
    async fn run_open(&self, at: At, args: Vec<Value>) -> Result<(), StoreError> {
        const OPERATION: &str = Verb::Open.operation();
        let scripts = self.scripts(at.epoch);
        let client = self.client(Verb::Open)?;
        let open = scripts.get(Verb::Open);
        match evalsha::<Value>(client, open, at.performance, args.clone()).await {
            Err(error) if client::is_unknown_script(&error) => {}
            other => return other.map(drop).map_err(|error| client::convert(OPERATION, error)),
        }
        for script in scripts.all() {
            script.load(client).await.map_err(|error| client::convert(OPERATION, error))?;
        }
        let again = evalsha::<Value>(client, open, at.performance, args).await;
        again.map(drop).map_err(|error| client::convert(OPERATION, error))
    }
}

/// Calls EVALSHA with a script's name, the line's keys and the arguments. On a pipeline, queues the call.
async fn evalsha<R: FromValue>(
    client: &impl ClientLike,
    script: &Script,
    performance: PerformanceId,
    args: Vec<Value>,
) -> Result<R, Error> {
    let keys = keys::of(performance);
    // All keys are in one slot. Unless fred gets the slot itself, it takes that of the script's name.
    let slot = ClusterHash::from(keys[0].as_str());
    let head = [Value::String(script.sha1().clone()), whole(keys.len())];
    let args: Vec<Value> = head.into_iter().chain(keys.into_iter().map(Value::from)).chain(args).collect();
    // fred's own `evalsha` does not work on a pipeline.
    client.custom(CustomCommand::new_static("EVALSHA", slot, false), args).await
}

/// Distinguishes a loss from an answer: scripts answer nil for a line of another epoch.
fn in_epoch(verb: Verb, answer: Result<Value, Error>) -> Result<InEpoch<Value>, StoreError> {
    match answer {
        Ok(Value::Null) => Ok(InEpoch::Lost),
        Ok(answer) => Ok(InEpoch::Current(answer)),
        Err(error) if client::is_unknown_script(&error) => Ok(InEpoch::Lost),
        Err(error) => Err(client::convert(verb.operation(), error)),
    }
}

/// The chunks of a slice. An empty slice makes one empty chunk, because the call still checks the epoch.
struct Chunks<'a, T> {
    rest: Option<&'a [T]>,
    size: usize,
}

impl<'a, T> Chunks<'a, T> {
    const fn of(slice: &'a [T], size: usize) -> Self {
        Self { rest: Some(slice), size }
    }
}

impl<'a, T> Iterator for Chunks<'a, T> {
    type Item = &'a [T];

    fn next(&mut self) -> Option<&'a [T]> {
        let rest = self.rest.take()?;
        let (chunk, rest) = rest.split_at(self.size.min(rest.len()));
        self.rest = (!rest.is_empty()).then_some(rest);
        Some(chunk)
    }
}

fn whole(whole: impl TryInto<i64>) -> Value {
    Value::Integer(whole.try_into().unwrap_or(i64::MAX))
}

fn time(time: Timestamp) -> Value {
    Value::Integer(time.unix_ms())
}

/// A time, or an empty string, which Lua does not convert to a number.
fn time_or_none(at: Option<Timestamp>) -> Value {
    at.map_or_else(|| Value::from_static_str(""), time)
}

fn span(span: Duration) -> Value {
    whole(span.as_millis().min(SPAN_MAX_MS))
}

fn account(account: &AccountHash) -> Value {
    Value::from(account.as_bytes().as_slice())
}

fn push_grant(args: &mut Vec<Value>, number: PlaceNumber, who: &AccountHash, expires_at: Option<Timestamp>) {
    args.extend([whole(number.get()), account(who), time_or_none(expires_at)]);
}

fn push_segments(args: &mut Vec<Value>, segments: &[Segment]) {
    args.extend(segments.iter().flat_map(|segment| [whole(segment.offset), Value::from(segment.bytes.as_slice())]));
}

/// The arguments that contribute a server's knowledge from before the epoch, for as many calls as it takes.
fn contribution_args(verb: Verb, now: Timestamp, contribution: &Contribution) -> Result<Vec<Vec<Value>>, StoreError> {
    let numbers = [contribution.start.get(), contribution.serving.get(), contribution.gone.max().unwrap_or(0)];
    if numbers.iter().any(|number| *number > bits::NUMBER_MAX) {
        return Err(wrong_shape(verb.operation(), "numbers below 2^32", None));
    }
    let head = [
        time(now),
        span(pace::PRESENCE_WINDOW_MIN),
        whole(contribution.start.get()),
        whole(contribution.serving.get()),
        whole(contribution.reserved),
        time_or_none(contribution.reserved_until),
        time_or_none(contribution.holds_until),
    ];
    let gone = bits::segments(&contribution.gone);
    let (mut grants, mut gone) = (Chunks::of(&contribution.active, GRANTS_CHUNK), bits::stretches(&gone).into_iter());
    let mut calls = Vec::new();
    loop {
        let (grants, gone) = match (grants.next(), gone.next()) {
            (None, None) => return Ok(calls),
            (grants, gone) => (grants.unwrap_or_default(), gone.unwrap_or_default()),
        };
        let mut args = Vec::from(head.clone());
        args.push(whole(grants.len()));
        grants.iter().for_each(|grant| push_grant(&mut args, grant.number, &grant.account, Some(grant.expires_at)));
        push_segments(&mut args, gone);
        calls.push(args);
    }
}

/// The time and the terms, in the order in which `read_terms` of the prelude reads them.
fn terms_args(now: Timestamp, terms: &AdmitTerms) -> [Value; 7] {
    let is_shut = match terms.gate {
        Gate::Open => 0,
        Gate::Shut => 1,
    };
    [
        time(now),
        whole(is_shut),
        whole(terms.capacity),
        whole(terms.rate_per_s),
        span(terms.tick),
        span(terms.pass_ttl),
        span(terms.presence_window),
    ]
}

fn read_joined(reply: &mut Reply, &account: &AccountHash) -> Result<JoinOutcome, StoreError> {
    let (kind, number, expires_at) = (reply.whole()?, reply.number()?, reply.time()?);
    let waiting = Standing::Waiting(number);
    let admitted = Standing::Admitted(Grant { number, account, expires_at });
    match kind {
        0 => Ok(JoinOutcome::CeilingReached),
        1 => Ok(JoinOutcome::Joined(waiting)),
        2 => Ok(JoinOutcome::Joined(admitted)),
        3 => Ok(JoinOutcome::Already(waiting)),
        4 => Ok(JoinOutcome::Already(admitted)),
        _ => Err(reply.unknown_kind()),
    }
}

fn read_resolved(reply: &mut Reply, &Place { account, .. }: &Place) -> Result<Resolution, StoreError> {
    let (kind, number) = (reply.whole()?, reply.number()?);
    match kind {
        1 => Ok(Resolution::Waiting { number, ahead: reply.whole()? }),
        2 => Ok(Resolution::Admitted(Grant { number, account, expires_at: reply.time()? })),
        0 | 3 | 4 => {
            reply.whole()?;
            Ok(match kind {
                0 => Resolution::Unknown,
                3 => Resolution::Done,
                _ => Resolution::Expired,
            })
        }
        _ => Err(reply.unknown_kind()),
    }
}

fn read_admission(reply: &mut Reply) -> Result<Admission, StoreError> {
    let examined = u32::try_from(reply.whole()?).map_err(|_| reply.unknown_kind())?;
    let more = reply.whole()? == 1;
    let expires_at = reply.time()?;
    let mut granted = Vec::with_capacity(reply.len() / 2);
    while reply.len() > 0 {
        granted.push(Grant { number: reply.number()?, account: reply.account()?, expires_at });
    }
    Ok(Admission { granted, examined, more })
}

/// The first cursor of an epoch. It is above the cursors of all earlier epochs, so that these are always too old.
const fn first_cursor(epoch: Epoch) -> u64 {
    epoch.get() << 32
}

fn read_changes(reply: &mut Reply, epoch: Epoch) -> Result<LineChanges, StoreError> {
    let counts = LineCounts {
        serving: reply.number()?,
        issued: reply.number()?,
        inherited: reply.number()?,
        waiting: reply.whole()?,
        returned: reply.whole()?,
        away: reply.whole()?,
        active: reply.whole()?,
        admitted_total: reply.whole()?,
        holds_until: Some(reply.time()?).filter(|until| *until > Timestamp::EPOCH),
    };
    let cursor = Cursor(first_cursor(epoch) + reply.whole()?);
    let gone = if reply.whole()? == 1 {
        GoneChanges::All(bits::numbers(&reply.bytes()?))
    } else {
        GoneChanges::Since((0..reply.len()).map(|_| reply.number()).collect::<Result<_, _>>()?)
    };
    Ok(LineChanges { cursor, gone, counts })
}

#[async_trait]
impl LineStore for RedisLineStore {
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError> {
        for args in contribution_args(Verb::Open, at.now, contribution)? {
            self.run_open(at, args).await?;
        }
        Ok(())
    }

    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError> {
        for args in contribution_args(Verb::Contribute, at.now, contribution)? {
            match self.run(Verb::Contribute, at, args).await? {
                InEpoch::Current(_) => {}
                InEpoch::Lost => return Ok(InEpoch::Lost),
            }
        }
        Ok(InEpoch::Current(()))
    }

    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        let mut head = Vec::from(terms_args(at.now, terms));
        head.push(whole(ceiling.get()));
        let arg = |args: &mut Vec<Value>, who: &AccountHash| args.push(account(who));
        self.run_in_chunks(Verb::Join, at, &head, accounts, arg, read_joined).await
    }

    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        let arg =
            |args: &mut Vec<Value>, place: &Place| args.extend([whole(place.number.get()), account(&place.account)]);
        self.run_in_chunks(Verb::Resolve, at, &[time(at.now)], places, arg, read_resolved).await
    }

    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError> {
        for chunk in Chunks::of(entries, CHUNK) {
            let mut args = vec![time(at.now)];
            for ReEntry { place, grant } in chunk {
                push_grant(&mut args, place.number, &place.account, grant.map(|grant| grant.expires_at));
            }
            match self.run(Verb::ReEnter, at, args).await? {
                InEpoch::Current(_) => {}
                InEpoch::Lost => return Ok(InEpoch::Lost),
            }
        }
        Ok(InEpoch::Current(()))
    }

    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError> {
        const OPERATION: &str = Verb::Leave.operation();
        let args = vec![time(at.now), whole(place.number.get()), account(&place.account)];
        match self.run(Verb::Leave, at, args).await? {
            InEpoch::Lost => Ok(InEpoch::Lost),
            InEpoch::Current(Value::Integer(0)) => Ok(InEpoch::Current(LeaveOutcome::NotThere)),
            InEpoch::Current(Value::Integer(1)) => Ok(InEpoch::Current(LeaveOutcome::LeftTheLine)),
            InEpoch::Current(Value::Integer(2)) => Ok(InEpoch::Current(LeaveOutcome::EndedPass)),
            InEpoch::Current(other) => Err(wrong_shape(OPERATION, "0, 1 or 2", Some(&other))),
        }
    }

    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError> {
        let args = vec![time(at.now), whole(number.get())];
        let answer = self.run(Verb::EndPass, at, args).await?;
        Ok(done(&answer))
    }

    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError> {
        for stretch in bits::stretches(&bits::segments(seen)) {
            let mut args = vec![time(at.now), span(presence_window)];
            push_segments(&mut args, stretch);
            match self.run(Verb::MarkPresent, at, args).await? {
                InEpoch::Current(_) => {}
                InEpoch::Lost => return Ok(InEpoch::Lost),
            }
        }
        Ok(InEpoch::Current(()))
    }

    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError> {
        let mut args = Vec::from(terms_args(at.now, terms));
        args.push(whole(examine_max));
        match self.run(Verb::Admit, at, args).await? {
            InEpoch::Lost => Ok(InEpoch::Lost),
            InEpoch::Current(answer) => {
                read_admission(&mut Reply::new(Verb::Admit.operation(), answer)?).map(InEpoch::Current)
            }
        }
    }

    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        const OPERATION: &str = Verb::Refresh.operation();
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let scripts = self.scripts(epoch);
        let pipeline = self.client(Verb::Refresh)?.pipeline();
        for &(performance, cursor) in lines {
            let known = cursor.0.checked_sub(first_cursor(epoch));
            let known = known.and_then(|known| i64::try_from(known).ok()).unwrap_or(-1);
            let args = vec![time(now), Value::Integer(known)];
            let queued = evalsha::<()>(&pipeline, scripts.get(Verb::Refresh), performance, args).await;
            queued.map_err(|error| client::convert(OPERATION, error))?;
        }
        let mut changes = Vec::with_capacity(lines.len());
        for answer in pipeline.try_all::<Value>().await {
            changes.push(match in_epoch(Verb::Refresh, answer)? {
                InEpoch::Lost => InEpoch::Lost,
                InEpoch::Current(answer) => InEpoch::Current(read_changes(&mut Reply::new(OPERATION, answer)?, epoch)?),
            });
        }
        if changes.len() == lines.len() {
            return Ok(changes);
        }
        Err(wrong_shape(OPERATION, "one answer for each line", None))
    }
}

fn done(answer: &InEpoch<Value>) -> InEpoch<()> {
    match answer {
        InEpoch::Current(_) => InEpoch::Current(()),
        InEpoch::Lost => InEpoch::Lost,
    }
}
