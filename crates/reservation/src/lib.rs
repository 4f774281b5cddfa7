//! Seats: hold, pay, confirm, release, expire, limits. Knows nothing of lines: it asks an `AdmissionGate`.

pub mod audit;
pub mod best;
pub mod board;
pub mod error;
pub mod follower;
pub mod judge;
pub mod model;
pub mod ports;
pub mod service;
pub mod simulated;

pub use board::{BoardEvent, BoardRecord, SeatBoard};
pub use error::Error;
pub use follower::EventFollower;
pub use model::{Payment, Reservation, ReservedSeat, Seat, SeatCounts, SeatStatus, State, Ticket};
pub use service::{HoldRequest, Ports, Service, Settings, Swept};
pub use simulated::{ChargeLog, SimulatedGateway};
