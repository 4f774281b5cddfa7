//! The middleware around every request: its id and span, limits before any work, one form for every refusal, and an
//! answer even if a handler panics.

// The framework runs a request on the thread that took its connection, and never sends it to another.
#![expect(clippy::future_not_send, reason = "middleware works on requests, which stay on their thread")]

use std::any::Any;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpMessage as _, HttpRequest};
use futures_util::FutureExt as _;
use ipnet::IpNet;
use rustix::net::sockopt::set_tcp_user_timeout;
use tracing::Instrument as _;
use usher_kernel::{AccountId, IdGenerator};

use super::problem::{Occurrence, Problem, ProblemCode};
use super::reading::Unread;
use super::throttle::{PerKey, PerPlace, network_of};
use crate::config;
use crate::runtime::metrics::Metrics;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_LEN_MAX: usize = 128;
/// The longest request head, as nginx allows by default. The framework closes the connection without an answer at 128
/// KiB.
const HEAD_LEN_MAX: usize = 32 * 1024;
/// Paths that are never shed, because they report the state of the process.
const NEVER_SHED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Limit of holds and confirms of one account: more than a person sends, less than a program could.
const PURCHASES_PER_S: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
const PURCHASES_BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// The limits that all requests share.
pub struct Edge {
    trusted_proxies: Vec<IpNet>,
    max_in_flight: usize,
    in_flight: AtomicUsize,
    body_timeout: Duration,
    addresses: Option<PerKey<IpAddr>>,
    pub(super) purchases: PerKey<AccountId>,
    pub(super) polls: PerPlace,
}

impl Edge {
    /// The configured limits.
    #[must_use]
    pub fn new(http: &config::Http) -> Self {
        let per_s = NonZeroU32::new(http.requests_per_address_per_s);
        Self {
            trusted_proxies: http.trusted_proxies.0.clone(),
            max_in_flight: http.max_in_flight,
            in_flight: AtomicUsize::new(0),
            body_timeout: Duration::from_millis(http.body_timeout_ms),
            // A burst of two seconds' worth, because a page loads many resources at once.
            addresses: per_s.map(|per_s| PerKey::new(per_s, per_s.saturating_mul(NonZeroU32::MIN.saturating_add(1)))),
            purchases: PerKey::new(PURCHASES_PER_S, PURCHASES_BURST),
            polls: PerPlace::new(),
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// The client's address: the peer, or behind trusted proxies the rightmost forwarded address that is no trusted
    /// proxy's. A client can forge the addresses before that one.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let lines: Vec<_> = headers.get_all(header::X_FORWARDED_FOR).filter_map(|line| line.to_str().ok()).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).map_while(|hop| hop.trim().parse().ok());
        let mut client = peer;
        for hop in hops {
            client = hop;
            if !self.trusts(hop) {
                break;
            }
        }
        client
    }

    /// Whether a trusted proxy says that the client uses HTTPS.
    pub(super) fn is_https(&self, request: &HttpRequest) -> bool {
        let peer_is_trusted = request.peer_addr().is_some_and(|peer| self.trusts(peer.ip()));
        let scheme = request.headers().get(header::X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
        peer_is_trusted && scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"))
    }

    /// Admits a request, unless its head is too long, its client too fast, or too many requests are in flight.
    fn admit(&self, request: &ServiceRequest) -> Result<InFlight<'_>, Problem> {
        if head_len(request) > HEAD_LEN_MAX {
            return Err(Problem::of(ProblemCode::HeadersTooLarge));
        }
        let in_flight = InFlight::begin(&self.in_flight);
        if is_never_shed(request.path()) {
            return Ok(in_flight);
        }
        if let (Some(addresses), Some(peer)) = (&self.addresses, request.peer_addr()) {
            addresses.check(&network_of(self.client(peer.ip(), request.headers())))?;
        }
        if in_flight.count > self.max_in_flight { Err(Problem::overloaded()) } else { Ok(in_flight) }
    }
}

/// Bytes of path, query and headers, without separators.
/// Whether a path is answered whatever the load. A proxy takes a 503 of the gate for "cannot tell", and some then let
/// everybody in.
fn is_never_shed(path: &str) -> bool {
    let below_performance = || path.strip_prefix("/api/v1/performances/").and_then(|rest| rest.split_once('/'));
    NEVER_SHED.contains(&path)
        || below_performance().is_some_and(|(_, rest)| rest == "gate" || rest.starts_with("gate/"))
}

fn head_len(request: &ServiceRequest) -> usize {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    request.uri().path().len() + request.query_string().len() + headers.sum::<usize>()
}

/// A request in flight. It is counted while this value lives.
struct InFlight<'a> {
    counter: &'a AtomicUsize,
    count: usize,
}

