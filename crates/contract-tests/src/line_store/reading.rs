//! Reads: places, counts, and changes since a cursor.

use usher_queue::LineView;
use usher_queue::view::Limit;

use super::*;

/// Waiting, inside, done, expired, and a number that was never given out.
pub async fn resolve_tells_where_places_stand<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..7).await;
    let first = scene.with_capacity(1).admit().await.granted;
    scene.later(PASS_TTL);
    let second = scene.with_capacity(1).admit().await.granted;
    assert_eq!((numbers(&first), numbers(&second)), (vec![1], vec![2]));
    assert_eq!(scene.leave(places[3]).await, LeaveOutcome::LeftTheLine);

    let answers = scene.resolve(&places).await;

    let expected = [
        Resolution::Expired,
        Resolution::Admitted(second[0]),
        waiting(3, 0),
        Resolution::Done,
        waiting(5, 1),
        waiting(6, 2),
    ];
    assert_eq!(answers, expected);
    assert_eq!(scene.resolve_one(scene.place(7, 7)).await, Resolution::Unknown);
}

/// After an account left and joined again, its old token resolves to the end of the old place, and does not touch the
/// new one.
pub async fn resolve_answers_an_old_token_with_what_became_of_it<F: Fixture>() {
    let scene = Scene::open::<F>().await;
    let old = scene.queue_up(1..2).await[0];
    assert_eq!(scene.leave(old).await, LeaveOutcome::LeftTheLine);
    let new = scene.queue_up(1..2).await[0];

    assert_eq!(scene.resolve(&[old, new]).await, [Resolution::Done, waiting(2, 0)]);
    let granted = scene.admit().await.granted;
    assert_eq!(scene.resolve(&[old, new]).await, [Resolution::Done, Resolution::Admitted(granted[0])]);
}

/// Each count, as [`LineCounts`] defines it.
pub async fn counts_tell_the_numbers_of_the_line<F: Fixture>() {
    let mut scene = Scene::open::<F>().await.with_capacity(2);
    let places = scene.queue_up(1..8).await;
    scene.watch(WINDOW + BUCKET, &[3, 4, 5, 6, 7]).await;
    assert_eq!(scene.admit_numbers().await, [3, 4]);
    assert_eq!(scene.resolve_one(places[1]).await, waiting(2, 0));
    assert_eq!(scene.leave(places[2]).await, LeaveOutcome::EndedPass);

    let expected = LineCounts {
        serving: PlaceNumber::new(4),
        issued: PlaceNumber::new(7),
        inherited: PlaceNumber::ZERO,
        waiting: 4,
        returned: 1,
        away: 1,
        active: 1,
        admitted_total: 2,
        holds_until: None,
    };
    assert_eq!(scene.counts().await, expected);
}

/// 9: G gets the numbers above `serving` whose places leave, and no others.
pub async fn serving_only_rises_and_whoever_leaves_above_it_is_gone<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..10).await;
    scene.watch(WINDOW + BUCKET, &[2, 3, 4, 5, 6, 7, 8, 9]).await;
    assert_eq!(scene.with_capacity(1).admit_numbers().await, [2]);

    // 1 is away, 2 is inside, 6 and 8 wait above `serving`.
    assert_eq!(scene.leave(places[0]).await, LeaveOutcome::LeftTheLine);
    assert_eq!(scene.leave(places[1]).await, LeaveOutcome::EndedPass);
    assert_eq!(scene.leave(places[5]).await, LeaveOutcome::LeftTheLine);
    scene.end_pass(8).await;

    let changes = scene.changes(Cursor::default()).await;
    assert_eq!(changes.counts.serving.get(), 2);
    assert_eq!(changes.gone, GoneChanges::All([6, 8].into_iter().collect()));
    assert_eq!(scene.admit_numbers().await, [3, 4, 5, 7, 9]);
    let later = scene.changes(Cursor::default()).await;
    assert_eq!(later.counts.serving.get(), 9);
}

