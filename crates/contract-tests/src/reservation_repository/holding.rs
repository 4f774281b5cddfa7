//! Holds: whole groups, batches, refusals, and when a hold lapses.

use super::*;

/// 1 and 4: no seat of a group is held if one of them is taken.
pub async fn a_group_is_held_whole_or_not_at_all_and_every_conflict_is_named<F: Fixture>() {
    let stage = Stage::<F>::with_seats(5).await;
    stage.held(&stage.wish(1, &["A-1-2", "A-1-4"])).await;

    let outcome = stage.hold(&stage.wish(2, &["A-1-4", "A-1-3", "A-1-2", "A-1-1"])).await;

    assert_eq!(outcome, HoldOutcome::Taken(vec![seat("A-1-4"), seat("A-1-2")]));
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 5, available: 3, held: 2, sold: 0 });

    let whole = stage.held(&stage.wish(2, &["A-1-3", "A-1-1"])).await;

    assert_eq!(whole.seats.iter().map(|reserved| reserved.seat.as_str()).collect::<Vec<_>>(), ["A-1-3", "A-1-1"]);
    assert_eq!(whole.total.amount(), 2 * PRICE);
    assert_eq!((whole.created_at, whole.held_until, whole.version), (NOW, NOW.plus(HOLD_TTL), 1));
    stage.close().await;
}

/// 1, 5, 6 and 7, within one call.
pub async fn commands_of_one_call_are_judged_one_after_the_other<F: Fixture>() {
    let stage = Stage::<F>::with_seats(6).await;
    let first = stage.wish(1, &["A-1-1"]);
    let twin = HoldCommand { id: ReservationId::from_bytes(id(101)), ..first.clone() };
    let other_body = HoldCommand { claim: claim(1, "hold", 102), ..twin.clone() };
    let same_seat = stage.wish(2, &["A-1-2", "A-1-1"]);
    let after_a_refusal = stage.wish(3, &["A-1-2"]);
    let same_pass = HoldCommand {
        id: ReservationId::from_bytes(id(103)),
        claim: claim(1, "another", 103),
        ..stage.wish(1, &["A-1-3"])
    };
    let over_the_limit = HoldCommand {
        id: ReservationId::from_bytes(id(104)),
        pass: PassNumber(104),
        claim: claim(1, "third", 104),
        seat_limit: 2,
        ..stage.wish(1, &["A-1-3", "A-1-4"])
    };
    let just_within = HoldCommand { seats: named(&["A-1-3"]), ..over_the_limit.clone() };
    let commands =
        [first, twin, other_body, same_seat, after_a_refusal, same_pass, over_the_limit, just_within].to_vec();

    let outcomes = stage.repository.hold(&commands, NOW).await.unwrap();

    let [first, twin, other_body, same_seat, after_a_refusal, same_pass, over_the_limit, just_within] =
        <[HoldOutcome; 8]>::try_from(outcomes).unwrap();
    assert_eq!(twin, HoldOutcome::Replayed(held(first)));
    assert_eq!(other_body, HoldOutcome::KeyMismatch);
    assert_eq!(same_seat, HoldOutcome::Taken(vec![seat("A-1-1")]));
    assert_eq!(held(after_a_refusal).seats[0].seat, seat("A-1-2"));
    assert_eq!(same_pass, HoldOutcome::PassBusy);
    assert_eq!(over_the_limit, HoldOutcome::LimitReached);
    assert_eq!(held(just_within).seats[0].seat, seat("A-1-3"));
    assert_eq!(stage.repository.hold(&[], NOW).await.unwrap(), []);
    stage.close().await;
}

/// 1: a batch may hold seats of several performances, even if the seats have the same names.
pub async fn a_batch_spans_performances<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let other = PerformanceId::from_bytes(id(2));
    stage.fixture.seed(other, &SeatMap::from_sections(&[section("A", 2, "R", 7)]).unwrap()).await;
    let here = stage.wish(1, &["A-1-1"]);
    let there = HoldCommand { performance: other, ..stage.wish(2, &["A-1-1", "A-1-2"]) };
    let nowhere = HoldCommand { performance: PerformanceId::from_bytes(id(3)), ..stage.wish(3, &["A-1-1"]) };

    let outcomes = stage.repository.hold(&[here, there, nowhere], NOW).await.unwrap();

    let [here, there, nowhere] = <[HoldOutcome; 3]>::try_from(outcomes).unwrap();
    assert_eq!((held(here).total.amount(), held(there).total.amount()), (PRICE, 14));
    assert_eq!(nowhere, HoldOutcome::UnknownSeats(vec![0]));
    let counts = stage.repository.seat_counts(&[other, stage.performance], NOW).await.unwrap();
    assert_eq!(counts[0], SeatCounts { total: 2, held: 2, ..SeatCounts::default() });
    assert_eq!(counts[1], SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    assert!(audit::check(&stage.history_of(other).await).contradictions.is_empty());
    stage.close().await;
}

