//! Records the answers of the line's store in a file: a decorator that changes nothing else, so it passes the port's
//! contract suite. Off unless `line.history` names the file. The load driver reads the file, and checks it with
//! `usher_queue::audit`.
//!
//! The file has hashes of accounts, as the line's store gets them, and no tokens, which the store does not get.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use roaring::RoaringTreemap;
use serde::Serialize;
use usher_kernel::{Clock, PerformanceId, StoreError, Timestamp};
use usher_queue::audit::Answer;
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, InEpoch, JoinOutcome, LeaveOutcome, LineChanges, LineStore,
    ReEntry, Resolution, Standing,
};
use usher_queue::{AccountHash, Epoch, Grant, Place, PlaceNumber};

/// One line of a history: one JSON object, with times in Unix ms.
#[derive(Debug, Serialize)]
struct Line {
    /// The process id of the server.
    server: u32,
    performance: String,
    epoch: u64,
    /// The time that the caller passed to the store.
    now: i64,
    /// When the call began and ended.
    began: i64,
    ended: i64,
    #[serde(flatten)]
    answer: AnswerText,
}

/// An [`Answer`] in JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum AnswerText {
    Opened,
    Waits { number: u64, account: String },
    Admitted { number: u64, account: String, expires_at: i64 },
    Inside { number: u64, account: String, expires_at: i64 },
    Over { number: u64, account: String },
    Left { number: u64 },
    Merged,
    Unanswered,
}

fn hex(account: AccountHash) -> String {
    format!("{:032x}", u128::from_be_bytes(*account.as_bytes()))
}

impl From<Answer> for AnswerText {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Opened => Self::Opened,
            Answer::Waits { number, account } => Self::Waits { number: number.get(), account: hex(account) },
            Answer::Admitted(Grant { number, account, expires_at }) => {
                Self::Admitted { number: number.get(), account: hex(account), expires_at: expires_at.unix_ms() }
            }
            Answer::Inside(Grant { number, account, expires_at }) => {
                Self::Inside { number: number.get(), account: hex(account), expires_at: expires_at.unix_ms() }
            }
            Answer::Over { number, account } => Self::Over { number: number.get(), account: hex(account) },
            Answer::Left(number) => Self::Left { number: number.get() },
            Answer::Merged => Self::Merged,
            Answer::Unanswered => Self::Unanswered,
        }
    }
}

/// A line store that records each answer before it returns it.
pub struct Recorded {
    inner: Arc<dyn LineStore>,
    clock: Arc<dyn Clock>,
    file: File,
    server: u32,
}

impl Recorded {
    /// Wraps a store, and appends to the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn new(inner: Arc<dyn LineStore>, clock: Arc<dyn Clock>, path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        if file.metadata()?.len() > 0 {
            // A killed server may have left half a line.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { inner, clock, file, server: std::process::id() })
    }

    /// Appends the answers of a call with one write, so that they survive a kill of this process.
    fn record(&self, at: At, began: Timestamp, answers: impl Iterator<Item = Answer>) {
        let ended = self.clock.now();
        let mut text = Vec::new();
        for answer in answers {
            let line = Line {
                server: self.server,
                performance: at.performance.to_string(),
                epoch: at.epoch.get(),
                now: at.now.unix_ms(),
                began: began.unix_ms(),
                ended: ended.unix_ms(),
                answer: answer.into(),
            };
            // Writing numbers and texts to memory does not fail.
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        if text.is_empty() {
            return;
        }
        if let Err(error) = (&self.file).write_all(&text) {
            tracing::error!(%error, "the line's history has a gap");
        }
    }

    /// Records a call that may have changed the line: its answers, or that it failed.
    fn record_call<T>(
        &self,
        at: At,
        began: Timestamp,
        answer: &Result<InEpoch<T>, StoreError>,
        answers: impl FnOnce(&T) -> Vec<Answer>,
    ) {
        match answer {
            Ok(InEpoch::Current(answer)) => self.record(at, began, answers(answer).into_iter()),
            Ok(InEpoch::Lost) => {}
            Err(_) => self.record(at, began, std::iter::once(Answer::Unanswered)),
        }
    }
}

fn joined(account: AccountHash, outcome: &JoinOutcome) -> Option<Answer> {
    match outcome {
        JoinOutcome::Joined(Standing::Waiting(number)) | JoinOutcome::Already(Standing::Waiting(number)) => {
            Some(Answer::Waits { number: *number, account })
        }
        JoinOutcome::Joined(Standing::Admitted(grant)) => Some(Answer::Admitted(*grant)),
        JoinOutcome::Already(Standing::Admitted(grant)) => Some(Answer::Inside(*grant)),
        JoinOutcome::CeilingReached => None,
    }
}

fn resolved(place: &Place, resolution: &Resolution) -> Option<Answer> {
    let &Place { number, account, .. } = place;
    match resolution {
        Resolution::Waiting { number, .. } => Some(Answer::Waits { number: *number, account }),
        Resolution::Admitted(grant) => Some(Answer::Inside(*grant)),
        Resolution::Done | Resolution::Expired => Some(Answer::Over { number, account }),
        Resolution::Unknown => None,
    }
}

