//! Presence: `admit` skips absent places, and they keep their numbers.

use super::*;

/// 5, 8, L18: absent people do not block the line, and do not lose their place either.
pub async fn absent_people_are_skipped_and_return_to_the_front<F: Fixture>() {
    let mut scene = Scene::open::<F>().await.with_capacity(2);
    let places = scene.queue_up(1..8).await;
    scene.watch(WINDOW + BUCKET, &[2, 4, 6, 7]).await;

    assert_eq!(scene.admit_numbers().await, [2, 4]);
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.returned, counts.away, counts.serving.get()), (3, 0, 2, 4));

    assert_eq!(scene.resolve_one(places[2]).await, waiting(3, 0));
    assert_eq!(scene.resolve_one(places[0]).await, waiting(1, 0));
    assert_eq!(scene.resolve_one(places[2]).await, waiting(3, 1));
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.returned, counts.away), (5, 2, 0));

    // 1 and 3 are back, and go first. 5 was not seen, and is skipped.
    assert_eq!(scene.with_capacity(5).admit_numbers().await, [1, 3, 6]);
    assert_eq!(scene.counts().await.away, 1);
    // Numbers that return do not lower `serving`.
    assert_eq!(scene.counts().await.serving.get(), 6);
}

/// 3, 8: the account gets the same number.
pub async fn joining_again_brings_someone_away_back<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..4).await;
    scene.watch(WINDOW + BUCKET, &[2, 3]).await;
    assert_eq!(scene.with_capacity(1).admit_numbers().await, [2]);

    assert_eq!(scene.join_one(1).await, already(1));

    assert_eq!(scene.counts().await.away, 0);
    assert_eq!(scene.with_capacity(2).admit_numbers().await, [1]);
}

/// 1, 7: a place that is away may leave.
pub async fn leaving_while_away_is_leaving<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..3).await;
    scene.watch(WINDOW + BUCKET, &[2]).await;
    assert_eq!(scene.admit_numbers().await, [2]);
    let place = scene.place(1, 1);

    assert_eq!(scene.leave(place).await, LeaveOutcome::LeftTheLine);

    assert_eq!(scene.counts().await.away, 0);
    assert_eq!(scene.resolve_one(place).await, Resolution::Done);
    assert_eq!(scene.leave(place).await, LeaveOutcome::NotThere);
}

/// 10: seen by `join` or a merge, up to the last millisecond of the window, wherever it begins within a bucket.
pub async fn who_was_seen_within_the_window_is_not_skipped<F: Fixture>() {
    for offset in [Duration::ZERO, BUCKET / 3, BUCKET - MILLISECOND] {
        let mut scene = Scene::open::<F>().await;
        scene.queue_up(1..2).await;
        scene.watch(WINDOW + BUCKET + offset, &[]).await;
        scene.mark_present(&[1]).await;
        scene.queue_up(2..3).await;
        scene.watch(WINDOW, &[]).await;

        let admission = scene.with_capacity(1).admit().await;
        assert_eq!(numbers(&admission.granted), [1], "{offset:?}");

        scene.later(MILLISECOND);
        let end_of_bucket = BUCKET - MILLISECOND;
        scene.watch(end_of_bucket, &[]).await;
        assert_eq!(scene.admit_numbers().await, [0; 0], "{offset:?}");
        assert_eq!(scene.counts().await.away, 1, "{offset:?}");
    }
}

/// 10: `resolve` marks the place present in the same step.
pub async fn resolving_is_being_seen<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..3).await;
    scene.watch(WINDOW, &[]).await;

    assert_eq!(scene.resolve_one(places[1]).await, waiting(2, 1));
    scene.watch(WINDOW, &[]).await;

    assert_eq!(scene.admit_numbers().await, [2]);
    assert_eq!(scene.counts().await.away, 1);
}

/// 10: people may have polled while no server could merge their presence.
pub async fn after_a_silence_of_merges_nobody_is_skipped_for_a_window<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..5).await;
    scene.watch(2 * WINDOW, &[]).await;

    scene.later(BUCKET + MILLISECOND);
    assert_eq!(scene.with_capacity(1).admit_numbers().await, [1], "in the silence");
    scene.mark_present(&[]).await;
    assert_eq!(scene.with_capacity(2).admit_numbers().await, [2], "right after it");
    scene.watch(WINDOW - MILLISECOND, &[]).await;
    assert_eq!(scene.with_capacity(3).admit_numbers().await, [3], "before a full window was seen");

    scene.watch(BUCKET + MILLISECOND, &[]).await;
    assert_eq!(scene.with_capacity(4).admit_numbers().await, [0; 0], "after that");
    assert_eq!(scene.counts().await.away, 1);
}

/// 10: an operator makes the window longer. Places seen before the old window, but within the new one, are not skipped.
pub async fn a_longer_window_skips_nobody_it_has_not_watched_that_long<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..3).await;
    scene.watch(4 * WINDOW, &[]).await;
    scene.mark_present(&[1, 2]).await;
    scene.watch(2 * WINDOW, &[]).await;

    let longer = scene.under(|terms| terms.presence_window = 4 * WINDOW);

    longer.mark_present(&[]).await;
    assert_eq!(longer.admit_numbers().await, [1, 2]);
}
