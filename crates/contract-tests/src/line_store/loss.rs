//! Loss of a line, and opening it again from the contributions of servers.

use super::*;

/// A line that was lost after 40 numbers were reserved and 20 called.
fn before_the_loss() -> Contribution {
    Contribution { start: PlaceNumber::new(40), serving: PlaceNumber::new(20), ..Contribution::default() }
}

fn grant(number: u64, expires_at: Timestamp) -> Grant {
    Grant { number: PlaceNumber::new(number), account: account(number), expires_at }
}

/// Checks that every method but `open` answers [`InEpoch::Lost`].
async fn assert_is_lost(scene: &Scene) {
    let place = scene.place(1, 1);
    let window = scene.terms.presence_window;
    let re_entry = ReEntry { place, grant: None };
    let Scene { store, at, terms, ceiling } = scene;
    let works = "the store works";
    assert_eq!(store.join(*at, terms, *ceiling, &[place.account]).await.expect(works), InEpoch::Lost);
    assert_eq!(store.resolve(*at, &[place]).await.expect(works), InEpoch::Lost);
    assert_eq!(store.contribute(*at, &before_the_loss()).await.expect(works), InEpoch::Lost);
    assert_eq!(store.re_enter(*at, &[re_entry]).await.expect(works), InEpoch::Lost);
    assert_eq!(store.leave(*at, place).await.expect(works), InEpoch::Lost);
    assert_eq!(store.end_pass(*at, place.number).await.expect(works), InEpoch::Lost);
    assert_eq!(store.mark_present(*at, window, &RoaringTreemap::new()).await.expect(works), InEpoch::Lost);
    assert_eq!(store.admit(*at, terms, EXAMINE_MAX).await.expect(works), InEpoch::Lost);
    let lines = [(at.performance, Cursor::default())];
    assert_eq!(store.refresh(at.epoch, at.now, &lines).await.expect(works), [InEpoch::Lost]);
}

/// 2: before `open`, every method answers `Lost` and changes nothing.
pub async fn nothing_is_done_before_a_line_opens<F: Fixture>() {
    let scene = Scene::unopened::<F>().await;

    assert_is_lost(&scene).await;

    scene.opens(&Contribution::default()).await;
    let counts = scene.counts().await;
    assert_eq!((counts.issued.get(), counts.waiting, counts.active), (0, 0, 0));
}

/// 2: a call in another epoch than the line's answers `Lost` and changes nothing.
pub async fn another_epoch_finds_the_line_lost<F: Fixture>() {
    let first = Scene::with_waiting::<F>(1..3).await;
    let second = first.in_epoch(SECOND);

    assert_is_lost(&second).await;
    assert_eq!(first.counts().await.waiting, 2);

    second.opens(&before_the_loss()).await;
    assert_is_lost(&first).await;
    let counts = second.counts().await;
    assert_eq!((counts.issued.get(), counts.waiting), (40, 0));
}

/// 2: a server that missed the beginning of an epoch does not bring the older one back.
pub async fn opening_an_older_epoch_changes_nothing<F: Fixture>() {
    let first = Scene::open::<F>().await;
    let second = first.in_epoch(SECOND);
    second.opens(&before_the_loss()).await;
    second.queue_up(1..3).await;

    first.opens(&Contribution { start: PlaceNumber::new(90), ..Contribution::default() }).await;

    assert_is_lost(&first).await;
    let counts = second.counts().await;
    assert_eq!((counts.issued.get(), counts.inherited.get(), counts.waiting), (42, 40, 2));
}

