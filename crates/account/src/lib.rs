//! Accounts: sign-up, log-in, roles. Knows nothing of lines or seats, and keeps no password in the clear.

pub mod error;
pub mod model;
pub mod ports;
pub mod service;

pub use error::Error;
pub use model::{Account, Credentials, Email, Password, Role, SignUp};
pub use ports::{AccountRepository, AddAccountOutcome, HashingError, PasswordHash, PasswordHasher};
pub use service::Service;
