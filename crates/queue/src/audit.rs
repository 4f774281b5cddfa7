//! Proves from a recorded history that a line kept its word: in order, within capacity and rate, everybody once, nobody
//! lost. Pure: it reads what the store answered the servers and what the servers answered people, and says every
//! contradiction between them.
//!
//! Calls overlap, servers die between doing and telling, and clocks tell milliseconds. So nothing is taken for sure but
//! what every order of the calls that fits their beginnings and ends has in common: what is found is wrong, whatever was
//! on the way. All times are of one machine's clock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use usher_kernel::Timestamp;

use crate::{AccountHash, Epoch, Grant, PlaceNumber, PlaceState};

/// One life of one server process: another one after each restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerLife(pub u32);

/// What the line promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// How often the scheduler runs.
    pub tick: Duration,
    /// How long a pass is good.
    pub pass_ttl: Duration,
    /// Who was not seen for this long is away.
    pub presence_window: Duration,
    /// How long a server that lives may take to save a grant to the ledger.
    pub saved_within: Duration,
}

/// What a store told a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The line is open in the epoch.
    Opened,
    /// The account waits at this number: it joined, came back, or was there all along.
    Waits {
        /// Where.
        number: PlaceNumber,
        /// Who.
        account: AccountHash,
    },
    /// This call admitted someone.
    Admitted(Grant),
    /// Someone was inside already.
    Inside(Grant),
    /// The place waits no more and is not inside: it left, its pass was used up or ran out.
    Over {
        /// Where.
        number: PlaceNumber,
        /// Who.
        account: AccountHash,
    },
    /// This call took a place out of the line, or ended its pass.
    Left(PlaceNumber),
    /// This call told the store whom the server saw since its call before.
    Merged,
    /// Nobody knows what this call did: a join or an admission that the store did not answer.
    Unanswered,
}

/// One answer of a store, as the server that asked recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Who asked.
    pub by: ServerLife,
    /// The epoch in which the store answered.
    pub epoch: Epoch,
    /// The time that the call gave the store.
    pub now: Timestamp,
    /// When the call began.
    pub began: Timestamp,
    /// When its answer was there.
    pub ended: Timestamp,
    /// The answer.
    pub answer: Answer,
}

/// What a server answered someone about their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// By which server. `None` where it died and came back meanwhile, so that nobody knows.
    pub by: Option<ServerLife>,
    /// When the question was sent.
    pub sent: Timestamp,
    /// When the answer was there.
    pub answered: Timestamp,
    /// The place's number.
    pub number: PlaceNumber,
    /// Where it stands.
    pub state: PlaceState,
    /// 1 is next; 0 for those who do not wait.
    pub position: u64,
    /// When to ask again.
    pub poll_after: Duration,
    /// When the pass runs out, of someone inside.
    pub pass_until: Option<Timestamp>,
}

/// One person, with an account that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub account: AccountHash,
    /// When they first asked for a place, whether or not that was answered.
    pub came: Timestamp,
    /// What they were answered, in order: the first is their place.
    pub told: Vec<Told>,
    /// When they first sent word that they leave, whether or not that was answered.
    pub left: Option<Timestamp>,
    /// Whether they went on asking until they were told the end of it, or the recording ended.
    pub kept_asking: bool,
}

/// A destruction of the store by the experiment: it began and ended at these times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Until then the store held the line.
    pub began: Timestamp,
    /// From then on it did not.
    pub ended: Timestamp,
}

/// Everything that happened to one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What the store answered, in any order.
    pub recorded: Vec<Recorded>,
    /// Who came, and what they were told.
    pub people: Vec<Person>,
    /// Which servers were killed, and when.
    pub killed: Vec<(ServerLife, Timestamp)>,
    /// When the store was destroyed, in order.
    pub losses: Vec<Loss>,
}

/// What an audit looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many people were checked.
    pub n_people: usize,
    /// How many answers to them.
    pub n_told: usize,
    /// How many passes were granted.
    pub n_grants: usize,
    /// How many of them a second time: the known exception after a loss, see [`check`].
    pub n_granted_again: usize,
    /// How many people were told that their pass ran out whose grant was not recorded, because a server was killed or
    /// the store did not answer.
    pub n_unrecorded: usize,
    /// In how many epochs the line was open.
    pub n_epochs: usize,
    /// Every contradiction, in words.
    pub contradictions: Vec<String>,
}

