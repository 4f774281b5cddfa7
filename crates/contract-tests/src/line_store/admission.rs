//! Admission: lowest numbers first, within the capacity and the rate.

use super::*;

/// 5: the lowest waiting numbers go first, granted in the same step.
pub async fn the_lowest_numbers_are_admitted_first<F: Fixture>() {
    let scene = Scene::with_waiting::<F>(1..8).await;

    let admission = scene.with_capacity(3).admit().await;

    let grant = |number| Grant {
        number: PlaceNumber::new(number),
        account: account(number),
        expires_at: OPENED_AT.plus(scene.terms.pass_ttl),
    };
    assert_eq!(admission.granted, [grant(1), grant(2), grant(3)]);
    assert_eq!(scene.with_capacity(5).admit_numbers().await, [4, 5]);
    assert_eq!(scene.counts().await.serving, PlaceNumber::new(5));
}

/// 5, L4: capacity holds however often the scheduler runs, when joins admit too, and when an operator lowers it.
pub async fn nobody_is_admitted_over_capacity<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(3);
    scene.join(&accounts(1..10)).await;

    assert_eq!(scene.counts().await.active, 3);
    assert_eq!(scene.admit().await, Admission::default());

    let lowered = scene.with_capacity(1);
    assert_eq!(lowered.leave(scene.place(1, 1)).await, LeaveOutcome::EndedPass);
    assert_eq!(lowered.admit_numbers().await, [0; 0]);
    assert_eq!(scene.admit_numbers().await, [4]);
    assert_eq!(scene.counts().await.active, 3);
}

/// 5: no place is examined or admitted.
pub async fn a_shut_gate_admits_nobody<F: Fixture>() {
    let scene = Scene::with_waiting::<F>(1..4).await;

    assert_eq!(scene.with_gate(Gate::Shut).admit().await, Admission::default());
    assert_eq!(scene.admit_numbers().await, [1, 2, 3]);
}

/// 5: places that a call skips count as examined.
pub async fn admit_examines_no_more_places_than_told<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..11).await;
    scene.watch(WINDOW + BUCKET, &[8, 9, 10]).await;

    let first = scene.admit_examining(4).await;
    let second = scene.admit_examining(4).await;
    let third = scene.admit_examining(4).await;

    assert_eq!((first.examined, first.more, numbers(&first.granted)), (4, true, vec![]));
    assert_eq!((second.examined, second.more, numbers(&second.granted)), (4, true, vec![8]));
    assert_eq!((third.examined, third.more, numbers(&third.granted)), (2, false, vec![9, 10]));
    assert_eq!(scene.counts().await.away, 7);
}

/// 5: `more` is true only if places wait, and room and rate are left.
pub async fn admit_says_more_only_if_another_call_would_find_work<F: Fixture>() {
    let scene = Scene::with_waiting::<F>(1..11).await;

    let full = scene.with_capacity(3).admit_examining(3).await;
    let out_of_rate = scene.under(|terms| terms.rate_per_s = 1).admit_examining(1).await;
    let cut_short = scene.admit_examining(2).await;
    let all = scene.admit_examining(4).await;

    assert_eq!((full.granted.len(), full.more), (3, false));
    assert_eq!((out_of_rate.granted.len(), out_of_rate.more), (1, false));
    assert_eq!((cut_short.granted.len(), cut_short.more), (2, true));
    assert_eq!((all.granted.len(), all.more), (4, false));
}

/// 6: in every span at most rate x span + 1 + rate x tick places are admitted, and in the whole test at least
/// rate x span.
pub async fn the_rate_holds_over_any_time<F: Fixture>() {
    const RATE_PER_S: u64 = 10;
    const TICK_MS: u64 = 250;
    const STEP_MS: u64 = 50;
    const N_STEPS: u64 = 200;
    let mut scene = Scene::with_waiting::<F>(1..401).await.with_capacity(1_000);
    scene.terms.rate_per_s = 10;
    scene.terms.tick = Duration::from_millis(TICK_MS);

    let mut admitted = Vec::new();
    for _ in 0..N_STEPS {
        admitted.push(scene.admit().await.granted.len() as u64);
        scene.later(Duration::from_millis(STEP_MS));
    }

    for first in 0..admitted.len() {
        let mut sum = 0;
        for (n_steps, n_admitted) in admitted[first..].iter().enumerate() {
            sum += n_admitted;
            let span_ms = n_steps as u64 * STEP_MS;
            let most_milli = RATE_PER_S * span_ms + RATE_PER_S * TICK_MS + 1_000;
            assert!(sum * 1_000 <= most_milli, "{sum} within {span_ms} ms");
        }
    }
    let total: u64 = admitted.iter().sum();
    assert!(total >= RATE_PER_S * (N_STEPS - 1) * STEP_MS / 1_000, "{total} in all");
}