/// 2.
pub async fn every_change_of_a_seat_raises_its_version_and_leaves_one_event<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Held, 2));
    assert!(matches!(stage.release(1, NOW.plus(MS)).await, ReleaseOutcome::Released(_)));
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Available, 3));
    stage.sold(2, &["A-1-1"]).await;
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Sold, 5));

    let history = stage.history().await;

    let (first, second) = (Some(ReservationId::from_bytes(id(1))), Some(ReservationId::from_bytes(id(2))));
    let until = Some(NOW.plus(HOLD_TTL));
    let events: Vec<_> = history
        .events
        .iter()
        .map(|event| (event.version, event.status, event.owner_before, event.owner, event.held_until, event.at))
        .collect();
    assert_eq!(
        events,
        [
            (2, SeatStatus::Held, None, first, until, NOW),
            (3, SeatStatus::Available, first, None, None, NOW.plus(MS)),
            (4, SeatStatus::Held, None, second, until, NOW),
            (5, SeatStatus::Sold, second, second, None, NOW),
        ]
    );
    assert_eq!(history.sales.len(), 1);
    assert_eq!((history.sales[0].seat.clone(), Some(history.sales[0].reservation)), (seat("A-1-1"), second));
    stage.close().await;
}

/// 3: a hold is live until just before its deadline.
pub async fn a_lapsed_hold_reads_as_expired_and_keeps_nobody_from_its_seats<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    let lapse = NOW.plus(HOLD_TTL);
    let just_before = lapse.minus(MS);

    assert_eq!(stage.state(1, just_before).await, State::Held);
    assert_eq!(stage.counts(just_before).await.held, 2);
    let too_early = stage.hold_at(just_before, &stage.wish(2, &["A-1-1"])).await;
    assert_eq!(too_early, HoldOutcome::Taken(vec![seat("A-1-1")]));

    assert_eq!(stage.state(1, lapse).await, State::Expired);
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 2, ..SeatCounts::default() });
    assert_eq!(stage.seat("A-1-1", lapse).await, (SeatStatus::Available, 2));
    let filter = SeatFilter { status: Some(SeatStatus::Available), limit: 201, ..SeatFilter::default() };
    assert_eq!(stage.repository.seats(stage.performance, &filter, lapse).await.unwrap().len(), 2);
    stage.held_at(lapse, &stage.wish(2, &["A-1-1"])).await;

    let history = stage.history().await;
    let takeover = history.events.last().unwrap();
    assert_eq!((takeover.version, takeover.at), (3, lapse));
    assert_eq!(takeover.owner_before, Some(ReservationId::from_bytes(id(1))));
    assert_eq!(takeover.owner, Some(ReservationId::from_bytes(id(2))));
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    stage.close().await;
}

/// 4.
pub async fn a_refusal_changes_nothing_and_keeps_no_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let before = stage.history().await;
    let wish = stage.wish(2, &["A-1-2", "A-1-1"]);

    let refused = [
        stage.hold(&wish).await,
        stage.hold(&HoldCommand { seats: named(&["B-1-1"]), ..wish.clone() }).await,
        stage.hold(&HoldCommand { seats: named(&["A-1-2"]), seat_limit: 0, ..wish.clone() }).await,
    ];

    let reasons =
        [HoldOutcome::Taken(vec![seat("A-1-1")]), HoldOutcome::UnknownSeats(vec![0]), HoldOutcome::LimitReached];
    assert_eq!(refused, reasons);
    assert_eq!(stage.history().await, before);
    assert_eq!(stage.repository.find_hold(&wish.claim, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.find(wish.id, wish.account, NOW).await.unwrap(), None);

    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    assert!(is_held(&stage.hold(&wish).await), "the same request is judged afresh");
    stage.close().await;
}

/// 4.
pub async fn seats_that_are_not_there_are_named_by_their_positions<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;

    let outcome = stage.hold(&stage.wish(1, &["A-1-3", "A-1-1", "B-1-1", "a-1-2"])).await;

    assert_eq!(outcome, HoldOutcome::UnknownSeats(vec![0, 2, 3]));
    stage.close().await;
}
