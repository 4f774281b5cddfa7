//! The line: join, poll, leave, and the gate for pages behind the line.

use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::cookie::time::Duration as CookieDuration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::guard::fn_guard;
use actix_web::http::header::HeaderName;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Data, Json};
use actix_web::{HttpRequest, HttpResponse, Responder};
use paperclip::actix::web::{ServiceConfig, delete, get, post, resource};
use paperclip::actix::{Apiv2Schema, CreatedJson, NoContent, OperationModifier, api_v2_operation};
use paperclip::v2::models::{DefaultOperationRaw, DefaultSchemaRaw, Either, Response};
use paperclip::v2::schema::Apiv2Schema;
use serde::Serialize;
use usher_kernel::{Clock, PerformanceId, Timestamp};
use usher_queue::service::{PassToken, PlaceStatus};
use usher_queue::{Error, Grant};

use crate::http::bearer::LoggedIn;
use crate::http::detached::Detached;
use crate::http::edge::Edge;
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{GatePass, PathId, PlaceHeader, PlaceOrPass};
use crate::http::services::Services;
use crate::http::values::Instant;

/// The refusals of a poll, and of the stream of a place.
pub(super) const POLL_REFUSALS: &[ProblemCode] = &[
    ProblemCode::PlaceInvalid,
    ProblemCode::PassMismatch,
    ProblemCode::SaleNotOpen,
    ProblemCode::SaleClosed,
    ProblemCode::LineUnavailable,
    ProblemCode::StoreUnavailable,
];

pub(super) const REFUSALS: Refusals = &[
    (
        "line.join",
        &[
            ProblemCode::SaleNotOpen,
            ProblemCode::SaleClosed,
            ProblemCode::LineUnavailable,
            ProblemCode::StoreUnavailable,
        ],
    ),
    ("line.poll", POLL_REFUSALS),
    (
        "line.leave",
        &[
            ProblemCode::PlaceInvalid,
            ProblemCode::PassMismatch,
            ProblemCode::SaleNotOpen,
            ProblemCode::LineUnavailable,
            ProblemCode::StoreUnavailable,
        ],
    ),
    ("line.gate", &[ProblemCode::PassInvalid, ProblemCode::LineUnavailable, ProblemCode::StoreUnavailable]),
];

/// The operation that answers all refusals alike.
pub(super) const GATE: &str = "line.gate";
const GATE_PATH: &str = "/api/v1/performances/{performance_id}/gate";

/// The headers that name the owner of a pass to the shop behind the gate.
const ACCOUNT: HeaderName = HeaderName::from_static("usher-account");
const PASS_ID: HeaderName = HeaderName::from_static("usher-pass-id");

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    let queue = resource("/performances/{performance_id}/queue");
    config
        .service(queue.route(post().to(join)).route(get().to(poll)).route(delete().to(leave)))
        .service(resource("/performances/{performance_id}/gate").route(get().to(gate)));
}

/// The gate's routes beside that of the API document.
pub(in crate::http) fn gate_routes(config: &mut web::ServiceConfig) {
    let is_undocumented = fn_guard(|context| context.head().method != Method::GET);
    config
        .service(web::resource(GATE_PATH).guard(is_undocumented).to(gate_of_any_request))
        .service(web::resource(format!("{GATE_PATH}/{{below:.*}}")).to(gate_of_any_request));
}

/// The services that the handlers of the line use.
pub(super) struct Context {
    pub(super) line: usher_queue::Service,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) edge: Arc<Edge>,
    detached: Detached,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self {
            line: services.line.clone(),
            clock: Arc::clone(&services.clock),
            edge: Arc::clone(&services.edge),
            detached: services.detached.clone(),
        }
    }
}

/// A place in a line.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Place")]
pub(super) struct PlaceView {
    /// The place token. Keep it, and send it as `Usher-Place`.
    place: String,
    /// The place's number: unique, increasing, never reused.
    number: u64,
    /// `waiting`, `admitted`, `done` (booked or left) or `expired` (the pass ran out unused).
    state: &'static str,
    /// 1 is next; 0 when admitted.
    position: u64,
    /// How many people are before it, including those who came back.
    ahead: u64,
    /// The delay before the next poll.
    poll_after_ms: u64,
    /// The estimated wait; null if there is no estimate.
    eta_s: Option<EtaView>,
    /// The pass; null unless admitted.
    pass: Option<PassView>,
    /// `scheduled`, `open`, `paused`, `closed` or `sold_out`.
    sale_state: &'static str,
}

/// The estimated wait, in seconds.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Eta")]
struct EtaView {
    /// Probably not sooner.
    low: u64,
    /// Probably not later.
    high: u64,
}

/// The right to book.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Pass")]
struct PassView {
    /// Send it as `Usher-Pass`.
    token: String,
    /// The first moment at which it is not valid.
    expires_at: Instant,
}

impl From<PlaceStatus> for PlaceView {
    fn from(status: PlaceStatus) -> Self {
        Self {
            place: status.place,
            number: status.number.get(),
            state: status.state.as_str(),
            position: status.position,
            ahead: status.ahead,
            poll_after_ms: u64::try_from(status.poll_after.as_millis()).unwrap_or(u64::MAX),
            eta_s: status.eta.map(|eta| EtaView { low: eta.low_s, high: eta.high_s }),
            pass: status
                .pass
                .map(|PassToken { token, expires_at }| PassView { token, expires_at: Instant(expires_at) }),
            sale_state: status.sale_state.as_str(),
        }
    }
}

