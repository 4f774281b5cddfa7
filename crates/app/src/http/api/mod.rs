//! The HTTP API: one file per resource, which turns requests into commands and domain values into JSON.

mod accounts;
mod availability;
mod catalogue;
mod line;
mod line_stream;
mod operator;
mod reservations;
pub mod system;

use paperclip::actix::web::{ServiceConfig, scope};

use super::Refusals;

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
