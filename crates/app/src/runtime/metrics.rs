//! The server's metrics, for Prometheus. Labels come from closed sets, never from paths or people, so that the
//! number of series is bounded. The only ids are those of the 20 longest lines.

use std::time::{Duration, Instant};

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use usher_kernel::StoreError;
use usher_queue::service::LiveLine;
use usher_reservation::ports::HoldOutcome;

use super::line_metrics::LineCollector;

/// Bounds of the histograms, in seconds: a poll takes 20 us, a hold milliseconds, a slow gateway seconds.
const BUCKETS_S: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Names the version of the program: the constant 1, with labels. The build sets `USHER_COMMIT`.
fn build_info() -> Result<IntGaugeVec, prometheus::Error> {
    let info = IntGaugeVec::new(Opts::new("usher_build_info", "The version of the program."), &["version", "commit"])?;
    let commit = option_env!("USHER_COMMIT").unwrap_or("unknown");
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), commit]).set(1);
    Ok(info)
}

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    request_duration_seconds: HistogramVec,
    requests_total: IntCounterVec,
    store_duration_seconds: HistogramVec,
    holds_total: IntCounterVec,
    line_admitted_total: IntCounter,
    lines: LineCollector,
    streams_open: IntGauge,
    streams_stalled_total: IntCounter,
    dependency_up: IntGaugeVec,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// If two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name, help, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS_S.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let request_duration_seconds = histogram(
            "usher_http_request_duration_seconds",
            "Time from the request's head to the answer's head, by route pattern.",
            &["method", "route"],
        )?;
        let help = "Answered requests, by route pattern and status.";
        let requests_total =
            IntCounterVec::new(Opts::new("usher_http_requests_total", help), &["method", "route", "status"])?;
        registry.register(Box::new(requests_total.clone()))?;
        let store_duration_seconds = histogram(
            "usher_store_duration_seconds",
            "Time that a port's method took, by result.",
            &["port", "method", "result"],
        )?;
        let holds_total =
            IntCounterVec::new(Opts::new("usher_holds_total", "Requests to hold seats, by outcome."), &["outcome"])?;
        registry.register(Box::new(holds_total.clone()))?;
        let line_admitted_total = IntCounter::new("usher_line_admitted_total", "People that this server admitted.")?;
        registry.register(Box::new(line_admitted_total.clone()))?;
        let streams_stalled_total = IntCounter::new(
            "usher_streams_stalled_total",
            "Streams that this server closed because their clients did not read.",
        )?;
        registry.register(Box::new(streams_stalled_total.clone()))?;
        let lines = LineCollector::new()?;
        registry.register(Box::new(lines.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        registry.register(Box::new(build_info()?))?;
        let help = "1 if the store answered the last time it was asked, 0 if it did not.";
        let dependency_up = IntGaugeVec::new(Opts::new("usher_dependency_up", help), &["dependency"])?;
        registry.register(Box::new(dependency_up.clone()))?;
        Ok(Self {
            request_duration_seconds,
            requests_total,
            store_duration_seconds,
            holds_total,
            line_admitted_total,
            lines,
            streams_open: gauge("usher_streams_open", "Open streams, of places and of seats.")?,
            streams_stalled_total,
            dependency_up,
            registry,
        })
    }

    /// Records an answered request. `route` is the route's pattern, never the path.
    pub fn observe_request(&self, method: &str, route: &str, status: &str, elapsed: Duration) {
        self.request_duration_seconds.with_label_values(&[method, route]).observe(elapsed.as_secs_f64());
        self.requests_total.with_label_values(&[method, route, status]).inc();
    }

    /// Times a port's method, and passes its result on.
    ///
    /// # Errors
    /// The error of the method.
    pub async fn time<T>(
        &self,
        port: &str,
        method: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Self::instant();
        let result = call.await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(StoreError::Unavailable { .. }) => "unavailable",
            Err(StoreError::Timeout { .. }) => "timeout",
            Err(StoreError::Conflict { .. }) => "conflict",
            Err(StoreError::Corrupt { .. }) => "corrupt",
        };
        self.store_duration_seconds.with_label_values(&[port, method, outcome]).observe(start.elapsed().as_secs_f64());
        result
    }

    /// Counts the outcomes of holds.
    pub fn observe_holds(&self, outcomes: &[HoldOutcome]) {
        for outcome in outcomes {
            let outcome = match outcome {
                HoldOutcome::Held(_) => "held",
                HoldOutcome::Replayed(_) => "replayed",
                HoldOutcome::KeyMismatch => "key_mismatch",
                HoldOutcome::UnknownSeats(_) => "unknown_seats",
                HoldOutcome::UnknownGrade => "unknown_grade",
                HoldOutcome::PassUsed => "pass_used",
                HoldOutcome::PassBusy => "pass_busy",
                HoldOutcome::Taken(_) => "taken",
                HoldOutcome::NotEnoughSeats => "not_enough_seats",
                HoldOutcome::LimitReached => "limit_reached",
            };
            self.holds_total.with_label_values(&[outcome]).inc();
        }
    }

    /// Counts admitted people.
    pub fn observe_admitted(&self, count: usize) {
        self.line_admitted_total.inc_by(count as u64);
    }

    /// Notes the live lines.
    pub fn observe_lines(&self, lines: Vec<LiveLine>) {
        self.lines.observe(lines);
    }

    /// Counts an opened stream.
    pub fn observe_opened_stream(&self) {
        self.streams_open.inc();
    }

    /// Counts a closed stream.
    pub fn observe_closed_stream(&self) {
        self.streams_open.dec();
    }

    /// Counts a stream that was closed because its client did not read.
    pub fn observe_stalled_stream(&self) {
        self.streams_stalled_total.inc();
    }

    /// Notes whether a dependency of the server answered.
    pub fn observe_dependency(&self, dependency: &str, is_up: bool) {
        self.dependency_up.with_label_values(&[dependency]).set(is_up.into());
    }

    /// All metrics in Prometheus' text format (version 0.0.4).
    ///
    /// # Errors
    /// If a metric cannot be written, which would be a bug.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    /// Starts a measurement.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measuring is this module's work; nothing is decided by it")]
    pub fn instant() -> Instant {
        Instant::now()
    }
}
