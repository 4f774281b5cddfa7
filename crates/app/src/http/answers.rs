//! Cacheable answers, with `ETag` and `If-None-Match`.

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::header::{self, AcceptEncoding, Encoding, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, Responder};
use paperclip::actix::OperationModifier;
use paperclip::v2::models::{DefaultOperationRaw, DefaultSchemaRaw};
use paperclip::v2::schema::Apiv2Schema;
use serde::Serialize;

use super::problem::Problem;
use crate::live::shared_json::{self, SharedJson};

/// A public answer of `T` with its `Cache-Control`. A client that has the same content gets 304.
#[derive(Debug)]
pub(super) struct Cacheable<T> {
    content: Content<T>,
    cache_control: HeaderValue,
    age_s: u64,
}

#[derive(Debug)]
enum Content<T> {
    /// Serialized for each request.
    Fresh(T),
    Shared(SharedJson),
}

impl<T> Cacheable<T> {
    /// An answer for one request, whose tag is the digest of its JSON.
    pub(super) const fn of(body: T, cache_control: HeaderValue) -> Self {
        Self { content: Content::Fresh(body), cache_control, age_s: 0 }
    }

    /// An answer that many requests share, with its own tag.
    pub(super) const fn shared(json: SharedJson, cache_control: HeaderValue) -> Self {
        Self { content: Content::Shared(json), cache_control, age_s: 0 }
    }

    /// Adds the answer's `Age` in whole seconds (RFC 9111, 5.1), unless that is 0.
    pub(super) fn of_age(self, age: Duration) -> Self {
        Self { age_s: age.as_secs(), ..self }
    }
}

impl<T: Serialize> Responder for Cacheable<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let Self { content, cache_control, age_s } = self;
        let is_shared = matches!(content, Content::Shared(_));
        let (plain, gzip, tag) = match content {
            Content::Shared(json) => (json.plain().clone(), json.gzip().cloned(), quoted(json.tag())),
            Content::Fresh(body) => match serde_json::to_vec(&body) {
                Ok(json) => {
                    let tag = quoted(&shared_json::digest(&json));
                    (json.into(), None, tag)
                }
                Err(error) => return HttpResponse::from_error(Problem::internal(&error)),
            },
        };
        let is_known = tag.to_str().is_ok_and(|tag| has_already(request, tag));
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer.insert_header((header::ETAG, tag)).insert_header((header::CACHE_CONTROL, cache_control));
        // For other answers, the `Compress` middleware adds this header.
        if is_shared {
            answer.insert_header((header::VARY, HeaderValue::from_static("accept-encoding")));
        }
        if age_s > 0 {
            answer.insert_header((header::AGE, age_s));
        }
        if is_known {
            return answer.finish();
        }
        answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        match gzip.filter(|_| takes_gzip(request)) {
            Some(gzip) => {
                answer.insert_header((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
                answer.body(gzip)
            }
            None => answer.body(plain),
        }
    }
}

/// Whether the client prefers gzip to no encoding.
fn takes_gzip(request: &HttpRequest) -> bool {
    let said = request.headers().get(header::ACCEPT_ENCODING).and_then(|said| said.to_str().ok()).unwrap_or_default();
    // The header of browsers has no weights, and needs no negotiation.
    if !said.contains(';') {
        return said.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("gzip"));
    }
    let accepted = request.get_header::<AcceptEncoding>();
    let best = accepted.and_then(|accepted| accepted.negotiate([Encoding::gzip(), Encoding::identity()].iter()));
    best == Some(Encoding::gzip())
}

/// The tag in quotes, as a header value.
fn quoted(tag: &str) -> HeaderValue {
    // A tag of letters, digits, `-` and `_` is always a valid header value.
    HeaderValue::from_str(&format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("*"))
}

/// Whether `If-None-Match` names this tag, compared without the `W/` (RFC 9110, 13.1.2).
fn has_already(request: &HttpRequest, tag: &str) -> bool {
    let lines = request.headers().get_all(header::IF_NONE_MATCH).filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

impl<T: Apiv2Schema> Apiv2Schema for Cacheable<T> {
    fn name() -> Option<String> {
        T::name()
    }

    fn description() -> &'static str {
        T::description()
    }

    fn raw_schema() -> DefaultSchemaRaw {
        T::raw_schema()
    }
}

