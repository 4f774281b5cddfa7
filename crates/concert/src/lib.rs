//! The catalogue: concerts, performances, seat maps, prices, sale times. Rules and ports only; knows nothing of lines
//! and reservations.

pub mod error;
pub mod judge;
pub mod model;
pub mod ports;
pub mod seat_map;
pub mod service;

pub use error::Error;
pub use model::{Concert, NewConcert, NewPerformance, Performance, SaleDefaults, SaleTimes};
pub use ports::{AddOutcome, CatalogueRepository, Page, ReplaceSeatsOutcome};
pub use seat_map::{SeatLine, SeatMap, SeatPlan, SectionPlan, VersionedSeatMap};
pub use service::Service;
