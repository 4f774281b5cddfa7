//! Checks of the passes: capacity, rate, each person admitted once, and no one lost.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use usher_kernel::Timestamp;

use super::Audit;
use super::history::{Answer, Recorded};
use crate::{Epoch, Grant, PlaceNumber, PlaceState};

/// A grant, with everything that the history shows about it.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    grant: Grant,
    /// When it was granted, in the line's time.
    granted_at: Timestamp,
    /// The call that made the grant, if it was recorded.
    call: Option<Recorded>,
    /// The time from which on it may take no room.
    until: Timestamp,
    /// The loss that may have forgotten the grant, if there is one.
    forgotten: Option<Timestamp>,
}

impl Audit<'_> {
    /// Every pass that a server recorded or a person was told of.
    pub(super) fn gather_passes(&mut self) -> Vec<Pass> {
        let mut found: BTreeMap<(PlaceNumber, Timestamp), Pass> = BTreeMap::new();
        let granted_at = |grant: &Grant| grant.expires_at.minus(self.terms.pass_ttl);
        let pass = |grant: Grant| Pass {
            grant,
            granted_at: granted_at(&grant),
            call: None,
            until: grant.expires_at,
            forgotten: None,
        };
        let mut twice = Vec::new();
        for recorded in &self.history.recorded {
            match recorded.answer {
                Answer::Admitted(grant) => {
                    let known = found.entry((grant.number, grant.expires_at)).or_insert_with(|| pass(grant));
                    if known.call.replace(*recorded).is_some() {
                        twice.push(grant.number);
                    }
                }
                Answer::Inside(grant) => {
                    found.entry((grant.number, grant.expires_at)).or_insert_with(|| pass(grant));
                }
                Answer::Opened
                | Answer::Waits { .. }
                | Answer::Over { .. }
                | Answer::Left(_)
                | Answer::Merged
                | Answer::Unanswered => {}
            }
        }
        for person in &self.history.people {
            for told in &person.told {
                if let Some(expires_at) = told.pass_until {
                    let grant = Grant { number: told.number, account: person.account, expires_at };
                    found.entry((grant.number, grant.expires_at)).or_insert_with(|| pass(grant));
                }
            }
        }
        for number in twice {
            self.contradict(format!("place {number}: was granted by two calls at one instant"));
        }
        let ended = self.ended();
        let mut passes: Vec<_> = found.into_values().collect();
        for pass in &mut passes {
            pass.forgotten = self.forgotten(pass);
            let ends = [ended.get(&pass.grant.number).copied(), pass.forgotten];
            pass.until = ends.into_iter().flatten().fold(pass.until, Ord::min);
        }
        passes
    }

    /// The earliest time at which each place that left may have been gone.
    fn ended(&self) -> HashMap<PlaceNumber, Timestamp> {
        let mut ended: HashMap<PlaceNumber, Timestamp> = HashMap::new();
        let mut end = |number, at: Timestamp| {
            ended.entry(number).and_modify(|known| *known = at.min(*known)).or_insert(at);
        };
        for recorded in &self.history.recorded {
            if let Answer::Left(number) = recorded.answer {
                end(number, recorded.now);
            }
        }
        for person in &self.history.people {
            if let Some(left) = person.left {
                person.told.iter().for_each(|told| end(told.number, left));
            }
        }
        ended
    }

    /// The loss that may have forgotten a grant: the first one after it, if the grant may not have been saved by then.
    fn forgotten(&self, pass: &Pass) -> Option<Timestamp> {
        let losses = &self.history.losses;
        let (began, ended) = pass.call.map_or((pass.granted_at, pass.granted_at), |call| (call.began, call.ended));
        let loss = losses.get(losses.partition_point(|loss| loss.ended < began))?;
        let saved_by = ended.plus(self.terms.saved_within);
        let dies_before = |at: Timestamp| (began..=saved_by).contains(&at);
        let granter_died = match pass.call {
            Some(call) => self.killed.get(&call.by).is_some_and(|&at| dies_before(at)),
            None => self.killed.values().any(|&at| dies_before(at)),
        };
        (granter_died || saved_by >= loss.began).then_some(loss.began)
    }

    pub(super) fn capacity(&mut self) {
        // At one instant, ends sort before grants: a pass is valid while now < its end.
        let mut changes: Vec<(Timestamp, i64)> = Vec::with_capacity(2 * self.passes.len());
        for pass in self.passes.iter().filter(|pass| pass.granted_at < pass.until) {
            changes.extend([(pass.granted_at, 1), (pass.until, -1)]);
        }
        changes.sort_unstable();
        let capacity = i64::from(self.terms.capacity);
        let (mut n_inside, mut most) = (0, None::<(i64, Timestamp)>);
        for (at, change) in changes {
            n_inside += change;
            if n_inside > capacity && most.is_none_or(|(most, _)| n_inside > most) {
                most = Some((n_inside, at));
            }
            if let Some((most, since)) = most.take_if(|_| n_inside <= capacity) {
                self.contradict(format!("{most} are inside at {}, above the capacity of {capacity}", since.unix_ms()));
            }
        }
    }

    pub(super) fn rate(&mut self) {
        if self.terms.rate_per_s == 0 {
            return;
        }
        let mut by_epoch: BTreeMap<Epoch, Vec<Timestamp>> = BTreeMap::new();
        for pass in &self.passes {
            if let Some(call) = pass.call {
                by_epoch.entry(call.epoch).or_default().push(pass.granted_at);
            }
        }
        // A leaky bucket, in thousandths. It stays at or below 1 + rate x tick exactly if no span of time admits more
        // than rate x span + 1 + rate x tick.
        const ONE: u64 = 1_000;
        let rate = u64::from(self.terms.rate_per_s);
        let size = ONE + rate * ms(self.terms.tick);
        for (epoch, mut granted) in by_epoch {
            granted.sort_unstable();
            let (mut level, mut before) = (0_u64, granted[0]);
            for at in granted {
                level = level.saturating_sub(rate * ms(at.since(before))) + ONE;
                before = at;
                if level > size {
                    let epoch = epoch.get();
                    self.contradict(format!("epoch {epoch}: admits more than {rate} a second at {}", at.unix_ms()));
                    level = size;
                }
            }
        }
    }

    pub(super) fn nobody_twice(&mut self) {
        let mut contradictions = Vec::new();
        let mut n_again = 0;
        for pair in self.passes.windows(2).filter(|pair| pair[0].grant.number == pair[1].grant.number) {
            let (first, second) = (pair[0], pair[1]);
            let again_by = second.call.map_or(second.granted_at, |call| call.ended);
            if first.forgotten.is_some_and(|loss| loss <= again_by) {
                n_again += 1;
            } else {
                contradictions.push(format!("place {}: was granted twice", first.grant.number));
            }
        }
        let mut by_account: Vec<_> = self.passes.iter().collect();
        by_account.sort_unstable_by_key(|pass| (pass.grant.account, pass.granted_at));
        for pair in by_account.windows(2) {
            let (first, second) = (pair[0].grant, pair[1].grant);
            let is_one = first.account == second.account && first.number != second.number;
            if is_one && pair[1].granted_at < pair[0].until {
                let (first, second) = (first.number, second.number);
                contradictions.push(format!("places {first} and {second}: one account is inside at both"));
            }
        }
        self.findings.n_granted_again = n_again;
        self.findings.contradictions.extend(contradictions);
    }

    pub(super) fn nobody_lost(&mut self) {
        let first_grant: HashMap<PlaceNumber, Pass> =
            self.passes.iter().rev().map(|pass| (pass.grant.number, *pass)).collect();
        // From this time on there may be grants that no server recorded.
        let unanswered = self.history.recorded.iter().filter(|recorded| recorded.answer == Answer::Unanswered);
        let unrecorded = unanswered.map(|recorded| recorded.now).chain(self.killed.values().copied()).min();
        let (mut contradictions, mut n_unrecorded) = (Vec::new(), 0);
        for person in &self.history.people {
            let Some(last) = person.told.last() else {
                if person.kept_asking {
                    contradictions.push(format!("a person came at {} and got no place", person.came.unix_ms()));
                }
                continue;
            };
            let number = last.number;
            if person.told.iter().any(|told| told.number != number) {
                contradictions.push(format!("place {number}: its owner was told another number before"));
            }
            match last.state {
                PlaceState::Waiting | PlaceState::Admitted => {}
                PlaceState::Done => {
                    if person.left.is_none_or(|left| left > last.answered) {
                        contradictions.push(format!("place {number}: its owner was told that they left, and did not"));
                    }
                }
                PlaceState::Expired => match first_grant.get(&number) {
                    Some(pass) if pass.grant.expires_at <= last.answered => {}
                    Some(_) => contradictions
                        .push(format!("place {number}: its owner was told too early that the pass expired")),
                    None if unrecorded.is_some_and(|at| at <= last.answered) => n_unrecorded += 1,
                    None => contradictions
                        .push(format!("place {number}: its owner was told that a pass expired, and never had one")),
                },
            }
        }
        self.findings.n_unrecorded = n_unrecorded;
        self.findings.contradictions.extend(contradictions);
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::example::{
        OTHER, SERVER, TERMS, accepts, at, find, finds, grant, number, person, recorded, remove, told,
    };
    use super::super::history::{History, Terms, Told};
    use super::*;

    #[test]
    fn one_more_inside_than_there_is_room_for_is_found() {
        finds("3 are inside at 1500, above the capacity of 2", |history| {
            history.recorded.push(recorded(1, 1_500, Answer::Admitted(grant(9, 1_500))));
        });
    }

    #[test]
    fn a_pass_takes_room_until_its_owner_asks_to_leave() {
        finds("3 are inside at 3300", |history| {
            history.people[0].left = None;
            remove(history, Answer::Left(number(1)));
        });
        // That holds even if the server died before it recorded the call.
        accepts(|history| remove(history, Answer::Left(number(1))));
    }

    #[test]
    fn a_pass_without_a_recorded_grant_takes_room_too() {
        finds("3 are inside at 1500", |history| {
            history.recorded.push(recorded(1, 2_500, Answer::Inside(grant(9, 1_500))));
        });
        finds("3 are inside at 1500", |history| {
            let pass_until = Some(grant(9, 1_500).expires_at);
            let seen = Told { pass_until, ..told(9, 2_500, PlaceState::Admitted, 0) };
            history.people.push(person(9, vec![seen]));
        });
    }

    #[test]
    fn room_is_free_at_the_instant_at_which_a_pass_expires() {
        let at_that = |granted_at| {
            move |history: &mut History| {
                let passed = find(history, Answer::Admitted(grant(4, 11_300)));
                passed.answer = Answer::Admitted(grant(4, granted_at));
            }
        };

        accepts(at_that(11_000));
        finds("3 are inside at 10999", at_that(10_999));
    }

    #[test]
    fn more_in_a_span_than_the_rate_lets_in_is_found() {
        // 1 + 10 a second x 100 ms = 2 at once are within the rate, as in the clean history.
        let crowd = |ms: [i64; 3]| {
            let passes = (20..).zip(ms).map(|(n, ms)| recorded(1, ms, Answer::Admitted(grant(n, ms))));
            let findings =
                check(&History { recorded: passes.collect(), ..History::default() }, &Terms { capacity: 9, ..TERMS });
            findings.contradictions
        };

        assert_eq!(crowd([1_000, 1_000, 1_100]), [""; 0]);
        assert_eq!(crowd([1_000, 1_000, 1_099]), ["epoch 1: admits more than 10 a second at 1099"]);
    }

    #[test]
    fn a_place_that_is_granted_twice_is_found() {
        finds("place 2: was granted twice", |history| {
            history.recorded.push(recorded(1, 12_000, Answer::Admitted(grant(2, 12_000))));
        });
        finds("place 2: was granted by two calls at one instant", |history| {
            let again = *find(history, Answer::Admitted(grant(2, 1_000)));
            history.recorded.push(Recorded { by: OTHER, ..again });
        });
    }

    #[test]
    fn a_grant_of_the_last_moments_before_a_loss_may_be_forgotten_and_granted_again() {
        let again = |first: i64, second: i64| {
            move |history: &mut History| {
                *find(history, Answer::Admitted(grant(4, 11_300))) =
                    recorded(1, first, Answer::Admitted(grant(4, first)));
                history.recorded.push(recorded(2, second, Answer::Admitted(grant(4, second))));
                remove(history, Answer::Admitted(grant(5, 18_000)));
            }
        };

        assert_eq!(accepts(again(14_500, 17_000)).n_granted_again, 1);
        finds("place 4: was granted twice", again(13_500, 17_000));
        finds("place 4: was granted twice", again(14_000, 14_600));
    }

    #[test]
    fn a_grant_of_a_server_that_was_killed_at_once_may_be_forgotten_in_the_next_loss() {
        let again = |died: i64| {
            move |history: &mut History| {
                history.recorded.push(recorded(2, 17_000, Answer::Admitted(grant(4, 17_000))));
                remove(history, Answer::Admitted(grant(5, 18_000)));
                history.killed.push((SERVER, at(died)));
            }
        };

        assert_eq!(accepts(again(12_000)).n_granted_again, 1);
        finds("place 4: was granted twice", again(12_500));
    }

    #[test]
    fn an_account_that_is_inside_at_two_places_is_found() {
        finds("places 2 and 6: one account is inside at both", |history| {
            let other = Grant { number: number(6), ..grant(2, 5_000) };
            history.recorded.push(recorded(1, 5_000, Answer::Admitted(other)));
        });
    }

    #[test]
    fn a_person_who_never_got_a_place_is_found() {
        finds("a person came at 490 and got no place", |history| history.people[4].told.clear());
        accepts(|history| {
            history.people[4].told.clear();
            history.people[4].kept_asking = false;
        });
    }

    #[test]
    fn a_person_who_is_told_another_number_is_found() {
        finds("place 6: its owner was told another number before", |history| {
            history.people[4].told.push(told(6, 19_000, PlaceState::Admitted, 0));
        });
    }

    #[test]
    fn a_pass_that_expired_and_was_never_granted_is_found() {
        let never_granted = |history: &mut History| {
            remove(history, Answer::Admitted(grant(2, 1_000)));
        };

        finds("place 2: its owner was told that a pass expired, and never had one", never_granted);
        let findings = accepts(|history| {
            never_granted(history);
            history.recorded.push(recorded(1, 900, Answer::Unanswered));
        });
        assert_eq!(findings.n_unrecorded, 1);
        finds("place 2: its owner was told too early that the pass expired", |history| {
            history.people[1].told[2] = told(2, 10_000, PlaceState::Expired, 0);
        });
    }

    #[test]
    fn a_person_who_is_told_that_they_left_and_did_not_is_found() {
        finds("place 3: its owner was told that they left, and did not", |history| {
            history.people[2].told.push(told(3, 9_000, PlaceState::Done, 0));
        });
    }
}
