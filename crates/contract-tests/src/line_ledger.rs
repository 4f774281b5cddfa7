//! The contract suite of [`LineLedger`]. Numbers refer to the items of its contract.

use std::sync::Arc;
use std::time::Duration;

use usher_kernel::{PerformanceId, Timestamp};
use usher_queue::ports::{LineLedger, LineMark, Opening, PastGrant, Superseded};
use usher_queue::{AccountHash, Epoch, Grant, PlaceNumber};

use crate::race::{RACERS, race};

/// Gives each test a ledger of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty ledger before its first epoch, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The ledger.
    fn ledger(&self) -> Arc<dyn LineLedger>;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! line_ledger_contract {
    ($fixture:ty) => {
        $crate::line_ledger_contract! { $fixture:
            of_many_who_saw_one_epoch_one_begins_the_next
            an_epoch_begins_only_after_the_one_seen
            of_many_who_open_a_line_one_moves_its_ceiling
            a_line_opens_once_per_epoch_at_its_ceiling
            an_opening_tells_the_mark_and_the_live_grants
            of_many_who_reserve_one_raises_the_ceiling
            a_ceiling_is_raised_only_from_the_one_seen
            racing_marks_only_rise_and_lose_no_grant
            a_mark_never_lowers_serving_or_issued
            a_grant_saved_again_is_one_grant
            many_grants_are_saved_at_once
            an_older_epoch_changes_nothing
            an_ended_pass_stays_ended
            past_grants_are_told_in_the_order_asked
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::line_ledger::$item::<$fixture>().await;
        }
    )*};
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const BLOCK: u64 = 10_000;
const FIRST: Epoch = Epoch::new(1);
const SECOND: Epoch = Epoch::new(2);
const LINE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const OTHER_LINE: PerformanceId = PerformanceId::from_bytes([2; 16]);

/// 1, as a race.
pub async fn of_many_who_saw_one_epoch_one_begins_the_next<F: Fixture>() {
    let fixture = F::fresh().await;

    for (seen, next) in [(Epoch::ZERO, FIRST), (FIRST, SECOND)] {
        let told = race(|_| {
            let ledger = fixture.ledger();
            async move { ledger.begin_epoch(seen).await.unwrap() }
        })
        .await;

        assert_eq!(told, vec![next; usize::from(RACERS)], "one begins the next epoch, and all get it");
        assert_eq!(fixture.ledger().epoch().await.unwrap(), next);
    }
}

/// 1, with sequential calls.
pub async fn an_epoch_begins_only_after_the_one_seen<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = fixture.ledger();
    assert_eq!(ledger.epoch().await.unwrap(), Epoch::ZERO);

    for (seen, told) in [(Epoch::ZERO, FIRST), (Epoch::ZERO, FIRST), (FIRST, SECOND), (Epoch::ZERO, SECOND)] {
        assert_eq!(ledger.begin_epoch(seen).await.unwrap(), told);
        assert_eq!(ledger.epoch().await.unwrap(), told);
    }
}

/// 2, as a race.
pub async fn of_many_who_open_a_line_one_moves_its_ceiling<F: Fixture>() {
    let fixture = F::fresh().await;

    for (epoch, start) in [(FIRST, 0), (SECOND, BLOCK)] {
        assert_eq!(fixture.ledger().begin_epoch(Epoch::new(epoch.get() - 1)).await.unwrap(), epoch);
        let told = race(|_| {
            let ledger = fixture.ledger();
            async move { ledger.open_line(LINE, epoch, BLOCK, NOW).await.unwrap() }
        })
        .await;

        let told_alike = |one: &Superseded<Opening>| {
            *one == Superseded::No(opening(start, start + BLOCK))
                || *one == Superseded::No(reopening(start, start + BLOCK))
        };
        assert!(told.iter().all(told_alike), "the ceiling moves by one block: {told:?}");
        let firsts = told.iter().filter(|one| matches!(one, Superseded::No(Opening { is_first: true, .. })));
        assert_eq!(firsts.count(), 1, "one is the first");
    }
}

