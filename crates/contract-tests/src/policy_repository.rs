//! The contract suite of [`PolicyRepository`]. Numbers refer to the items of its contract.

use std::sync::Arc;
use std::time::Duration;

use usher_kernel::PerformanceId;
use usher_queue::ports::PolicyRepository;
use usher_queue::{AdmissionPolicy, LineState, PolicyPatch};

use crate::race::{RACERS, race};

/// Gives each test a repository of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty repository, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The repository.
    fn repository(&self) -> Arc<dyn PolicyRepository>;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! policy_repository_contract {
    ($fixture:ty) => {
        $crate::policy_repository_contract! { $fixture:
            of_many_patches_of_different_values_none_is_lost
            a_value_never_patched_is_the_defaults
            a_patch_changes_only_what_it_names
            a_policy_that_is_not_valid_is_refused
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::policy_repository::$item::<$fixture>().await;
        }
    )*};
}

const DEFAULT: AdmissionPolicy = AdmissionPolicy {
    capacity: 1_000,
    rate_per_s: 0,
    pass_ttl: Duration::from_secs(300),
    presence_window: Duration::from_secs(90),
    state: LineState::Open,
};
const OTHER_DEFAULT: AdmissionPolicy = AdmissionPolicy {
    capacity: 1,
    rate_per_s: 2,
    pass_ttl: Duration::from_secs(3),
    presence_window: Duration::from_secs(40),
    state: LineState::Closed,
};
const NOTHING: PolicyPatch =
    PolicyPatch { capacity: None, rate_per_s: None, pass_ttl: None, presence_window: None, state: None };
/// One patch for each value of a policy.
const PATCHES: [PolicyPatch; 5] = [
    PolicyPatch { capacity: Some(500), ..NOTHING },
    PolicyPatch { rate_per_s: Some(60), ..NOTHING },
    PolicyPatch { pass_ttl: Some(Duration::from_millis(7_500)), ..NOTHING },
    PolicyPatch { presence_window: Some(Duration::from_millis(80_500)), ..NOTHING },
    PolicyPatch { state: Some(LineState::Paused), ..NOTHING },
];

/// 1, as a race: each caller patches one value of one line.
pub async fn of_many_patches_of_different_values_none_is_lost<F: Fixture>() {
    let fixture = F::fresh().await;
    let job = |n: u8| (line(n / 5), PATCHES[usize::from(n % 5)]);

    race(|n| {
        let repository = fixture.repository();
        let (line, patch) = job(n);
        async move {
            let patched = repository.patch(line, &DEFAULT, &patch).await.unwrap().unwrap();
            assert_eq!(patched, patched.with(&patch), "the answer has what was patched");
        }
    })
    .await;

    for n in 0..RACERS {
        let (line, patch) = job(n);
        let policy = fixture.repository().find(line, &DEFAULT).await.unwrap();
        assert_eq!(policy, policy.with(&patch), "no patch is lost");
    }
}

/// 1: a value without a patch follows the default, even when the default changes.
pub async fn a_value_never_patched_is_the_defaults<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    for default in [DEFAULT, OTHER_DEFAULT] {
        assert_eq!(repository.find(line(1), &default).await.unwrap(), default);
        assert_eq!(repository.patch(line(1), &default, &NOTHING).await.unwrap(), Ok(default));
    }

    // A patch to the default's value keeps that value when the default changes.
    let patch = PolicyPatch { capacity: Some(DEFAULT.capacity), ..NOTHING };
    assert_eq!(repository.patch(line(1), &DEFAULT, &patch).await.unwrap(), Ok(DEFAULT));

    let expected = AdmissionPolicy { capacity: DEFAULT.capacity, ..OTHER_DEFAULT };
    assert_eq!(repository.find(line(1), &OTHER_DEFAULT).await.unwrap(), expected);
    assert_eq!(repository.find(line(2), &OTHER_DEFAULT).await.unwrap(), OTHER_DEFAULT, "lines do not mix");
}