/// Checks a history of one line. Takes O(n log n) of all that was recorded and told.
///
/// - **Capacity**: at no instant are more passes live than `capacity`. A pass is live from its grant until it runs out,
///   or until its owner *sent* word that they leave.
/// - **Rate**: in no span of time more are admitted than rate x span + 1 + rate x tick (docs/adr/0008). Each epoch
///   begins with a full bucket.
/// - **Nobody twice**: one grant for each number, and one live pass for each account.
/// - **Numbers**: one account for each number; and who was answered before somebody else came has the lower one.
/// - **Order**: nobody is admitted before someone with a lower number who waited and was present meanwhile: whose place
///   the store had confirmed before the admission began and confirmed or admitted after it ended, and who was seen
///   within the presence window all along. After a loss, also nobody before someone who was told to ask again later
///   than that, and has not been asked for more.
/// - **Positions**: the position of a place never rises on one server.
/// - **Nobody lost**: who kept asking was admitted, or waits, or gave up. Nobody is told that a pass ran out that was
///   not granted, nor that they left who did not.
///
/// The known exception after a loss: a grant that was not saved to the ledger before the store was lost is forgotten
/// (docs/adr/0004). Its place waits again, and is granted again under a later expiry. That is legal only for grants of
/// the last moments before a loss: those of `saved_within` before it, and those of a server that was killed within
/// `saved_within` after it granted them. A forgotten pass takes no room from the loss on. Findings count them.
#[must_use]
pub fn check(history: &History, terms: &Terms) -> Findings {
    let mut audit = Audit::new(history, *terms);
    audit.capacity();
    audit.rate();
    audit.nobody_twice();
    audit.numbers();
    audit.positions();
    audit.nobody_lost();
    audit.order();
    audit.findings
}

/// A grant, with all that is known of it.
#[derive(Clone, Copy)]
struct Pass {
    grant: Grant,
    /// The line's time when it was granted.
    granted_at: Timestamp,
    /// The call that granted it, if that was recorded.
    call: Option<Recorded>,
    /// From then on it takes no room for sure.
    until: Timestamp,
    /// The loss that it was forgotten in, if it may have been.
    forgotten: Option<Timestamp>,
}

struct Audit<'a> {
    history: &'a History,
    terms: Terms,
    /// In the order of numbers, then of grants.
    passes: Vec<Pass>,
    killed: HashMap<ServerLife, Timestamp>,
    findings: Findings,
}

impl<'a> Audit<'a> {
    fn new(history: &'a History, terms: Terms) -> Self {
        let findings = Findings {
            n_people: history.people.len(),
            n_told: history.people.iter().map(|person| person.told.len()).sum(),
            ..Findings::default()
        };
        let killed = history.killed.iter().copied().collect();
        let mut audit = Self { history, terms, passes: Vec::new(), killed, findings };
        audit.passes = audit.gather_passes();
        audit.findings.n_grants = audit.passes.len();
        audit
    }

    fn contradict(&mut self, what: String) {
        self.findings.contradictions.push(what);
    }

