//! Health, metrics, and the pages that explain problem codes.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, HeaderValue};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse, Responder};
use paperclip::actix::web::{ServiceConfig, get, resource};
use paperclip::actix::{OperationModifier, api_v2_operation};
use paperclip::v2::models::{DataType, DefaultOperationRaw, DefaultSchemaRaw, Either, Response};
use paperclip::v2::schema::Apiv2Schema;

use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::live::readiness::Readiness;
use crate::runtime::metrics::Metrics;

pub(super) const REFUSALS: Refusals = &[("system.healthz", &[]), ("system.readyz", &[])];

/// Routes of the API document's operations.
pub(in crate::http) fn routes(config: &mut ServiceConfig<'_>) {
    config.service(resource("/healthz").route(get().to(healthz))).service(resource("/readyz").route(get().to(readyz)));
}

/// The pages that explain the problem codes.
pub(in crate::http) fn problem_pages(config: &mut web::ServiceConfig) {
    config.service(web::resource("/problems/{code}").route(web::get().to(problem_page)));
}

/// The route of the metrics.
pub(in crate::http) fn metrics_route(config: &mut web::ServiceConfig) {
    config.service(web::resource("/metrics").route(web::get().to(metrics)));
}

/// A report of the server's health, in plain text.
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
        text_response(operation, StatusCode::OK, "The server takes requests.");
        text_response(operation, StatusCode::SERVICE_UNAVAILABLE, "The server is about to stop.");
    }
}

/// The answer of a running process.
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
        text_response(operation, StatusCode::OK, "The process runs.");
    }
}

/// Shows that the process runs.
#[api_v2_operation(tags("system"), operation_id = "system.healthz", produces = "text/plain")]
async fn healthz() -> Alive {
    Alive
}

/// Shows whether the server takes requests. A line for each dependency shows whether it answered a moment ago.
#[api_v2_operation(tags("system"), operation_id = "system.readyz", produces = "text/plain")]
async fn readyz(readiness: Data<Readiness>) -> Report {
    let status = if readiness.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Report { status, text: readiness.report() }
}

/// The metrics, for Prometheus.
async fn metrics(metrics: Data<Metrics>) -> Result<HttpResponse, Problem> {
    let text = metrics.render().map_err(|error| Problem::internal(&error))?;
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(HttpResponse::Ok().content_type(format).body(text))
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
