//! The negative control: a store that reads a line, lets other callers run, and writes the line back. The suite must
//! reject it, and only because of that gap: with callers that take turns, the same store passes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::*;
use crate::race::Gap;

/// As much of a line as the races need: no presence, no rate, no loss.
#[derive(Clone, Default)]
struct NaiveLine {
    epoch: Epoch,
    issued: PlaceNumber,
    serving: PlaceNumber,
    admitted_total: u64,
    waiting: BTreeMap<PlaceNumber, AccountHash>,
    inside: BTreeMap<PlaceNumber, Grant>,
}

impl NaiveLine {
    fn standing(&self, account: AccountHash) -> Option<Standing> {
        let waits = self.waiting.iter().find(|(_, holder)| **holder == account);
        let inside = self.inside.values().find(|grant| grant.account == account);
        inside.map(|grant| Standing::Admitted(*grant)).or(waits.map(|(number, _)| Standing::Waiting(*number)))
    }

    fn join_one(&mut self, account: AccountHash) -> JoinOutcome {
        if let Some(standing) = self.standing(account) {
            return JoinOutcome::Already(standing);
        }
        self.issued = self.issued.next();
        self.waiting.insert(self.issued, account);
        JoinOutcome::Joined(Standing::Waiting(self.issued))
    }

    fn resolve_one(&self, place: Place) -> Resolution {
        match self.standing(place.account) {
            Some(Standing::Admitted(grant)) => Resolution::Admitted(grant),
            Some(Standing::Waiting(number)) => {
                Resolution::Waiting { number, ahead: self.waiting.range(..number).count() as u64 }
            }
            None => Resolution::Done,
        }
    }

    fn leave(&mut self, number: PlaceNumber) -> LeaveOutcome {
        if self.waiting.remove(&number).is_some() {
            LeaveOutcome::LeftTheLine
        } else if self.inside.remove(&number).is_some() {
            LeaveOutcome::EndedPass
        } else {
            LeaveOutcome::NotThere
        }
    }

    fn admit(&mut self, now: Timestamp, terms: &AdmitTerms, examine_max: u32) -> Admission {
        let mut admission = Admission::default();
        while self.inside.len() < terms.capacity as usize
            && admission.examined < examine_max
            && let Some((number, account)) = self.waiting.pop_first()
        {
            let grant = Grant { number, account, expires_at: now.plus(terms.pass_ttl) };
            self.inside.insert(number, grant);
            self.serving = self.serving.max(number);
            self.admitted_total += 1;
            admission.examined += 1;
            admission.granted.push(grant);
        }
        admission
    }

    fn changes(&self) -> LineChanges {
        let counts = LineCounts {
            serving: self.serving,
            issued: self.issued,
            waiting: self.waiting.len() as u64,
            active: self.inside.len() as u64,
            admitted_total: self.admitted_total,
            ..LineCounts::default()
        };
        LineChanges { cursor: Cursor::default(), gone: GoneChanges::All(RoaringTreemap::new()), counts }
    }
}

/// Reads a line, lets other callers run, and writes the line back.
#[derive(Default)]
struct CheckThenAct {
    lines: Mutex<HashMap<PerformanceId, NaiveLine>>,
    gap: Gap,
    /// Held during a whole method, if callers take turns.
    turn: Option<tokio::sync::Mutex<()>>,
}

impl CheckThenAct {
    async fn update<T>(&self, at: At, act: impl FnOnce(&mut NaiveLine) -> T + Send) -> Result<InEpoch<T>, StoreError> {
        let _turn = match &self.turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        let Some(mut line) = self.lines.lock().unwrap().get(&at.performance).cloned() else {
            return Ok(InEpoch::Lost);
        };
        if line.epoch != at.epoch {
            return Ok(InEpoch::Lost);
        }
        if self.turn.is_none() {
            self.gap.wait_for_others().await;
        }
        let answer = act(&mut line);
        self.lines.lock().unwrap().insert(at.performance, line);
        Ok(InEpoch::Current(answer))
    }
}

#[async_trait]
impl LineStore for CheckThenAct {
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError> {
        let line = NaiveLine { epoch: at.epoch, issued: contribution.start, ..NaiveLine::default() };
        self.lines.lock().unwrap().entry(at.performance).or_insert(line);
        Ok(())
    }

    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError> {
        self.update(at, |line| line.issued = line.issued.max(contribution.start)).await
    }

    async fn join(
        &self,
        at: At,
        _: &AdmitTerms,
        _: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        self.update(at, |line| accounts.iter().map(|&account| line.join_one(account)).collect()).await
    }

    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        self.update(at, |line| places.iter().map(|&place| line.resolve_one(place)).collect()).await
    }

    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError> {
        let places = entries.iter().map(|entry| (entry.place.number, entry.place.account));
        self.update(at, |line| line.waiting.extend(places)).await
    }

    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError> {
        self.update(at, |line| line.leave(place.number)).await
    }

    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError> {
        self.update(at, |line| {
            line.inside.remove(&number);
        })
        .await
    }

    async fn mark_present(&self, at: At, _: Duration, _: &RoaringTreemap) -> Result<InEpoch<()>, StoreError> {
        self.update(at, |_| ()).await
    }

    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError> {
        self.update(at, |line| line.admit(at.now, terms, examine_max)).await
    }

    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        let mut answers = Vec::new();
        for &(performance, _) in lines {
            answers.push(self.update(At { performance, epoch, now }, |line| line.changes()).await?);
        }
        Ok(answers)
    }
}

struct Racing;

impl Fixture for Racing {
    async fn store() -> Arc<dyn LineStore> {
        Arc::new(CheckThenAct::default())
    }
}

struct TakingTurns;

impl Fixture for TakingTurns {
    async fn store() -> Arc<dyn LineStore> {
        Arc::new(CheckThenAct { turn: Some(tokio::sync::Mutex::default()), ..CheckThenAct::default() })
    }
}

async fn assert_rejected(item: impl Future<Output = ()> + Send + 'static) {
    let mut task = JoinSet::new();
    task.spawn(item);
    let verdict = task.join_next().await.unwrap();
    assert!(verdict.is_err_and(|error| error.is_panic()), "the suite let a store pass that checks and then acts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_and_then_acts_gives_one_account_two_places() {
    assert_rejected(one_account_joining_from_many_tasks_gets_one_place::<Racing>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_and_then_acts_gives_a_number_twice() {
    assert_rejected(many_accounts_joining_at_once_get_each_number_once::<Racing>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_and_then_acts_admits_someone_twice() {
    assert_rejected(schedulers_at_once_fill_the_room_and_no_more::<Racing>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_and_then_acts_loses_who_leaves() {
    assert_rejected(a_place_that_leaves_while_it_is_admitted_does_one_of_both::<Racing>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_store_passes_where_callers_take_turns() {
    one_account_joining_from_many_tasks_gets_one_place::<TakingTurns>().await;
    many_accounts_joining_at_once_get_each_number_once::<TakingTurns>().await;
    schedulers_at_once_fill_the_room_and_no_more::<TakingTurns>().await;
    a_place_that_leaves_while_it_is_admitted_does_one_of_both::<TakingTurns>().await;
    a_crowd_goes_through_and_nobody_is_lost_or_one_too_many::<TakingTurns>().await;
}
