//! The metrics of each line. They are made from one snapshot when Prometheus asks, so that a line that is over leaves no
//! series behind, and no scrape sees half of a step.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use usher_queue::policy::SaleState;
use usher_queue::service::LiveLine;

/// The most lines with a label of their own: the longest. The sums of the others are under [`OTHER`].
const LABELS_MAX: usize = 20;
const OTHER: &str = "other";

type Value = fn(&LiveLine) -> u64;

/// The gauges of a line. All servers show the same line: take `max by (performance)`, not the sum.
const GAUGES: [(&str, &str, Value); 8] = [
    ("usher_line_waiting", "People in the line, present and away.", |line| {
        line.stats.counts.waiting + line.stats.counts.away
    }),
    ("usher_line_present", "People in the line who are present.", |line| line.stats.counts.waiting),
    ("usher_line_away", "People in the line who are away.", |line| line.stats.counts.away),
    ("usher_line_active", "People inside.", |line| line.stats.counts.active),
    ("usher_line_capacity", "The most people inside.", |line| line.policy.capacity.into()),
    ("usher_line_rate_limit", "The most people admitted in a second; 0 is no limit.", |line| {
        line.policy.rate_per_s.into()
    }),
    ("usher_line_serving", "The highest number that was called.", |line| line.stats.counts.serving.get()),
    ("usher_line_issued", "The highest number that was given out.", |line| line.stats.counts.issued.get()),
];

/// Collects the metrics of the live lines. Clones share the lines.
#[derive(Clone)]
pub(super) struct LineCollector {
    lines: Arc<Mutex<Vec<LiveLine>>>,
    descriptions: Vec<Desc>,
}

impl LineCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        let descriptions = families.all().flat_map(|gauges| gauges.desc().into_iter().cloned().collect::<Vec<_>>());
        let descriptions = descriptions.chain(families.live.desc().into_iter().cloned()).collect();
        Ok(Self { lines: Arc::default(), descriptions })
    }

    /// Takes the lines as they are now.
    pub(super) fn observe(&self, lines: Vec<LiveLine>) {
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }
}

impl Collector for LineCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lines.sort_by_key(|line| (Reverse(line.stats.counts.waiting + line.stats.counts.away), line.performance));
        // The same names were registered when the server started.
        let Ok(families) = Families::new() else { return Vec::new() };
        families.live.set(gauge(lines.len() as u64));
        for (n, line) in lines.iter().enumerate() {
            let performance = if n < LABELS_MAX { line.performance.to_string() } else { OTHER.to_owned() };
            for ((_, _, value), gauges) in GAUGES.iter().zip(&families.gauges) {
                gauges.with_label_values(&[&performance]).add(gauge(value(line)));
            }
            // A sum of states says nothing.
            if n < LABELS_MAX {
                for state in SaleState::ALL {
                    let is_now = state == line.sale_state;
                    families.state.with_label_values(&[performance.as_str(), state.as_str()]).set(is_now.into());
                }
                families.holding.with_label_values(&[&performance]).set(line.is_holding.into());
            }
        }
        families.all().flat_map(Collector::collect).chain(families.live.collect()).collect()
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One scrape's families.
struct Families {
    gauges: Vec<IntGaugeVec>,
    state: IntGaugeVec,
    holding: IntGaugeVec,
    live: IntGauge,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let gauges = GAUGES.iter().map(|(name, help, _)| IntGaugeVec::new(Opts::new(*name, *help), &["performance"]));
        let state = Opts::new("usher_line_state", "1 for the state of the line's sale, 0 for the other states.");
        let holding =
            Opts::new("usher_line_holding", "1 while admission waits for the people who waited before a loss.");
        Ok(Self {
            gauges: gauges.collect::<Result<_, _>>()?,
            state: IntGaugeVec::new(state, &["performance", "state"])?,
            holding: IntGaugeVec::new(holding, &["performance"])?,
            live: IntGauge::new("usher_line_live", "Lines that people can join now.")?,
        })
    }

    fn all(&self) -> impl Iterator<Item = &IntGaugeVec> {
        self.gauges.iter().chain([&self.state, &self.holding])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use usher_kernel::PerformanceId;
    use usher_queue::ports::LineCounts;
    use usher_queue::service::Stats;
    use usher_queue::{AdmissionPolicy, LineState};

    use super::*;

    /// A line where `waiting` people wait.
    fn line(n: u8, waiting: u64) -> LiveLine {
        let policy = AdmissionPolicy {
            capacity: 7,
            rate_per_s: 0,
            pass_ttl: Duration::from_secs(300),
            presence_window: Duration::from_secs(90),
            state: LineState::Open,
        };
        LiveLine {
            performance: PerformanceId::from_bytes([n; 16]),
            stats: Stats { counts: LineCounts { waiting, away: 1, ..LineCounts::default() }, admitted_per_s: 0.0 },
            policy,
            sale_state: SaleState::Paused,
            is_holding: false,
        }
    }

    /// The values of a family by their label `performance`.
    fn values(collector: &LineCollector, family: &str) -> BTreeMap<String, f64> {
        let families = collector.collect();
        let metrics = families.iter().filter(|found| found.name() == family).flat_map(MetricFamily::get_metric);
        let label = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().find(|label| label.name() == "performance").map(|label| label.value().to_owned())
        };
        metrics.map(|metric| (label(metric).unwrap_or_default(), metric.get_gauge().get_value())).collect()
    }

    #[test]
    fn the_longest_lines_have_a_label_and_the_others_are_summed() {
        let collector = LineCollector::new().unwrap();

        collector.observe((0..30).map(|n| line(n, n.into())).collect());

        let waiting = values(&collector, "usher_line_waiting");
        assert_eq!(waiting.len(), LABELS_MAX + 1);
        assert_eq!(waiting[&PerformanceId::from_bytes([29; 16]).to_string()], 30.0);
        assert_eq!(waiting[OTHER], f64::from((0..10).map(|n| n + 1).sum::<i32>()));
        assert_eq!(values(&collector, "usher_line_live")[""], 30.0);
    }

    #[test]
    fn a_line_that_is_over_leaves_no_series() {
        let collector = LineCollector::new().unwrap();
        collector.observe(vec![line(1, 5), line(2, 5)]);
        collector.observe(vec![line(2, 5)]);

        assert_eq!(values(&collector, "usher_line_capacity").into_values().collect::<Vec<_>>(), [7.0]);
    }

    #[test]
    fn exactly_one_state_is_the_present_one() {
        let collector = LineCollector::new().unwrap();
        collector.observe(vec![line(1, 5)]);

        let families = collector.collect();
        let states = families.iter().find(|family| family.name() == "usher_line_state").unwrap().get_metric();
        let present: Vec<_> = states.iter().filter(|metric| metric.get_gauge().get_value() == 1.0).collect();

        assert_eq!((states.len(), present.len()), (SaleState::ALL.len(), 1));
        assert!(present[0].get_label().iter().any(|label| label.value() == "paused"));
    }
}
