//! The line: join, position, admit, pass, presence, policy. Knows nothing of seats.

pub mod audit;
pub mod error;
pub mod model;
pub mod pace;
pub mod policy;
pub mod ports;
pub mod service;
pub mod token;
pub mod view;

pub use error::Error;
pub use model::{AccountHash, Epoch, Grant, Place, PlaceNumber};
pub use policy::{AdmissionPolicy, LineState, PolicyPatch};
pub use service::{Joined, PassCheck, PassToken, PlaceState, PlaceStatus, Ports, Service, Settings, Stats};
pub use token::{Pass, TokenKeys};
pub use view::LineView;
