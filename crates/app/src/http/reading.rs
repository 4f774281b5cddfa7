//! Reads requests: ids in paths, queries, headers and bodies. A refusal names the part that cannot be read. A body that
//! does not arrive in time is refused.

use std::str::FromStr;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use futures_util::StreamExt as _;
use futures_util::future::{LocalBoxFuture, Ready, ready};
use paperclip::actix::OperationModifier;
use paperclip::v2::models::{DataTypeFormat, DefaultOperationRaw, DefaultSchemaRaw, Either, Parameter, ParameterIn};
use paperclip::v2::schema::{Apiv2Schema, TypedData};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use usher_kernel::{Claim, Fingerprint, IdempotencyKey, InvalidId, Violation};

use super::problem::{Problem, ProblemCode};
use crate::identity::access_tokens::Bearer;

/// The longest JSON body.
const JSON_LEN_MAX: usize = 16 * 1024;
/// The longest body of an operator's upload.
const UPLOAD_LEN_MAX: usize = 8 * 1024 * 1024;

/// The id in the path. A malformed id is answered with 404.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathId<T>(pub T);

impl<T: FromStr<Err = InvalidId>> FromRequest for PathId<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().iter().next().and_then(|(_, text)| text.parse().ok());
        ready(id.map(Self).ok_or_else(|| Problem::of(ProblemCode::NotFound)))
    }
}

impl<T> Apiv2Schema for PathId<T> {}

impl<T> OperationModifier for PathId<T> {
    fn update_parameter(operation: &mut DefaultOperationRaw) {
        // The name is filled in from the route's path.
        operation.parameters.push(Either::Right(Parameter {
            in_: ParameterIn::Path,
            required: true,
            data_type: Some(String::data_type()),
            format: Some(DataTypeFormat::Uuid),
            ..Parameter::default()
        }));
    }
}

/// The query. Ignores unknown parameters.
#[derive(Debug)]
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(request.query_string().as_bytes()));
        ready(
            serde_path_to_error::deserialize(pairs)
                .map(Self)
                .map_err(|error| Problem::invalid(vec![violation(&error)])),
        )
    }
}

impl<T> Apiv2Schema for Query<T> {}

impl<T: Apiv2Schema> OperationModifier for Query<T> {
    fn update_parameter(operation: &mut DefaultOperationRaw) {
        actix_web::web::Query::<T>::update_parameter(operation);
    }
}

/// Names the field that a deserializer refused, and the rule. Does not repeat the value, which may be a secret.
fn violation<E: std::fmt::Display>(error: &serde_path_to_error::Error<E>) -> Violation {
    let message = error.inner().to_string();
    let within = Some(error.path().to_string()).filter(|path| path != ".");
    // The path of a missing field names only its parent.
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let field = within.map_or_else(|| field.to_owned(), |path| format!("{path}.{field}"));
        return Violation::new(field, "is missing");
    }
    if message.starts_with("unknown field `") {
        return Violation::new(within.unwrap_or_else(|| "body".into()), "is not known here");
    }
    let expected = message.rsplit_once("expected ").map(|(_, rest)| rest.split(" at line ").next().unwrap_or(rest));
    let rule = expected.map_or_else(|| "cannot be read".into(), |expected| format!("must be {}", json_term(expected)));
    Violation::new(within.unwrap_or_else(|| "body".into()), rule)
}

/// A type that serde expects, in the terms of JSON instead of Rust's.
fn json_term(expected: &str) -> String {
    let whole = |min: i128, max: i128| format!("a whole number from {min} to {max}");
    match expected {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "u64" => whole(0, u64::MAX.into()),
        "i32" => whole(i32::MIN.into(), i32::MAX.into()),
        "i64" => whole(i64::MIN.into(), i64::MAX.into()),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ => expected.into(),
    }
}

/// A body that no handler has read yet, and how long reading it may take. The framework would read the rest of a
/// chunked body for as long as the client sends it. While this value lives, it closes the connection instead.
pub(super) struct Unread {
    /// The body.
    pub(super) body: Payload,
    /// From the first read to the last byte.
    pub(super) timeout: Duration,
}

