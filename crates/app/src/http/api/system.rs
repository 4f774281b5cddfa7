//! What tells how the server is, and what explains its answers: health, metrics, problems, the API document.

use actix_web::body::BoxBody;
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, HeaderValue};
use actix_web::middleware::Compress;
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse, Responder};
use async_trait::async_trait;
use paperclip::actix::web::{ServiceConfig, get, resource};
use paperclip::actix::{OperationModifier, api_v2_operation};
use paperclip::v2::models::{DataType, DefaultOperationRaw, DefaultSchemaRaw, Either, Response};
use paperclip::v2::schema::Apiv2Schema;
use usher_kernel::StoreError;

use crate::http::openapi::Document;
use crate::http::problem::{Problem, ProblemCode};
use crate::http::{Refusals, Services};

/// Says whether the server can do its work.
#[async_trait]
pub trait Readiness: Send + Sync + 'static {
    /// Each thing the server depends on, and whether it answers.
    async fn check(&self) -> Vec<(&'static str, Result<(), StoreError>)>;
}

pub(super) const REFUSALS: Refusals = &[("system.healthz", &[]), ("system.readyz", &[])];

/// Where the API document is shown.
pub(in crate::http) const SWAGGER_UI: &str = "/swagger-ui";
/// The files that it is shown with.
const SWAGGER_FILES: [&str; 7] = [
    "index.html",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
    "oauth2-redirect.html",
];

/// Routes of the API document's operations.
pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    config.service(resource("/healthz").route(get().to(healthz))).service(resource("/readyz").route(get().to(readyz)));
}

/// Routes beside the API.
pub(in crate::http) fn pages(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/problems/{code}").route(web::get().to(problem_page)))
        .service(web::resource(crate::http::OPENAPI_PATH).route(web::get().to(openapi)).wrap(Compress::default()))
        // The library that shows the document panics when asked for a file it does not have.
        .service(web::resource("/swagger-ui/{file:.*}").guard(fn_guard(is_not_shown)).to(not_found));
}

/// The route of the metrics.
pub(in crate::http) fn metrics_route(config: &mut web::ServiceConfig) {
    config.service(web::resource("/metrics").route(web::get().to(metrics)));
}

fn is_not_shown(context: &GuardContext<'_>) -> bool {
    let uri = &context.head().uri;
    let file = uri.path().strip_prefix(SWAGGER_UI).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let is_start = file.is_empty() && uri.query().is_none_or(str::is_empty);
    !is_start && !SWAGGER_FILES.contains(&file)
}

async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::of(ProblemCode::NotFound))
}

/// Plain text, and whether it is good news.
struct Report {
    status: StatusCode,
    text: String,
}

impl Responder for Report {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::build(self.status).content_type(ContentType::plaintext()).body(self.text)
    }
}

fn text_response(operation: &mut DefaultOperationRaw, status: StatusCode, description: &str) {
    let schema = DefaultSchemaRaw { data_type: Some(DataType::String), ..DefaultSchemaRaw::default() };
    let response = Response { description: Some(description.into()), schema: Some(schema), ..Response::default() };
    operation.responses.insert(status.as_str().into(), Either::Right(response));
}

impl Apiv2Schema for Report {}

impl OperationModifier for Report {
    fn update_response(operation: &mut DefaultOperationRaw) {
        text_response(operation, StatusCode::OK, "All is well.");
        text_response(operation, not_ready(), "Something does not answer.");
    }
}

/// The answer of a process that lives.
struct Alive;

impl Responder for Alive {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        Report { status: StatusCode::OK, text: "ok".into() }.respond_to(request)
    }
}

impl Apiv2Schema for Alive {}

impl OperationModifier for Alive {
    fn update_response(operation: &mut DefaultOperationRaw) {
        text_response(operation, StatusCode::OK, "The process lives.");
    }
}

const fn not_ready() -> StatusCode {
    ProblemCode::StoreUnavailable.status()
}

/// Tells that the process lives.
#[api_v2_operation(tags("system"), operation_id = "system.healthz", produces = "text/plain")]
async fn healthz() -> Alive {
    Alive
}

/// Tells whether the server can do its work: a line for each thing it depends on.
#[api_v2_operation(tags("system"), operation_id = "system.readyz", produces = "text/plain")]
async fn readyz(services: Data<Services>) -> Report {
    let checks = services.readiness.check().await;
    let status = if checks.iter().all(|(_, outcome)| outcome.is_ok()) { StatusCode::OK } else { not_ready() };
    let line = |(name, outcome): &(&str, Result<(), StoreError>)| match outcome {
        Ok(()) => format!("{name}: ok\n"),
        Err(error) => format!("{name}: {error}\n"),
    };
    Report { status, text: checks.iter().map(line).collect() }
}

/// Everything that is counted, for Prometheus.
async fn metrics(services: Data<Services>) -> Result<HttpResponse, Problem> {
    let text = services.metrics.render().map_err(|error| Problem::internal(&error))?;
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(HttpResponse::Ok().content_type(format).body(text))
}

async fn openapi(document: Data<Document>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(document.text().to_owned())
}

/// Explains a problem code.
async fn problem_page(name: Path<String>) -> Result<HttpResponse, Problem> {
    let code = ProblemCode::from_name(&name).ok_or_else(|| Problem::of(ProblemCode::NotFound))?;
    let (name, title, status) = (code.code(), code.title(), code.status());
    let explanation = code.explanation();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}: Usher</title>\n\
         <h1>{title}</h1>\n<p><code>{name}</code>, answered with status {status}.</p>\n<p>{explanation}</p>\n</html>\n"
    );
    Ok(HttpResponse::Ok().content_type(ContentType::html()).body(page))
}
