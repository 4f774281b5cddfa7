//! Why a call is refused, in the form that clients get: problem codes, status codes, and RFC 9457 bodies.
//!
//! The only file with status codes of errors. Logs the causes of internal errors, once, and shows them to no client.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use paperclip::actix::Apiv2Schema;
use paperclip::v2::schema::Apiv2Errors;
use serde::Serialize;
use usher_kernel::{SeatId, StoreError, Violation};

use super::values::rfc3339;
use crate::live::{boards, streams};

macro_rules! problem_codes {
    ($($name:ident = $status:ident $code:literal, $title:literal, $explanation:literal;)*) => {
        /// Why a call is refused: a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProblemCode {
            $(#[doc = $explanation] $name,)*
        }

        impl ProblemCode {
            /// All codes, by status.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The status of the answer.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }

            /// Its name, in bodies and in the address of its page.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// What is wrong, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)*
                }
            }

            /// What it means, and what to do about it.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$name => $explanation,)*
                }
            }
        }
    };
}

problem_codes! {
    MalformedRequest = BAD_REQUEST "malformed-request", "Malformed request",
        "The request cannot be read: it is not JSON, or a header is not text. Send it in the form of the API document.";
    ValidationFailed = BAD_REQUEST "validation-failed", "Validation failed",
        "Some of the values sent break a rule. Each of `errors` names a field and the rule.";
    IdempotencyKeyMissing = BAD_REQUEST "idempotency-key-missing", "Idempotency key missing",
        "This call needs an Idempotency-Key header, so that it can be repeated safely. Send a new random key with each new request.";
    Unauthenticated = UNAUTHORIZED "unauthenticated", "Not logged in",
        "The access token is missing, damaged or expired. Log in, and send the token as `Authorization: Bearer ...`.";
    InvalidCredentials = UNAUTHORIZED "invalid-credentials", "Wrong mail address or password",
        "No account has this mail address and password. The server does not tell which of them is wrong.";
    PlaceInvalid = UNAUTHORIZED "place-invalid", "Place token not valid",
        "The place token is missing, damaged, or not from this service. Join the line to get one, and send it as `Usher-Place`.";
    PassRequired = UNAUTHORIZED "pass-required", "Pass required",
        "Seats are for people who were admitted. Wait in the line, and send the pass as `Usher-Pass`.";
    PassInvalid = UNAUTHORIZED "pass-invalid", "Pass not valid",
        "The pass is damaged, not from this service, or does not admit here.";
    PaymentDeclined = PAYMENT_REQUIRED "payment-declined", "Payment declined",
        "The payment was declined. The seats stay held until `held_until` of the reservation; three payments may be declined.";
    Forbidden = FORBIDDEN "forbidden", "Forbidden",
        "The account may not do this: it is for operators.";
    PassExpired = FORBIDDEN "pass-expired", "Pass expired",
        "The pass ran out. Join the line again.";
    PassUsed = FORBIDDEN "pass-used", "Pass used up",
        "The pass was used for a confirmed reservation, or its owner left. Join the line again for another one.";
    PassMismatch = FORBIDDEN "pass-mismatch", "Pass or place of someone else",
        "The pass or place belongs to another account, or to another performance.";
    NotFound = NOT_FOUND "not-found", "Not found",
        "Nothing has this address, or it belongs to another account.";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed", "Method not allowed",
        "The address does not support this method. The Allow header names the methods that it supports.";
    RequestTimeout = REQUEST_TIMEOUT "request-timeout", "Request timeout",
        "The request did not arrive in time. Send it again, faster.";
    EmailTaken = CONFLICT "email-taken", "Mail address taken",
        "Another account has this mail address.";
    SeatTaken = CONFLICT "seat-taken", "Seat taken",
        "Some of the seats are not free: `conflicts` names all of these. No seat was held; choose again.";
    NotEnoughSeats = CONFLICT "not-enough-seats", "Not enough seats",
        "There are not as many free seats as were asked for.";
    HoldExpired = CONFLICT "hold-expired", "Hold expired",
        "The time to pay ran out, and the seats are free again. Hold them again.";
    LimitReached = CONFLICT "limit-reached", "Seat limit reached",
        "The account would have more seats of this performance than one buyer may have.";
    SaleNotOpen = CONFLICT "sale-not-open", "Sale not open",
        "The sale, or its line, opens later.";
    SaleClosed = CONFLICT "sale-closed", "Sale closed",
        "The sale is over.";
    IdempotencyInFlight = CONFLICT "idempotency-in-flight", "Request under way",
        "A request with the same Idempotency-Key is under way. Ask again in a moment, with the same key.";
    ReservationState = CONFLICT "reservation-state", "Not in this state",
        "The reservation's state does not allow this, or the pass has a live reservation already.";
    SeatsLocked = CONFLICT "seats-locked", "Seats locked",
        "The sale is open: seats and prices stay as they are.";
    PayloadTooLarge = PAYLOAD_TOO_LARGE "payload-too-large", "Payload too large",
        "The body is longer than this call takes: 16 KiB, or 8 MiB for seats.";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type", "Unsupported media type",
        "The body is of a type that this call does not take. Send JSON as `Content-Type: application/json`.";
    IdempotencyMismatch = UNPROCESSABLE_ENTITY "idempotency-mismatch", "Idempotency key used before",
        "The Idempotency-Key was used for a request with another path or body. Send a new key with each new request.";
    TooManyRequests = TOO_MANY_REQUESTS "too-many-requests", "Too many requests",
        "The requests come too fast. Wait as long as Retry-After says.";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "headers-too-large", "Headers too large",
        "The request's headers are longer than the server takes.";
    Internal = INTERNAL_SERVER_ERROR "internal", "Internal error",
        "The server failed. Its log has the cause, under the request's id.";
    Overloaded = SERVICE_UNAVAILABLE "overloaded", "Overloaded",
        "The server has too much work, and did nothing for this request. Try again as Retry-After says.";
    LineUnavailable = SERVICE_UNAVAILABLE "line-unavailable", "Line unavailable",
        "The line cannot be reached now. Places are not lost; try again as Retry-After says.";
    StoreUnavailable = SERVICE_UNAVAILABLE "store-unavailable", "Store unavailable",
        "The database cannot be reached now. Try again as Retry-After says, with the same Idempotency-Key.";
    PaymentUnavailable = SERVICE_UNAVAILABLE "payment-unavailable", "Payment unavailable",
        "The payment gateway gave no answer. The server resolves the payment; try again with the same Idempotency-Key.";
}

