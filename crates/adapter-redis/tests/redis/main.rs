//! The line's store on a real Redis or Valkey server.

mod contract;
mod faults;
mod proxy;
