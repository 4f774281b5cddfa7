//! The HTTP API: one file per resource, which turns requests into commands and domain values into JSON.

mod accounts;
mod availability;
mod catalogue;
mod line;
mod line_stream;
mod operator;
mod reservations;
mod system;

use actix_web::web::{self, Data};
use paperclip::actix::web::{ServiceConfig, scope};

pub(super) use self::line::gate_routes;
pub(super) use self::system::{metrics_route, problem_pages, routes as system_routes};
use super::problem::Refusals;
use super::services::Services;

/// The refusals of all operations.
pub(super) const REFUSALS: [Refusals; 8] = [
    accounts::REFUSALS,
    availability::REFUSALS,
    catalogue::REFUSALS,
    line::REFUSALS,
    line_stream::REFUSALS,
    reservations::REFUSALS,
    operator::REFUSALS,
    system::REFUSALS,
];

/// The operation that takes CSV as well as JSON.
pub(super) const CSV_UPLOAD: &str = operator::UPLOAD;
/// The operation that answers all refusals alike.
pub(super) const GATE: &str = line::GATE;

/// Gives each resource its own context, and the system's handlers the parts that they need.
pub(super) fn provide(services: &Services, config: &mut web::ServiceConfig) {
    config
        .app_data(Data::new(accounts::Context::from(services)))
        .app_data(Data::new(availability::Context::from(services)))
        .app_data(Data::new(catalogue::Context::from(services)))
        .app_data(Data::new(line::Context::from(services)))
        .app_data(Data::new(line_stream::Context::from(services)))
        .app_data(Data::new(operator::Context::from(services)))
        .app_data(Data::new(reservations::Context::from(services)))
        .app_data(Data::new(services.readiness.clone()));
}

/// The operations of the API.
pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    // Routes are tried in this order, and most requests are polls of places and seats.
    let version_1 = scope("/api/v1")
        .configure(line::routes)
        .configure(availability::routes)
        .configure(accounts::routes)
        .configure(catalogue::routes)
        .configure(line_stream::routes)
        .configure(reservations::routes)
        .configure(operator::routes);
    config.service(version_1);
    system::routes(config);
}
