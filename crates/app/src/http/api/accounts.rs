//! Sign-up, log-in, and the caller's own account.

use std::sync::Arc;

use actix_web::web::{Data, Json};
use paperclip::actix::web::{ServiceConfig, get, post, resource};
use paperclip::actix::{Apiv2Schema, CreatedJson, api_v2_operation};
use serde::{Deserialize, Serialize};
use usher_account::{Account, Credentials, Password, Role, SignUp};
use usher_kernel::Clock;

use crate::http::bearer::LoggedIn;
use crate::http::detached::Detached;
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::JsonBody;
use crate::http::services::Services;
use crate::http::values::Id;
use crate::identity::access_tokens::{AccessTokens, Bearer};

pub(super) const REFUSALS: Refusals = &[
    ("accounts.sign_up", &[ProblemCode::EmailTaken, ProblemCode::StoreUnavailable]),
    ("accounts.log_in", &[ProblemCode::InvalidCredentials, ProblemCode::StoreUnavailable]),
    ("accounts.me", &[ProblemCode::NotFound, ProblemCode::StoreUnavailable]),
];

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(resource("/auth/signup").route(post().to(sign_up)))
        .service(resource("/auth/login").route(post().to(log_in)))
        .service(resource("/members/me").route(get().to(me)));
}

/// The services that the handlers of accounts use.
pub(super) struct Context {
    accounts: usher_account::Service,
    access_tokens: Arc<AccessTokens>,
    clock: Arc<dyn Clock>,
    detached: Detached,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self {
            accounts: services.accounts.clone(),
            access_tokens: Arc::clone(&services.access_tokens),
            clock: Arc::clone(&services.clock),
            detached: services.detached.clone(),
        }
    }
}

/// A request for an account.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "SignUp")]
#[serde(deny_unknown_fields)]
struct SignUpWish {
    /// A mail address that no account has.
    email: String,
    /// 8 to 128 characters.
    password: String,
    /// 1 to 100 characters.
    name: String,
}

/// The credentials of an account.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "LogIn")]
#[serde(deny_unknown_fields)]
struct LogInWish {
    /// The mail address of the account.
    email: String,
    /// Its password.
    password: String,
}

/// A new account.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Account")]
struct AccountView {
    /// The account's id.
    id: Id,
    /// Its mail address.
    email: String,
    /// The owner's name.
    name: String,
}

/// An access token.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "AccessToken")]
struct TokenView {
    /// Send it as `Authorization: Bearer ...`.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// How long it is valid.
    expires_in_s: u64,
}

/// An account, with its role.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Member")]
struct MemberView {
    /// The account's id.
    id: Id,
    /// Its mail address.
    email: String,
    /// The owner's name.
    name: String,
    /// `buyer` or `operator`.
    role: &'static str,
}

impl From<Account> for AccountView {
    fn from(account: Account) -> Self {
        Self { id: Id(account.id.uuid()), email: account.email.as_str().into(), name: account.name }
    }
}

impl From<Account> for MemberView {
    fn from(account: Account) -> Self {
        let role = account.role.as_str();
        let AccountView { id, email, name } = account.into();
        Self { id, email, name, role }
    }
}

/// Creates an account.
#[api_v2_operation(tags("accounts"), operation_id = "accounts.sign_up")]
async fn sign_up(context: Data<Context>, wish: JsonBody<SignUpWish>) -> Result<CreatedJson<AccountView>, Problem> {
    let SignUpWish { email, password, name } = wish.value;
    let wish = SignUp::new(&email, Password::new(password), &name).map_err(Problem::invalid)?;
    let accounts = context.accounts.clone();
    let made = context.detached.run(async move { Ok(accounts.sign_up(wish, Role::Buyer).await?) });
    Ok(CreatedJson(made.await?.into()))
}

/// Issues an access token.
#[api_v2_operation(tags("accounts"), operation_id = "accounts.log_in")]
async fn log_in(context: Data<Context>, wish: JsonBody<LogInWish>) -> Result<Json<TokenView>, Problem> {
    let LogInWish { email, password } = wish.value;
    let account = context.accounts.log_in(Credentials { email, password: Password::new(password) }).await?;
    let bearer = Bearer { account: account.id, role: account.role };
    let access_token =
        context.access_tokens.sign(bearer, context.clock.now()).map_err(|error| Problem::internal(&error))?;
    let expires_in_s = context.access_tokens.token_ttl().as_secs();
    Ok(Json(TokenView { access_token, token_type: "Bearer", expires_in_s }))
}

/// Shows the account of the access token.
#[api_v2_operation(tags("accounts"), operation_id = "accounts.me")]
async fn me(context: Data<Context>, LoggedIn(bearer): LoggedIn) -> Result<Json<MemberView>, Problem> {
    Ok(Json(context.accounts.find(bearer.account).await?.into()))
}
