//! Background work of a server for its lines: reads the calendar, admits, reads changes, saves, and merges presence.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::line::{Line, LiveSale};
use super::{Ports, Service};
use crate::Error;
use crate::ports::{InEpoch, Superseded};

/// How many places one call of `admit` examines at most. A remote store serves no other call meanwhile: Redis takes
/// some 10 us for each place, and up to 15 ms for a call on a busy machine.
pub const EXAMINE_MAX: u32 = 800;
/// How many calls of `admit` one tick makes for one line at most, so that no line starves the others.
const ADMIT_CALLS_MAX: u32 = 20;

impl Service {
    /// Reads which lines are live, with their sales and policies. Called every second.
    ///
    /// # Errors
    /// A store's.
    #[tracing::instrument(skip_all, name = "line.refresh_calendar", level = "debug")]
    pub async fn refresh_calendar(&self) -> Result<(), Error> {
        let Ports { calendar, clock, .. } = &self.0.ports;
        let mut live = HashMap::new();
        for (performance, sale) in calendar.live(clock.now(), self.0.settings.lobby).await? {
            live.insert(performance, LiveSale { sale, policy: self.stored_policy(performance).await? });
        }
        self.0.lines.rcu(|lines| {
            live.iter()
                .map(|(&performance, &live)| {
                    let line = lines.get(&performance).cloned();
                    (performance, line.unwrap_or_else(|| Arc::new(Line::new(performance, live))))
                })
                .collect::<HashMap<_, _>>()
        });
        let lines = self.0.lines.load();
        for (performance, live) in live {
            if let Some(line) = lines.get(&performance) {
                line.set_live_sale(live);
            }
        }
        Ok(())
    }