    /// Every pass that was recorded or seen.
    fn gather_passes(&mut self) -> Vec<Pass> {
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
            self.contradict(format!("place {number}: is granted by two calls at one instant"));
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

    /// When each place that left may have been gone at the earliest.
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

    /// The loss that a grant may have been forgotten in: the first after it, if it may not have been saved by then.
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

    fn capacity(&mut self) {
        // Of those at one instant, the ends come first: a pass is live while now < its end.
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
                self.contradict(format!("{most} are inside at {}, and {capacity} may be", since.unix_ms()));
            }
        }
    }

    fn rate(&mut self) {
        if self.terms.rate_per_s == 0 {
            return;
        }
        let mut by_epoch: BTreeMap<Epoch, Vec<Timestamp>> = BTreeMap::new();
        for pass in &self.passes {
            if let Some(call) = pass.call {
                by_epoch.entry(call.epoch).or_default().push(pass.granted_at);
            }
        }
        // As a bucket that leaks: it never holds more than 1 + rate x tick, in thousandths, exactly if no span of time
        // has more than rate x span + 1 + rate x tick.
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
                    self.contradict(format!("epoch {epoch}: is faster than {rate} a second at {}", at.unix_ms()));
                    level = size;
                }
            }
        }
    }

    fn nobody_twice(&mut self) {
        let mut contradictions = Vec::new();
        let mut n_again = 0;
        for pair in self.passes.windows(2).filter(|pair| pair[0].grant.number == pair[1].grant.number) {
            let (first, second) = (pair[0], pair[1]);
            let again_by = second.call.map_or(second.granted_at, |call| call.ended);
            if first.forgotten.is_some_and(|loss| loss <= again_by) {
                n_again += 1;
            } else {
                contradictions.push(format!("place {}: is granted twice", first.grant.number));
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

    fn numbers(&mut self) {
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
                contradictions.push(format!("place {number}: came after {highest} was given out"));
            }
        }
        self.findings.contradictions.extend(contradictions);
    }

    fn positions(&mut self) {
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

    fn nobody_lost(&mut self) {
        let first_grant: HashMap<PlaceNumber, Pass> =
            self.passes.iter().rev().map(|pass| (pass.grant.number, *pass)).collect();
        // From then on there may be grants that nobody recorded.
        let unanswered = self.history.recorded.iter().filter(|recorded| recorded.answer == Answer::Unanswered);
        let unrecorded = unanswered.map(|recorded| recorded.now).chain(self.killed.values().copied()).min();
        let (mut contradictions, mut n_unrecorded) = (Vec::new(), 0);
        for person in &self.history.people {
            let Some(last) = person.told.last() else {
                if person.kept_asking {
                    contradictions.push(format!("somebody came at {} and got no place", person.came.unix_ms()));
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
                        contradictions.push(format!("place {number}: is told that it left, and did not"));
                    }
                }
                PlaceState::Expired => match first_grant.get(&number) {
                    Some(pass) if pass.grant.expires_at <= last.answered => {}
                    Some(_) => contradictions.push(format!("place {number}: is told too early that its pass ran out")),
                    None if unrecorded.is_some_and(|at| at <= last.answered) => n_unrecorded += 1,
                    None => contradictions.push(format!("place {number}: its pass ran out, and it never had one")),
                },
            }
        }
        self.findings.n_unrecorded = n_unrecorded;
        self.findings.contradictions.extend(contradictions);
    }

    fn order(&mut self) {
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
                // It may be over since any time: nothing is sure of it.
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

    /// When someone surely waited in an epoch's line, present.
    fn sure_to_wait(&self, person: &Person, epoch: &mut InEpoch) -> Vec<Waiting> {
        if let Some(waits) = epoch.waits.get_mut(&person.account) {
            waits.sort_unstable();
        }
        let epoch = &*epoch;
        let (Some(waits), Some(told)) = (epoch.waits.get(&person.account), person.told.first()) else {
            return Vec::new();
        };
        // That they still waited is sure until the last time the store said so, or let them in.
        let admitted = epoch.admitted.get(&person.account).copied();
        let proof = waits.last().map(|&(began, _)| began).max(admitted);
        let until = [proof, admitted, person.left, epoch.is_over.get(&person.account).copied()];
        let Some(proven_until) = until.into_iter().flatten().min() else { return Vec::new() };
        let window = self.terms.presence_window;
        let mut seen: Vec<Sighting> = Vec::with_capacity(waits.len() + person.told.len());
        seen.extend(waits.iter().map(|&(began, ended)| Sighting { known: ended, sent: began, by_store: true }));
        for told in person.told.iter().filter(|told| told.state == PlaceState::Waiting) {
            // A server that died may not have told the store whom it saw.
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
                // After a gap they may be away, and only the store can take them back.
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

/// After a loss, until when someone may rely on what they were told before it: to ask again later, and to be waited for.
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

/// Every admission of a higher number while someone waited from before the call until after it.
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
                contradictions.push(format!("place {admitted}: is admitted before {number}, which waits, at {at}"));
            }
        }
        for number in is_gone.drain(..) {
            present.remove(&number);
        }
    }
    contradictions
}

