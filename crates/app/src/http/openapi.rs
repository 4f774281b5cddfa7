//! The API document: the routes' types, and the refusals of each operation, which types cannot express. Serves the
//! document.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use actix_web::middleware::Compress;
use actix_web::web::{self, Data};
use paperclip::actix::{OpenApiExt as _, OperationModifier as _};
use paperclip::v2::models::{DefaultApiRaw, Info, License, Tag};
use serde_json::{Map, Value, json};

use super::api::{self, CSV_UPLOAD, GATE, REFUSALS};
use super::problem::{ProblemBody, ProblemCode};

/// The path of the document.
pub(super) const PATH: &str = "/api/openapi.json";
const DESCRIPTION: &str = "\
A waiting room and seats for concerts: join the line of a performance, wait, be admitted with a pass, hold seats, pay.

Errors are `application/problem+json` (RFC 9457); each `type` is the address of a page that explains it. \
Every answer has an `X-Request-Id`.";

const TAGS: [(&str, &str); 6] = [
    ("accounts", "Sign-up, log-in, and the caller's own account."),
    ("catalogue", "Concerts, performances and seats: public, cacheable, with ETags."),
    ("line", "The waiting line of a performance."),
    ("reservations", "Holding seats and paying for them."),
    ("operators", "Operations for operators."),
    ("system", "Health of the server."),
];

/// The document in JSON, as it is served and printed.
#[derive(Clone, Debug)]
pub struct Document(String);

impl Document {
    /// The document of this binary.
    #[must_use]
    pub fn new() -> Self {
        Self(format!("{:#}\n", complete(of_routes())))
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

/// The route of the document.
pub(super) fn pages(config: &mut web::ServiceConfig) {
    config.service(web::resource(PATH).route(web::get().to(document)).wrap(Compress::default()));
}

async fn document(document: Data<Document>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(document.text().to_owned())
}

/// The document without routes.
pub(super) fn outline() -> DefaultApiRaw {
    let tag = |(name, description): (&str, &str)| Tag {
        name: name.into(),
        description: Some(description.into()),
        external_docs: None,
    };
    let mut outline = DefaultApiRaw {
        info: Info {
            title: "Usher".into(),
            version: "1".into(),
            description: Some(DESCRIPTION.into()),
            license: Some(License { name: Some("Apache-2.0".into()), ..License::default() }),
            ..Info::default()
        },
        tags: TAGS.map(tag).into(),
        ..DefaultApiRaw::default()
    };
    ProblemBody::update_definitions(&mut outline.definitions);
    outline
}

/// The document with the routes, as their types describe them.
fn of_routes() -> Value {
    let mut document = Value::Null;
    let app = actix_web::App::new().wrap_api_with_spec(outline()).configure(api::routes);
    let app = app.with_raw_json_spec_v3(|app, spec| {
        document = spec;
        app
    });
    drop(app.build());
    document
}

fn complete(mut document: Value) -> Value {
    let refusals: BTreeMap<_, _> = REFUSALS.into_iter().flatten().copied().collect();
    let bearer = |description: &str| json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description});
    document["components"]["securitySchemes"] =
        json!({"bearer": bearer("An access token."), "operator": bearer("An operator's access token.")});
    for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
        // A problem omits absent members. All other types write `null`.
        if name != "Problem" {
            say_what_may_be_null(schema);
        }
    }
    for operation in operations(&mut document) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        if id == CSV_UPLOAD {
            operation["requestBody"]["content"]["text/csv"] = json!({"schema": {"type": "string"}});
        }
        let mut codes: BTreeSet<&ProblemCode> = refusals.get(id.as_str()).copied().unwrap_or_default().iter().collect();
        codes.extend(shown_by_parameters(operation, &id));
        declare(&mut operation["responses"], &codes);
    }
    document
}

/// Marks every property that is not required as nullable.
fn say_what_may_be_null(schema: &mut Value) {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let required: BTreeSet<String> = required.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        say_what_may_be_null(property);
        if !required.contains(name) {
            property["nullable"] = true.into();
        }
    }
    if let Some(items) = schema.get_mut("items") {
        say_what_may_be_null(items);
    }
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    let items = paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    items.filter(|item| item.get("operationId").is_some())
}

/// The refusals that follow from an operation's parameters, body, tag and security.
fn shown_by_parameters(operation: &Value, id: &str) -> Vec<&'static ProblemCode> {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |key: &str, value: &str| parameters.iter().any(|parameter| parameter[key] == value);
    let security = operation["security"].to_string();
    let mut codes = vec![&ProblemCode::Internal];
    if operation["tags"][0] != "system" {
        codes.extend([&ProblemCode::Overloaded, &ProblemCode::TooManyRequests]);
    }
    if operation.get("requestBody").is_some() {
        codes.extend([
            &ProblemCode::MalformedRequest,
            &ProblemCode::ValidationFailed,
            &ProblemCode::RequestTimeout,
            &ProblemCode::PayloadTooLarge,
            &ProblemCode::UnsupportedMediaType,
        ]);
    }
    if has("in", "query") {
        codes.push(&ProblemCode::ValidationFailed);
    }
    if has("name", "Idempotency-Key") {
        codes.extend([&ProblemCode::IdempotencyKeyMissing, &ProblemCode::ValidationFailed]);
    }
    if has("in", "path") && id != GATE {
        codes.push(&ProblemCode::NotFound);
    }
    if security.contains("bearer") || security.contains("operator") {
        codes.push(&ProblemCode::Unauthenticated);
    }
    if security.contains("operator") {
        codes.push(&ProblemCode::Forbidden);
    }
    codes
}

/// Declares an answer for each status, with the problems that have it.
fn declare(responses: &mut Value, codes: &BTreeSet<&ProblemCode>) {
    let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(format!("`{}`: {}", code.code(), code.title()));
    }
    for (status, problems) in by_status {
        let status = status.to_string();
        // An operation with a status for both success and refusal has declared it.
        if responses.get(&status).is_none() {
            responses[status] = json!({
                "description": problems.join("; "),
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = include_str!("../../../../docs/openapi.json");

    fn document() -> Value {
        serde_json::from_str(Document::new().text()).unwrap()
    }

    #[test]
    fn the_stored_document_is_the_served_one() {
        assert!(
            Document::new().text() == STORED,
            "docs/openapi.json differs from the served document; if the change is meant, run \
             `cargo run -p usher-app --bin usher -- openapi > docs/openapi.json`",
        );
    }

    #[test]
    fn every_operation_has_an_id_a_tag_a_summary_and_says_how_it_is_refused() {
        let mut document = document();
        let known: BTreeSet<_> = REFUSALS.into_iter().flatten().map(|(id, _)| *id).collect();
        let mut seen = BTreeSet::new();

        for operation in operations(&mut document) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(known.contains(id), "{id} does not say how it is refused");
            assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{id}");
            assert!(operation["responses"]["500"].is_object(), "{id}");
            assert!(seen.insert(id.to_owned()), "{id} is there twice");
        }

        assert_eq!(seen.len(), known.len(), "refusals of operations that are not there");
    }

    #[test]
    fn every_item_of_every_path_is_an_operation_with_an_id() {
        let mut document = document();
        let items: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();

        assert_eq!(operations(&mut document).count(), items);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        let names: BTreeSet<_> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();

        assert!(names.contains("Problem"));
        for name in names {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
        }
    }
}
