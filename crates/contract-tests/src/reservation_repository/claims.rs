//! Idempotency keys: a repeated request is answered with the first one's result.

use super::*;

/// 5, with sequential holds.
pub async fn a_repeated_hold_is_replayed_and_another_request_is_a_mismatch<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let wish = stage.wish(1, &["A-1-1"]);
    let first = stage.held(&wish).await;
    let again = HoldCommand { id: ReservationId::from_bytes(id(99)), ..wish.clone() };

    assert_eq!(stage.hold_at(NOW.plus(MS), &again).await, HoldOutcome::Replayed(first.clone()));
    let found = stage.repository.find_hold(&wish.claim, NOW).await.unwrap();
    assert_eq!(found, Some(HoldOutcome::Replayed(first)));
    assert_eq!(stage.state(1, NOW).await, State::Held);
    assert_eq!(stage.counts(NOW).await.held, 1);

    let other_body = HoldCommand { claim: claim(1, "hold", 2), ..stage.wish(1, &["A-1-2"]) };
    assert_eq!(stage.hold(&other_body).await, HoldOutcome::KeyMismatch);
    let found = stage.repository.find_hold(&other_body.claim, NOW).await.unwrap();
    assert_eq!(found, Some(HoldOutcome::KeyMismatch));
    assert_eq!(stage.seat("A-1-2", NOW).await, (SeatStatus::Available, 1));

    // A key of another case is another key; so is the same key of another account.
    let other_case = HoldCommand { claim: claim(1, "HOLD", 2), pass: PassNumber(50), ..stage.wish(50, &["A-1-2"]) };
    assert!(is_held(&stage.hold(&other_case).await));
    assert!(is_held(&stage.hold(&stage.wish(2, &["A-1-3"])).await));

    // A replay has the reservation as it is now.
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    match stage.hold(&again).await {
        HoldOutcome::Replayed(reservation) => assert_eq!(reservation.state, State::Released),
        other => panic!("it is replayed: {other:?}"),
    }
    stage.close().await;
}

/// 5, as a race.
pub async fn of_many_twins_one_holds_and_the_others_are_told<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let wish = stage.wish(1, &["A-1-1"]);
    let twins = (1..=RACERS).map(|n| HoldCommand { id: ReservationId::from_bytes(id(n)), ..wish.clone() }).collect();

    let outcomes = hold_at_once(twins, alone(&stage.repository)).await;

    let (made, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(is_held);
    assert_eq!(made.len(), 1, "one holds");
    let made = held(made[0].clone());
    assert!(others.iter().all(|outcome| *outcome == HoldOutcome::Replayed(made.clone())), "the others get a replay");
    assert_eq!(stage.history().await.reservations.len(), 1);
    stage.close().await;
}

/// 5, until the deadline and at it.
pub async fn a_claim_is_kept_for_a_day<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let wish = stage.wish(1, &["A-1-1"]);
    stage.held(&wish).await;
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let over = NOW.plus(Claim::KEPT_FOR);
    let later = HoldCommand { claim: claim(1, "hold", 77), ..stage.wish(2, &["A-1-2"]) };

    assert_eq!(stage.hold_at(over.minus(MS), &later).await, HoldOutcome::KeyMismatch);
    assert_eq!(stage.repository.find_hold(&wish.claim, over).await.unwrap(), None);
    let second = stage.held_at(over, &later).await;
    let replayed = stage.repository.find_hold(&claim(1, "hold", 77), over).await.unwrap();
    assert_eq!(replayed, Some(HoldOutcome::Replayed(second)));
    stage.close().await;
}

/// 5, with sequential payments.
pub async fn a_repeated_payment_is_in_flight_and_then_replayed<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let pay = stage.payment(1);
    let again = PayCommand { attempt: AttemptId::from_bytes(id(99)), ..pay.clone() };
    let other_body = PayCommand { claim: claim(1, "confirm", 2), ..again.clone() };
    let holds_key = PayCommand { claim: claim(1, "hold", 1), ..again.clone() };

    assert_eq!(stage.begin(&holds_key).await, PayOutcome::KeyMismatch);
    let paying = stage.begun(&pay).await;
    assert_eq!(stage.begin(&again).await, PayOutcome::InFlight { reservation: paying });
    assert_eq!(stage.begin(&other_body).await, PayOutcome::KeyMismatch);
    assert_eq!(stage.repository.find_hold(&pay.claim, NOW).await.unwrap(), Some(HoldOutcome::KeyMismatch));

    let Some(declined @ Settled::Declined { ordinal: 1, .. }) = stage.settle(1, &Verdict::Declined, NOW).await else {
        panic!("it is declined");
    };
    assert_eq!(stage.begin(&again).await, PayOutcome::Replayed(declined));
    let second = PayCommand { claim: claim(1, "confirm-2", 2), ..again.clone() };
    stage.begun(&second).await;
    let confirmed = stage.settle(99, &captured(99, 1), NOW).await.unwrap();
    assert!(matches!(confirmed, Settled::Confirmed(_)));
    assert_eq!(stage.begin(&second).await, PayOutcome::Replayed(confirmed));
    assert_eq!(stage.settle(98, &Verdict::Declined, NOW).await, None, "there is no such attempt");
    stage.close().await;
}

/// 5, as a race; and a race of payments for one reservation under different claims, of which one begins.
pub async fn of_many_payments_under_one_claim_one_begins<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    stage.held(&stage.wish(2, &["A-1-2"])).await;
    let begin_all = |claim_of: fn(u32) -> Claim, buyer: u32| {
        let racers = (0..RACERS).map(move |n| {
            let attempt = AttemptId::from_bytes(id(buyer * 1_000 + n));
            (attempt, claim_of(n))
        });
        let repository = &stage.repository;
        let template = stage.payment(buyer);
        race_all(racers.map(move |(attempt, claim)| {
            let repository = Arc::clone(repository);
            let command = PayCommand { attempt, claim, ..template.clone() };
            async move { repository.begin_payment(&command, NOW).await.unwrap() }
        }))
    };

    let twins = begin_all(|_| claim(1, "confirm", 1), 1).await;
    let rivals = begin_all(|n| claim(2, &format!("confirm-{n}"), n), 2).await;

    let begun =
        |outcomes: &[PayOutcome]| outcomes.iter().filter(|outcome| matches!(outcome, PayOutcome::Begun(_))).count();
    assert_eq!((begun(&twins), begun(&rivals)), (1, 1));
    let told = |outcome: &&PayOutcome| matches!(outcome, PayOutcome::InFlight { .. });
    assert_eq!(twins.iter().filter(told).count(), twins.len() - 1);
    let refused = |outcome: &&PayOutcome| **outcome == PayOutcome::Refused(TransitionError::WrongState);
    assert_eq!(rivals.iter().filter(refused).count(), rivals.len() - 1);
    stage.close().await;
}
