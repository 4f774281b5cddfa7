//! What every process needs, whatever it serves: time, ids, background tasks, metrics, the log, the schema. Knows
//! nothing of requests.

pub mod background;
pub mod clock;
pub mod ids;
pub mod metrics;
pub mod schema;
pub mod telemetry;