impl ProblemCode {
    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.code() == name)
    }

    /// The address of the page that explains it.
    #[must_use]
    pub fn page(self) -> String {
        format!("/problems/{}", self.code())
    }

    /// The code for the framework's own refusals, which have a status and no body.
    fn of_bare(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            status if status.is_client_error() => Self::MalformedRequest,
            _ => Self::Internal,
        }
    }
}

/// The refusals of operations, by operation id, beyond those that follow from their parameters.
pub(super) type Refusals = &'static [(&'static str, &'static [ProblemCode])];

/// A refusal of a request.
#[derive(Debug)]
pub struct Problem {
    code: ProblemCode,
    detail: Cow<'static, str>,
    errors: Vec<Violation>,
    conflicts: Vec<SeatId>,
    retry_after: Option<Duration>,
}

/// The request that a problem is about.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence<'a> {
    /// The request's path, without its query.
    pub path: &'a str,
    /// The request's id.
    pub request_id: &'a str,
}

/// The default delay before a retry.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The delay before a client opens another stream of a place that has the most allowed. By then, the server may have
/// noticed a broken one.
const STREAM_RETRY_AFTER: Duration = Duration::from_secs(30);

impl Problem {
    /// A problem with the explanation of its code.
    #[must_use]
    pub const fn of(code: ProblemCode) -> Self {
        let detail = Cow::Borrowed(code.explanation());
        Self { code, detail, errors: Vec::new(), conflicts: Vec::new(), retry_after: None }
    }

    /// Replaces the explanation. A 5xx keeps its constant text, because internal causes are not for clients.
    #[must_use]
    pub fn because(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        if !self.code.status().is_server_error() {
            self.detail = detail.into();
        }
        self
    }

    /// Sets the delay before a retry.
    #[must_use]
    pub const fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// Some values break rules.
    #[must_use]
    pub fn invalid(errors: Vec<Violation>) -> Self {
        Self { errors, ..Self::of(ProblemCode::ValidationFailed) }
    }