#[async_trait]
impl LineStore for Recorded {
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError> {
        let began = self.clock.now();
        self.inner.open(at, contribution).await?;
        self.record(at, began, std::iter::once(Answer::Opened));
        Ok(())
    }

    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError> {
        self.inner.contribute(at, contribution).await
    }

    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        let began = self.clock.now();
        let outcomes = self.inner.join(at, terms, ceiling, accounts).await;
        self.record_call(at, began, &outcomes, |outcomes| {
            accounts.iter().zip(outcomes).filter_map(|(account, outcome)| joined(*account, outcome)).collect()
        });
        outcomes
    }

    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        let began = self.clock.now();
        let resolutions = self.inner.resolve(at, places).await?;
        if let InEpoch::Current(resolutions) = &resolutions {
            let answers = places.iter().zip(resolutions).filter_map(|(place, resolution)| resolved(place, resolution));
            self.record(at, began, answers);
        }
        Ok(resolutions)
    }

    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError> {
        self.inner.re_enter(at, entries).await
    }

    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError> {
        let began = self.clock.now();
        let left = self.inner.leave(at, place).await?;
        match left {
            InEpoch::Current(LeaveOutcome::LeftTheLine | LeaveOutcome::EndedPass) => {
                self.record(at, began, std::iter::once(Answer::Left(place.number)));
            }
            InEpoch::Current(LeaveOutcome::NotThere) | InEpoch::Lost => {}
        }
        Ok(left)
    }

    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError> {
        let began = self.clock.now();
        let ended = self.inner.end_pass(at, number).await?;
        if ended == InEpoch::Current(()) {
            self.record(at, began, std::iter::once(Answer::Left(number)));
        }
        Ok(ended)
    }

    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError> {
        let began = self.clock.now();
        let merged = self.inner.mark_present(at, presence_window, seen).await?;
        if merged == InEpoch::Current(()) {
            self.record(at, began, std::iter::once(Answer::Merged));
        }
        Ok(merged)
    }

    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError> {
        let began = self.clock.now();
        let admission = self.inner.admit(at, terms, examine_max).await;
        self.record_call(at, began, &admission, |admission| {
            admission.granted.iter().copied().map(Answer::Admitted).collect()
        });
        admission
    }

    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        self.inner.refresh(epoch, now, lines).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use usher_adapter_memory::MemoryLineStore;
    use usher_kernel::ManualClock;
    use usher_queue::ports::Gate;

    use super::*;

    const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([3; 16]);
    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);
    const TERMS: AdmitTerms = AdmitTerms {
        gate: Gate::Open,
        capacity: 1,
        rate_per_s: 0,
        tick: Duration::from_millis(250),
        pass_ttl: Duration::from_secs(10),
        presence_window: Duration::from_secs(10),
    };

    fn at(now: Timestamp) -> At {
        At { performance: PERFORMANCE, epoch: Epoch::new(1), now }
    }

    fn account(n: u8) -> AccountHash {
        AccountHash::from_bytes([n; 16])
    }

    fn place(n: u8) -> Place {
        Place { performance: PERFORMANCE, number: PlaceNumber::new(n.into()), account: account(n) }
    }

    fn store(clock: &Arc<ManualClock>, path: &Path) -> Recorded {
        Recorded::new(Arc::new(MemoryLineStore::new()), Arc::<ManualClock>::clone(clock), path).unwrap()
    }

    /// The lines of a history; `None` for a torn line.
    fn written(path: &Path) -> Vec<Option<Value>> {
        let history = std::fs::read_to_string(path).unwrap();
        history.lines().map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[tokio::test]
    async fn what_the_store_answers_is_written_down_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let clock = Arc::new(ManualClock::new(START));
        let store = store(&clock, &path);

        store.open(at(START), &Contribution::default()).await.unwrap();
        let outcomes = store.join(at(START), &TERMS, PlaceNumber::new(10), &[account(1), account(2)]).await.unwrap();
        assert!(matches!(outcomes, InEpoch::Current(_)));
        clock.advance(Duration::from_millis(7));
        let resolved = store.resolve(at(START), &[place(1), place(2)]).await.unwrap();
        assert!(matches!(resolved, InEpoch::Current(_)));
        let merged = store.mark_present(at(START), TERMS.presence_window, &RoaringTreemap::new()).await.unwrap();
        assert_eq!(merged, InEpoch::Current(()));
        let left = store.leave(at(START), place(1)).await.unwrap();
        assert_eq!(left, InEpoch::Current(LeaveOutcome::EndedPass));
        let admission = store.admit(at(START), &TERMS, 10).await.unwrap();
        assert!(matches!(admission, InEpoch::Current(_)));

        let line = |span_ms: i64, answer: Value| {
            let (began, ended) = (START.unix_ms() + span_ms, START.unix_ms() + span_ms);
            let mut line = json!({"server": std::process::id(), "performance": PERFORMANCE.to_string(), "epoch": 1,
                                  "now": START.unix_ms(), "began": began, "ended": ended});
            line.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
            line
        };
        let hash = |n: u8| format!("{n:02x}").repeat(16);
        let expires_at = START.plus(TERMS.pass_ttl).unix_ms();
        let grant =
            |answer: &str, n: u8| json!({"answer": answer, "number": n, "account": hash(n), "expires_at": expires_at});
        let waits = json!({"answer": "waits", "number": 2, "account": hash(2)});
        let expected = [
            line(0, json!({"answer": "opened"})),
            line(0, grant("admitted", 1)),
            line(0, waits.clone()),
            line(7, grant("inside", 1)),
            line(7, waits),
            line(7, json!({"answer": "merged"})),
            line(7, json!({"answer": "left", "number": 1})),
            line(7, grant("admitted", 2)),
        ];
        assert_eq!(written(&path), expected.map(Some));
    }

    #[tokio::test]
    async fn a_line_that_a_killed_server_left_half_written_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        std::fs::write(&path, "{\"server\":1,\"perf").unwrap();
        let clock = Arc::new(ManualClock::new(START));

        store(&clock, &path).open(at(START), &Contribution::default()).await.unwrap();

        let [torn, whole] = written(&path).try_into().unwrap();
        assert_eq!((torn, whole.unwrap()["answer"].as_str()), (None, Some("opened")));
    }
}