impl PlaceView {
    /// The cookie with the pass, for pages behind the gate. `None` unless the place is admitted.
    pub(super) fn pass_cookie(&self, now: Timestamp, request: &HttpRequest) -> Option<Cookie<'_>> {
        let PassView { token, expires_at } = self.pass.as_ref()?;
        let lives_s = i64::try_from(expires_at.0.since(now).as_secs()).unwrap_or(i64::MAX);
        let is_https = request.app_data::<Data<Context>>().is_some_and(|context| context.edge.is_https(request));
        let cookie = Cookie::build(GatePass::COOKIE, token)
            .path("/")
            .max_age(CookieDuration::seconds(lives_s))
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(is_https);
        Some(cookie.finish())
    }
}

/// A place as an answer, which also sets the pass as a cookie.
struct PlaceAnswer<const MAY_BE_NEW: bool> {
    place: PlaceView,
    status: StatusCode,
    now: Timestamp,
}

/// A new place or an earlier one.
type JoinAnswer = PlaceAnswer<true>;
/// An existing place.
type PollAnswer = PlaceAnswer<false>;

impl<const MAY_BE_NEW: bool> Responder for PlaceAnswer<MAY_BE_NEW> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status);
        if let Some(cookie) = self.place.pass_cookie(self.now, request) {
            answer.cookie(cookie);
        }
        answer.json(self.place)
    }
}

impl<const MAY_BE_NEW: bool> Apiv2Schema for PlaceAnswer<MAY_BE_NEW> {
    fn name() -> Option<String> {
        PlaceView::name()
    }

    fn description() -> &'static str {
        PlaceView::description()
    }

    fn raw_schema() -> DefaultSchemaRaw {
        PlaceView::raw_schema()
    }
}

impl<const MAY_BE_NEW: bool> OperationModifier for PlaceAnswer<MAY_BE_NEW> {
    fn update_response(operation: &mut DefaultOperationRaw) {
        Json::<PlaceView>::update_response(operation);
        if MAY_BE_NEW {
            CreatedJson::<PlaceView>::update_response(operation);
        }
    }
}

/// Asks a line. An open line makes single atomic calls of its store, so that the caller may disconnect. If the line
/// must be opened first, the question runs in its own task, because to all servers an interrupted opening looks like a
/// loss.
pub(super) async fn ask<T: Send + 'static>(
    context: &Context,
    performance: PerformanceId,
    question: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Problem> {
    if context.line.is_open(performance) {
        Ok(question.await?)
    } else {
        context.detached.run(async move { Ok(question.await?) }).await
    }
}

/// Joins the line. An account with a place gets that place again.
#[api_v2_operation(tags("line"), operation_id = "line.join")]
async fn join(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    PathId(performance): PathId<PerformanceId>,
) -> Result<JoinAnswer, Problem> {
    let line = context.line.clone();
    let joining = async move { line.join(performance, bearer.account).await };
    let joined = ask(&context, performance, joining).await?;
    let status = if joined.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(PlaceAnswer { place: joined.status.into(), status, now: context.clock.now() })
}

/// Shows the state of a place.
#[api_v2_operation(tags("line"), operation_id = "line.poll")]
async fn poll(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    PlaceHeader(place): PlaceHeader,
) -> Result<PollAnswer, Problem> {
    let now = context.clock.now();
    context.edge.polls.check(&place, now)?;
    let line = context.line.clone();
    let status = ask(&context, performance, async move { line.poll(performance, &place).await }).await?;
    Ok(PlaceAnswer { place: status.into(), status: StatusCode::OK, now })
}

/// Gives up a place in the line, or its pass. A shop behind the gate ends a pass by the pass itself.
#[api_v2_operation(tags("line"), operation_id = "line.leave")]
async fn leave(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    token: PlaceOrPass,
) -> Result<NoContent, Problem> {
    let line = context.line.clone();
    let leaving = async move {
        match token {
            PlaceOrPass::Place(place) => line.leave(performance, &place).await?,
            PlaceOrPass::Pass(pass) => line.end_pass(performance, &pass).await?,
        }
        Ok(NoContent)
    };
    context.detached.run(leaving).await
}

/// The gate's answer to a live pass. It names the pass's owner to the shop behind the gate.
struct Admitted(Grant);

impl Responder for Admitted {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let Grant { number, account, .. } = self.0;
        // Envoy lets a request pass on 200 only.
        HttpResponse::Ok()
            .insert_header((ACCOUNT, account.to_string()))
            .insert_header((PASS_ID, number.to_string()))
            .finish()
    }
}

impl Apiv2Schema for Admitted {}

impl OperationModifier for Admitted {
    fn update_response(operation: &mut DefaultOperationRaw) {
        let description = "The pass admits its owner. `Usher-Account` is the account's pseudonym, the same for every pass \
                           of the account, and `Usher-Pass-Id` the pass's number in this line.";
        let response = Response { description: Some(description.into()), ..Response::default() };
        operation.responses.insert(StatusCode::OK.as_str().into(), Either::Right(response));
    }
}

/// Tells a proxy whether a pass admits its owner (nginx `auth_request`, Caddy `forward_auth`, Envoy `ext_authz`). Every
/// refusal is a 401. Answers every method, and every path below its own, because some proxies send those of the request.
#[api_v2_operation(tags("line"), operation_id = "line.gate")]
async fn gate(
    context: Data<Context>,
    performance: Result<PathId<PerformanceId>, Problem>,
    pass: GatePass,
) -> Result<Admitted, Problem> {
    gate_of_any_request(context, performance, pass).await
}

/// The gate, also for the methods and paths that the API document does not list.
async fn gate_of_any_request(
    context: Data<Context>,
    performance: Result<PathId<PerformanceId>, Problem>,
    GatePass(pass): GatePass,
) -> Result<Admitted, Problem> {
    let PathId(performance) = performance.map_err(|_| Problem::of(ProblemCode::PassInvalid))?;
    Ok(Admitted(context.line.gate(performance, pass.as_deref()).await?))
}
