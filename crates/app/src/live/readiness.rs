//! Whether the server takes requests, and which of the servers that it depends on answered the last time they were asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use usher_kernel::StoreError;

/// The readiness of one server. Clones share it.
///
/// A dependency that is away does not make the server unready: it is away for all servers at once, and a load balancer
/// that took all of them out would turn a part that fails into a whole that does.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_draining: AtomicBool,
    /// Why each dependency did not answer; `None`: it did.
    dependencies: Mutex<BTreeMap<&'static str, Option<String>>>,
}

impl Readiness {
    /// Notes whether a dependency answered.
    pub fn note(&self, dependency: &'static str, outcome: &Result<(), StoreError>) {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.0.dependencies.lock().unwrap_or_else(PoisonError::into_inner).insert(dependency, failure);
    }

    /// Notes that the server is about to stop.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Release);
    }

    /// Whether the server is about to stop, so that a load balancer should send it nothing more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Acquire)
    }

    /// The readiness in words: a line for the server, and one for each dependency.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = format!("usher: {}\n", if self.is_draining() { "stopping" } else { "ok" });
        for (dependency, failure) in &*self.0.dependencies.lock().unwrap_or_else(PoisonError::into_inner) {
            let state = failure.as_deref().unwrap_or("ok");
            writeln!(report, "{dependency}: {state}").unwrap_or_else(|_| unreachable!("a text takes every text"));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_is_away_is_named_and_the_server_stays_ready() {
        let readiness = Readiness::default();
        let away = StoreError::Unavailable { operation: "database.ping", source: "refused".into() };

        readiness.note("store", &Err(away));
        readiness.note("line", &Ok(()));

        let report = readiness.report();
        assert!(!readiness.is_draining());
        assert!(report.contains("usher: ok\nline: ok\nstore: ") && report.contains("database.ping"), "{report}");

        readiness.note("store", &Ok(()));
        assert_eq!(readiness.report(), "usher: ok\nline: ok\nstore: ok\n");
    }

    #[test]
    fn a_server_that_is_about_to_stop_says_so() {
        let readiness = Readiness::default();

        readiness.drain();

        assert!(readiness.is_draining());
        assert_eq!(readiness.report(), "usher: stopping\n");
    }
}