/// 2, 9: each server adds what it knows, in any order and at any time.
pub async fn a_contribution_adds_and_takes_nothing_back<F: Fixture>() {
    let expires_at = OPENED_AT.plus(PASS_TTL);
    let one = Contribution {
        gone: [25, 26].into_iter().collect(),
        active: vec![grant(18, expires_at), grant(19, expires_at)],
        ..before_the_loss()
    };
    let other = Contribution {
        serving: PlaceNumber::new(22),
        gone: [26, 30].into_iter().collect(),
        active: vec![grant(19, expires_at), grant(22, expires_at)],
        ..before_the_loss()
    };
    let scene = Scene::opened_with::<F>(&one).await;
    let waits = scene.queue_up(50..51).await[0];
    let caught_up = scene.changes(Cursor::default()).await.cursor;

    scene.contribute(&other).await;
    let after = scene.changes(caught_up).await;
    scene.opens(&one).await;

    assert!(learned(after.gone).contains(30), "the news reached a view that was up to date");
    for counts in [after.counts, scene.counts().await] {
        assert_eq!((counts.serving.get(), counts.issued.get(), counts.inherited.get()), (22, 41, 40));
        assert_eq!((counts.active, counts.waiting), (3, 1));
    }
    assert_eq!(all_gone(&scene).await, [25, 26, 30].into_iter().collect());
    assert_eq!(scene.resolve_one(waits).await, waiting(41, 0));
}

async fn all_gone(scene: &Scene) -> RoaringTreemap {
    learned(scene.changes(Cursor::default()).await.gone)
}

/// 3, L16: no number is given out twice, even after a loss.
pub async fn numbers_go_on_after_the_start<F: Fixture>() {
    let scene = Scene::opened_with::<F>(&before_the_loss()).await;

    let places = scene.queue_up(1..3).await;

    assert_eq!(places, [scene.place(41, 1), scene.place(42, 2)]);
    let counts = scene.counts().await;
    assert_eq!((counts.serving.get(), counts.inherited.get(), counts.issued.get()), (20, 40, 42));
}

/// 2, 7: live passes count as inside. Passes that expired meanwhile take no room.
pub async fn passes_of_before_a_loss_are_inside<F: Fixture>() {
    let lives = grant(19, OPENED_AT.plus(MILLISECOND));
    let ran_out = grant(20, OPENED_AT);
    let contribution = Contribution { active: vec![lives, ran_out], ..before_the_loss() };
    let mut scene = Scene::opened_with::<F>(&contribution).await.with_capacity(1);
    let place = scene.place(19, 19);
    scene.queue_up(1..2).await;

    assert_eq!(scene.counts().await.active, 1);
    assert_eq!(scene.resolve_one(place).await, Resolution::Admitted(lives));
    assert_eq!(scene.join_one(19).await, JoinOutcome::Already(Standing::Admitted(lives)));
    assert_eq!(scene.admit_numbers().await, [0; 0]);

    scene.later(MILLISECOND);
    assert_eq!(scene.resolve_one(place).await, Resolution::Expired);
    assert_eq!(scene.admit_numbers().await, [41]);
}

/// 5, L4: capacity holds across a loss. Three places were inside, and one of them is known. However often the scheduler
/// runs, the room of the other two stays taken until they show their passes, or the passes expire.
pub async fn the_room_of_before_a_loss_stays_taken_until_it_runs_out<F: Fixture>() {
    let expires_at = OPENED_AT.plus(PASS_TTL);
    let contribution = Contribution {
        active: vec![grant(18, expires_at)],
        reserved: 3,
        reserved_until: Some(expires_at),
        ..before_the_loss()
    };
    let mut scene = Scene::opened_with::<F>(&contribution).await.with_capacity(5);
    scene.queue_up(101..121).await;

    assert_eq!(scene.admit_numbers().await, [41, 42]);
    assert_eq!(scene.admit_numbers().await, [0; 0], "two more were inside and may show their passes yet");

    scene.re_enter(scene.place(19, 19), Some(grant(19, expires_at))).await;
    assert_eq!(scene.counts().await.active, 4);
    assert_eq!(scene.admit_numbers().await, [0; 0], "a pass that was shown is inside the room that was kept");

    assert_eq!(scene.leave(scene.place(19, 19)).await, LeaveOutcome::EndedPass);
    assert_eq!(scene.admit_numbers().await, [43], "it frees its room like any other");

    scene.later(PASS_TTL - MILLISECOND);
    assert_eq!(scene.admit_numbers().await, [0; 0]);
    scene.later(MILLISECOND);
    assert_eq!(scene.admit_numbers().await, [44, 45, 46, 47, 48]);
}

