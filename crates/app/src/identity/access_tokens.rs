//! Access tokens: a signed account id and role (JWT, RFC 7519, with HMAC-SHA-256). Any service with the secret can sign
//! them, so accounts may live elsewhere.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use usher_account::Role;
use usher_kernel::{AccountId, Timestamp};

const ISSUER: &str = "usher";

/// The account and role of a verified token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The account.
    pub account: AccountId,
    /// The account's role.
    pub role: Role,
}

/// Signs access tokens, and checks them.
pub struct AccessTokens {
    signing: EncodingKey,
    /// The keys of the current secret, and of the previous one, whose tokens stay valid.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    token_ttl: Duration,
}

impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessTokens(..)")
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("an access token cannot be signed")]
pub struct SigningError(#[from] jsonwebtoken::errors::Error);

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    role: String,
    iat: i64,
    exp: i64,
}

impl AccessTokens {
    /// Signs with `secret`, and also accepts tokens signed with `previous`.
    #[must_use]
    pub fn new(secret: &[u8], previous: Option<&[u8]>, token_ttl: Duration) -> Self {
        // The token must not choose the algorithm.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        // `verify` checks the expiry, with the caller's time instead of the library's.
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            signing: EncodingKey::from_secret(secret),
            verifying: [Some(secret), previous].into_iter().flatten().map(DecodingKey::from_secret).collect(),
            validation,
            token_ttl,
        }
    }

    /// How long a token is valid.
    #[must_use]
    pub const fn token_ttl(&self) -> Duration {
        self.token_ttl
    }

    /// Signs a token for an account.
    ///
    /// # Errors
    /// [`SigningError`] if the cryptography fails.
    pub fn sign(&self, bearer: Bearer, now: Timestamp) -> Result<String, SigningError> {
        let claims = Claims {
            iss: ISSUER.into(),
            sub: bearer.account.to_string(),
            role: bearer.role.as_str().into(),
            iat: now.unix_ms().div_euclid(1_000),
            exp: now.plus(self.token_ttl).unix_ms().div_euclid(1_000),
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)?)
    }

    /// The account and role of a token, if it is valid at `now`.
    #[must_use]
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Bearer> {
        let decoded =
            self.verifying.iter().find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok());
        let claims = decoded?.claims;
        if now.unix_ms() >= claims.exp.saturating_mul(1_000) {
            return None;
        }
        Some(Bearer { account: claims.sub.parse().ok()?, role: Role::from_name(&claims.role)? })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const OLD: &[u8] = b"an old secret of at least 32 bytes";
    const NEW: &[u8] = b"a new secret of at least 32 bytes!";
    const TTL: Duration = Duration::from_secs(60);
    const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

    fn bearer() -> Bearer {
        Bearer { account: AccountId::from_bytes([7; 16]), role: Role::Operator }
    }

    #[test]
    fn a_token_says_whose_it_is_until_it_expires() {
        let access_tokens = AccessTokens::new(NEW, None, TTL);
        let token = access_tokens.sign(bearer(), NOW).unwrap();

        assert_eq!(access_tokens.verify(&token, NOW.plus(TTL - Duration::from_millis(1))), Some(bearer()));
        assert_eq!(access_tokens.verify(&token, NOW.plus(TTL)), None);
    }

    #[test]
    fn the_previous_secret_still_verifies_and_no_longer_signs() {
        let old_token = AccessTokens::new(OLD, None, TTL).sign(bearer(), NOW).unwrap();
        let during = AccessTokens::new(NEW, Some(OLD), TTL);
        let after = AccessTokens::new(NEW, None, TTL);

        assert_eq!(during.verify(&old_token, NOW), Some(bearer()));
        assert_eq!(after.verify(&old_token, NOW), None);
        assert_eq!(after.verify(&during.sign(bearer(), NOW).unwrap(), NOW), Some(bearer()));
    }

    #[test]
    fn a_forged_token_is_refused() {
        let access_tokens = AccessTokens::new(NEW, None, TTL);
        let token = access_tokens.sign(bearer(), NOW).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let unsigned = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
        let stranger = AccessTokens::new(OLD, None, TTL).sign(bearer(), NOW).unwrap();

        for forged in ["", "a.b.c", &unsigned, &stranger, &token[1..], &format!("{token}A")] {
            assert_eq!(access_tokens.verify(forged, NOW), None, "{forged}");
        }
    }
}