    /// One value breaks a rule.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![Violation::new(field, message)])
    }

    /// The server has too much work, and did nothing.
    #[must_use]
    pub const fn overloaded() -> Self {
        Self::of(ProblemCode::Overloaded).retry_after(RETRY_AFTER)
    }

    /// The client is too fast, and may retry after `retry_after`.
    #[must_use]
    pub const fn too_many_requests(retry_after: Duration) -> Self {
        Self::of(ProblemCode::TooManyRequests).retry_after(retry_after)
    }

    /// The server failed. Logs the chain of causes, and shows none of it to the client.
    #[must_use]
    pub fn internal(error: &(dyn StdError + 'static)) -> Self {
        log_chain(ProblemCode::Internal, error);
        Self::of(ProblemCode::Internal)
    }

    /// The problem for an answer of the framework that has no body.
    #[must_use]
    pub fn of_bare(status: StatusCode) -> Self {
        Self::of(ProblemCode::of_bare(status))
    }

    /// A store failed. Logs the chain of causes, and tells the client whether to retry.
    fn of_store(error: &StoreError, when_unavailable: ProblemCode) -> Self {
        if error.is_retryable() {
            log_chain(when_unavailable, error);
            Self::of(when_unavailable).retry_after(RETRY_AFTER)
        } else {
            Self::internal(error)
        }
    }

    /// Its code.
    #[must_use]
    pub const fn code(&self) -> ProblemCode {
        self.code
    }

    /// The answer that the client gets.
    #[must_use]
    pub fn render(&self, occurrence: Option<Occurrence<'_>>) -> HttpResponse {
        let status = self.code.status();
        let mut answer = HttpResponse::build(status);
        answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if status == StatusCode::UNAUTHORIZED {
            // Every 401 names its authentication scheme (RFC 9110, 11.6.1).
            answer.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        if let Some(span) = self.retry_after {
            answer.insert_header((header::RETRY_AFTER, span.as_millis().div_ceil(1_000).max(1).to_string()));
        }
        answer.body(serde_json::to_vec(&self.body(occurrence)).unwrap_or_default())
    }

    fn body(&self, occurrence: Option<Occurrence<'_>>) -> ProblemBody {
        let status = self.code.status();
        let errors = self.errors.iter().map(FieldError::from).collect();
        ProblemBody {
            type_: self.code.page(),
            title: self.code.title().into(),
            status: status.as_u16(),
            detail: self.detail.clone().into_owned(),
            instance: occurrence.map(|it| it.path.to_owned()),
            code: self.code.code().into(),
            errors: some_if(errors, |errors: &Vec<_>| !errors.is_empty()),
            conflicts: some_if(self.conflicts.iter().map(SeatId::to_string).collect(), |seats: &Vec<_>| {
                !seats.is_empty()
            }),
            retry_after_ms: self.retry_after.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            request_id: occurrence.filter(|_| status.is_server_error()).map(|it| it.request_id.to_owned()),
        }
    }
}

fn some_if<T>(value: T, condition: impl FnOnce(&T) -> bool) -> Option<T> {
    condition(&value).then_some(value)
}

fn log_chain(code: ProblemCode, error: &(dyn StdError + 'static)) {
    let causes: Vec<String> =
        std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    tracing::error!(code = code.code(), error = %causes.join(": "), "request failed");
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.code())
    }
}

impl StdError for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.render(None)
    }
}

// The refusals of an operation are listed beside its route (`Refusals`), not by type.
impl Apiv2Errors for Problem {}

