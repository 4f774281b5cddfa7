//! The HTTP server: its edge, how requests are read and answers are written, and below that the API. What an answer costs
//! or means is decided elsewhere.

mod answers;
pub mod api;
mod bearer;
mod detached;
mod edge;
pub mod openapi;
mod paging;
pub mod problem;
mod reading;
mod sse;
mod throttle;
pub(crate) mod values;

use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, Error};
use paperclip::actix::OpenApiExt as _;
use usher_concert::SaleDefaults;
use usher_kernel::{Clock, IdGenerator};

use self::api::system::{self, Readiness};
pub use self::detached::Detached;
pub use self::edge::{Edge, bound_sending};
use self::openapi::Document;
use self::problem::{Problem, ProblemCode};
use crate::identity::access_tokens::Identity;
use crate::live::boards::Boards;
use crate::live::geometries::Geometries;
use crate::live::streams::Streams;
use crate::runtime::metrics::Metrics;

/// Everything that requests are answered with.
pub struct Services {
    /// Sign-up and log-in.
    pub accounts: usher_account::Service,
    /// Concerts and performances.
    pub catalogue: usher_concert::Service,
    /// The lines.
    pub line: usher_queue::Service,
    /// Seats.
    pub reservations: usher_reservation::Service,
    /// Access tokens.
    pub identity: Arc<Identity>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids of requests.
    pub ids: Arc<dyn IdGenerator>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the server can do its work.
    pub readiness: Arc<dyn Readiness>,
    /// Runs what must not stop when its client goes away.
    pub detached: Detached,
    /// The limits that all requests share.
    pub edge: Edge,
    /// Who follows a place, or the seats.
    pub streams: Streams,
    /// Which seats can be had.
    pub boards: Boards,
    /// Where seats are.
    pub geometries: Geometries,
    /// What performances get where their operator says nothing.
    pub sale_defaults: SaleDefaults,
}

impl Services {
    /// Runs a change of seats to its end, whatever becomes of the client. However it ended, the next look at the seats
    /// shows what came of it.
    async fn change_seats<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let outcome = self.detached.run(work).await;
        self.boards.stir();
        outcome
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsRoute {
    /// With everything else.
    Here,
    /// By [`metrics_app`], on a listener of their own.
    Elsewhere,
}

/// What operations can be refused with, by operation id, beyond what shows from their parameters.
type Refusals = &'static [(&'static str, &'static [ProblemCode])];

/// Where the API document is.
const OPENAPI_PATH: &str = "/api/openapi.json";

/// The server's application, one for each of its threads.
pub fn app(
    services: Data<Services>,
    metrics: MetricsRoute,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(services)
        .app_data(Data::new(Document::new()))
        .wrap(from_fn(edge::guard))
        .configure(system::pages)
        .configure(|config| match metrics {
            MetricsRoute::Here => system::metrics_route(config),
            MetricsRoute::Elsewhere => {}
        })
        .wrap_api_with_spec(openapi::outline())
        .configure(api::routes)
        // Never asked, for the full document is served under the same path; but the next line needs to know the path.
        .with_json_spec_v3_at(OPENAPI_PATH)
        .with_swagger_ui_at(system::SWAGGER_UI)
        .build()
}

/// The application of the metrics' own listener.
pub fn metrics_app(
    services: Data<Services>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new().app_data(services).configure(system::metrics_route)
}