impl<T: Apiv2Schema> OperationModifier for Cacheable<T> {
    fn update_response(operation: &mut DefaultOperationRaw) {
        actix_web::web::Json::<T>::update_response(operation);
        let not_modified = paperclip::v2::models::Response {
            description: Some("The client has the latest answer already.".into()),
            ..paperclip::v2::models::Response::default()
        };
        operation.responses.insert("304".into(), paperclip::v2::models::Either::Right(not_modified));
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::http::StatusCode;
    use actix_web::http::header::HeaderName;
    use actix_web::test::TestRequest;

    use super::*;

    const TEN_SECONDS: HeaderValue = HeaderValue::from_static("public, max-age=10");

    fn ask(known: Option<&str>, answer: Cacheable<u32>) -> HttpResponse {
        let mut request = TestRequest::default();
        if let Some(known) = known {
            request = request.insert_header((header::IF_NONE_MATCH, known));
        }
        answer.respond_to(&request.to_http_request())
    }

    #[actix_web::test]
    async fn what_the_client_has_is_not_sent_again() {
        let first = ask(None, Cacheable::of(7, TEN_SECONDS));
        let tag = first.headers().get(header::ETAG).unwrap().to_str().unwrap().to_owned();

        let again = ask(Some(&format!("\"x\", W/{tag}")), Cacheable::of(7, TEN_SECONDS));
        let changed = ask(Some(&tag), Cacheable::of(8, TEN_SECONDS));

        assert_eq!(
            (first.status(), again.status(), changed.status()),
            (StatusCode::OK, StatusCode::NOT_MODIFIED, StatusCode::OK)
        );
        assert_eq!(first.headers().get(header::CACHE_CONTROL).unwrap(), "public, max-age=10");
        assert_eq!(to_bytes(again.into_body()).await.unwrap().len(), 0);
    }

    fn send(headers: &[(HeaderName, &str)], age: Duration) -> HttpResponse {
        let json = format!("{{\"seats\":\"{}\"}}", "A".repeat(1_000)).into_bytes();
        let answer = Cacheable::<u32>::shared(SharedJson::of(json), HeaderValue::from_static("public")).of_age(age);
        let mut request = TestRequest::default();
        for (name, value) in headers {
            request = request.insert_header((name.clone(), *value));
        }
        answer.respond_to(&request.to_http_request())
    }

    #[actix_web::test]
    async fn a_shared_answer_is_compressed_for_clients_that_accept_gzip() {
        const FRESH: Duration = Duration::from_millis(999);
        for (accepted, encoding) in [
            (None, None),
            (Some("gzip, deflate, br"), Some("gzip")),
            (Some("identity"), None),
            (Some("gzip;q=0"), None),
        ] {
            let headers: Vec<_> = accepted.map(|accepted| (header::ACCEPT_ENCODING, accepted)).into_iter().collect();

            let answer = send(&headers, FRESH);

            let said = answer.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(said.as_deref(), encoding, "{accepted:?}");
            assert_eq!(answer.headers().get(header::VARY).unwrap(), "accept-encoding");
            assert_eq!(answer.headers().get(header::AGE), None);
            let len = to_bytes(answer.into_body()).await.unwrap().len();
            assert_eq!(len < 100, encoding.is_some(), "{accepted:?}: {len} bytes");
        }
    }

    #[test]
    fn a_shared_answer_is_not_sent_again_and_says_how_old_it_is() {
        let first = send(&[], Duration::from_secs(7));
        let tag = first.headers().get(header::ETAG).unwrap().to_str().unwrap().to_owned();

        let again = send(&[(header::IF_NONE_MATCH, &tag)], Duration::from_secs(8));

        assert_eq!((first.status(), again.status()), (StatusCode::OK, StatusCode::NOT_MODIFIED));
        assert_eq!(first.headers().get(header::AGE).unwrap(), "7");
        assert_eq!(again.headers().get(header::AGE).unwrap(), "8");
    }
}
