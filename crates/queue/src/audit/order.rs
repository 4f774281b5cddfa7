//! Checks of the order: numbers, positions, and that no admission overtakes a lower number that waits.

use std::collections::{BTreeMap, HashMap};

use usher_kernel::Timestamp;

use super::Audit;
use super::history::{Answer, Person, ServerLife};
use crate::{AccountHash, Epoch, PlaceNumber, PlaceState};

impl Audit<'_> {
    pub(super) fn numbers(&mut self) {
        let recorded = self.history.recorded.iter().filter_map(|recorded| match recorded.answer {
            Answer::Waits { number, account } | Answer::Over { number, account } => Some((number, account)),
            Answer::Admitted(grant) | Answer::Inside(grant) => Some((grant.number, grant.account)),
            Answer::Opened | Answer::Left(_) | Answer::Merged | Answer::Unanswered => None,
        });
        let people = &self.history.people;
        let told = people.iter().flat_map(|person| person.told.iter().map(|told| (told.number, person.account)));
        let mut owners: HashMap<PlaceNumber, AccountHash> = HashMap::new();
        let mut contradictions = Vec::new();
        for (number, account) in recorded.chain(told) {
            if *owners.entry(number).or_insert(account) != account {
                contradictions.push(format!("place {number}: two accounts have it"));
                owners.insert(number, account);
            }
        }
        contradictions.dedup();
        let places = || people.iter().filter_map(|person| Some((person, person.told.first()?)));
        let mut answered: Vec<_> = places().map(|(_, told)| (told.answered, told.number)).collect();
        answered.sort_unstable();
        let mut came: Vec<_> = places().map(|(person, told)| (person.came, told.number)).collect();
        came.sort_unstable();
        let (mut earlier, mut highest) = (answered.into_iter().peekable(), PlaceNumber::ZERO);
        for (came, number) in came {
            while let Some((_, theirs)) = earlier.next_if(|(answered, _)| *answered < came) {
                highest = highest.max(theirs);
            }
            if number < highest {
                contradictions.push(format!("place {number}: its owner came after {highest} was given out"));
            }
        }
        self.findings.contradictions.extend(contradictions);
    }

    pub(super) fn positions(&mut self) {
        let mut contradictions = Vec::new();
        for person in &self.history.people {
            let mut lowest: HashMap<(ServerLife, PlaceNumber), u64> = HashMap::new();
            for told in person.told.iter().filter(|told| told.state == PlaceState::Waiting) {
                let Some(by) = told.by else { continue };
                let before = lowest.entry((by, told.number)).or_insert(told.position);
                if told.position > *before {
                    let (number, now, at) = (told.number, told.position, told.answered.unix_ms());
                    contradictions.push(format!(
                        "place {number}: its position rises from {before} to {now} on server {} at {at}",
                        by.0
                    ));
                }
                *before = told.position;
            }
        }
        self.findings.contradictions.extend(contradictions);
    }

    pub(super) fn order(&mut self) {
        let mut epochs: BTreeMap<Epoch, InEpoch> = BTreeMap::new();
        for recorded in &self.history.recorded {
            let epoch = epochs.entry(recorded.epoch).or_default();
            epoch.opened = Some(epoch.opened.map_or(recorded.now, |opened| opened.min(recorded.now)));
            match recorded.answer {
                Answer::Waits { account, .. } => {
                    epoch.waits.entry(account).or_default().push((recorded.began, recorded.ended));
                }
                Answer::Admitted(grant) => {
                    epoch.admitted.insert(grant.account, recorded.began);
                    let call = (recorded.began, recorded.ended, recorded.by);
                    let highest = epoch.calls.entry(call).or_insert(grant.number);
                    *highest = grant.number.max(*highest);
                }
                // The place may have been over for any time before.
                Answer::Over { account, .. } => {
                    epoch.is_over.entry(account).or_insert(recorded.began);
                }
                Answer::Merged => {
                    epoch.merges.entry(recorded.by).or_default().push((recorded.now, recorded.ended));
                }
                Answer::Opened | Answer::Inside(_) | Answer::Left(_) | Answer::Unanswered => {}
            }
        }
        self.findings.n_epochs = epochs.len();
        let first = epochs.keys().next().copied();
        for (number, epoch) in &mut epochs {
            epoch.merges.values_mut().for_each(|merges| merges.sort_unstable());
            let mut waiting = Vec::new();
            for person in &self.history.people {
                waiting.extend(self.sure_to_wait(person, epoch));
                if Some(*number) != first {
                    waiting.extend(told_to_wait(person, epoch));
                }
            }
            let contradictions = overtaken(waiting, &epoch.calls);
            let name = number.get();
            self.findings.contradictions.extend(contradictions.into_iter().map(|it| format!("epoch {name}: {it}")));
        }
    }

    /// The intervals in which a person certainly waited in an epoch's line, and was present.
    fn sure_to_wait(&self, person: &Person, epoch: &mut InEpoch) -> Vec<Waiting> {
        if let Some(waits) = epoch.waits.get_mut(&person.account) {
            waits.sort_unstable();
        }
        let epoch = &*epoch;
        let (Some(waits), Some(told)) = (epoch.waits.get(&person.account), person.told.first()) else {
            return Vec::new();
        };
        // They certainly waited until the store last confirmed it, or admitted them.
        let admitted = epoch.admitted.get(&person.account).copied();
        let proof = waits.last().map(|&(began, _)| began).max(admitted);
        let until = [proof, admitted, person.left, epoch.is_over.get(&person.account).copied()];
        let Some(proven_until) = until.into_iter().flatten().min() else { return Vec::new() };
        let window = self.terms.presence_window;
        let mut seen: Vec<Sighting> = Vec::with_capacity(waits.len() + person.told.len());
        seen.extend(waits.iter().map(|&(began, ended)| Sighting { known: ended, sent: began, by_store: true }));
        for told in person.told.iter().filter(|told| told.state == PlaceState::Waiting) {
            // A server that died may not have merged the places that it saw.
            if let Some(known) = told.by.and_then(|by| epoch.merged(by, told.answered)) {
                seen.push(Sighting { known, sent: told.sent, by_store: false });
            }
        }
        seen.sort_unstable_by_key(|sighting| sighting.known);
        let mut intervals: Vec<Waiting> = Vec::new();
        for Sighting { known, sent, by_store } in seen {
            let seen_until = sent.plus(window);
            match intervals.last_mut().filter(|last| known < last.until) {
                Some(last) => last.until = last.until.max(seen_until),
                // After a gap the place may be away, and only a call to the store takes it back.
                None if by_store => {
                    intervals.push(Waiting { from: known, until: seen_until, number: told.number });
                }
                None => {}
            }
        }
        for interval in &mut intervals {
            interval.until = interval.until.min(proven_until);
        }
        intervals
    }
}

