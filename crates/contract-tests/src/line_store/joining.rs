//! Joining: numbers in the order of the calls, and one place per account.

use super::*;

/// 3: numbers are given in the order of the calls.
pub async fn numbers_follow_the_order_of_the_joins<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_gate(Gate::Shut);

    let first = scene.join(&accounts(0..3)).await;
    let then = scene.join(&[account(9), account(5)]).await;

    assert_eq!(first, [joined(1), joined(2), joined(3)]);
    assert_eq!(then, [joined(4), joined(5)]);
}

/// 3, L7: the order is that of the numbers, not of a clock. 10,000 people join in one millisecond, and are admitted in
/// the order of their joins.
pub async fn ten_thousand_joins_in_one_millisecond_keep_their_order<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(10_000);

    for from in (0..10_000).step_by(100) {
        let expected: Vec<_> = (from + 1..=from + 100).map(joined).collect();
        assert_eq!(scene.with_gate(Gate::Shut).join(&accounts(from..from + 100)).await, expected);
    }
    let mut admitted = Vec::new();
    for _ in 0..10 {
        admitted.extend(scene.admit().await.granted);
    }

    let who: Vec<_> = admitted.iter().map(|grant| grant.account).collect();
    assert_eq!(who, accounts(0..10_000));
    assert_eq!(numbers(&admitted), (1..=10_000).collect::<Vec<_>>());
}

/// 3, 12, L8: joining again changes nothing: in the same call, in another call, or after admission.
pub async fn an_account_keeps_its_place_from_any_number_of_tabs<F: Fixture>() {
    let scene = Scene::open::<F>().await;
    let waits = scene.with_gate(Gate::Shut);

    let tabs = [account(1), account(1), account(2), account(1)];
    let first = waits.join(&tabs).await;
    let again = waits.join(&tabs).await;
    let granted = scene.with_capacity(1).admit().await.granted;
    let inside = scene.join_one(1).await;

    assert_eq!(first, [joined(1), already(1), joined(2), already(1)]);
    assert_eq!(again, [already(1), already(1), already(2), already(1)]);
    assert_eq!(inside, JoinOutcome::Already(Standing::Admitted(granted[0])));
    assert_eq!(scene.counts().await.issued, PlaceNumber::new(2));
}

/// 3: the highest ceiling that any call named applies. A join above it changes nothing.
pub async fn no_number_is_above_the_highest_ceiling_told<F: Fixture>() {
    let mut scene = Scene::open::<F>().await.with_gate(Gate::Shut);

    scene.ceiling = PlaceNumber::new(2);
    let full = scene.join(&[account(1), account(2), account(3), account(1)]).await;
    scene.ceiling = PlaceNumber::new(4);
    let raised = scene.join_one(3).await;
    scene.ceiling = PlaceNumber::new(2);
    let told_lower = scene.join(&[account(4), account(5)]).await;

    assert_eq!(full, [joined(1), joined(2), JoinOutcome::CeilingReached, already(1)]);
    assert_eq!(raised, joined(3));
    assert_eq!(told_lower, [joined(4), JoinOutcome::CeilingReached]);
    let counts = scene.counts().await;
    assert_eq!((counts.issued.get(), counts.waiting), (4, 4));
}

/// 4: if no place waits, and room and rate are left, `join` admits.
pub async fn join_admits_at_once_where_nobody_waits<F: Fixture>() {
    let scene = Scene::open::<F>().await;

    let outcome = scene.join_one(7).await;

    let grant =
        Grant { number: PlaceNumber::new(1), account: account(7), expires_at: OPENED_AT.plus(scene.terms.pass_ttl) };
    assert_eq!(outcome, JoinOutcome::Joined(Standing::Admitted(grant)));
    assert_eq!(scene.resolve_one(scene.place(1, 7)).await, Resolution::Admitted(grant));
    let counts = scene.counts().await;
    assert_eq!((counts.serving.get(), counts.active, counts.waiting, counts.admitted_total), (1, 1, 0, 1));
}

/// 4: there is room, but a place waits.
pub async fn join_queues_up_behind_whoever_waits<F: Fixture>() {
    let scene = Scene::with_waiting::<F>(0..1).await;

    assert_eq!(scene.join_one(1).await, joined(2));
    assert_eq!(scene.admit_numbers().await, [1, 2]);
}

/// 4: no place waits, but the gate is shut, room or rate is used up, or admission is on hold after a loss.
pub async fn join_waits_where_admission_would<F: Fixture>() {
    let shut = Scene::open::<F>().await.with_gate(Gate::Shut);
    let full = Scene::open::<F>().await.with_capacity(1);
    let slow = Scene::open::<F>().await.under(|terms| terms.rate_per_s = 1);
    let holds_until = Some(OPENED_AT.plus(SECOND_LONG));
    let holding = Scene::opened_with::<F>(&Contribution { holds_until, ..Contribution::default() }).await;

    for scene in [&full, &slow] {
        assert!(matches!(scene.join_one(0).await, JoinOutcome::Joined(Standing::Admitted(_))));
    }

    assert_eq!(shut.join_one(1).await, joined(1));
    assert_eq!(full.join_one(1).await, joined(2));
    assert_eq!(slow.join_one(1).await, joined(2));
    assert_eq!(holding.join_one(1).await, joined(1));
}

/// 1: an account is counted once: as waiting, away or inside.
pub async fn waiting_away_and_inside_exclude_each_other<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..5).await;
    let spread = |counts: LineCounts| (counts.waiting, counts.away, counts.active);
    assert_eq!(spread(scene.counts().await), (4, 0, 0));

    scene.watch(WINDOW + BUCKET, &[1, 4]).await;
    let granted = scene.with_capacity(2).admit().await.granted;
    assert_eq!(numbers(&granted), [1, 4]);
    assert_eq!(spread(scene.counts().await), (0, 2, 2));

    let outcomes = scene.join(&accounts(1..5)).await;
    assert_eq!(outcomes[1..3], [already(2), already(3)]);
    assert_eq!(spread(scene.counts().await), (2, 0, 2));

    assert_eq!(scene.leave(scene.place(1, 1)).await, LeaveOutcome::EndedPass);
    assert_eq!(scene.leave(scene.place(3, 3)).await, LeaveOutcome::LeftTheLine);
    assert_eq!(spread(scene.counts().await), (1, 0, 1));
}