/// 9: a view continues from its cursor, and misses nothing.
pub async fn refresh_tells_what_changed_since_the_cursor<F: Fixture>() {
    let scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..6).await;
    assert_eq!(scene.leave(places[1]).await, LeaveOutcome::LeftTheLine);

    let first = scene.changes(Cursor::default()).await;
    let nothing_new = scene.changes(first.cursor).await;
    assert_eq!(scene.leave(places[4]).await, LeaveOutcome::LeftTheLine);
    assert_eq!(scene.leave(places[2]).await, LeaveOutcome::LeftTheLine);
    let second = scene.changes(first.cursor).await;

    assert_eq!(first.gone, GoneChanges::All([2].into_iter().collect()));
    assert_eq!((nothing_new.gone, nothing_new.cursor), (GoneChanges::Since(vec![]), first.cursor));
    assert_eq!(second.gone, GoneChanges::Since(vec![PlaceNumber::new(5), PlaceNumber::new(3)]));
    assert!(second.cursor > first.cursor);

    // All lines in one round trip, in the order of the request. A line that is not open is `Lost`.
    let unknown = random_performance();
    let lines = [(unknown, Cursor::default()), (scene.at.performance, second.cursor)];
    let answers = scene.store.refresh(scene.at.epoch, scene.at.now, &lines).await.expect("the store works");
    let expected = LineChanges { gone: GoneChanges::Since(vec![]), ..second };
    assert_eq!(answers, [InEpoch::Lost, InEpoch::Current(expected)]);
}

/// 9: a view misses nothing, even if its cursor is too old or from an earlier epoch.
pub async fn an_old_cursor_is_told_everything<F: Fixture>() {
    let first = Scene::open::<F>().await;
    let places = first.queue_up(1..9_001).await;
    for place in &places[..3] {
        assert_eq!(first.leave(*place).await, LeaveOutcome::LeftTheLine);
    }
    let before = first.changes(Cursor::default()).await;
    for place in &places[3..8_000] {
        assert_eq!(first.leave(*place).await, LeaveOutcome::LeftTheLine);
    }

    let told = first.changes(before.cursor).await;
    assert_eq!(learned(before.gone) | learned(told.gone), (1..=8_000).collect());

    let second = first.in_epoch(SECOND);
    let gone: RoaringTreemap = (8_001..=20_000).collect();
    second.opens(&Contribution { start: PlaceNumber::new(20_000), gone, ..Contribution::default() }).await;
    for place in second.queue_up(1..6).await {
        assert_eq!(second.leave(place).await, LeaveOutcome::LeftTheLine);
    }
    assert_eq!(learned(second.changes(before.cursor).await.gone), (8_001..=20_005).collect());
}

/// 9, L16: no position in a view rises: not when places leave, are skipped, or return, and not when the line is lost.
pub async fn positions_never_rise<F: Fixture>() {
    let mut scene = Scene::open::<F>().await;
    let places = scene.queue_up(1..21).await;
    let mut view = LineView::default();
    let mut seen = [u64::MAX; 20];
    let mut look = async |scene: &Scene, expected: &[Option<u64>]| {
        let changes = scene.changes(view.cursor()).await;
        view = std::mem::take(&mut view).with(changes, Limit::Room, scene.at.now);
        let positions: Vec<_> = (1..=20).map(|number| view.position(PlaceNumber::new(number))).collect();
        for (before, position) in seen.iter_mut().zip(&positions) {
            let now = position.unwrap_or(0);
            assert!(now <= *before, "from {before} to {now}");
            *before = now;
        }
        assert_eq!(positions[20 - expected.len()..], *expected);
        view.clone()
    };

    look(&scene, &[Some(19), Some(20)]).await;
    for index in [4, 9, 18] {
        assert_eq!(scene.leave(places[index]).await, LeaveOutcome::LeftTheLine);
    }
    look(&scene, &[Some(16), Some(17), Some(17)]).await;
    scene.watch(WINDOW + BUCKET, &[3, 4, 6, 12, 18, 20]).await;
    assert_eq!(scene.with_capacity(2).admit_numbers().await, [3, 4]);
    look(&scene, &[Some(12), Some(13), Some(13)]).await;
    assert_eq!(scene.resolve_one(places[0]).await, waiting(1, 0));
    look(&scene, &[Some(12), Some(13), Some(13)]).await;

    // The line is lost, and opens again from the view. Places come back in the order of their polls.
    let view = look(&scene, &[]).await;
    let mut gone = view.gone().clone();
    gone.insert_range(21..=100);
    let start = PlaceNumber::new(100);
    let scene = scene.in_epoch(SECOND);
    let serving = view.counts().serving;
    scene.opens(&Contribution { start, serving, gone, ..Contribution::default() }).await;
    look(&scene, &[Some(12), Some(13), Some(13)]).await;
    scene.re_enter(places[19], None).await;
    scene.re_enter(places[11], None).await;
    look(&scene, &[Some(12), Some(13), Some(13)]).await;
    assert_eq!(scene.with_capacity(1).admit_numbers().await, [12]);
    look(&scene, &[Some(6), Some(7), Some(7)]).await;
}