impl<'a> InFlight<'a> {
    fn begin(counter: &'a AtomicUsize) -> Self {
        Self { counter, count: counter.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state of the middleware.
pub(super) struct Guard {
    /// The limits.
    pub(super) edge: Arc<Edge>,
    /// Ids of requests.
    pub(super) ids: Arc<dyn IdGenerator>,
    /// Counts and times the requests.
    pub(super) metrics: Arc<Metrics>,
}

/// The middleware.
pub(super) async fn guard(
    guard: Data<Guard>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let begun = Metrics::instant();
    let method = method_label(request.method());
    let path = request.path().to_owned();
    let request_id = request_id(&request, guard.ids.as_ref());
    let span = tracing::info_span!("request", %request_id, method, path);
    // A HEAD is a GET whose body the server leaves out (RFC 9110, 9.3.2).
    let is_head = request.method() == Method::HEAD;
    if is_head {
        request.head_mut().method = Method::GET;
    }
    keep_body(&mut request, guard.edge.body_timeout);

    let occurrence = Occurrence { path: &path, request_id: &request_id };
    let outcome = match guard.edge.admit(&request) {
        Ok(_in_flight) => call(request, next, occurrence).instrument(span.clone()).await,
        Err(problem) => Ok(request.into_response(problem.render(Some(occurrence)))),
    };
    let outcome = outcome.map(|answer| close_if_unread(finish(answer, occurrence)));
    let outcome = outcome.map(|answer| if is_head { without_stream(answer) } else { answer });

    let route = outcome.as_ref().ok().and_then(|answer| answer.request().match_pattern());
    let status = outcome.as_ref().map_or_else(|error| error.as_response_error().status_code(), ServiceResponse::status);
    let elapsed = begun.elapsed();
    guard.metrics.observe_request(method, route.as_deref().unwrap_or("unmatched"), status.as_str(), elapsed);
    tracing::debug!(parent: &span, status = status.as_u16(), elapsed_ms = elapsed.as_secs_f64() * 1_000.0, "answered");
    outcome
}

/// Closes a connection whose client accepts no data for `timeout_ms`, or is unreachable. The kernel does this (RFC
/// 5482), because only the kernel sees which data the client accepted.
pub fn bound_sending(connection: &dyn Any, timeout_ms: u32) {
    let Some(connection) = connection.downcast_ref::<TcpStream>() else { return };
    if let Err(error) = set_tcp_user_timeout(connection, timeout_ms) {
        tracing::debug!(%error, "cannot set the send timeout of a connection");
    }
}

/// Drops a stream from the answer to a HEAD. The framework would not send its body, but would wait for its end, and a
/// stream has none.
fn without_stream(answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    answer.map_body(|_, body| if matches!(body.size(), BodySize::Stream) { BoxBody::new(()) } else { body })
}

/// Answers a request, with an internal error after a panic.
async fn call(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
    occurrence: Occurrence<'_>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(outcome) => outcome.map(ServiceResponse::map_into_boxed_body),
        // The panic dropped the request, so this answer skips the rest of the middleware.
        Err(_) => Err(internal(occurrence)),
    }
}

/// The answer after a panic, whose message the panic hook has printed.
fn internal(occurrence: Occurrence<'_>) -> Error {
    let mut answer = Problem::internal(&Panicked).render(Some(occurrence));
    label(answer.headers_mut(), occurrence.request_id);
    actix_web::error::InternalError::from_response(Panicked, answer).into()
}

#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
struct Panicked;

/// The label of a method in metrics: a closed set, because clients can invent methods.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn request_id(request: &ServiceRequest, ids: &dyn IdGenerator) -> String {
    let is_sane = |id: &&[u8]| (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    let given = request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes).filter(is_sane);
    given.map_or_else(|| ids.next_uuid().to_string(), |id| String::from_utf8_lossy(id).into_owned())
}

/// Moves the body into the request's extensions. `reading` takes it from there, and `close_if_unread` finds it if no
/// handler did.
fn keep_body(request: &mut ServiceRequest, timeout: Duration) {
    let body = request.take_payload();
    if !matches!(body, Payload::None) {
        request.extensions_mut().insert(Unread { body, timeout });
    }
}

/// Gives an answer its common headers, and every refusal its common form.
fn finish(answer: ServiceResponse<BoxBody>, occurrence: Occurrence<'_>) -> ServiceResponse<BoxBody> {
    let mut answer = if answer.status().as_u16() >= 400 { refusal(answer, occurrence) } else { answer };
    label(answer.headers_mut(), occurrence.request_id);
    answer
}

fn label(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    // Cacheable answers have the header already. Places, passes and reservations are private.
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// A refusal in the form of RFC 9457: a handler's problem with its occurrence, or the problem for an empty answer of
/// the framework.
fn refusal(answer: ServiceResponse<BoxBody>, occurrence: Occurrence<'_>) -> ServiceResponse<BoxBody> {
    let problem = answer.response().error().and_then(Error::as_error::<Problem>);
    let rendered = problem.map(|problem| problem.render(Some(occurrence)));
    let is_bare = answer.response().error().is_some()
        || matches!(answer.response().body().size(), BodySize::None | BodySize::Sized(0));
    let Some(mut rendered) =
        rendered.or_else(|| is_bare.then(|| Problem::of_bare(answer.status()).render(Some(occurrence))))
    else {
        return answer;
    };
    if let Some(methods) = answer.headers().get(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, methods.clone());
    }
    answer.into_response(rendered)
}

/// Closes the connection of a request that was answered before its body was read.
fn close_if_unread(answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let unread = answer.request().extensions_mut().remove::<Unread>();
    match unread {
        Some(unread) => answer.map_body(|_, body| BoxBody::new(WithUnread { body, _unread: unread })),
        None => answer,
    }
}

/// An answer's body that keeps the unread body of its request. While that lives, the framework knows that it was not
/// read, and closes the connection instead of waiting for the rest.
struct WithUnread {
    body: BoxBody,
    _unread: Unread,
}

impl MessageBody for WithUnread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::http::StatusCode;
    use actix_web::http::header::X_FORWARDED_FOR;
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, init_service, try_call_service};
    use actix_web::{App, HttpResponse, web};

    use super::*;
    use crate::config::Settings;

    fn edge(trusted_proxies: &[&str]) -> Edge {
        let mut http = Settings::load(None).unwrap().http;
        http.trusted_proxies = config::Networks(trusted_proxies.iter().map(|text| text.parse().unwrap()).collect());
        http.max_in_flight = 2;
        Edge::new(&http)
    }

    fn client(edge: &Edge, peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        edge.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let edge = edge(&["10.0.0.0/8"]);

        assert_eq!(client(&edge, "192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(client(&edge, "10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client(&edge, "10.0.0.1", &["203.0.113.9, 198.51.100.1", "10.0.0.2"]), "198.51.100.1");
        assert_eq!(client(&edge, "10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client(&edge, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn more_than_the_limit_are_refused_before_any_work_and_health_is_always_told() {
        let edge = edge(&[]);
        let request = |path: &str| TestRequest::with_uri(path).to_srv_request();

        let (first, second) = (edge.admit(&request("/a")), edge.admit(&request("/a")));
        let third = edge.admit(&request("/a")).is_ok();
        let health = edge.admit(&request("/healthz")).is_ok();
        drop(first);

        assert!(second.is_ok() && !third && health);
        assert!(edge.admit(&request("/a")).is_ok());
    }

    const HERE: Occurrence<'_> = Occurrence { path: "/here", request_id: "r-1" };

    async fn body_of(answer: HttpResponse) -> serde_json::Value {
        serde_json::from_slice(&to_bytes(answer.into_body()).await.unwrap()).unwrap()
    }

    #[actix_web::test]
    async fn a_panic_is_answered_as_an_internal_error() {
        let panicking = || async { unreachable!("on purpose") as HttpResponse };
        let app =
            App::new().wrap(from_fn(|request, next| call(request, next, HERE))).default_service(web::to(panicking));
        let app = init_service(app).await;

        let error = try_call_service(&app, TestRequest::default().to_request()).await.unwrap_err();

        assert_eq!(error.as_response_error().status_code(), StatusCode::INTERNAL_SERVER_ERROR);
        let answer = error.error_response();
        assert_eq!(answer.headers().get(REQUEST_ID).unwrap(), "r-1");
        assert_eq!(body_of(answer).await["request_id"], "r-1");
    }

    #[actix_web::test]
    async fn every_refusal_has_one_form() {
        let bare = HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET")).finish();
        let problem = HttpResponse::from_error(Problem::overloaded());

        for (refusal, code) in [(bare, "method-not-allowed"), (problem, "overloaded")] {
            let allow = refusal.headers().get(header::ALLOW).cloned();
            let answer = finish(TestRequest::default().to_srv_response(refusal), HERE).into_parts().1;

            assert_eq!(answer.headers().get(header::CONTENT_TYPE).unwrap(), "application/problem+json");
            assert_eq!(answer.headers().get(header::ALLOW).cloned(), allow);
            assert_eq!(answer.headers().get(header::CACHE_CONTROL).unwrap(), "no-store");
            assert_eq!(body_of(answer).await["code"], code);
        }
    }

    #[actix_web::test]
    async fn an_answer_that_says_enough_is_left_as_it_is() {
        let text = HttpResponse::ServiceUnavailable().body("store: away");

        let answer = finish(TestRequest::default().to_srv_response(text), HERE).into_parts().1;

        assert_eq!(to_bytes(answer.into_body()).await.unwrap(), "store: away");
    }

    #[test]
    fn invented_methods_are_one_label() {
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "OTHER");
    }
}