/// A body as it was sent.
#[derive(Debug)]
pub(super) struct RawBody {
    bytes: Bytes,
    fingerprint: Fingerprint,
}

/// Reads a body of at most `len_max` bytes within its timeout.
#[expect(clippy::future_not_send, reason = "a request is read on the thread that took its connection")]
async fn read(request: HttpRequest, len_max: usize) -> Result<RawBody, Problem> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|len: u64| len > len_max as u64) {
        return Err(Problem::of(ProblemCode::PayloadTooLarge));
    }
    let unread = request.extensions_mut().remove::<Unread>();
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0));
    if let Some(Unread { mut body, timeout }) = unread {
        let all = collect(&mut body, &mut bytes, len_max);
        let outcome = tokio::time::timeout(timeout, all).await;
        if let Err(problem) = outcome.unwrap_or_else(|_| Err(Problem::of(ProblemCode::RequestTimeout))) {
            request.extensions_mut().insert(Unread { body, timeout });
            return Err(problem);
        }
    }
    let fingerprint = fingerprint(request.method().as_str(), request.path(), &bytes);
    Ok(RawBody { bytes: bytes.freeze(), fingerprint })
}

#[expect(clippy::future_not_send, reason = "a request is read on the thread that took its connection")]
async fn collect(body: &mut Payload, bytes: &mut BytesMut, len_max: usize) -> Result<(), Problem> {
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Problem::of(ProblemCode::MalformedRequest).because("The body broke off."))?;
        if bytes.len() + chunk.len() > len_max {
            return Err(Problem::of(ProblemCode::PayloadTooLarge));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(())
}

/// The request that an idempotency key stands for: a digest of method, path and body, each after its length.
fn fingerprint(method: &str, path: &str, body: &[u8]) -> Fingerprint {
    let mut digest = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes(), body] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Fingerprint(digest.finalize().into())
}

fn media_type(request: &HttpRequest) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads JSON. Refuses text after it.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        if error.inner().is_data() { Problem::invalid(vec![violation(&error)]) } else { not_json(error.inner()) }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::of(ProblemCode::MalformedRequest)
        .because(format!("The body is not JSON from line {line}, column {column} on."))
}

/// A JSON body, and its request's fingerprint for the idempotency key.
#[derive(Debug)]
pub(super) struct JsonBody<T> {
    /// The value.
    pub(super) value: T,
    /// The fingerprint of the request.
    pub(super) fingerprint: Fingerprint,
}

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            if media_type(&request) != "application/json" {
                return Err(Problem::of(ProblemCode::UnsupportedMediaType));
            }
            let body = read(request, JSON_LEN_MAX).await?;
            Ok(Self { value: parse_json(&body.bytes)?, fingerprint: body.fingerprint })
        })
    }
}

impl<T> Apiv2Schema for JsonBody<T> {}

impl<T: Apiv2Schema> OperationModifier for JsonBody<T> {
    fn update_parameter(operation: &mut DefaultOperationRaw) {
        actix_web::web::Json::<T>::update_parameter(operation);
    }

    fn update_definitions(definitions: &mut std::collections::BTreeMap<String, DefaultSchemaRaw>) {
        actix_web::web::Json::<T>::update_definitions(definitions);
    }
}

/// An operator's upload: JSON of type `T`, or CSV.
#[derive(Debug)]
pub(super) enum Upload<T> {
    /// `application/json`.
    Json(Bytes, std::marker::PhantomData<T>),
    /// `text/csv`.
    Csv(Bytes),
}

impl<T: 'static> FromRequest for Upload<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            match media_type(&request).as_str() {
                "application/json" => {
                    Ok(Self::Json(read(request, UPLOAD_LEN_MAX).await?.bytes, std::marker::PhantomData))
                }
                "text/csv" => Ok(Self::Csv(read(request, UPLOAD_LEN_MAX).await?.bytes)),
                _ => Err(Problem::of(ProblemCode::UnsupportedMediaType)),
            }
        })
    }
}