    /// One step of the scheduler for every live line: opens it if needed, admits, reads changes, and saves.
    ///
    /// # Errors
    /// A store's. The next tick continues where this one stopped.
    #[tracing::instrument(skip_all, name = "line.tick", level = "debug")]
    pub async fn tick(&self) -> Result<(), Error> {
        let lines: Vec<_> = self.0.lines.load().values().cloned().collect();
        let admitted = join_all(lines.iter().map(async |line| {
            self.ensure_open(line).await?;
            self.admit(line).await
        }));
        let (mut open, mut errors) = (Vec::new(), Vec::new());
        for (line, admitted) in lines.iter().zip(admitted.await) {
            match admitted {
                Ok(()) => open.push(line),
                Err(error) => errors.push(error),
            }
        }
        let refreshed = self.refresh(&open).await;
        let saved = join_all(open.iter().map(|line| self.save(line))).await;
        // A failure of one line does not stop the others. The first error is enough: the caller logs when ticks begin
        // to fail, and when they stop failing.
        errors.extend(std::iter::once(refreshed).chain(saved).filter_map(Result::err));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Merges the places that this server saw into the store. Called every [`crate::pace::MERGE_INTERVAL`].
    ///
    /// # Errors
    /// A store's.
    #[tracing::instrument(skip_all, name = "line.merge_presence", level = "debug")]
    pub async fn merge_presence(&self) -> Result<(), Error> {
        let lines: Vec<_> = self.0.lines.load().values().cloned().collect();
        for line in lines.iter().filter(|line| self.holds(line)) {
            let window = line.live_sale().policy.presence_window;
            let seen = line.take_seen();
            let at = self.at(line, self.0.ports.clock.now());
            match self.0.ports.store.mark_present(at, window, &seen).await {
                Ok(InEpoch::Current(())) => {}
                // The next tick opens the line again, and the next merge repeats these places.
                Ok(InEpoch::Lost) => line.put_back_seen(seen),
                Err(error) => {
                    line.put_back_seen(seen);
                    return Err(Error::LineStore(error));
                }
            }
        }
        Ok(())
    }

    async fn admit(&self, line: &Line) -> Result<(), Error> {
        let now = self.0.ports.clock.now();
        let terms = line.terms(self.0.settings.tick, now);
        for _ in 0..ADMIT_CALLS_MAX {
            let admitted = self.0.ports.store.admit(self.at(line, now), &terms, EXAMINE_MAX);
            match admitted.await.map_err(Error::LineStore)? {
                InEpoch::Lost => return Err(self.lost(line)),
                InEpoch::Current(admission) => {
                    line.note_granted(&admission.granted);
                    if !admission.more {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the changes of all lines, in one round trip.
    async fn refresh(&self, lines: &[&Arc<Line>]) -> Result<(), Error> {
        let (epoch, now) = (self.epoch(), self.0.ports.clock.now());
        // Leaves out a line of a newer epoch: it was just opened, and read as a whole.
        let lines: Vec<_> = lines.iter().filter(|line| line.epoch() == epoch).collect();
        let asked: Vec<_> = lines.iter().map(|line| (line.performance, line.view().cursor())).collect();
        let answers = self.0.ports.store.refresh(epoch, now, &asked).await.map_err(Error::LineStore)?;
        let mut refreshed = Ok(());
        for (line, answer) in lines.iter().zip(answers) {
            match answer {
                InEpoch::Current(changes) => line.apply(changes, now),
                InEpoch::Lost => refreshed = Err(self.lost(line)),
            }
        }
        refreshed
    }

    async fn save(&self, line: &Line) -> Result<(), Error> {
        let Some((mark, granted)) = line.unsaved(self.0.ports.clock.now()) else { return Ok(()) };
        let saved = self.0.ports.ledger.save(line.performance, line.epoch(), &mark, &granted).await;
        match saved {
            Ok(Superseded::No(())) => {
                line.saved(mark);
                Ok(())
            }
            Ok(Superseded::By(newer)) => {
                line.put_back_granted(&granted);
                self.adopt(newer).await
            }
            Err(error) => {
                line.note_failed_to_save(&granted);
                Err(Error::Store(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use usher_kernel::StoreError;
    use usher_kernel::store::every_failure_is_told;

    use super::super::scene::{ACCOUNT, CALLED, EPOCH, LINE, Mocks, OTHER_LINE, POLICY, WAITING, changes, grant, sale};
    use super::*;
    use crate::ports::{Admission, At, Gate, JoinOutcome, LineChanges, Standing};
    use crate::{AdmissionPolicy, Grant, PlaceNumber};

    const NEXT: PlaceNumber = PlaceNumber::new(3);

    fn admitted(granted: &[Grant], more: bool) -> Result<InEpoch<Admission>, StoreError> {
        Ok(InEpoch::Current(Admission { granted: granted.to_vec(), examined: 1, more }))
    }

    fn changed(lines: impl IntoIterator<Item = LineChanges>) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        Ok(lines.into_iter().map(InEpoch::Current).collect())
    }

    #[tokio::test]
    async fn a_calendar_that_cannot_be_read_leaves_the_lines_as_they_are() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_live().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();

            let refreshed = server.service.refresh_calendar().await;

            assert!(server.service.is_open(LINE));
            refreshed
        })
        .await;
    }

    #[tokio::test]
    async fn a_policy_that_cannot_be_read_leaves_all_lines_as_they_are() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.calendar.expect_live().once().return_once(|_, _| Ok(vec![(LINE, sale()), (OTHER_LINE, sale())]));
            let patched = AdmissionPolicy { capacity: POLICY.capacity + 1, ..POLICY };
            mocks.policies.expect_find().once().return_once(move |_, _| Ok(patched));
            mocks.policies.expect_find().once().return_once(move |_, _| Err(failure));
            let server = mocks.open_server();

            let refreshed = server.service.refresh_calendar().await;

            assert_eq!(server.service.live_lines().len(), 1);
            assert_eq!(server.line(LINE).live_sale().policy, POLICY);
            refreshed
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_that_does_not_open_is_not_admitted_to_and_not_saved_and_the_others_are() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_open_line().once().return_once(move |_, _, _, _| Err(failure));
            let of_the_other = |at: &At| at.performance == OTHER_LINE;
            mocks
                .store
                .expect_admit()
                .once()
                .withf(move |at, _, _| of_the_other(at))
                .return_once(|_, _, _| admitted(&[], false));
            mocks
                .store
                .expect_refresh()
                .once()
                .withf(|_, _, lines| lines.iter().map(|(line, _)| *line).eq([OTHER_LINE]))
                .return_once(|_, _, _| changed([changes(NEXT)]));
            mocks
                .ledger
                .expect_save()
                .once()
                .withf(|line, epoch, mark, _| (*line, *epoch, mark.serving) == (OTHER_LINE, EPOCH, NEXT))
                .return_once(|_, _, _, _| Ok(Superseded::No(())));
            let server = mocks.server();
            server.know(LINE);
            server.open(OTHER_LINE);

            server.service.tick().await
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_whose_admission_fails_is_neither_read_nor_saved_and_what_was_granted_is_saved_by_the_next_tick() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_admit().once().return_once(|_, _, _| admitted(&[grant(NEXT)], true));
            mocks.store.expect_admit().once().return_once(move |_, _, _| Err(failure));
            mocks
                .store
                .expect_refresh()
                .once()
                .withf(|_, _, lines| lines.is_empty())
                .return_once(|_, _, _| changed([]));
            mocks.store.expect_admit().once().return_once(|_, _, _| admitted(&[], false));
            mocks.store.expect_refresh().once().return_once(|_, _, _| changed([changes(NEXT)]));
            mocks
                .ledger
                .expect_save()
                .once()
                .withf(|_, _, mark, granted| mark.serving == NEXT && granted == [grant(NEXT)])
                .return_once(|_, _, _, _| Ok(Superseded::No(())));
            let server = mocks.open_server();

            let ticked = server.service.tick().await;

            assert_eq!(server.line(LINE).view().counts().serving, CALLED);
            server.service.tick().await.unwrap();
            ticked
        })
        .await;
    }

    #[tokio::test]
    async fn lines_that_cannot_be_read_keep_their_views_and_save_what_they_granted() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_admit().once().return_once(|_, _, _| admitted(&[grant(NEXT)], false));
            mocks.store.expect_refresh().once().return_once(move |_, _, _| Err(failure));
            mocks
                .ledger
                .expect_save()
                .once()
                .withf(|_, _, mark, granted| mark.serving == CALLED && granted == [grant(NEXT)])
                .return_once(|_, _, _, _| Ok(Superseded::No(())));
            let server = mocks.open_server();

            let ticked = server.service.tick().await;

            assert_eq!(server.line(LINE).view().counts().serving, CALLED);
            assert!(server.service.is_open(LINE), "a store that fails has not lost the line");
            ticked
        })
        .await;
    }

    #[tokio::test]
    async fn grants_that_could_not_be_saved_are_saved_by_the_next_tick_and_nobody_is_admitted_before() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            for (gate, granted) in [(Gate::Open, vec![grant(NEXT)]), (Gate::Shut, vec![]), (Gate::Open, vec![])] {
                let admit = mocks.store.expect_admit().once().withf(move |_, terms, _| terms.gate == gate);
                admit.return_once(move |_, _, _| admitted(&granted, false));
            }
            mocks.store.expect_refresh().times(3).returning(|_, _, _| changed([changes(NEXT)]));
            mocks.ledger.expect_save().once().return_once(move |_, _, _, _| Err(failure));
            let save = mocks.ledger.expect_save().once();
            let save = save.withf(|_, _, mark, granted| mark.serving == NEXT && granted == [grant(NEXT)]);
            save.return_once(|_, _, _, _| Ok(Superseded::No(())));
            let waits = JoinOutcome::Joined(Standing::Waiting(WAITING));
            let join = mocks.store.expect_join().once().withf(|_, terms, _, _| terms.gate == Gate::Shut);
            join.return_once(move |_, _, _, _| Ok(InEpoch::Current(vec![waits])));
            let server = mocks.open_server();

            let ticked = server.service.tick().await;

            server.service.join(LINE, ACCOUNT).await.unwrap();
            server.service.tick().await.unwrap();
            server.service.tick().await.unwrap();
            ticked
        })
        .await;
    }

    /// A mark that is behind costs no one a pass.
    #[tokio::test]
    async fn admission_goes_on_after_a_failed_save_without_grants() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            let admit = mocks.store.expect_admit().times(2).withf(|_, terms, _| terms.gate == Gate::Open);
            admit.returning(|_, _, _| admitted(&[], false));
            mocks.store.expect_refresh().times(2).returning(|_, _, _| changed([changes(NEXT)]));
            mocks.ledger.expect_save().once().return_once(move |_, _, _, _| Err(failure));
            mocks.ledger.expect_save().once().return_once(|_, _, _, _| Ok(Superseded::No(())));
            let server = mocks.open_server();

            let ticked = server.service.tick().await;

            server.service.tick().await.unwrap();
            ticked
        })
        .await;
    }

    #[tokio::test]
    async fn a_presence_that_could_not_be_merged_is_merged_by_the_next_call() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_mark_present().once().return_once(move |_, _, _| Err(failure));
            mocks
                .store
                .expect_mark_present()
                .once()
                .withf(|_, _, seen| seen.iter().eq([WAITING.get(), WAITING.get() + 1]))
                .return_once(|_, _, _| Ok(InEpoch::Current(())));
            let server = mocks.open_server();
            server.line(LINE).note_seen(WAITING);

            let merged = server.service.merge_presence().await;

            server.line(LINE).note_seen(WAITING.next());
            server.service.merge_presence().await.unwrap();
            merged
        })
        .await;
    }

    #[tokio::test]
    async fn a_merge_that_fails_for_one_line_forgets_nobody_of_the_other() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.store.expect_mark_present().once().return_once(move |_, _, _| Err(failure));
            let server = mocks.open_server();
            server.open(OTHER_LINE);
            let lines = [LINE, OTHER_LINE].map(|line| server.line(line));
            lines.iter().for_each(|line| line.note_seen(WAITING));

            let merged = server.service.merge_presence().await;

            assert!(lines.iter().all(|line| line.take_seen().contains(WAITING.get())));
            merged
        })
        .await;
    }
}