/// 2, with sequential calls: no number is given out in two epochs.
pub async fn a_line_opens_once_per_epoch_at_its_ceiling<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let raised = ledger.reserve(LINE, FIRST, PlaceNumber::new(BLOCK), BLOCK).await.unwrap();
    assert_eq!(raised, Superseded::No(PlaceNumber::new(2 * BLOCK)));
    let again = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    assert_eq!(again, Superseded::No(reopening(0, 2 * BLOCK)), "in one epoch the start stays");

    assert_eq!(ledger.begin_epoch(FIRST).await.unwrap(), SECOND);
    let opened = ledger.open_line(LINE, SECOND, 5, NOW).await.unwrap();
    assert_eq!(opened, Superseded::No(opening(2 * BLOCK, 2 * BLOCK + 5)), "the next one starts at the ceiling");
    let again = ledger.open_line(LINE, SECOND, 5, NOW).await.unwrap();
    assert_eq!(again, Superseded::No(reopening(2 * BLOCK, 2 * BLOCK + 5)));
    let other = ledger.open_line(OTHER_LINE, SECOND, BLOCK, NOW).await.unwrap();
    assert_eq!(other, Superseded::No(opening(0, BLOCK)), "other lines have ceilings of their own");
}

/// 2: a grant is live while `now < expires_at` and its pass has not ended.
pub async fn an_opening_tells_the_mark_and_the_live_grants<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let later = NOW.plus(Duration::from_millis(1));
    let mark = LineMark {
        serving: PlaceNumber::new(4),
        issued: PlaceNumber::new(9),
        waiting: 5,
        active: 2,
        active_until: Some(later),
    };
    let granted = [grant(4, later), grant(1, NOW), grant(2, later), grant(3, later)];
    assert_eq!(ledger.save(LINE, FIRST, &mark, &granted).await.unwrap(), Superseded::No(()));
    ledger.end_pass(LINE, PlaceNumber::new(3), NOW).await.unwrap();
    ledger.end_pass(OTHER_LINE, PlaceNumber::new(4), NOW).await.unwrap();
    assert_eq!(ledger.begin_epoch(FIRST).await.unwrap(), SECOND);

    let opened = ledger.open_line(LINE, SECOND, BLOCK, NOW).await.unwrap();

    let Superseded::No(mut opened) = opened else { panic!("superseded: {opened:?}") };
    opened.live.sort_by_key(|grant| grant.number);
    let live = vec![grant(2, later), grant(4, later)];
    assert_eq!(opened, Opening { mark, live, ..opening(BLOCK, 2 * BLOCK) });
    let other = ledger.open_line(OTHER_LINE, SECOND, BLOCK, NOW).await.unwrap();
    assert_eq!(other, Superseded::No(opening(0, BLOCK)), "lines do not mix");
}

/// 3, as a race.
pub async fn of_many_who_reserve_one_raises_the_ceiling<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;

    let told = race(|_| {
        let ledger = Arc::clone(&ledger);
        async move { ledger.reserve(LINE, FIRST, PlaceNumber::new(BLOCK), BLOCK).await.unwrap() }
    })
    .await;

    let raised = Superseded::No(PlaceNumber::new(2 * BLOCK));
    assert_eq!(told, vec![raised; usize::from(RACERS)], "the ceiling rises by one block");
}

/// 3, with sequential calls.
pub async fn a_ceiling_is_raised_only_from_the_one_seen<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;

    for (seen, told) in [(BLOCK, BLOCK + 7), (BLOCK, BLOCK + 7), (0, BLOCK + 7), (BLOCK + 7, BLOCK + 14)] {
        let ceiling = ledger.reserve(LINE, FIRST, PlaceNumber::new(seen), 7).await.unwrap();
        assert_eq!(ceiling, Superseded::No(PlaceNumber::new(told)), "seen {seen}");
    }
    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    assert_eq!(opened, Superseded::No(reopening(0, BLOCK + 14)));
}