impl<T> Apiv2Schema for Upload<T> {}

impl<T: Apiv2Schema> OperationModifier for Upload<T> {
    fn update_parameter(operation: &mut DefaultOperationRaw) {
        actix_web::web::Json::<T>::update_parameter(operation);
    }

    fn update_definitions(definitions: &mut std::collections::BTreeMap<String, DefaultSchemaRaw>) {
        actix_web::web::Json::<T>::update_definitions(definitions);
    }
}

fn header_text<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

macro_rules! header_parameters {
    ($($type:ident: $name:literal, $required:literal, $description:literal;)*) => {$(
        impl Apiv2Schema for $type {
            fn header_parameter_schema() -> Vec<Parameter<DefaultSchemaRaw>> {
                vec![Parameter {
                    name: $name.into(),
                    in_: ParameterIn::Header,
                    description: Some($description.into()),
                    data_type: Some(String::data_type()),
                    required: $required,
                    ..Parameter::default()
                }]
            }
        }

        impl OperationModifier for $type {}
    )*};
}

header_parameters! {
    IdempotencyHeader: "Idempotency-Key", true,
        "Makes the call safe to repeat: 1 to 255 visible ASCII characters, new with each new request.";
    PlaceHeader: "Usher-Place", true, "The place token.";
    StreamPlace: "Usher-Place", false, "The place token; else the query's `place`.";
    LastEventId: "Last-Event-ID", false, "The id of the last event that was seen; else the query's `after`.";
    PassHeader: "Usher-Pass", true, "The pass.";
    GatePass: "Usher-Pass", false, "The pass; else the cookie `usher_pass`.";
}

/// The header `Idempotency-Key`.
#[derive(Debug)]
pub(super) struct IdempotencyHeader(IdempotencyKey);

impl IdempotencyHeader {
    /// The claim that a request with this fingerprint makes.
    pub(super) fn claim(self, bearer: Bearer, fingerprint: Fingerprint) -> Claim {
        Claim { account: bearer.account, key: self.0, fingerprint }
    }
}

impl FromRequest for IdempotencyHeader {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        const NAME: &str = "Idempotency-Key";
        let Some(value) = request.headers().get(NAME) else {
            return ready(Err(Problem::of(ProblemCode::IdempotencyKeyMissing)));
        };
        let key = value.to_str().unwrap_or_default().parse();
        ready(key.map(Self).map_err(|error: usher_kernel::idempotency::InvalidIdempotencyKey| {
            Problem::invalid_field(NAME, error.to_string())
        }))
    }
}

/// The header `Usher-Place`. A missing token is refused like a wrong one.
#[derive(Debug)]
pub(super) struct PlaceHeader(pub String);

impl FromRequest for PlaceHeader {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let token = header_text(request, "Usher-Place").map(str::to_owned);
        ready(token.map(Self).ok_or_else(|| Problem::of(ProblemCode::PlaceInvalid)))
    }
}

/// The header `Usher-Place` of a request that may have the token in its query instead.
#[derive(Debug)]
pub(super) struct StreamPlace(pub Option<String>);

impl FromRequest for StreamPlace {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(header_text(request, "Usher-Place").map(str::to_owned))))
    }
}

/// The header `Last-Event-ID` of a stream whose ids are numbers. Other ids are not from this server, and count as too
/// high.
#[derive(Debug)]
pub(super) struct LastEventId(pub Option<u64>);

impl FromRequest for LastEventId {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = header_text(request, "Last-Event-ID").filter(|text| !text.is_empty());
        ready(Ok(Self(id.map(|text| text.parse().unwrap_or(u64::MAX)))))
    }
}

/// The header `Usher-Pass`. Never a cookie, because other sites could make a browser send it (CSRF).
#[derive(Debug)]
pub(super) struct PassHeader(pub Option<String>);

impl FromRequest for PassHeader {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(header_text(request, "Usher-Pass").map(str::to_owned))))
    }
}

