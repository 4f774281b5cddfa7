//! Who people are: sign-up, log-in, roles. Knows nothing of lines or seats, and never sees a password in the clear
//! after it was hashed.

pub mod error;
pub mod model;
pub mod ports;
pub mod service;

pub use error::Error;
pub use model::{Account, Credentials, Email, Password, Role, SignUp};
pub use ports::{AccountRepository, AddAccountOutcome, HashingError, PasswordHash, PasswordHasher};
pub use service::Service;
