//! What a server does for its lines in the background: learns which there are, admits, reads, saves, and tells whom it saw.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::line::{Line, LiveSale};
use super::{Ports, Service};
use crate::Error;
use crate::ports::{InEpoch, Superseded};

/// How many places one call of the scheduler looks at: a remote store answers nobody else meanwhile. Redis takes some
/// 10 us for each, and a call may take 15 ms of it where the machine is busy with other things too.
pub const EXAMINE_MAX: u32 = 800;
/// How many calls of the scheduler one tick makes for one line, so that no line starves the others.
const ADMIT_CALLS_MAX: u32 = 20;

impl Service {
    /// Learns which lines are live, and their sales and policies. Called every second.
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

    /// One step of the scheduler for every live line: admits, reads what changed, saves how far it came.
    ///
    /// # Errors
    /// A store's; the next tick goes on where this one stopped.
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
        // One line's trouble is not the others'. Whoever calls every tick says when it begins and when it ends.
        errors.extend(std::iter::once(refreshed).chain(saved).filter_map(Result::err));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Tells the store whom this server saw. Called every [`pace::MERGE_INTERVAL`].
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
                // The line opens again with the next tick, and who waits is seen again.
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
        let (live, now) = (line.live_sale(), self.0.ports.clock.now());
        let terms = live.terms(self.0.settings.tick, now);
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

    /// Reads what changed of all lines, in one round trip.
    async fn refresh(&self, lines: &[&Arc<Line>]) -> Result<(), Error> {
        let (epoch, now) = (self.epoch(), self.0.ports.clock.now());
        // One that was just opened in a newer epoch than the others is read anew already.
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
                line.put_back_granted(&granted);
                Err(Error::Store(error))
            }
        }
    }
}
