//! The services and the shared state that handlers use, as the composition constructs them.

use std::sync::Arc;

use usher_concert::SaleDefaults;
use usher_kernel::{Clock, IdGenerator};

use super::detached::Detached;
use super::edge::Edge;
use crate::identity::access_tokens::AccessTokens;
use crate::live::boards::Boards;
use crate::live::geometries::Geometries;
use crate::live::readiness::Readiness;
use crate::live::streams::Streams;
use crate::runtime::metrics::Metrics;

/// The services and the shared state of all handlers. Each resource copies the parts that it needs into its own
/// context.
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
    pub access_tokens: Arc<AccessTokens>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids of requests.
    pub ids: Arc<dyn IdGenerator>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the server can do its work.
    pub readiness: Readiness,
    /// Runs changes that must not stop when the client disconnects.
    pub detached: Detached,
    /// The limits that all requests share.
    pub edge: Arc<Edge>,
    /// Open streams of places and of seats.
    pub streams: Streams,
    /// The boards of seats.
    pub boards: Boards,
    /// The seat maps.
    pub geometries: Arc<Geometries>,
    /// Whether the server has the page that shows the API document.
    pub has_swagger_ui: bool,
    /// Terms of performances whose operator names none.
    pub sale_defaults: SaleDefaults,
}