/// What was recorded in one epoch.
#[derive(Default)]
struct InEpoch {
    opened: Option<Timestamp>,
    /// When calls began and ended that found an account waiting.
    waits: HashMap<AccountHash, Vec<(Timestamp, Timestamp)>>,
    /// When the call began that admitted an account.
    admitted: HashMap<AccountHash, Timestamp>,
    is_over: HashMap<AccountHash, Timestamp>,
    /// The calls that admitted anybody, and the highest number of each.
    calls: BTreeMap<(Timestamp, Timestamp, ServerLife), PlaceNumber>,
    /// The times of each server's merges of presence, and when they were answered; in order.
    merges: HashMap<ServerLife, Vec<(Timestamp, Timestamp)>>,
}

impl InEpoch {
    /// When the store knew of somebody for sure whom a server saw before `seen`. Not by the first merge after that, whose
    /// people may have been gathered just before, but by the second.
    fn merged(&self, by: ServerLife, seen: Timestamp) -> Option<Timestamp> {
        let merges = self.merges.get(&by)?;
        let first = merges.partition_point(|&(now, _)| now < seen);
        merges.get(first + 1).map(|&(_, ended)| ended)
    }
}

/// Somebody was seen at `sent` or later, and the store knew from `known` on at the latest.
struct Sighting {
    known: Timestamp,
    sent: Timestamp,
    by_store: bool,
}

