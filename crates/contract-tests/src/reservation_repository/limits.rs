//! The seat limit of a buyer, and the reservations of a pass.

use super::*;

/// 6, as a race: with different seats, passes and keys, so that only the limit can refuse.
pub async fn a_buyer_never_has_more_seats_than_the_limit<F: Fixture>() {
    let stage = Stage::<F>::with_seats(50).await;
    let wishes = (1..=50).map(|n| HoldCommand {
        account: account(1),
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish(n, &[&format!("A-1-{n}")])
    });

    let outcomes = hold_at_once(wishes.collect(), alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 4);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == HoldOutcome::LimitReached).count(), 46);
    assert_eq!(stage.counts(NOW).await.held, 4);
    stage.close().await;
}

/// 6: seats count that are sold, being paid, or in a live hold.
pub async fn seats_given_back_or_lapsed_do_not_count_against_the_limit<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let wish = |n: u32, seats: &[&str]| HoldCommand {
        account: account(1),
        claim: claim(1, &format!("key-{n}"), n),
        seat_limit: 3,
        ..stage.wish(n, seats)
    };
    stage.sold(1, &["A-1-1"]).await;
    stage.held(&wish(2, &["A-1-2"])).await;
    let pay = PayCommand { account: account(1), claim: claim(1, "pay-2", 2), ..stage.payment(2) };
    stage.begun(&pay).await;
    stage.held(&wish(3, &["A-1-3"])).await;

    // One sold, one being paid, one held.
    assert_eq!(stage.hold(&wish(4, &["A-1-4"])).await, HoldOutcome::LimitReached);

    let third = ReservationId::from_bytes(id(3));
    assert!(matches!(stage.repository.release(third, account(1), NOW).await.unwrap(), ReleaseOutcome::Released(_)));
    stage.held(&wish(4, &["A-1-4"])).await;
    assert_eq!(stage.hold(&wish(5, &["A-1-5"])).await, HoldOutcome::LimitReached);

    // The lapsed fourth hold does not count, though its expiry is not stored. The payment goes on counting.
    let lapse = NOW.plus(HOLD_TTL);
    stage.held_at(lapse, &wish(5, &["A-1-5"])).await;
    assert_eq!(stage.hold_at(lapse, &wish(6, &["A-1-6"])).await, HoldOutcome::LimitReached);
    stage.close().await;
}

/// 7.
pub async fn a_pass_carries_one_live_reservation<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let second = |n| HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish(n, &["A-1-2"])
    };

    assert_eq!(stage.hold(&second(2)).await, HoldOutcome::PassBusy);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    stage.held(&second(2)).await;
    // When the hold lapses, the pass is free again, though the expiry is not stored.
    let lapse = NOW.plus(HOLD_TTL);
    assert_eq!(stage.hold_at(lapse.minus(MS), &second(3)).await, HoldOutcome::PassBusy);
    stage.held_at(lapse, &second(3)).await;
    // A reservation that is being paid is live at any time.
    let pay = PayCommand { account: account(1), claim: claim(1, "pay", 3), ..stage.payment(3) };
    stage.begun_at(lapse, &pay).await;
    let much_later = lapse.plus(2 * HOLD_TTL);
    assert_eq!(stage.hold_at(much_later, &second(4)).await, HoldOutcome::PassBusy);
    stage.close().await;
}

/// 7, as a race.
pub async fn of_many_holds_under_one_pass_one_is_held<F: Fixture>() {
    let stage = Stage::<F>::with_seats(u16::try_from(RACERS).unwrap()).await;
    let wishes = (1..=RACERS).map(|n| HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        seat_limit: RACERS,
        claim: claim(1, &format!("key-{n}"), n),
        ..stage.wish(n, &[&format!("A-1-{n}")])
    });

    let outcomes = hold_at_once(wishes.collect(), alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1);
    let n_busy = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::PassBusy).count();
    assert_eq!(n_busy, outcomes.len() - 1);
    stage.close().await;
}

/// 7: ended by a confirmation, or because the owner left.
pub async fn a_pass_that_ended_carries_none<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    stage.sold(1, &["A-1-1"]).await;
    let used_up = HoldCommand {
        account: account(1),
        pass: PassNumber(1),
        claim: claim(1, "again", 3),
        ..stage.wish(3, &["A-1-2"])
    };
    stage.fixture.leave(stage.performance, PassNumber(2), NOW).await;

    assert_eq!(stage.hold(&used_up).await, HoldOutcome::PassUsed);
    assert_eq!(stage.hold(&stage.wish(2, &["A-1-2"])).await, HoldOutcome::PassUsed);
    let new_pass = HoldCommand { pass: PassNumber(5), ..used_up };
    assert!(is_held(&stage.hold(&new_pass).await), "a new pass carries a new reservation");
    // A buyer who leaves after the hold can still pay.
    stage.held(&stage.wish(4, &["A-1-3"])).await;
    stage.fixture.leave(stage.performance, PassNumber(4), NOW).await;
    stage.begun(&stage.payment(4)).await;
    assert!(matches!(stage.settle(4, &captured(4, 1), NOW).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}
