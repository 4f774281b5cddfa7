//! Place tokens and pass tokens: signed, self-describing, of fixed length, the same bytes from every server.
//!
//! ```text
//! place = version kid performance number account          MAC    1 + 1 + 16 + 8 + 16     + 16 = 58 bytes
//! pass  = version kid performance number account expires  MAC    1 + 1 + 16 + 8 + 16 + 8 + 16 = 66 bytes
//! ```
//! in base64url without padding. The MAC is HMAC-SHA-256 truncated to 128 bits (RFC 2104, 5), under a key per purpose
//! derived by HKDF (RFC 5869) from the server's secret. No field names an algorithm, and nothing in a token depends on
//! the time of signing: see docs/adr/0003.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use usher_kernel::{PerformanceId, Timestamp};

use crate::{AccountHash, Grant, Place, PlaceNumber};

const VERSION: u8 = 1;
const MAC_LEN: usize = 16;
const PLACE_BODY_LEN: usize = 1 + 1 + 16 + 8 + 16;
const PASS_BODY_LEN: usize = PLACE_BODY_LEN + 8;

/// The contents of a pass token whose signature is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The performance that the pass is for.
    pub performance: PerformanceId,
    /// The admission that the pass stands for.
    pub grant: Grant,
}

/// The keys that sign places and passes. Tokens signed with the previous secret, if there is one, stay valid.
pub struct TokenKeys {
    current: Keys,
    previous: Option<Keys>,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKeys(..)")
    }
}

struct Keys {
    id: u8,
    place: Hmac<Sha256>,
    pass: Hmac<Sha256>,
}

impl Keys {
    fn derive(secret: &[u8]) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, secret);
        let derived = |purpose: &[u8]| {
            let mut key = [0_u8; 32];
            // 32 bytes are one block; HKDF fails only above 255 blocks.
            hkdf.expand(purpose, &mut key).map_or([0; 32], |()| key)
        };
        let hmac = |purpose| Hmac::new_from_slice(&derived(purpose)).expect("HMAC takes keys of every length");
        Self { id: derived(b"usher key id v1")[0], place: hmac(b"usher place v1"), pass: hmac(b"usher pass v1") }
    }
}

impl TokenKeys {
    /// Derives the keys from the server's secrets (at least 32 bytes each, which the configuration checks).
    #[must_use]
    pub fn new(secret: &[u8], previous: Option<&[u8]>) -> Self {
        Self { current: Keys::derive(secret), previous: previous.map(Keys::derive) }
    }

    /// The token of a place.
    #[must_use]
    pub fn sign_place(&self, place: Place) -> String {
        let mut token = Vec::with_capacity(PLACE_BODY_LEN + MAC_LEN);
        push_place(&mut token, self.current.id, place);
        seal(token, &self.current.place)
    }

    /// The token of the pass for a grant.
    #[must_use]
    pub fn sign_pass(&self, performance: PerformanceId, grant: Grant) -> String {
        let mut token = Vec::with_capacity(PASS_BODY_LEN + MAC_LEN);
        push_place(&mut token, self.current.id, Place { performance, number: grant.number, account: grant.account });
        token.extend_from_slice(&grant.expires_at.unix_ms().to_be_bytes());
        seal(token, &self.current.pass)
    }

    /// The place that a token describes, if its signature is valid.
    #[must_use]
    pub fn verify_place(&self, token: &str) -> Option<Place> {
        let body = self.open::<PLACE_BODY_LEN, { PLACE_BODY_LEN + MAC_LEN }>(token, |keys| &keys.place)?;
        read_place(&body)
    }

    /// The pass that a token describes, if its signature is valid. The caller checks whether the pass has expired.
    #[must_use]
    pub fn verify_pass(&self, token: &str) -> Option<Pass> {
        let body = self.open::<PASS_BODY_LEN, { PASS_BODY_LEN + MAC_LEN }>(token, |keys| &keys.pass)?;
        let Place { performance, number, account } = read_place(&body)?;
        let expires_at = Timestamp::from_unix_ms(i64::from_be_bytes(array(&body, PLACE_BODY_LEN)?));
        Some(Pass { performance, grant: Grant { number, account, expires_at } })
    }

