//! Place tokens and passes that the driver signs itself, with the secret of its servers: a benchmark of holds needs no
//! line in front of it, and a benchmark of polls needs no million joins.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use usher_kernel::{AccountId, PerformanceId};
use usher_queue::{AccountHash, Grant, Place, PlaceNumber, TokenKeys};

use crate::world::clock;
use crate::world::servers::{ServerError, Site};

/// Longer than a benchmark or a proof runs.
const PASS_LASTS: Duration = Duration::from_secs(3_600);

/// What a buyer sends with each request.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// An access token.
    pub token: String,
    /// A pass.
    pub pass: String,
}

/// Signs place tokens and passes for one performance.
pub struct Signer {
    keys: TokenKeys,
    performance: PerformanceId,
}

impl Signer {
    /// A signer with the secret of a site.
    #[must_use]
    pub fn of(site: &Site, performance: PerformanceId) -> Self {
        Self { keys: TokenKeys::new(site.secret().as_bytes(), None), performance }
    }

    /// The token of a place in the line.
    #[must_use]
    pub fn place(&self, number: PlaceNumber, account: AccountHash) -> String {
        self.keys.sign_place(Place { performance: self.performance, number, account })
    }

    /// New buyers, each with a pass of their own.
    ///
    /// # Errors
    /// As [`Site::mint`].
    pub fn buyers(&self, site: &Site, count: usize) -> Result<Vec<Credentials>, ServerError> {
        let expires_at = clock::now().plus(PASS_LASTS);
        // A later call must not repeat these numbers: a pass buys once.
        let first = u64::from(rand::random::<u32>()) << 20;
        let numbers = (first..).map(PlaceNumber::new);
        let buyer = |(number, token): (PlaceNumber, String)| {
            let account = account_of(&token).ok_or_else(|| ServerError::Failed {
                command: "token mint".into(),
                said: "a token names no account".into(),
            })?;
            let grant = Grant { number, account, expires_at };
            Ok(Credentials { pass: self.keys.sign_pass(self.performance, grant), token })
        };
        numbers.zip(site.mint(count)?).map(buyer).collect()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// The account of an access token; `None` if it is malformed.
pub(super) fn account_of(token: &str) -> Option<AccountHash> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some(AccountHash::of(claims.sub.parse::<AccountId>().ok()?))
}