/// 4, as a race.
pub async fn racing_marks_only_rise_and_lose_no_grant<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let expires_at = NOW.plus(Duration::from_secs(300));

    race(|n| {
        let ledger = Arc::clone(&ledger);
        async move {
            // 37 and 64 have no common factor, so each number occurs once. The last task does not have the highest.
            let number = u64::from(n) * 37 % u64::from(RACERS) + 1;
            let granted = [grant(number, expires_at)];
            let saved = ledger.save(LINE, FIRST, &mark(number, 1_000 - number), &granted).await.unwrap();
            assert_eq!(saved, Superseded::No(()));
        }
    })
    .await;

    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    let Superseded::No(Opening { mark, mut live, .. }) = opened else { panic!("superseded: {opened:?}") };
    assert_eq!((mark.serving.get(), mark.issued.get()), (u64::from(RACERS), 999), "the highest mark stays");
    live.sort_by_key(|grant| grant.number);
    let all: Vec<_> = (1..=u64::from(RACERS)).map(|number| grant(number, expires_at)).collect();
    assert_eq!(live, all, "no grant is lost");
}

/// 4, with sequential calls. Values that are not watermarks are those of the last save.
pub async fn a_mark_never_lowers_serving_or_issued<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let until = Some(NOW.plus(Duration::from_secs(1)));

    for (saved, told) in [
        (mark(5, 50), mark(5, 50)),
        (mark(6, 40), mark(6, 50)),
        (mark(4, 60), mark(6, 60)),
        (
            LineMark { waiting: 7, active: 8, active_until: until, ..mark(1, 1) },
            LineMark { waiting: 7, active: 8, active_until: until, ..mark(6, 60) },
        ),
        (mark(6, 60), mark(6, 60)),
    ] {
        assert_eq!(ledger.save(LINE, FIRST, &saved, &[]).await.unwrap(), Superseded::No(()));
        let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
        assert_eq!(opened, Superseded::No(Opening { mark: told, ..reopening(0, BLOCK) }));
    }
}

/// 4: a save may be repeated, and a pass may be granted again for longer.
pub async fn a_grant_saved_again_is_one_grant<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let (soon, later) = (NOW.plus(Duration::from_secs(1)), NOW.plus(Duration::from_secs(2)));

    for expires_at in [soon, soon, later] {
        let granted = [grant(1, expires_at), grant(2, soon)];
        assert_eq!(ledger.save(LINE, FIRST, &mark(2, 2), &granted).await.unwrap(), Superseded::No(()));
    }

    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    let Superseded::No(mut opened) = opened else { panic!("superseded: {opened:?}") };
    opened.live.sort_by_key(|grant| grant.number);
    assert_eq!(opened.live, [grant(1, later), grant(2, soon)]);
}

/// 4: more grants than fit into one statement.
pub async fn many_grants_are_saved_at_once<F: Fixture>() {
    const N: u64 = 5_001;
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let granted: Vec<_> = (1..=N).map(|number| grant(number, NOW.plus(Duration::from_secs(1)))).collect();

    assert_eq!(ledger.save(LINE, FIRST, &mark(N, N), &granted).await.unwrap(), Superseded::No(()));

    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    let Superseded::No(mut opened) = opened else { panic!("superseded: {opened:?}") };
    opened.live.sort_by_key(|grant| grant.number);
    assert!(opened.live == granted, "every grant is saved");
}

