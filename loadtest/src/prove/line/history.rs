//! Reads the histories that servers record (`line.history`): one JSON line for each answer of the line's store, with
//! times in Unix ms.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;
use usher_kernel::{PerformanceId, Timestamp};
use usher_queue::audit::{Answer, Recorded, ServerLife};
use usher_queue::{AccountHash, Epoch, Grant, PlaceNumber};

/// What a file records of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recording {
    /// The answers.
    pub(super) recorded: Vec<Recorded>,
    /// The number of unreadable lines: a server that is killed while it writes leaves half a line.
    pub(super) n_torn: usize,
}

/// Reads what a file records of one performance's line.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(path: &Path, performance: PerformanceId) -> io::Result<Recording> {
    let performance = performance.to_string();
    let mut recording = Recording::default();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        match serde_json::from_slice::<Line>(&line?).ok().and_then(|line| Some((line.recorded()?, line))) {
            Some((recorded, line)) if line.performance == performance => recording.recorded.push(recorded),
            Some(_) => {}
            None => recording.n_torn += 1,
        }
    }
    Ok(recording)
}

#[derive(Deserialize)]
struct Line {
    server: u32,
    performance: String,
    epoch: u64,
    now: i64,
    began: i64,
    ended: i64,
    answer: Kind,
    number: Option<u64>,
    account: Option<String>,
    expires_at: Option<i64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Opened,
    Waits,
    Admitted,
    Inside,
    Over,
    Left,
    Merged,
    Unanswered,
}

impl Line {
    fn recorded(&self) -> Option<Recorded> {
        let [now, began, ended] = [self.now, self.began, self.ended].map(Timestamp::from_unix_ms);
        let (by, epoch) = (ServerLife(self.server), Epoch::new(self.epoch));
        Some(Recorded { by, epoch, now, began, ended, answer: self.answer()? })
    }

    fn answer(&self) -> Option<Answer> {
        Some(match self.answer {
            Kind::Opened => Answer::Opened,
            Kind::Waits => Answer::Waits { number: self.number()?, account: self.account()? },
            Kind::Admitted => Answer::Admitted(self.grant()?),
            Kind::Inside => Answer::Inside(self.grant()?),
            Kind::Over => Answer::Over { number: self.number()?, account: self.account()? },
            Kind::Left => Answer::Left(self.number()?),
            Kind::Merged => Answer::Merged,
            Kind::Unanswered => Answer::Unanswered,
        })
    }

    fn grant(&self) -> Option<Grant> {
        let expires_at = Timestamp::from_unix_ms(self.expires_at?);
        Some(Grant { number: self.number()?, account: self.account()?, expires_at })
    }

    fn number(&self) -> Option<PlaceNumber> {
        self.number.map(PlaceNumber::new)
    }

    fn account(&self) -> Option<AccountHash> {
        let bits = u128::from_str_radix(self.account.as_deref()?, 16).ok()?;
        Some(AccountHash::from_bytes(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([3; 16]);
    const ACCOUNT: AccountHash = AccountHash::from_bytes([1; 16]);

    /// Reads a file with this text.
    fn reading(text: &str) -> Recording {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        fs::write(&path, text).unwrap();
        read(&path, PERFORMANCE).unwrap()
    }

    /// A line as `Recorded` of the server writes it.
    fn line(answer: &str) -> String {
        format!(
            r#"{{"server":7,"performance":"{PERFORMANCE}","epoch":1,"now":1000000,"began":1000007,"ended":1000008,{answer}}}"#
        ) + "\n"
    }

    #[test]
    fn every_kind_of_answer_is_read() {
        let account = r#""account":"01010101010101010101010101010101""#;
        let text = [
            r#""answer":"opened""#.to_owned(),
            format!(r#""answer":"waits","number":2,{account}"#),
            format!(r#""answer":"admitted","number":2,{account},"expires_at":1010000"#),
            format!(r#""answer":"inside","number":2,{account},"expires_at":1010000"#),
            format!(r#""answer":"over","number":2,{account}"#),
            r#""answer":"left","number":2"#.to_owned(),
            r#""answer":"merged""#.to_owned(),
            r#""answer":"unanswered""#.to_owned(),
        ];

        let recording = reading(&text.map(|answer| line(&answer)).concat());

        let (number, account) = (PlaceNumber::new(2), ACCOUNT);
        let grant = Grant { number, account, expires_at: Timestamp::from_unix_ms(1_010_000) };
        let expected = [
            Answer::Opened,
            Answer::Waits { number, account },
            Answer::Admitted(grant),
            Answer::Inside(grant),
            Answer::Over { number, account },
            Answer::Left(number),
            Answer::Merged,
            Answer::Unanswered,
        ];
        let answers: Vec<_> = recording.recorded.iter().map(|recorded| recorded.answer).collect();
        assert_eq!((answers.as_slice(), recording.n_torn), (expected.as_slice(), 0));
        let first = &recording.recorded[0];
        assert_eq!((first.by, first.epoch), (ServerLife(7), Epoch::new(1)));
        assert_eq!([first.now, first.began, first.ended].map(Timestamp::unix_ms), [1_000_000, 1_000_007, 1_000_008]);
    }

    #[test]
    fn answers_of_other_lines_are_skipped_and_torn_lines_are_counted() {
        let other = line(r#""answer":"merged""#).replace(&PERFORMANCE.to_string(), "another");

        let recording = reading(&[other, "{\"server\":1,\"perf\n".into(), line(r#""answer":"opened""#)].concat());

        assert_eq!((recording.recorded.len(), recording.n_torn), (1, 1));
    }

    #[test]
    fn an_answer_without_its_number_counts_as_torn() {
        assert_eq!(reading(&line(r#""answer":"left""#)).n_torn, 1);
    }
}
