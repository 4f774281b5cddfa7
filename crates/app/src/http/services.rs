//! Everything that requests are answered with, as the composition hands it to the handlers.

use std::sync::Arc;

use async_trait::async_trait;
use usher_concert::SaleDefaults;
use usher_kernel::{Clock, IdGenerator, StoreError};

use super::detached::Detached;
use super::edge::Edge;
use crate::identity::access_tokens::AccessTokens;
use crate::live::boards::Boards;
use crate::live::geometries::Geometries;
use crate::live::streams::Streams;
use crate::runtime::metrics::Metrics;

/// Says whether the server can do its work.
#[async_trait]
pub trait Readiness: Send + Sync + 'static {
    /// Each thing the server depends on, and whether it answers.
    async fn check(&self) -> Vec<(&'static str, Result<(), StoreError>)>;
}

/// Everything that requests are answered with. A handler never sees all of it: each resource takes what it needs into a
/// context of its own.
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
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the server can do its work.
    pub readiness: Arc<dyn Readiness>,
    /// Runs what must not stop when its client goes away.
    pub detached: Detached,
    /// The limits that all requests share.
    pub edge: Arc<Edge>,
    /// Open streams of places and of seats.
    pub streams: Streams,
    /// Which seats are available.
    pub boards: Boards,
    /// Where seats are.
    pub geometries: Arc<Geometries>,
    /// Terms of performances whose operator names none.
    pub sale_defaults: SaleDefaults,
}