    fn open<const BODY: usize, const TOKEN: usize>(
        &self,
        token: &str,
        key: fn(&Keys) -> &Hmac<Sha256>,
    ) -> Option<[u8; BODY]> {
        let mut bytes = [0_u8; TOKEN];
        if URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()? != TOKEN {
            return None;
        }
        let (body, mac) = bytes.split_at(BODY);
        if body[0] != VERSION {
            return None;
        }
        let keys = [Some(&self.current), self.previous.as_ref()];
        let keys = keys.into_iter().flatten().find(|keys| keys.id == body[1])?;
        let expected = key(keys).clone().chain_update(body).finalize().into_bytes();
        if bool::from(expected[..MAC_LEN].ct_eq(mac)) { body.try_into().ok() } else { None }
    }
}

fn push_place(token: &mut Vec<u8>, key_id: u8, place: Place) {
    token.extend_from_slice(&[VERSION, key_id]);
    token.extend_from_slice(place.performance.as_bytes());
    token.extend_from_slice(&place.number.get().to_be_bytes());
    token.extend_from_slice(place.account.as_bytes());
}

fn seal(mut token: Vec<u8>, key: &Hmac<Sha256>) -> String {
    let mac = key.clone().chain_update(&token).finalize().into_bytes();
    token.extend_from_slice(&mac[..MAC_LEN]);
    URL_SAFE_NO_PAD.encode(token)
}

fn read_place(body: &[u8]) -> Option<Place> {
    Some(Place {
        performance: PerformanceId::from_bytes(array(body, 2)?),
        number: PlaceNumber::new(u64::from_be_bytes(array(body, 18)?)),
        account: AccountHash::from_bytes(array(body, 26)?),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use usher_kernel::AccountId;

    use super::*;

    const OLD: &[u8] = b"an old secret of at least 32 bytes";
    const NEW: &[u8] = b"a new secret of at least 32 bytes!";

    fn place() -> Place {
        let account = AccountHash::of(AccountId::from_bytes([1; 16]));
        Place { performance: PerformanceId::from_bytes([2; 16]), number: PlaceNumber::new(77), account }
    }

    fn pass() -> Pass {
        let Place { performance, number, account } = place();
        Pass { performance, grant: Grant { number, account, expires_at: Timestamp::from_unix_ms(123_456) } }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let keys = TokenKeys::new(NEW, None);

        assert_eq!(keys.verify_place(&keys.sign_place(place())), Some(place()));
        assert_eq!(keys.verify_pass(&keys.sign_pass(pass().performance, pass().grant)), Some(pass()));
    }

    #[test]
    fn every_server_signs_the_same_bytes() {
        let pass = pass();

        let tokens = [(); 2].map(|()| TokenKeys::new(NEW, Some(OLD)).sign_pass(pass.performance, pass.grant));

        assert_eq!(tokens[0], tokens[1]);
    }

    #[test]
    fn a_token_with_any_bit_changed_is_refused() {
        let keys = TokenKeys::new(NEW, None);
        let token = keys.sign_pass(pass().performance, pass().grant);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();

        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.verify_pass(&URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
    }

    #[test]
    fn a_place_is_not_a_pass() {
        let keys = TokenKeys::new(NEW, None);

        assert_eq!(keys.verify_pass(&keys.sign_place(place())), None);
        assert_eq!(keys.verify_place(&keys.sign_pass(pass().performance, pass().grant)), None);
    }

    #[test]
    fn texts_of_other_lengths_are_refused() {
        let keys = TokenKeys::new(NEW, None);
        let token = keys.sign_place(place());

        for text in ["", "x", &token[1..], &format!("{token}A"), &format!("{token}="), "ä"] {
            assert_eq!(keys.verify_place(text), None, "{text}");
        }
    }

    #[test]
    fn the_previous_secret_still_verifies_and_no_longer_signs() {
        let before = TokenKeys::new(OLD, None);
        let during = TokenKeys::new(NEW, Some(OLD));
        let after = TokenKeys::new(NEW, None);
        let old_token = before.sign_place(place());

        assert_eq!(during.verify_place(&old_token), Some(place()));
        assert_eq!(after.verify_place(&old_token), None);
        assert_eq!(after.verify_place(&during.sign_place(place())), Some(place()));
    }
}