/// 5: from the beginning of the newer epoch, whether or not the line is open in it.
pub async fn an_older_epoch_changes_nothing<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    assert_eq!(ledger.save(LINE, FIRST, &mark(3, 5), &[]).await.unwrap(), Superseded::No(()));
    assert_eq!(ledger.begin_epoch(FIRST).await.unwrap(), SECOND);

    for (ceiling, is_first) in [(BLOCK, true), (2 * BLOCK, false)] {
        let by_second = Superseded::By(SECOND);
        let granted = [grant(9, NOW.plus(Duration::from_secs(1)))];
        assert_eq!(ledger.save(LINE, FIRST, &mark(9, 9), &granted).await.unwrap(), by_second);
        let reserved = ledger.reserve(LINE, FIRST, PlaceNumber::new(ceiling), BLOCK).await.unwrap();
        assert_eq!(reserved, Superseded::By(SECOND));
        assert_eq!(ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap(), Superseded::By(SECOND));
        assert_eq!(ledger.open_line(OTHER_LINE, FIRST, BLOCK, NOW).await.unwrap(), Superseded::By(SECOND));

        let opened = ledger.open_line(LINE, SECOND, BLOCK, NOW).await.unwrap();
        let unchanged = Opening { is_first, mark: mark(3, 5), ..opening(BLOCK, 2 * BLOCK) };
        assert_eq!(opened, Superseded::No(unchanged));
    }
}

/// 6.
pub async fn an_ended_pass_stays_ended<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let number = PlaceNumber::new(1);
    let granted = [grant(1, NOW.plus(Duration::from_secs(1)))];
    assert_eq!(ledger.save(LINE, FIRST, &mark(1, 1), &granted).await.unwrap(), Superseded::No(()));

    for _ in 0..2 {
        ledger.end_pass(LINE, number, NOW).await.unwrap();
        assert_eq!(ledger.past_grants(LINE, &[number]).await.unwrap(), [PastGrant::Ended]);
    }
    assert_eq!(ledger.save(LINE, FIRST, &mark(1, 1), &granted).await.unwrap(), Superseded::No(()));

    assert_eq!(ledger.past_grants(LINE, &[number]).await.unwrap(), [PastGrant::Ended]);
    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    assert_eq!(opened, Superseded::No(Opening { mark: mark(1, 1), ..reopening(0, BLOCK) }), "it is not live");
}

/// 6: up to 1,000 numbers a call, the maximum, and with a pass that ended before its grant was saved.
pub async fn past_grants_are_told_in_the_order_asked<F: Fixture>() {
    let fixture = F::fresh().await;
    let ledger = with_line(&fixture).await;
    let expired = grant(1, NOW.minus(Duration::from_secs(1)));
    let live = grant(2, NOW.plus(Duration::from_secs(1)));
    let granted = [expired, live, grant(3, NOW)];
    assert_eq!(ledger.save(LINE, FIRST, &mark(4, 5), &granted).await.unwrap(), Superseded::No(()));
    for number in [3, 4] {
        ledger.end_pass(LINE, PlaceNumber::new(number), NOW).await.unwrap();
    }

    let told = ledger.past_grants(LINE, &[4, 2, 5, 1, 3, 2].map(PlaceNumber::new)).await.unwrap();

    let (expired, live) = (PastGrant::Granted(expired), PastGrant::Granted(live));
    assert_eq!(told, [PastGrant::Ended, live, PastGrant::Never, expired, PastGrant::Ended, live]);
    let of_other_line = ledger.past_grants(OTHER_LINE, &[2, 3].map(PlaceNumber::new)).await.unwrap();
    assert_eq!(of_other_line, [PastGrant::Never, PastGrant::Never]);
    assert_eq!(ledger.past_grants(LINE, &[]).await.unwrap(), []);
    let thousand: Vec<_> = (1..=1_000).map(PlaceNumber::new).collect();
    let told = ledger.past_grants(LINE, &thousand).await.unwrap();
    assert_eq!(told[..4], [expired, live, PastGrant::Ended, PastGrant::Ended]);
    assert_eq!(told[4..], [PastGrant::Never; 996]);
}

/// The ledger, with the line open in the first epoch.
async fn with_line<F: Fixture>(fixture: &F) -> Arc<dyn LineLedger> {
    let ledger = fixture.ledger();
    assert_eq!(ledger.begin_epoch(Epoch::ZERO).await.unwrap(), FIRST);
    let opened = ledger.open_line(LINE, FIRST, BLOCK, NOW).await.unwrap();
    assert_eq!(opened, Superseded::No(opening(0, BLOCK)));
    ledger
}

