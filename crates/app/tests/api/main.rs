//! The API over real HTTP: each test has its own server, with embedded adapters, on a free port.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod app;
#[cfg(test)]
mod at_once;
#[cfg(test)]
mod availability;
#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod line;
#[cfg(test)]
mod line_stream;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod mysql;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod payments;
#[cfg(test)]
mod problems;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod reservations;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod rush;
#[cfg(test)]
mod sold_out;
#[cfg(test)]
mod sse;
#[cfg(test)]
mod store;
