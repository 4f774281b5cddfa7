//! Parses the answers of scripts: flat arrays of whole numbers, and of some bytes.

use std::vec;

use fred::types::Value;
use usher_kernel::{StoreError, Timestamp};
use usher_queue::{AccountHash, PlaceNumber};

/// A value in a script's answer or arguments that must not occur.
#[derive(Debug, thiserror::Error)]
#[error("malformed data of a script: expected {wanted}, got {found}")]
struct WrongShape {
    wanted: &'static str,
    found: String,
}

/// The values of an answer, in order.
pub(crate) struct Reply {
    operation: &'static str,
    values: vec::IntoIter<Value>,
}

impl Reply {
    /// Reads an array.
    pub(crate) fn new(operation: &'static str, value: Value) -> Result<Self, StoreError> {
        match value {
            Value::Array(values) => Ok(Self { operation, values: values.into_iter() }),
            other => Err(wrong_shape(operation, "an array", Some(&other))),
        }
    }

    /// How many values are left.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The next value, a whole number.
    pub(crate) fn whole(&mut self) -> Result<u64, StoreError> {
        match self.values.next() {
            Some(Value::Integer(whole)) if whole >= 0 => Ok(whole.unsigned_abs()),
            other => Err(self.wrong("a whole number", other.as_ref())),
        }
    }

    /// The next value, a place's number.
    pub(crate) fn number(&mut self) -> Result<PlaceNumber, StoreError> {
        self.whole().map(PlaceNumber::new)
    }

    /// The next value, a time.
    pub(crate) fn time(&mut self) -> Result<Timestamp, StoreError> {
        match self.values.next() {
            Some(Value::Integer(ms)) => Ok(Timestamp::from_unix_ms(ms)),
            other => Err(self.wrong("a time", other.as_ref())),
        }
    }

    /// The next value, an account.
    pub(crate) fn account(&mut self) -> Result<AccountHash, StoreError> {
        let bytes = self.bytes()?;
        let account = <[u8; 16]>::try_from(bytes.as_slice());
        account.map(AccountHash::from_bytes).map_err(|_| self.wrong("16 bytes", None))
    }

    /// The next value, bytes.
    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        // fred returns bytes that are valid UTF-8 as text.
        match self.values.next() {
            Some(Value::String(text)) => Ok(text.as_bytes().to_vec()),
            Some(Value::Bytes(bytes)) => Ok(bytes.to_vec()),
            other => Err(self.wrong("bytes", other.as_ref())),
        }
    }

    /// The error for a number that is no known outcome.
    pub(crate) fn unknown_kind(&self) -> StoreError {
        self.wrong("a known outcome", None)
    }

    fn wrong(&self, wanted: &'static str, found: Option<&Value>) -> StoreError {
        wrong_shape(self.operation, wanted, found)
    }
}

/// The error for a malformed value. Names only the kind of the value, because the value may be an account.
pub(crate) fn wrong_shape(operation: &'static str, wanted: &'static str, found: Option<&Value>) -> StoreError {
    let found = found.map_or_else(|| "something else".to_owned(), |value| format!("{:?}", value.kind()));
    StoreError::Corrupt { operation, source: Box::new(WrongShape { wanted, found }) }
}