/// 1, with sequential calls.
pub async fn a_patch_changes_only_what_it_names<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let mut expected = DEFAULT;

    for patch in PATCHES {
        expected = expected.with(&patch);
        assert_eq!(repository.patch(line(1), &DEFAULT, &patch).await.unwrap(), Ok(expected));
        assert_eq!(repository.find(line(1), &DEFAULT).await.unwrap(), expected);
    }

    for state in [LineState::Closed, LineState::Open, LineState::Paused] {
        let patch = PolicyPatch { capacity: Some(AdmissionPolicy::COUNT_MAX), state: Some(state), ..NOTHING };
        expected = expected.with(&patch);
        assert_eq!(repository.patch(line(1), &DEFAULT, &patch).await.unwrap(), Ok(expected));
        assert_eq!(repository.find(line(1), &OTHER_DEFAULT).await.unwrap(), expected);
    }
}

/// 2.
pub async fn a_policy_that_is_not_valid_is_refused<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let good = PolicyPatch { capacity: Some(7), ..NOTHING };
    let expected = DEFAULT.with(&good);
    assert_eq!(repository.patch(line(1), &DEFAULT, &good).await.unwrap(), Ok(expected));

    for (n, bad, field) in [
        (1, PolicyPatch { capacity: Some(AdmissionPolicy::COUNT_MAX + 1), ..NOTHING }, "capacity"),
        (1, PolicyPatch { rate_per_s: Some(5), pass_ttl: Some(Duration::ZERO), ..NOTHING }, "pass_ttl_s"),
        (1, PolicyPatch { presence_window: Some(Duration::MAX), ..NOTHING }, "presence_window_s"),
        (2, PolicyPatch { rate_per_s: Some(u32::MAX), ..NOTHING }, "rate_per_s"),
    ] {
        let violations = repository.patch(line(n), &DEFAULT, &bad).await.unwrap().unwrap_err();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, [field]);
    }

    assert_eq!(repository.find(line(1), &DEFAULT).await.unwrap(), expected);
    assert_eq!(repository.find(line(2), &DEFAULT).await.unwrap(), DEFAULT);
}

fn line(n: u8) -> PerformanceId {
    PerformanceId::from_bytes([n; 16])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use usher_kernel::{StoreError, Violation};

    use super::*;
    use crate::race::Gap;

    /// Reads the earlier patches, and writes them back after other callers could read them too.
    #[derive(Default)]
    struct CheckThenAct(Mutex<HashMap<PerformanceId, PolicyPatch>>, Gap);

    impl CheckThenAct {
        fn patched(&self, performance: PerformanceId) -> PolicyPatch {
            self.0.lock().unwrap().get(&performance).copied().unwrap_or(NOTHING)
        }
    }

    #[async_trait]
    impl PolicyRepository for CheckThenAct {
        async fn find(
            &self,
            performance: PerformanceId,
            default: &AdmissionPolicy,
        ) -> Result<AdmissionPolicy, StoreError> {
            Ok(default.with(&self.patched(performance)))
        }

        async fn patch(
            &self,
            performance: PerformanceId,
            default: &AdmissionPolicy,
            patch: &PolicyPatch,
        ) -> Result<Result<AdmissionPolicy, Vec<Violation>>, StoreError> {
            let before = self.patched(performance);
            self.1.wait_for_others().await;
            let after = PolicyPatch {
                capacity: patch.capacity.or(before.capacity),
                rate_per_s: patch.rate_per_s.or(before.rate_per_s),
                pass_ttl: patch.pass_ttl.or(before.pass_ttl),
                presence_window: patch.presence_window.or(before.presence_window),
                state: patch.state.or(before.state),
            };
            let policy = default.with(&after);
            if let Err(violations) = policy.validate() {
                return Ok(Err(violations));
            }
            self.0.lock().unwrap().insert(performance, after);
            Ok(Ok(policy))
        }
    }

    struct Control(Arc<CheckThenAct>);

    impl Fixture for Control {
        async fn fresh() -> Self {
            Self(Arc::default())
        }

        fn repository(&self) -> Arc<dyn PolicyRepository> {
            Arc::<CheckThenAct>::clone(&self.0)
        }
    }

    #[tokio::test]
    #[should_panic(expected = "no patch is lost")]
    async fn writing_back_what_was_read_is_rejected() {
        of_many_patches_of_different_values_none_is_lost::<Control>().await;
    }

    #[tokio::test]
    async fn only_the_race_rejects_the_control() {
        a_value_never_patched_is_the_defaults::<Control>().await;
        a_patch_changes_only_what_it_names::<Control>().await;
        a_policy_that_is_not_valid_is_refused::<Control>().await;
    }
}