/// A refusal, as RFC 9457 writes it.
#[derive(Debug, Serialize, Apiv2Schema)]
#[openapi(rename = "Problem")]
pub struct ProblemBody {
    /// The address of the page that explains the code.
    #[serde(rename = "type")]
    type_: String,
    /// What is wrong, in a few words; the same for every occurrence.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What is wrong, and what to do about it.
    detail: String,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The problem code.
    code: String,
    /// The values that break rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<FieldError>>,
    /// The seats that are not free.
    #[serde(skip_serializing_if = "Option::is_none")]
    conflicts: Option<Vec<String>>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The request's id, under which the server's log has the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// One value that breaks a rule.
#[derive(Debug, Serialize, Apiv2Schema)]
struct FieldError {
    /// The field or line, e.g. `seats[2]` or `line 7`.
    field: String,
    /// The rule.
    message: String,
}

impl From<&Violation> for FieldError {
    fn from(violation: &Violation) -> Self {
        Self { field: violation.field.clone(), message: violation.message.clone() }
    }
}

impl From<usher_account::Error> for Problem {
    fn from(error: usher_account::Error) -> Self {
        use usher_account::Error;
        match error {
            Error::Invalid(violations) => Self::invalid(violations),
            Error::EmailTaken => Self::of(ProblemCode::EmailTaken),
            Error::InvalidCredentials => Self::of(ProblemCode::InvalidCredentials),
            Error::NotFound => Self::of(ProblemCode::NotFound),
            Error::Overloaded => Self::overloaded(),
            Error::Store(error) => Self::of_store(&error, ProblemCode::StoreUnavailable),
        }
    }
}

impl From<usher_concert::Error> for Problem {
    fn from(error: usher_concert::Error) -> Self {
        use usher_concert::Error;
        match error {
            Error::Invalid(violations) => Self::invalid(violations),
            Error::NotFound => Self::of(ProblemCode::NotFound),
            Error::SeatsLocked => Self::of(ProblemCode::SeatsLocked),
            Error::IdempotencyMismatch => Self::of(ProblemCode::IdempotencyMismatch),
            Error::Store(error) => Self::of_store(&error, ProblemCode::StoreUnavailable),
        }
    }
}

impl From<usher_queue::Error> for Problem {
    fn from(error: usher_queue::Error) -> Self {
        use usher_queue::Error;
        match error {
            Error::NotFound => Self::of(ProblemCode::NotFound),
            Error::SaleNotOpen { joinable_from } => {
                let from = rfc3339(joinable_from);
                Self::of(ProblemCode::SaleNotOpen).because(format!("The line can be joined from {from} on."))
            }
            Error::SaleClosed => Self::of(ProblemCode::SaleClosed),
            Error::PlaceInvalid => Self::of(ProblemCode::PlaceInvalid),
            Error::PlaceMismatch => Self::of(ProblemCode::PassMismatch),
            Error::PolledTooFast { retry_after } => Self::too_many_requests(retry_after),
            Error::NotAdmitted => Self::of(ProblemCode::PassInvalid),
            Error::Invalid(violations) => Self::invalid(violations),
            Error::LineUnavailable => Self::of(ProblemCode::LineUnavailable).retry_after(RETRY_AFTER),
            Error::Store(error) => Self::of_store(&error, ProblemCode::StoreUnavailable),
            Error::LineStore(error) => Self::of_store(&error, ProblemCode::LineUnavailable),
        }
    }
}

impl From<streams::Refused> for Problem {
    fn from(refused: streams::Refused) -> Self {
        use streams::Refused;
        match refused {
            Refused::Full => Self::overloaded(),
            Refused::PlaceFull => {
                Self::too_many_requests(STREAM_RETRY_AFTER).because("The place has the most streams allowed.")
            }
        }
    }
}

impl From<boards::Error> for Problem {
    fn from(error: boards::Error) -> Self {
        use boards::Error;
        match error {
            Error::NotFound => Self::of(ProblemCode::NotFound),
            Error::Full => Self::overloaded(),
            Error::Store(error) => Self::of_store(&error, ProblemCode::StoreUnavailable),
        }
    }
}

impl From<usher_reservation::Error> for Problem {
    fn from(error: usher_reservation::Error) -> Self {
        use usher_reservation::Error;
        match error {
            Error::Invalid(violations) => Self::invalid(violations),
            Error::NotFound => Self::of(ProblemCode::NotFound),
            Error::PassRequired => Self::of(ProblemCode::PassRequired),
            Error::PassInvalid => Self::of(ProblemCode::PassInvalid),
            Error::PassMismatch => Self::of(ProblemCode::PassMismatch),
            Error::PassExpired => Self::of(ProblemCode::PassExpired),
            Error::PassUsed => Self::of(ProblemCode::PassUsed),
            Error::PassBusy => {
                Self::of(ProblemCode::ReservationState).because("The pass has a live reservation already.")
            }
            Error::SaleNotOpen => Self::of(ProblemCode::SaleNotOpen),
            Error::SaleClosed => Self::of(ProblemCode::SaleClosed),
            Error::SeatTaken(conflicts) => Self { conflicts, ..Self::of(ProblemCode::SeatTaken) },
            Error::NotEnoughSeats => Self::of(ProblemCode::NotEnoughSeats),
            Error::LimitReached { seat_limit } => Self::of(ProblemCode::LimitReached)
                .because(format!("One buyer may have at most {seat_limit} seats of this performance.")),
            Error::HoldExpired => Self::of(ProblemCode::HoldExpired),
            Error::WrongState => {
                Self::of(ProblemCode::ReservationState).because("The reservation's state does not allow this.")
            }
            Error::PaymentDeclined { attempts_left } => Self::of(ProblemCode::PaymentDeclined)
                .because(format!("The payment was declined. Attempts left: {attempts_left}.")),
            Error::PaymentUnavailable => Self::of(ProblemCode::PaymentUnavailable).retry_after(RETRY_AFTER),
            Error::IdempotencyInFlight => Self::of(ProblemCode::IdempotencyInFlight).retry_after(RETRY_AFTER),
            Error::IdempotencyMismatch => Self::of(ProblemCode::IdempotencyMismatch),
            Error::Store(error) => Self::of_store(&error, ProblemCode::StoreUnavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use actix_web::body::MessageBody as _;
    use serde_json::{Value, json};

    use super::*;

    const HERE: Occurrence<'_> = Occurrence { path: "/api/v1/x", request_id: "r-1" };

    fn rendered(problem: &Problem) -> (HttpResponse<()>, Value) {
        let (head, body) = problem.render(Some(HERE)).into_parts();
        (head.map_body(|_, _| ()), serde_json::from_slice(&body.try_into_bytes().unwrap()).unwrap())
    }

    #[test]
    fn every_code_is_unique_explained_and_found_by_its_name() {
        let names: HashSet<_> = ProblemCode::ALL.iter().map(|code| code.code()).collect();

        assert_eq!(names.len(), ProblemCode::ALL.len());
        for &code in ProblemCode::ALL {
            assert_eq!(ProblemCode::from_name(code.code()), Some(code));
            assert!(code.explanation().len() > code.title().len() && code.explanation().ends_with('.'), "{code:?}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
        }
    }

    #[test]
    fn a_refusal_names_all_that_can_be_acted_on() {
        let seats = vec!["A-1-1".parse().unwrap(), "A-1-2".parse().unwrap()];

        let (head, body) = rendered(&usher_reservation::Error::SeatTaken(seats).into());

        assert_eq!(head.status(), StatusCode::CONFLICT);
        assert_eq!(head.headers().get(header::CONTENT_TYPE).unwrap(), "application/problem+json");
        assert_eq!(body["type"], "/problems/seat-taken");
        assert_eq!(body["instance"], "/api/v1/x");
        assert_eq!(body["conflicts"], json!(["A-1-1", "A-1-2"]));
        assert_eq!(body.get("request_id"), None);
    }

    #[test]
    fn a_failure_inside_tells_clients_nothing_but_the_request_id() {
        let source = "table sold, row 7".into();
        let error = usher_concert::Error::Store(StoreError::Corrupt { operation: "catalogue.concert", source });

        let (head, body) = rendered(&Problem::from(error));

        assert_eq!(head.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["detail"], ProblemCode::Internal.explanation());
        assert_eq!(body["request_id"], "r-1");
    }

    #[test]
    fn who_may_try_again_is_told_when() {
        let source = "connection refused".into();
        let error = usher_queue::Error::LineStore(StoreError::Unavailable { operation: "line.join", source });

        let (head, body) = rendered(&Problem::from(error));

        assert_eq!(body["code"], "line-unavailable");
        assert_eq!(body["retry_after_ms"], 1_000);
        assert_eq!(head.headers().get(header::RETRY_AFTER).unwrap(), "1");
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_rounded_up() {
        let (head, body) = rendered(&Problem::too_many_requests(Duration::from_millis(2_001)));

        assert_eq!(head.headers().get(header::RETRY_AFTER).unwrap(), "3");
        assert_eq!(body["retry_after_ms"], 2_001);
    }

    #[test]
    fn every_broken_rule_is_listed() {
        let (_, body) = rendered(&Problem::invalid(vec![Violation::new("a", "x"), Violation::new("b", "y")]));

        assert_eq!(body["errors"], json!([{"field": "a", "message": "x"}, {"field": "b", "message": "y"}]));
    }
}
