//! Passes: live until their deadline, each by itself, and never granted twice.

use super::*;

/// 7, at the deadline.
pub async fn a_pass_is_live_before_its_deadline_and_not_at_it<F: Fixture>() {
    let mut scene = Scene::open::<F>().await.with_capacity(1);
    let places = scene.queue_up(1..3).await;
    let granted = scene.admit().await.granted;

    scene.later(PASS_TTL - MILLISECOND);
    assert_eq!(scene.resolve_one(places[0]).await, Resolution::Admitted(granted[0]));
    assert_eq!(scene.admit_numbers().await, [0; 0]);

    scene.later(MILLISECOND);
    assert_eq!(scene.resolve_one(places[0]).await, Resolution::Expired);
    assert_eq!(scene.counts().await.active, 0);
    assert_eq!(scene.admit_numbers().await, [2]);
}

/// 7, L6: each pass expires at its own deadline: none stays longer, and they do not expire together.
pub async fn passes_run_out_one_by_one<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..6).await;
    for capacity in 1..=5 {
        assert_eq!(scene.with_capacity(capacity).admit_numbers().await, [u64::from(capacity)]);
        scene.later(SECOND_LONG);
    }
    scene.later(PASS_TTL - 5 * SECOND_LONG);

    for n_expired in 1..=5_u64 {
        let standing: Vec<_> = (1..=5).map(|number| scene.place(number, number)).collect();
        let answers = scene.resolve(&standing).await;
        let is_expired: Vec<_> = answers.iter().map(|answer| *answer == Resolution::Expired).collect();

        assert_eq!(is_expired, (1..=5).map(|number| number <= n_expired).collect::<Vec<_>>());
        assert_eq!(scene.counts().await.active, 5 - n_expired);
        scene.later(SECOND_LONG);
    }
}

/// 7, L5: the live passes are the count of places inside, so it stays right when owners do not leave.
pub async fn a_thousand_abandoned_passes_give_their_room_back<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(0..2_000).await.with_capacity(1_000);
    assert_eq!(scene.admit().await.granted.len(), 1_000);
    assert_eq!(scene.admit().await, Admission::default());

    scene.later(PASS_TTL);

    assert_eq!(scene.admit_numbers().await, (1_001..=2_000).collect::<Vec<_>>());
    assert_eq!(scene.counts().await.active, 1_000);
}

/// 7: `leave` frees the room before the deadline.
pub async fn leaving_frees_the_room_at_once<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(1);
    let places = scene.queue_up(1..3).await;
    assert_eq!(scene.admit_numbers().await, [1]);

    assert_eq!(scene.leave(places[0]).await, LeaveOutcome::EndedPass);

    assert_eq!(scene.resolve_one(places[0]).await, Resolution::Done);
    assert_eq!(scene.admit_numbers().await, [2]);
}

/// 7: the same, for a caller that knows only the number.
pub async fn ending_a_pass_by_number_frees_the_room_at_once<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(1);
    let places = scene.queue_up(1..3).await;
    assert_eq!(scene.admit_numbers().await, [1]);

    scene.end_pass(1).await;

    assert_eq!(scene.resolve_one(places[0]).await, Resolution::Done);
    assert_eq!(scene.leave(places[0]).await, LeaveOutcome::NotThere);
    assert_eq!(scene.admit_numbers().await, [2]);
}

/// 7: neither `re_enter` nor `admit` grants it again, whether its owner left, it was used up, it expired, or it ended
/// before this store granted it.
pub async fn a_pass_that_ended_is_never_granted_again<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..5).await;
    assert_eq!(scene.with_capacity(3).admit_numbers().await, [1, 2, 3]);

    assert_eq!(scene.leave(places[0]).await, LeaveOutcome::EndedPass);
    scene.end_pass(2).await;
    scene.end_pass(4).await;
    scene.later(PASS_TTL);

    for place in &places {
        scene.re_enter(*place, None).await;
    }
    assert_eq!(scene.admit_numbers().await, [0; 0]);
    let ended = [Resolution::Done, Resolution::Done, Resolution::Expired, Resolution::Done];
    assert_eq!(scene.resolve(&places).await, ended);
    // A hold made in time may be paid after its pass expired.
    scene.end_pass(3).await;
    assert_eq!(scene.resolve_one(places[2]).await, Resolution::Done);
}

/// 7: a server whose clock is behind does not turn back the line's time.
pub async fn a_caller_whose_clock_is_behind_brings_no_pass_back<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(1);
    let places = scene.queue_up(1..3).await;
    assert_eq!(scene.admit_numbers().await, [1]);
    let mut ahead = scene.clone();
    ahead.later(PASS_TTL);
    assert_eq!(ahead.admit_numbers().await, [2]);

    assert_eq!(scene.resolve_one(places[0]).await, Resolution::Expired);
    assert_eq!(scene.join_one(1).await, joined(3));
    assert_eq!(scene.admit_numbers().await, [0; 0]);
}

/// 3, 7: an account whose place is done or expired gets a new number. Its old token still resolves to the end of the
/// old place.
pub async fn whoever_ended_joins_again_at_the_back<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..5).await;
    assert_eq!(scene.with_capacity(2).admit_numbers().await, [1, 2]);
    assert_eq!(scene.leave(places[0]).await, LeaveOutcome::EndedPass);
    assert_eq!(scene.leave(places[2]).await, LeaveOutcome::LeftTheLine);
    scene.later(PASS_TTL);

    let outcomes = scene.with_gate(Gate::Shut).join(&accounts(1..4)).await;

    assert_eq!(outcomes, [joined(5), joined(6), joined(7)]);
    let old = [Resolution::Done, Resolution::Expired, Resolution::Done];
    assert_eq!(scene.resolve(&places[..3]).await, old);
    assert_eq!(scene.admit_numbers().await, [4, 5, 6, 7]);
}

/// 12: a late call for a place that ended does not touch the account's next place.
pub async fn leaving_with_a_place_that_is_not_the_present_one_does_nothing<F: Fixture>() {
    let scene = Scene::open::<F>().await;
    let old = scene.queue_up(1..2).await[0];
    assert_eq!(scene.leave(old).await, LeaveOutcome::LeftTheLine);
    let new = scene.queue_up(1..2).await[0];

    assert_eq!(scene.leave(old).await, LeaveOutcome::NotThere);
    scene.end_pass(old.number.get()).await;
    assert_eq!(scene.leave(scene.place(77, 77)).await, LeaveOutcome::NotThere);

    assert_eq!(scene.resolve_one(new).await, waiting(2, 0));
}