/// Somebody surely waited, present, between these times.
struct Waiting {
    from: Timestamp,
    until: Timestamp,
    number: PlaceNumber,
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        capacity: 2,
        rate_per_s: 10,
        tick: Duration::from_millis(100),
        pass_ttl: Duration::from_secs(10),
        presence_window: Duration::from_secs(8),
        saved_within: Duration::from_secs(1),
    };
    const SERVER: ServerLife = ServerLife(7);
    const OTHER: ServerLife = ServerLife(8);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn account(n: u8) -> AccountHash {
        AccountHash::from_bytes([n; 16])
    }

    fn number(n: u8) -> PlaceNumber {
        PlaceNumber::new(n.into())
    }

    fn grant(n: u8, ms: i64) -> Grant {
        Grant { number: number(n), account: account(n), expires_at: at(ms).plus(TERMS.pass_ttl) }
    }

    fn waits(n: u8) -> Answer {
        Answer::Waits { number: number(n), account: account(n) }
    }

    /// An answer of the store around this time.
    fn recorded(epoch: u64, ms: i64, answer: Answer) -> Recorded {
        let (began, ended) = (at(ms - 5), at(ms + 5));
        Recorded { by: SERVER, epoch: Epoch::new(epoch), now: began, began, ended, answer }
    }

    /// An answer to a person around this time.
    fn told(n: u8, ms: i64, state: PlaceState, position: u64) -> Told {
        let pass_until = None;
        let poll_after = Duration::from_secs(2);
        let (sent, answered) = (at(ms - 10), at(ms + 10));
        Told { by: Some(SERVER), sent, answered, number: number(n), state, position, poll_after, pass_until }
    }

    fn person(n: u8, told: Vec<Told>) -> Person {
        Person { account: account(n), came: told[0].sent, told, left: None, kept_asking: true }
    }

    /// What somebody is told every two seconds.
    fn waiting(n: u8, from: i64, until: i64, position: u64) -> impl Iterator<Item = Told> {
        let at = (from..until).step_by(2_000);
        at.map(move |ms| told(n, ms, PlaceState::Waiting, position))
    }

    /// The first two are admitted after a second. The first leaves, the second's pass runs out; the third and the fourth
    /// take their room. Then the store is lost. The fifth waits all along, and is admitted in the next epoch.
    fn history() -> History {
        use PlaceState::{Admitted, Done, Expired};
        let mut recorded_ = vec![recorded(1, 50, Answer::Opened), recorded(2, 15_500, Answer::Opened)];
        for n in 1..=5 {
            recorded_.push(recorded(1, 100 * i64::from(n), waits(n)));
        }
        for (n, ms) in [(1, 1_000), (2, 1_000), (3, 3_300), (4, 11_300)] {
            recorded_.push(recorded(1, ms, Answer::Admitted(grant(n, ms))));
        }
        recorded_.push(recorded(1, 3_000, Answer::Left(number(1))));
        recorded_.extend((0..30).map(|n| recorded(1, 500 * n, Answer::Merged)));
        recorded_.push(recorded(2, 16_000, waits(5)));
        recorded_.push(recorded(2, 18_000, Answer::Admitted(grant(5, 18_000))));
        let people = vec![
            Person {
                left: Some(at(2_990)),
                ..person(
                    1,
                    vec![told(1, 100, PlaceState::Waiting, 1), told(1, 2_000, Admitted, 0), told(1, 4_000, Done, 0)],
                )
            },
            person(
                2,
                vec![told(2, 200, PlaceState::Waiting, 2), told(2, 2_000, Admitted, 0), told(2, 12_000, Expired, 0)],
            ),
            person(3, waiting(3, 300, 3_000, 3).chain([told(3, 4_300, Admitted, 0)]).collect()),
            person(4, waiting(4, 400, 11_000, 2).chain([told(4, 12_400, Admitted, 0)]).collect()),
            person(5, waiting(5, 500, 18_000, 3).chain([told(5, 18_500, Admitted, 0)]).collect()),
        ];
        let losses = vec![Loss { began: at(15_000), ended: at(15_010) }];
        History { recorded: recorded_, people, killed: Vec::new(), losses }
    }

    fn checked(corrupt: impl FnOnce(&mut History)) -> Findings {
        let mut history = history();
        corrupt(&mut history);
        check(&history, &TERMS)
    }

    /// One of the contradictions found says this.
    #[track_caller]
    fn finds(what: &str, corrupt: impl FnOnce(&mut History)) {
        let found = checked(corrupt).contradictions;
        assert!(found.iter().any(|contradiction| contradiction.contains(what)), "{what:?} is not in {found:?}");
    }

    /// Nothing is found: this may happen.
    #[track_caller]
    fn accepts(happen: impl FnOnce(&mut History)) -> Findings {
        let findings = checked(happen);
        assert_eq!(findings.contradictions, [""; 0]);
        findings
    }

    /// The recorded answer that is like this.
    fn find(history: &mut History, what: Answer) -> &mut Recorded {
        history.recorded.iter_mut().find(|recorded| recorded.answer == what).unwrap()
    }

    fn remove(history: &mut History, what: Answer) {
        history.recorded.retain(|recorded| recorded.answer != what);
    }

    #[test]
    fn a_history_without_contradictions_passes_and_is_counted() {
        let findings = accepts(|_| {});

        let expected = Findings { n_people: 5, n_told: 26, n_grants: 5, n_epochs: 2, ..Findings::default() };
        assert_eq!(findings, expected);
    }

    #[test]
    fn one_more_inside_than_there_is_room_for_is_found() {
        finds("3 are inside at 1500, and 2 may be", |history| {
            history.recorded.push(recorded(1, 1_500, Answer::Admitted(grant(9, 1_500))));
        });
    }

    #[test]
    fn a_pass_takes_room_until_its_owner_says_that_they_leave() {
        finds("3 are inside at 3300", |history| {
            history.people[0].left = None;
            remove(history, Answer::Left(number(1)));
        });
        // Whether or not the server lived to record it.
        accepts(|history| remove(history, Answer::Left(number(1))));
    }

    #[test]
    fn a_pass_that_was_only_seen_takes_room_too() {
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
    fn a_room_is_free_at_the_instant_at_which_a_pass_runs_out() {
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
        // 1 + 10 a second x 100 ms = 2 at once are fine, as the clean history shows.
        let crowd = |ms: [i64; 3]| {
            let passes = (20..).zip(ms).map(|(n, ms)| recorded(1, ms, Answer::Admitted(grant(n, ms))));
            let findings =
                check(&History { recorded: passes.collect(), ..History::default() }, &Terms { capacity: 9, ..TERMS });
            findings.contradictions
        };

        assert_eq!(crowd([1_000, 1_000, 1_100]), [""; 0]);
        assert_eq!(crowd([1_000, 1_000, 1_099]), ["epoch 1: is faster than 10 a second at 1099"]);
    }

    #[test]
    fn a_place_that_is_granted_twice_is_found() {
        finds("place 2: is granted twice", |history| {
            history.recorded.push(recorded(1, 12_000, Answer::Admitted(grant(2, 12_000))));
        });
        finds("place 2: is granted by two calls at one instant", |history| {
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
        finds("place 4: is granted twice", again(13_500, 17_000));
        finds("place 4: is granted twice", again(14_000, 14_600));
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
        finds("place 4: is granted twice", again(12_500));
    }

    #[test]
    fn an_account_that_is_inside_at_two_places_is_found() {
        finds("places 2 and 6: one account is inside at both", |history| {
            let other = Grant { number: number(6), ..grant(2, 5_000) };
            history.recorded.push(recorded(1, 5_000, Answer::Admitted(other)));
        });
    }

    #[test]
    fn a_number_of_two_accounts_is_found() {
        finds("place 3: two accounts have it", |history| {
            history.recorded.push(recorded(2, 16_000, Answer::Waits { number: number(3), account: account(9) }));
        });
    }

    #[test]
    fn a_number_below_one_that_was_given_out_before_is_found() {
        finds("place 2: came after 3 was given out", |history| history.people[1].came = at(311));
        // While calls overlap, either may be first.
        accepts(|history| history.people[1].came = at(310));
    }

    #[test]
    fn an_admission_before_somebody_who_waits_is_found() {
        finds("epoch 1: place 4: is admitted before 3, which waits, at 4995", |history| {
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
    fn an_admission_before_somebody_who_is_away_is_fine() {
        accepts(admitted_while_away(3_000));
        finds("place 4: is admitted before 3", admitted_while_away(5_000));
    }

    #[test]
    fn who_was_away_waits_again_once_the_store_says_so() {
        // Somebody who comes back may be told of their place by a server that does not know yet that they are away.
        accepts(|history| {
            admitted_while_away(3_000)(history);
            history.people[2].told.push(told(3, 11_000, PlaceState::Waiting, 1));
        });
        finds("place 4: is admitted before 3", |history| {
            admitted_while_away(3_000)(history);
            history.recorded.push(recorded(1, 11_200, waits(3)));
        });
    }

    #[test]
    fn who_was_seen_by_a_server_that_did_not_tell_the_store_may_count_as_away() {
        accepts(|history| {
            admitted_while_away(5_000)(history);
            history.recorded.retain(|recorded| recorded.answer != Answer::Merged || recorded.now < at(4_900));
        });
        finds("place 4: is admitted before 3", |history| {
            admitted_while_away(5_000)(history);
            history.recorded.retain(|recorded| recorded.answer != Answer::Merged || recorded.now < at(5_100));
        });
    }

    #[test]
    fn who_is_admitted_by_overlapping_calls_is_in_order() {
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
    fn who_was_told_to_ask_later_is_waited_for_after_a_loss() {
        let newcomer = |ms: i64| {
            move |history: &mut History| {
                history.recorded.push(recorded(2, ms, Answer::Admitted(grant(99, ms))));
                remove(history, Answer::Admitted(grant(5, 18_000)));
                history.people[4].told.retain(|told| told.answered < at(15_000) || told.sent > at(16_000));
            }
        };

        // The fifth asked at 14.5 s, was told to ask again 2 s later, and does at 16 s.
        finds("epoch 2: place 99: is admitted before 5", newcomer(15_700));
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

    #[test]
    fn somebody_who_never_got_a_place_is_found() {
        finds("somebody came at 490 and got no place", |history| history.people[4].told.clear());
        accepts(|history| {
            history.people[4].told.clear();
            history.people[4].kept_asking = false;
        });
    }

    #[test]
    fn somebody_who_is_told_another_number_is_found() {
        finds("place 6: its owner was told another number before", |history| {
            history.people[4].told.push(told(6, 19_000, PlaceState::Admitted, 0));
        });
    }

    #[test]
    fn a_pass_that_ran_out_and_was_never_granted_is_found() {
        let never_granted = |history: &mut History| {
            remove(history, Answer::Admitted(grant(2, 1_000)));
        };

        finds("place 2: its pass ran out, and it never had one", never_granted);
        let findings = accepts(|history| {
            never_granted(history);
            history.recorded.push(recorded(1, 900, Answer::Unanswered));
        });
        assert_eq!(findings.n_unrecorded, 1);
        finds("place 2: is told too early that its pass ran out", |history| {
            history.people[1].told[2] = told(2, 10_000, PlaceState::Expired, 0);
        });
    }

    #[test]
    fn somebody_who_is_told_that_they_left_and_did_not_is_found() {
        finds("place 3: is told that it left, and did not", |history| {
            history.people[2].told.push(told(3, 9_000, PlaceState::Done, 0));
        });
    }
}
