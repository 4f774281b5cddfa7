//! Services of the process: time, ids, background tasks, batches, metrics, the log, the schema. Knows
//! nothing of requests.

pub mod background;
pub mod batcher;
pub mod clock;
pub mod ids;
mod line_metrics;
pub mod metrics;
pub mod schema;
pub mod sole_server;
pub mod telemetry;