/// The ledger's answer to the first call that opens a line in an epoch.
fn opening(start: u64, ceiling: u64) -> Opening {
    let (start, ceiling) = (PlaceNumber::new(start), PlaceNumber::new(ceiling));
    Opening { is_first: true, start, ceiling, mark: LineMark::default(), live: Vec::new() }
}

/// The ledger's answer to every later call in that epoch.
fn reopening(start: u64, ceiling: u64) -> Opening {
    Opening { is_first: false, ..opening(start, ceiling) }
}

fn mark(serving: u64, issued: u64) -> LineMark {
    LineMark { serving: PlaceNumber::new(serving), issued: PlaceNumber::new(issued), ..LineMark::default() }
}

fn grant(number: u64, expires_at: Timestamp) -> Grant {
    let account = AccountHash::from_bytes(u128::from(number).to_le_bytes().map(|byte| !byte));
    Grant { number: PlaceNumber::new(number), account, expires_at }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::sync::Mutex;

    use async_trait::async_trait;
    use usher_kernel::StoreError;

    use super::*;
    use crate::race::Gap;

    #[derive(Clone, Default)]
    struct Line {
        epoch: Epoch,
        start: u64,
        ceiling: u64,
        mark: LineMark,
        grants: BTreeMap<PlaceNumber, Grant>,
    }

    #[derive(Clone, Default)]
    struct Contents {
        epoch: Epoch,
        lines: HashMap<PerformanceId, Line>,
        ended: HashSet<(PerformanceId, PlaceNumber)>,
    }

    /// Decides on a copy that it read, and writes after other callers could read too.
    #[derive(Default)]
    struct CheckThenAct(Mutex<Contents>, Gap);

    impl CheckThenAct {
        async fn look(&self) -> Contents {
            let seen = self.0.lock().unwrap().clone();
            self.1.wait_for_others().await;
            seen
        }

        async fn look_at(&self, performance: PerformanceId, epoch: Epoch) -> Superseded<Line> {
            let mut seen = self.look().await;
            let line = seen.lines.remove(&performance).unwrap_or_default();
            if seen.epoch == epoch { Superseded::No(line) } else { Superseded::By(seen.epoch) }
        }

        fn act<T>(&self, performance: PerformanceId, change: impl FnOnce(&mut Line) -> T) -> T {
            change(self.0.lock().unwrap().lines.entry(performance).or_default())
        }
    }

    #[async_trait]
    impl LineLedger for CheckThenAct {
        async fn epoch(&self) -> Result<Epoch, StoreError> {
            Ok(self.look().await.epoch)
        }

        async fn begin_epoch(&self, seen: Epoch) -> Result<Epoch, StoreError> {
            let moves = self.look().await.epoch == seen;
            let mut contents = self.0.lock().unwrap();
            if moves {
                contents.epoch = contents.epoch.next();
            }
            Ok(contents.epoch)
        }

        async fn open_line(
            &self,
            performance: PerformanceId,
            epoch: Epoch,
            block: u64,
            now: Timestamp,
        ) -> Result<Superseded<Opening>, StoreError> {
            let seen = match self.look_at(performance, epoch).await {
                Superseded::No(line) => line,
                Superseded::By(newer) => return Ok(Superseded::By(newer)),
            };
            let ended = self.look().await.ended;
            let is_first = seen.epoch != epoch;
            Ok(Superseded::No(self.act(performance, |line| {
                if is_first {
                    (line.epoch, line.start, line.ceiling) = (epoch, line.ceiling, line.ceiling + block);
                }
                let grants = line.grants.values().copied();
                let live = grants.filter(|one| one.is_live(now) && !ended.contains(&(performance, one.number)));
                Opening { is_first, mark: line.mark, live: live.collect(), ..opening(line.start, line.ceiling) }
            })))
        }

        async fn reserve(
            &self,
            performance: PerformanceId,
            epoch: Epoch,
            seen: PlaceNumber,
            block: u64,
        ) -> Result<Superseded<PlaceNumber>, StoreError> {
            Ok(match self.look_at(performance, epoch).await {
                Superseded::No(before) => Superseded::No(self.act(performance, |line| {
                    if before.ceiling == seen.get() {
                        line.ceiling += block;
                    }
                    PlaceNumber::new(line.ceiling)
                })),
                Superseded::By(newer) => Superseded::By(newer),
            })
        }

        async fn save(
            &self,
            performance: PerformanceId,
            epoch: Epoch,
            mark: &LineMark,
            granted: &[Grant],
        ) -> Result<Superseded<()>, StoreError> {
            Ok(match self.look_at(performance, epoch).await {
                Superseded::No(before) => {
                    self.act(performance, |line| {
                        let serving = mark.serving.max(before.mark.serving);
                        line.mark = LineMark { serving, issued: mark.issued.max(before.mark.issued), ..*mark };
                        line.grants.extend(granted.iter().map(|grant| (grant.number, *grant)));
                    });
                    Superseded::No(())
                }
                Superseded::By(newer) => Superseded::By(newer),
            })
        }

        async fn end_pass(
            &self,
            performance: PerformanceId,
            number: PlaceNumber,
            _now: Timestamp,
        ) -> Result<(), StoreError> {
            self.0.lock().unwrap().ended.insert((performance, number));
            Ok(())
        }

        async fn past_grants(
            &self,
            performance: PerformanceId,
            numbers: &[PlaceNumber],
        ) -> Result<Vec<PastGrant>, StoreError> {
            let mut seen = self.look().await;
            let line = seen.lines.remove(&performance).unwrap_or_default();
            let past_grant = |number: &PlaceNumber| match line.grants.get(number) {
                _ if seen.ended.contains(&(performance, *number)) => PastGrant::Ended,
                Some(grant) => PastGrant::Granted(*grant),
                None => PastGrant::Never,
            };
            Ok(numbers.iter().map(past_grant).collect())
        }
    }

    struct Control(Arc<CheckThenAct>);

    impl Fixture for Control {
        async fn fresh() -> Self {
            Self(Arc::default())
        }

        fn ledger(&self) -> Arc<dyn LineLedger> {
            Arc::<CheckThenAct>::clone(&self.0)
        }
    }

    #[tokio::test]
    #[should_panic(expected = "one begins the next epoch")]
    async fn beginning_an_epoch_by_what_was_seen_is_rejected() {
        of_many_who_saw_one_epoch_one_begins_the_next::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "the ceiling moves by one block")]
    async fn opening_a_line_by_what_was_seen_is_rejected() {
        of_many_who_open_a_line_one_moves_its_ceiling::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "the ceiling rises by one block")]
    async fn reserving_by_what_was_seen_is_rejected() {
        of_many_who_reserve_one_raises_the_ceiling::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "the highest mark stays")]
    async fn saving_by_what_was_seen_is_rejected() {
        racing_marks_only_rise_and_lose_no_grant::<Control>().await;
    }

    #[tokio::test]
    async fn only_the_races_reject_the_control() {
        an_epoch_begins_only_after_the_one_seen::<Control>().await;
        a_line_opens_once_per_epoch_at_its_ceiling::<Control>().await;
        an_opening_tells_the_mark_and_the_live_grants::<Control>().await;
        a_ceiling_is_raised_only_from_the_one_seen::<Control>().await;
        a_mark_never_lowers_serving_or_issued::<Control>().await;
        a_grant_saved_again_is_one_grant::<Control>().await;
        many_grants_are_saved_at_once::<Control>().await;
        an_older_epoch_changes_nothing::<Control>().await;
        an_ended_pass_stays_ended::<Control>().await;
        past_grants_are_told_in_the_order_asked::<Control>().await;
    }
}