/// The interval after a loss in which admission has to wait for a person: until the poll that they were told to make.
fn told_to_wait(person: &Person, epoch: &InEpoch) -> Option<Waiting> {
    let opened = epoch.opened?;
    let last = person.told.partition_point(|told| told.answered < opened).checked_sub(1)?;
    let told = person.told[last];
    if told.state != PlaceState::Waiting {
        return None;
    }
    let back = epoch.waits.get(&person.account)?.iter().map(|&(began, _)| began).min();
    let back = back.into_iter().chain(epoch.admitted.get(&person.account).copied()).min()?;
    let until = [Some(back), Some(told.answered.plus(told.poll_after)), person.left];
    let until = until.into_iter().flatten().min()?;
    Some(Waiting { from: opened, until, number: told.number })
}

/// Reports every admission of a higher number while a place waited from before the call until after it.
fn overtaken(
    mut waiting: Vec<Waiting>,
    calls: &BTreeMap<(Timestamp, Timestamp, ServerLife), PlaceNumber>,
) -> Vec<String> {
    waiting.retain(|waiting| waiting.from < waiting.until);
    waiting.sort_unstable_by_key(|waiting| waiting.from);
    let mut arriving = waiting.into_iter().peekable();
    let mut present: BTreeMap<PlaceNumber, Timestamp> = BTreeMap::new();
    let (mut contradictions, mut is_gone) = (Vec::new(), Vec::new());
    for (&(began, ended, _), &admitted) in calls {
        while let Some(Waiting { until, number, .. }) = arriving.next_if(|waiting| waiting.from < began) {
            present.entry(number).and_modify(|known| *known = until.max(*known)).or_insert(until);
        }
        for (&number, &until) in present.range(..admitted) {
            if until < began {
                is_gone.push(number);
            } else if until > ended {
                let at = began.unix_ms();
                contradictions.push(format!("place {admitted}: was admitted before {number}, which waited, at {at}"));
            }
        }
        for number in is_gone.drain(..) {
            present.remove(&number);
        }
    }
    contradictions
}

/// The records of one epoch.
#[derive(Default)]
struct InEpoch {
    opened: Option<Timestamp>,
    /// The start and end times of the calls that found an account waiting.
    waits: HashMap<AccountHash, Vec<(Timestamp, Timestamp)>>,
    /// The start time of the call that admitted an account.
    admitted: HashMap<AccountHash, Timestamp>,
    is_over: HashMap<AccountHash, Timestamp>,
    /// The calls that admitted people, and the highest number that each admitted.
    calls: BTreeMap<(Timestamp, Timestamp, ServerLife), PlaceNumber>,
    /// The times of each server's merges of presence, and when their answers arrived; in order.
    merges: HashMap<ServerLife, Vec<(Timestamp, Timestamp)>>,
}

impl InEpoch {
    /// When the store certainly knew of a place that a server saw before `seen`. That is after the second merge: the
    /// first one may have been collected just before the server saw the place.
    fn merged(&self, by: ServerLife, seen: Timestamp) -> Option<Timestamp> {
        let merges = self.merges.get(&by)?;
        let first = merges.partition_point(|&(now, _)| now < seen);
        merges.get(first + 1).map(|&(_, ended)| ended)
    }
}

/// A person was seen at `sent` or later, and the store knew of it at `known` at the latest.
struct Sighting {
    known: Timestamp,
    sent: Timestamp,
    by_store: bool,
}

