//! Typed ids, in alphabetical order. An id of one kind is never taken for another.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The text is not a valid id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id")]
pub struct InvalidId {
    /// The kind of id that was expected, e.g. `performance`.
    pub kind: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The id with this UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id with these 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The id as a UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The 16 bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Parses the hyphenated form only, in either case, so that an id is not written in several forms.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { kind: $kind };
                if text.len() != 36 {
                    return Err(invalid);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| invalid)
            }
        }
    )*};
}

ids! {
    /// An account, local or at the external issuer of access tokens.
    AccountId = "account";
    /// One attempt to pay for a reservation. The payment gateway gets this id too.
    AttemptId = "attempt";
    /// A show.
    ConcertId = "concert";
    /// One date of a concert at one venue: the unit that has a line and seats.
    PerformanceId = "performance";
    /// One buyer's group of seats.
    ReservationId = "reservation";
    /// A ticket: the right to use one seat.
    TicketId = "ticket";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_printing_and_reading() {
        let id = ConcertId::from_bytes([7; 16]);

        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_spellings_of_a_uuid_are_refused() {
        for text in ["", "7", "07070707070707070707070707070707", "{07070707-0707-0707-0707-070707070707}"] {
            assert_eq!(text.parse::<ConcertId>(), Err(InvalidId { kind: "concert" }), "{text}");
        }
    }
}
