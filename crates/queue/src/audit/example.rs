//! A history without contradictions, for tests to corrupt.

use std::time::Duration;

use usher_kernel::Timestamp;

use super::history::{Answer, History, Loss, Person, Recorded, ServerLife, Terms, Told};
use super::{Findings, check};
use crate::{AccountHash, Epoch, Grant, PlaceNumber, PlaceState};

pub(super) const TERMS: Terms = Terms {
    capacity: 2,
    rate_per_s: 10,
    tick: Duration::from_millis(100),
    pass_ttl: Duration::from_secs(10),
    presence_window: Duration::from_secs(8),
    saved_within: Duration::from_secs(1),
};
pub(super) const SERVER: ServerLife = ServerLife(7);
pub(super) const OTHER: ServerLife = ServerLife(8);

pub(super) fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

pub(super) fn account(n: u8) -> AccountHash {
    AccountHash::from_bytes([n; 16])
}

pub(super) fn number(n: u8) -> PlaceNumber {
    PlaceNumber::new(n.into())
}

pub(super) fn grant(n: u8, ms: i64) -> Grant {
    Grant { number: number(n), account: account(n), expires_at: at(ms).plus(TERMS.pass_ttl) }
}

pub(super) fn waits(n: u8) -> Answer {
    Answer::Waits { number: number(n), account: account(n) }
}

/// An answer of the store around this time.
pub(super) fn recorded(epoch: u64, ms: i64, answer: Answer) -> Recorded {
    let (began, ended) = (at(ms - 5), at(ms + 5));
    Recorded { by: SERVER, epoch: Epoch::new(epoch), now: began, began, ended, answer }
}

/// An answer to a person around this time.
pub(super) fn told(n: u8, ms: i64, state: PlaceState, position: u64) -> Told {
    let pass_until = None;
    let poll_after = Duration::from_secs(2);
    let (sent, answered) = (at(ms - 10), at(ms + 10));
    Told { by: Some(SERVER), sent, answered, number: number(n), state, position, poll_after, pass_until }
}

pub(super) fn person(n: u8, told: Vec<Told>) -> Person {
    Person { account: account(n), came: told[0].sent, told, left: None, kept_asking: true }
}

/// The answers to a person who polls every two seconds.
pub(super) fn waiting(n: u8, from: i64, until: i64, position: u64) -> impl Iterator<Item = Told> {
    let at = (from..until).step_by(2_000);
    at.map(move |ms| told(n, ms, PlaceState::Waiting, position))
}

/// The first two people are admitted after a second. The first leaves, and the second's pass expires; the third and the
/// fourth take their room. Then the store is lost. The fifth waits all along, and is admitted in the next epoch.
pub(super) fn history() -> History {
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
        person(2, vec![told(2, 200, PlaceState::Waiting, 2), told(2, 2_000, Admitted, 0), told(2, 12_000, Expired, 0)]),
        person(3, waiting(3, 300, 3_000, 3).chain([told(3, 4_300, Admitted, 0)]).collect()),
        person(4, waiting(4, 400, 11_000, 2).chain([told(4, 12_400, Admitted, 0)]).collect()),
        person(5, waiting(5, 500, 18_000, 3).chain([told(5, 18_500, Admitted, 0)]).collect()),
    ];
    let losses = vec![Loss { began: at(15_000), ended: at(15_010) }];
    History { recorded: recorded_, people, killed: Vec::new(), losses }
}

pub(super) fn checked(corrupt: impl FnOnce(&mut History)) -> Findings {
    let mut history = history();
    corrupt(&mut history);
    check(&history, &TERMS)
}

/// Asserts that one of the contradictions contains this text.
#[track_caller]
pub(super) fn finds(what: &str, corrupt: impl FnOnce(&mut History)) {
    let found = checked(corrupt).contradictions;
    assert!(found.iter().any(|contradiction| contradiction.contains(what)), "{what:?} is not in {found:?}");
}

/// Asserts that there are no contradictions.
#[track_caller]
pub(super) fn accepts(happen: impl FnOnce(&mut History)) -> Findings {
    let findings = checked(happen);
    assert_eq!(findings.contradictions, [""; 0]);
    findings
}

/// The first record with this answer.
pub(super) fn find(history: &mut History, what: Answer) -> &mut Recorded {
    history.recorded.iter_mut().find(|recorded| recorded.answer == what).unwrap()
}

pub(super) fn remove(history: &mut History, what: Answer) {
    history.recorded.retain(|recorded| recorded.answer != what);
}
