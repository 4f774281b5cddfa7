//! Answers that may be kept by browsers and caches, and asked for again with `If-None-Match`.

use actix_web::body::BoxBody;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Responder};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use paperclip::actix::OperationModifier;
use paperclip::v2::models::{DefaultOperationRaw, DefaultSchemaRaw};
use paperclip::v2::schema::Apiv2Schema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// A public answer: for how long it may be kept, and by which tag it is known.
#[derive(Debug)]
pub(super) struct Cacheable<T> {
    body: T,
    max_age_s: u32,
    tag: Option<String>,
}

impl<T> Cacheable<T> {
    /// May be kept for `max_age_s`, and is known by the digest of its bytes.
    pub(super) const fn of(body: T, max_age_s: u32) -> Self {
        Self { body, max_age_s, tag: None }
    }

    /// May be kept for `max_age_s`, and is known by `tag`.
    pub(super) const fn tagged(body: T, max_age_s: u32, tag: String) -> Self {
        Self { body, max_age_s, tag: Some(tag) }
    }
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..16])
}

/// Whether a client has the answer with this tag already (RFC 9110, 13.1.2: compared without the `W/`).
fn has_already(request: &HttpRequest, tag: &str) -> bool {
    let lines = request.headers().get_all(header::IF_NONE_MATCH).filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

impl<T: Serialize> Responder for Cacheable<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let bytes = match serde_json::to_vec(&self.body) {
            Ok(bytes) => bytes,
            Err(error) => return HttpResponse::from_error(crate::problem::Problem::internal(&error)),
        };
        let tag = format!("\"{}\"", self.tag.unwrap_or_else(|| digest(&bytes)));
        let is_known = has_already(request, &tag);
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer.insert_header((header::ETAG, tag));
        answer.insert_header((header::CACHE_CONTROL, format!("public, max-age={}", self.max_age_s)));
        if is_known {
            return answer.finish();
        }
        answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        answer.body(bytes)
    }
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
    use actix_web::test::TestRequest;

    use super::*;

    fn ask(known: Option<&str>, answer: Cacheable<u32>) -> HttpResponse {
        let mut request = TestRequest::default();
        if let Some(known) = known {
            request = request.insert_header((header::IF_NONE_MATCH, known));
        }
        answer.respond_to(&request.to_http_request())
    }

    #[actix_web::test]
    async fn what_the_client_has_is_not_sent_again() {
        let first = ask(None, Cacheable::of(7, 10));
        let tag = first.headers().get(header::ETAG).unwrap().to_str().unwrap().to_owned();

        let again = ask(Some(&format!("\"x\", W/{tag}")), Cacheable::of(7, 10));
        let changed = ask(Some(&tag), Cacheable::of(8, 10));

        assert_eq!(
            (first.status(), again.status(), changed.status()),
            (StatusCode::OK, StatusCode::NOT_MODIFIED, StatusCode::OK)
        );
        assert_eq!(first.headers().get(header::CACHE_CONTROL).unwrap(), "public, max-age=10");
        assert_eq!(to_bytes(again.into_body()).await.unwrap().len(), 0);
    }

    #[test]
    fn a_given_tag_is_used_as_it_is() {
        let answer = ask(Some("\"42\""), Cacheable::tagged(7, 1, "42".into()));

        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(answer.headers().get(header::ETAG).unwrap(), "\"42\"");
    }
}
