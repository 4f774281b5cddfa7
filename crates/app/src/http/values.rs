//! Ids, times and money in JSON.

use std::num::NonZeroU8;

use paperclip::actix::Apiv2Schema;
use paperclip::v2::models::{DataType, DataTypeFormat};
use paperclip::v2::schema::TypedData;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer, ser};
use time::OffsetDateTime;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::{Iso8601, Rfc3339};
use usher_kernel::{Money, Timestamp, Violation};
use uuid::Uuid;

/// RFC 3339 with exactly three digits of milliseconds.
const MILLISECONDS: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: NonZeroU8::new(3) }).encode();

/// A time as RFC 3339 writes it, e.g. `2026-01-02T03:04:05.678Z`. A time out of the calendar's range becomes the epoch;
/// no store has such a time.
pub(super) fn rfc3339(at: Timestamp) -> String {
    format(at).unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".into())
}

fn format(at: Timestamp) -> Result<String, Box<dyn std::error::Error>> {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.unix_ms()) * 1_000_000)?;
    Ok(moment.format(&Iso8601::<MILLISECONDS>)?)
}

/// A point in time in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instant(pub Timestamp);

impl TypedData for Instant {
    fn data_type() -> DataType {
        DataType::String
    }

    fn format() -> Option<DataTypeFormat> {
        Some(DataTypeFormat::DateTime)
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0).map_err(ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|_| de::Error::custom("expected a time like 2026-01-02T03:04:05.678Z"))?;
        let ms = i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(de::Error::custom)?;
        Ok(Self(Timestamp::from_unix_ms(ms)))
    }
}

/// An id in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub Uuid);

impl TypedData for Id {
    fn data_type() -> DataType {
        DataType::String
    }

    fn format() -> Option<DataTypeFormat> {
        Some(DataTypeFormat::Uuid)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.as_hyphenated())
    }
}

/// Money: whole minor units of one currency.
#[derive(Debug, Serialize, Deserialize, Apiv2Schema)]
#[openapi(rename = "Money")]
#[serde(deny_unknown_fields)]
pub(super) struct MoneyView {
    /// Minor units, e.g. cents; won have none.
    amount: i64,
    /// ISO 4217, e.g. `KRW`.
    currency: String,
}

impl From<Money> for MoneyView {
    fn from(money: Money) -> Self {
        Self { amount: money.amount(), currency: money.currency().to_string() }
    }
}

/// Reads an amount of money; a violation is under `field`.
pub(super) fn money(amount: i64, currency: &str, field: &str) -> Result<Money, Violation> {
    let currency = currency.parse().map_err(|error| Violation::new(field, format!("{error}")))?;
    Money::new(amount, currency).map_err(|error| Violation::new(field, error.to_string()))
}

impl MoneyView {
    /// The money; a violation is under `field`.
    pub(super) fn read(&self, field: &str) -> Result<Money, Violation> {
        money(self.amount, &self.currency, field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds_in_utc() {
        assert_eq!(rfc3339(Timestamp::from_unix_ms(1_767_323_045_678)), "2026-01-02T03:04:05.678Z");
        assert_eq!(rfc3339(Timestamp::EPOCH), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn times_are_read_in_any_zone_and_precision() {
        for text in ["2026-01-02T03:04:05.678Z", "2026-01-02T12:04:05.678+09:00", "2026-01-02T03:04:05.678999Z"] {
            let read: Instant = serde_json::from_value(text.into()).unwrap();

            assert_eq!(read.0.unix_ms(), 1_767_323_045_678, "{text}");
        }
        assert!(serde_json::from_value::<Instant>("tomorrow".into()).is_err());
    }
}
