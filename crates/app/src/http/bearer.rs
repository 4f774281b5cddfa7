//! Authentication: the access token of a request, and the role of its bearer.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::{Ready, ready};
use paperclip::actix::Apiv2Security;
use usher_account::Role;
use usher_kernel::Clock;

use super::problem::{Problem, ProblemCode};
use crate::identity::access_tokens::{AccessTokens, Bearer};

/// Verifies access tokens.
pub(super) struct Verifier {
    /// The tokens' keys.
    pub(super) access_tokens: Arc<AccessTokens>,
    /// Tells whether a token has expired.
    pub(super) clock: Arc<dyn Clock>,
}

/// A caller with a valid access token.
#[derive(Clone, Copy, Debug, Apiv2Security)]
#[openapi(apiKey, alias = "bearer", in = "header", name = "Authorization", description = "An access token.")]
pub(super) struct LoggedIn(pub Bearer);

/// An operator.
#[derive(Clone, Copy, Debug, Apiv2Security)]
#[openapi(
    apiKey,
    alias = "operator",
    in = "header",
    name = "Authorization",
    description = "An operator's access token."
)]
pub(super) struct Operator(pub Bearer);

fn bearer(request: &HttpRequest) -> Result<Bearer, Problem> {
    let verify = || {
        let Verifier { access_tokens, clock } = request.app_data::<Data<Verifier>>()?.as_ref();
        let (scheme, token) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let token = Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        access_tokens.verify(token, clock.now())
    };
    verify().ok_or_else(|| Problem::of(ProblemCode::Unauthenticated))
}

impl FromRequest for LoggedIn {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(bearer(request).map(Self))
    }
}

impl FromRequest for Operator {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(bearer(request).and_then(|bearer| match bearer.role {
            Role::Operator => Ok(Self(bearer)),
            Role::Buyer => Err(Problem::of(ProblemCode::Forbidden)),
        }))
    }
}
