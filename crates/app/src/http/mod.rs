//! The HTTP server. Each module uses only modules that follow it in this list: the application, the API document, the
//! API, services, edge, reading and answering, problems.

mod answers;
pub mod api;
mod bearer;
pub mod detached;
pub mod edge;
pub mod openapi;
mod paging;
pub mod problem;
mod reading;
pub mod services;
mod sse;
mod swagger_ui;
mod throttle;
mod values;

use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, Error};
use paperclip::actix::OpenApiExt as _;

use self::bearer::Verifier;
use self::edge::Guard;
use self::openapi::Document;
use self::services::Services;
use crate::live::readiness::Readiness;
use crate::runtime::metrics::Metrics;

/// The server's application, one for each of its threads.
pub fn app(
    services: &Services,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    App::new()
        .app_data(Data::new(Guard {
            edge: Arc::clone(&services.edge),
            ids: Arc::clone(&services.ids),
            metrics: Arc::clone(&services.metrics),
        }))
        .app_data(Data::new(Verifier {
            access_tokens: Arc::clone(&services.access_tokens),
            clock: Arc::clone(&services.clock),
        }))
        .app_data(Data::new(Document::new()))
        .configure(|config| api::provide(services, config))
        .wrap(from_fn(edge::guard))
        .configure(api::problem_pages)
        .configure(openapi::pages)
        .configure(|config| {
            if services.has_swagger_ui {
                swagger_ui::pages(config);
            }
        })
        .configure(api::gate_routes)
        .wrap_api_with_spec(openapi::outline())
        .configure(api::routes)
        // Never called, because `openapi::pages` serves the full document under the same path. The next line needs the
        // path.
        .with_json_spec_v3_at(openapi::PATH)
        .build()
}

/// The application of the listener for metrics and health.
pub fn metrics_app(
    metrics: Arc<Metrics>,
    readiness: Readiness,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    App::new()
        .app_data(Data::from(metrics))
        .app_data(Data::new(readiness))
        .configure(api::metrics_route)
        .wrap_api()
        .configure(api::system_routes)
        .build()
}