/// A person certainly waited, and was present, between these times.
struct Waiting {
    from: Timestamp,
    until: Timestamp,
    number: PlaceNumber,
}

#[cfg(test)]
mod tests {
    use super::super::example::{
        OTHER, accepts, account, at, find, finds, grant, number, recorded, remove, told, waiting, waits,
    };
    use super::super::history::{History, Recorded, Told};
    use super::*;

    #[test]
    fn a_number_of_two_accounts_is_found() {
        finds("place 3: two accounts have it", |history| {
            history.recorded.push(recorded(2, 16_000, Answer::Waits { number: number(3), account: account(9) }));
        });
    }

    #[test]
    fn a_number_below_one_that_was_given_out_before_is_found() {
        finds("place 2: its owner came after 3 was given out", |history| history.people[1].came = at(311));
        // Either of two overlapping calls may be first.
        accepts(|history| history.people[1].came = at(310));
    }

    #[test]
    fn an_admission_that_overtakes_a_waiting_person_is_found() {
        finds("epoch 1: place 4: was admitted before 3, which waited, at 4995", |history| {
            *find(history, Answer::Admitted(grant(3, 3_300))) = recorded(1, 11_300, Answer::Admitted(grant(3, 11_300)));
            *find(history, Answer::Admitted(grant(4, 11_300))) = recorded(1, 5_000, Answer::Admitted(grant(4, 5_000)));
            history.people[2].told = waiting(3, 300, 11_300, 3).collect();
        });
    }

    /// The third is away while the fourth is admitted, and comes back.
    fn admitted_while_away(seen_until: i64) -> impl FnOnce(&mut History) {
        move |history| {
            *find(history, Answer::Admitted(grant(3, 3_300))) = recorded(1, 11_400, Answer::Admitted(grant(3, 11_400)));
            history.recorded.push(recorded(1, 11_380, waits(3)));
            remove(history, Answer::Admitted(grant(5, 18_000)));
            history.people[2].told = waiting(3, 300, seen_until, 3).collect();
        }
    }

    #[test]
    fn an_admission_may_overtake_a_person_who_is_away() {
        accepts(admitted_while_away(3_000));
        finds("place 4: was admitted before 3", admitted_while_away(5_000));
    }

    #[test]
    fn a_person_who_was_away_waits_again_once_the_store_confirms_it() {
        // A server that does not know yet that a person is away may tell them of their place.
        accepts(|history| {
            admitted_while_away(3_000)(history);
            history.people[2].told.push(told(3, 11_000, PlaceState::Waiting, 1));
        });
        finds("place 4: was admitted before 3", |history| {
            admitted_while_away(3_000)(history);
            history.recorded.push(recorded(1, 11_200, waits(3)));
        });
    }

    #[test]
    fn a_person_seen_by_a_server_that_did_not_merge_may_count_as_away() {
        accepts(|history| {
            admitted_while_away(5_000)(history);
            history.recorded.retain(|recorded| recorded.answer != Answer::Merged || recorded.now < at(4_900));
        });
        finds("place 4: was admitted before 3", |history| {
            admitted_while_away(5_000)(history);
            history.recorded.retain(|recorded| recorded.answer != Answer::Merged || recorded.now < at(5_100));
        });
    }

    #[test]
    fn overlapping_calls_may_admit_in_any_order() {
        accepts(|history| {
            let call = *find(history, Answer::Admitted(grant(3, 3_300)));
            let later = Recorded { began: at(3_304), ended: at(3_320), ..call };
            *find(history, Answer::Admitted(grant(3, 3_300))) = later;
            *find(history, Answer::Admitted(grant(4, 11_300))) = recorded(1, 3_300, Answer::Admitted(grant(4, 3_300)));
            remove(history, Answer::Admitted(grant(2, 1_000)));
            history.people.remove(1);
        });
    }

    #[test]
    fn admission_after_a_loss_waits_for_a_person_who_was_told_to_poll_later() {
        let newcomer = |ms: i64| {
            move |history: &mut History| {
                history.recorded.push(recorded(2, ms, Answer::Admitted(grant(99, ms))));
                remove(history, Answer::Admitted(grant(5, 18_000)));
                history.people[4].told.retain(|told| told.answered < at(15_000) || told.sent > at(16_000));
            }
        };

        // The fifth person polled at 14.5 s, was told to poll again 2 s later, and does so at 16 s.
        finds("epoch 2: place 99: was admitted before 5", newcomer(15_700));
        accepts(|history| {
            newcomer(15_700)(history);
            history.people[4].told.retain(|told| told.answered < at(12_000));
        });
    }

    #[test]
    fn a_position_that_rises_on_one_server_is_found() {
        finds("place 5: its position rises from 3 to 4 on server 7 at 2510", |history| {
            history.people[4].told[1].position = 4;
        });
        accepts(|history| {
            history.people[4].told[1] = Told { by: Some(OTHER), position: 4, ..history.people[4].told[1] };
        });
        accepts(|history| history.people[4].told[1] = Told { by: None, position: 4, ..history.people[4].told[1] });
    }
}