/// 4, 5: people who waited get the time to come back.
pub async fn nobody_is_admitted_while_the_line_holds<F: Fixture>() {
    let holds_until = Some(OPENED_AT.plus(SECOND_LONG));
    let mut scene = Scene::opened_with::<F>(&Contribution { holds_until, ..before_the_loss() }).await;
    scene.queue_up(1..2).await;

    scene.later(SECOND_LONG - MILLISECOND);
    assert_eq!(scene.counts().await.holds_until, holds_until);
    assert_eq!(scene.admit().await, Admission::default());
    scene.re_enter(scene.place(31, 31), None).await;

    scene.later(MILLISECOND);
    assert_eq!(scene.admit_numbers().await, [31, 41]);
}

/// 11, L16: the order survives the loss, in whatever order people poll. A number that was called before goes first.
pub async fn a_place_re_enters_under_its_own_number<F: Fixture>() {
    let contribution = Contribution { gone: [33].into_iter().collect(), ..before_the_loss() };
    let scene = Scene::opened_with::<F>(&contribution).await;
    scene.queue_up(1..2).await;
    let places = [scene.place(35, 35), scene.place(33, 33), scene.place(30, 30), scene.place(12, 12)];
    assert_eq!(scene.resolve(&places).await, [Resolution::Unknown; 4]);

    for place in places {
        scene.re_enter(place, None).await;
    }

    assert_eq!(scene.resolve(&places).await, [waiting(35, 3), waiting(33, 2), waiting(30, 1), waiting(12, 0)]);
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.returned, counts.serving.get()), (5, 1, 20));
    assert_eq!(scene.admit_numbers().await, [12, 30, 33, 35, 41]);
}

/// 11: the account keeps its pass, and gets no second place.
pub async fn re_entering_does_nothing_for_an_account_inside<F: Fixture>() {
    let scene = Scene::opened_with::<F>(&before_the_loss()).await;
    let JoinOutcome::Joined(Standing::Admitted(inside)) = scene.join_one(1).await else {
        panic!("there is room, and nobody waits");
    };

    scene.re_enter(scene.place(30, 1), None).await;
    scene.re_enter(scene.place(31, 1), Some(Grant { number: PlaceNumber::new(31), ..inside })).await;

    assert_eq!(scene.resolve_one(scene.place(30, 1)).await, Resolution::Admitted(inside));
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.active), (0, 1));
}

/// 11: the token of the place that gave way resolves to the place that stays. A lower number from before the loss is
/// `Unknown` at first: only the ledger knows whether its pass was used.
pub async fn of_two_places_of_an_account_the_lower_number_stays<F: Fixture>() {
    let scene = Scene::opened_with::<F>(&before_the_loss()).await;
    let new = scene.queue_up(1..2).await[0];
    let old = scene.place(30, 1);
    let older = scene.place(15, 1);

    assert_eq!(scene.resolve_one(old).await, Resolution::Unknown);
    scene.re_enter(old, None).await;
    assert_eq!(scene.resolve(&[old, new]).await, [waiting(30, 0); 2]);
    scene.re_enter(older, None).await;
    scene.re_enter(old, None).await;

    assert_eq!(scene.resolve(&[older, old, new]).await, [waiting(15, 0); 3]);
    assert_eq!(scene.join_one(1).await, already(15));
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.returned), (1, 1));
    // The numbers that gave way are in G.
    assert_eq!(all_gone(&scene).await, [30, 41].into_iter().collect());
    assert_eq!(scene.leave(new).await, LeaveOutcome::NotThere);
    assert_eq!(scene.admit_numbers().await, [15]);

    // When the account's place is done, so is its number of this epoch, which gave way.
    assert_eq!(scene.leave(older).await, LeaveOutcome::EndedPass);
    scene.re_enter(new, None).await;
    assert_eq!(scene.resolve_one(new).await, Resolution::Done);
}

