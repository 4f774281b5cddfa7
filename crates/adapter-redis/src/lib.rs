//! The line's store on Redis through fred. The only crate that names fred.

mod bits;
mod client;
mod keys;
mod reply;
mod scripts;
mod store;

pub use client::ConnectError;
pub use store::RedisLineStore;