/// 6: a rate that is not a whole number per tick loses nothing to rounding.
pub async fn the_rate_is_used_in_full_whatever_a_tick_is_worth<F: Fixture>() {
    for rate_per_s in [1, 3, 6, 10, 50] {
        let mut scene = Scene::with_waiting::<F>(1..1_201).await.with_capacity(2_000);
        scene.terms.rate_per_s = rate_per_s;
        let mut n_admitted = 0;

        for _ in 0..80 {
            scene.later(scene.terms.tick);
            n_admitted += scene.admit().await.granted.len();
        }

        let in_twenty_seconds = 20 * rate_per_s as usize;
        assert!(n_admitted >= in_twenty_seconds, "{n_admitted} at {rate_per_s}/s");
    }
}

/// 4, 6: an admission by `join` uses up the rate as one by `admit` does.
pub async fn joins_and_admissions_share_the_rate<F: Fixture>() {
    let mut scene = Scene::open::<F>().await.under(|terms| terms.rate_per_s = 8);

    let outcomes = scene.join(&accounts(1..6)).await;
    assert!(matches!(outcomes[2], JoinOutcome::Joined(Standing::Admitted(_))), "{outcomes:?}");
    assert_eq!(outcomes[3..], [joined(4), joined(5)]);
    assert_eq!(scene.admit_numbers().await, [0; 0]);

    scene.later(Duration::from_millis(125));
    assert_eq!(scene.admit_numbers().await, [4]);
    scene.later(Duration::from_millis(124));
    assert_eq!(scene.admit_numbers().await, [0; 0]);
}

/// 6: the token bucket does not fill during a pause.
pub async fn the_rate_does_not_gather_while_the_gate_is_shut<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..101).await.under(|terms| terms.rate_per_s = 8);
    assert_eq!(scene.admit_numbers().await, [1, 2, 3]);

    for _ in 0..40 {
        scene.later(scene.terms.tick);
        assert_eq!(scene.with_gate(Gate::Shut).admit().await, Admission::default());
    }

    assert_eq!(scene.admit_numbers().await, [0; 0]);
    scene.later(scene.terms.tick);
    assert_eq!(scene.admit_numbers().await, [4, 5]);
}

/// 6, L3: the token bucket fills once for all servers, even if their clocks differ.
pub async fn servers_whose_clocks_differ_gain_no_rate<F: Fixture>() {
    let behind = Scene::with_waiting::<F>(1..101).await.under(|terms| terms.rate_per_s = 8);
    let mut ahead = behind.clone();
    ahead.later(ahead.terms.tick);
    assert_eq!(behind.admit_numbers().await, [1, 2, 3]);

    assert_eq!(ahead.admit_numbers().await, [4, 5]);
    for _ in 0..3 {
        assert_eq!(behind.admit_numbers().await, [0; 0]);
        assert_eq!(ahead.admit_numbers().await, [0; 0]);
    }
}

/// 1, 5, L1: `admit` takes places from the line and grants their passes in one step. If the server dies before it gets
/// the answer, no place is lost: each resolves to its pass, and counts as inside.
pub async fn a_grant_whose_answer_was_lost_is_a_grant<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(3);
    let places = scene.queue_up(1..6).await;

    drop(scene.store.admit(scene.at, &scene.terms, EXAMINE_MAX).await);

    let expires_at = OPENED_AT.plus(scene.terms.pass_ttl);
    let admitted =
        |place: &Place| Resolution::Admitted(Grant { number: place.number, account: place.account, expires_at });
    let mut expected: Vec<_> = places[..3].iter().map(admitted).collect();
    expected.extend([waiting(4, 0), waiting(5, 1)]);
    assert_eq!(scene.resolve(&places).await, expected);
    assert_eq!(scene.admit().await, Admission::default());
}