/// 7, 11: a place that shows a live pass from before the loss is inside, even if its owner joined anew. A place that
/// shows an expired pass is expired.
pub async fn a_place_re_enters_with_its_pass<F: Fixture>() {
    let scene = Scene::opened_with::<F>(&before_the_loss()).await;
    let new = scene.queue_up(23..24).await[0];
    let old = scene.place(23, 23);
    let lives = grant(23, OPENED_AT.plus(MILLISECOND));

    scene.re_enter(old, Some(lives)).await;
    scene.re_enter(scene.place(22, 22), Some(grant(22, OPENED_AT))).await;

    assert_eq!(scene.resolve(&[old, new]).await, [Resolution::Admitted(lives); 2]);
    assert_eq!(scene.resolve_one(scene.place(22, 22)).await, Resolution::Expired);
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.active), (0, 1));
    // Numbers are called in order, so this one and all lower ones were called.
    assert_eq!(counts.serving.get(), 23);
}

/// 7, 11, 12: a late repetition does not bring back a place that left, a place whose pass was used up before the store
/// knew the pass, a place whose pass expired, or a place of this epoch.
pub async fn a_place_that_ended_does_not_re_enter<F: Fixture>() {
    let mut scene = Scene::opened_with::<F>(&before_the_loss()).await;
    let (left, used, ran_out) = (scene.place(30, 30), scene.place(18, 18), scene.place(19, 19));
    let this_epoch = scene.queue_up(1..2).await[0];
    scene.re_enter(left, None).await;
    assert_eq!(scene.leave(left).await, LeaveOutcome::LeftTheLine);
    assert_eq!(scene.leave(this_epoch).await, LeaveOutcome::LeftTheLine);
    scene.end_pass(18).await;
    scene.re_enter(ran_out, Some(grant(19, OPENED_AT.plus(MILLISECOND)))).await;
    scene.later(MILLISECOND);

    for (place, pass) in [(left, None), (used, Some(grant(18, OPENED_AT.plus(PASS_TTL)))), (ran_out, None)] {
        scene.re_enter(place, pass).await;
    }
    scene.re_enter(this_epoch, None).await;

    let ended = [Resolution::Done, Resolution::Done, Resolution::Expired, Resolution::Done];
    assert_eq!(scene.resolve(&[left, used, ran_out, this_epoch]).await, ended);
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.active), (0, 0));
}

/// 12: a caller without an answer may repeat every call.
pub async fn every_method_may_be_repeated<F: Fixture>() {
    let lives = grant(18, OPENED_AT.plus(PASS_TTL));
    let contribution = Contribution {
        gone: [31].into_iter().collect(),
        active: vec![lives],
        reserved: 1,
        reserved_until: Some(lives.expires_at),
        ..before_the_loss()
    };
    let scene = Scene::opened_with::<F>(&contribution).await.with_capacity(3);

    for _ in 0..3 {
        scene.opens(&contribution).await;
        scene.contribute(&contribution).await;
        scene.with_gate(Gate::Shut).join(&accounts(1..6)).await;
        scene.re_enter(scene.place(30, 30), None).await;
        scene.re_enter(scene.place(18, 18), Some(lives)).await;
        scene.mark_present(&[30, 41, 42]).await;
        scene.end_pass(41).await;
        // The place is there only in the first round.
        let _left_or_not_there = scene.leave(scene.place(42, 2)).await;
        scene.admit().await;
        scene.resolve(&[scene.place(43, 3), scene.place(44, 4)]).await;
    }

    let counts = scene.counts().await;
    assert_eq!((counts.active, counts.admitted_total, counts.serving.get()), (3, 2, 43));
    // The places of accounts 1 and 2 ended, and both joined again, once each.
    assert_eq!((counts.issued.get(), counts.waiting, counts.away), (47, 4, 0));
    assert_eq!(all_gone(&scene).await, [31, 41, 42].into_iter().collect());
}