/// The header `Usher-Place`, or the header `Usher-Pass` of a shop that ends a pass.
#[derive(Debug)]
pub(super) enum PlaceOrPass {
    /// The place token.
    Place(String),
    /// The pass.
    Pass(String),
}

impl FromRequest for PlaceOrPass {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let place = header_text(request, "Usher-Place").map(|token| Self::Place(token.to_owned()));
        let token = place.or_else(|| header_text(request, "Usher-Pass").map(|token| Self::Pass(token.to_owned())));
        ready(token.ok_or_else(|| Problem::of(ProblemCode::PlaceInvalid)))
    }
}

impl Apiv2Schema for PlaceOrPass {
    fn header_parameter_schema() -> Vec<Parameter<DefaultSchemaRaw>> {
        let header = |name: &str, description: &str| Parameter {
            name: name.into(),
            in_: ParameterIn::Header,
            description: Some(description.into()),
            data_type: Some(String::data_type()),
            ..Parameter::default()
        };
        vec![
            header("Usher-Place", "The place token."),
            header("Usher-Pass", "The pass, for a shop that ends it at its check-out; not beside `Usher-Place`."),
        ]
    }
}

impl OperationModifier for PlaceOrPass {}

/// The pass of a request to the gate: the header `Usher-Pass`, or the cookie.
#[derive(Debug)]
pub(super) struct GatePass(pub Option<String>);

impl GatePass {
    /// The cookie's name.
    pub(super) const COOKIE: &str = "usher_pass";
}

impl FromRequest for GatePass {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let in_header = header_text(request, "Usher-Pass").map(str::to_owned);
        ready(Ok(Self(in_header.or_else(|| request.cookie(Self::COOKIE).map(|cookie| cookie.value().to_owned())))))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        #[expect(dead_code, reason = "only its reading is looked at")]
        seats: Vec<Seat>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Seat {
        #[expect(dead_code, reason = "only its reading is looked at")]
        row: u16,
    }

    fn refusal(json: &str) -> (ProblemCode, String) {
        let problem = parse_json::<Wish>(json.as_bytes()).unwrap_err();
        (problem.code(), format!("{problem:?}"))
    }

    #[test]
    fn the_fingerprint_tells_methods_paths_and_bodies_apart() {
        let prints = [("POST", "/a", "b"), ("PUT", "/a", "b"), ("POST", "/ab", ""), ("POST", "/a", "c")];
        let prints = prints.map(|(method, path, body)| fingerprint(method, path, body.as_bytes()));

        for (i, a) in prints.iter().enumerate() {
            assert!(prints[i + 1..].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(prints[0], fingerprint("POST", "/a", b"b"));
    }

    #[test]
    fn a_field_that_breaks_a_rule_is_named_with_the_rule() {
        for (json, field, rule) in [
            (r#"{"seats": [], "x": 1}"#, "\"x\"", "is not known here"),
            (r#"{"seats": [{"row": 1}, {"row": 1, "x": 1}]}"#, "\"seats[1].x\"", "is not known here"),
            (r"{}", "\"seats\"", "is missing"),
            (r#"{"seats": [{}]}"#, "\"seats[0].row\"", "is missing"),
            (r#"{"seats": [{"row": 70000}]}"#, "\"seats[0].row\"", "must be a whole number from 0 to 65535"),
            (r#"{"seats": "all"}"#, "\"seats\"", "must be a list"),
            (r#"{"seats": [1]}"#, "\"seats[0]\"", "must be an object"),
        ] {
            let (code, shown) = refusal(json);

            assert_eq!(code, ProblemCode::ValidationFailed, "{json}");
            assert!(shown.contains(field) && shown.contains(rule), "{json}: {shown}");
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for json in ["", "{", "{\"seats\": []} x", "seats"] {
            assert_eq!(refusal(json).0, ProblemCode::MalformedRequest, "{json}");
        }
    }

    #[test]
    fn a_refused_value_is_not_repeated() {
        assert!(!refusal(r#"{"seats": [{"row": "hunter2"}]}"#).1.contains("hunter2"));
    }
}
