//! Payments: how they begin, how they are settled, and which captures are refunded.

use usher_reservation::ports::{RefundDue, ReleaseCommand, SettleCommand, Unsettled};

use super::*;

/// 1, 5, 9 and 10, in one call of each method: no command affects another reservation.
pub async fn payments_of_one_call_are_judged_one_after_the_other<F: Fixture>() {
    let stage = Stage::<F>::with_seats(7).await;
    let repository = &stage.repository;
    for n in 1..=6 {
        stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
    }
    let [first, declined, given_up] = [1, 2, 3].map(|n| stage.payment(n));
    let twin = PayCommand { attempt: AttemptId::from_bytes(id(101)), ..first.clone() };
    let other_body = PayCommand { claim: claim(1, "confirm", 101), ..twin.clone() };
    let other_key = PayCommand { claim: claim(1, "another", 101), ..twin.clone() };
    let of_another = PayCommand { account: account(9), claim: claim(9, "confirm", 9), ..stage.payment(4) };
    let commands = [first, twin, other_body, other_key, of_another, declined, given_up];

    let outcomes = repository.begin_payments(&commands, NOW).await.unwrap();

    let [first, twin, other_body, other_key, of_another, declined, given_up] =
        <[PayOutcome; 7]>::try_from(outcomes).unwrap();
    let PayOutcome::Begun(paying) = first else { panic!("{first:?}") };
    assert_eq!(twin, PayOutcome::InFlight { reservation: paying });
    assert_eq!(other_body, PayOutcome::KeyMismatch);
    assert_eq!(other_key, PayOutcome::Refused(TransitionError::WrongState));
    assert_eq!(of_another, PayOutcome::NotFound);
    assert!(matches!((declined, given_up), (PayOutcome::Begun(_), PayOutcome::Begun(_))));

    let settle = |n, verdict| SettleCommand { attempt: AttemptId::from_bytes(id(n)), verdict };
    let verdicts = [
        settle(1, captured(1, 1)),
        settle(1, Verdict::Declined),
        settle(2, Verdict::Declined),
        settle(2, captured(2, 1)),
        settle(3, Verdict::Unheard),
        settle(101, Verdict::Declined),
    ];
    let outcomes = repository.settle_all(&verdicts, NOW).await.unwrap();

    let [sold, again, declined, too_late, given_up, unknown] = <[Option<Settled>; 6]>::try_from(outcomes).unwrap();
    assert!(matches!(&sold, Some(Settled::Confirmed(reservation)) if reservation.seats[0].seat == seat("A-1-1")));
    assert_eq!(again, sold);
    assert!(matches!(declined, Some(Settled::Declined { ordinal: 1, .. })), "{declined:?}");
    assert_eq!((too_late, given_up), (Some(Settled::Refunded), Some(Settled::GivenUp)));
    assert_eq!(unknown, None);

    let release = |n| ReleaseCommand { reservation: ReservationId::from_bytes(id(n)), account: account(n) };
    let releases =
        [release(1), release(2), release(2), ReleaseCommand { account: account(9), ..release(4) }, release(5)];
    let outcomes = repository.release_all(&releases, NOW).await.unwrap();

    let [confirmed, released, again, of_another, also] = <[ReleaseOutcome; 5]>::try_from(outcomes).unwrap();
    assert_eq!(confirmed, ReleaseOutcome::Refused(TransitionError::WrongState));
    assert!(matches!((released, also), (ReleaseOutcome::Released(_), ReleaseOutcome::Released(_))));
    assert_eq!((again, of_another), (ReleaseOutcome::AlreadyReleased, ReleaseOutcome::NotFound));
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 7, available: 3, held: 3, sold: 1 });
    assert_eq!(repository.begin_payments(&[], NOW).await.unwrap(), []);
    assert_eq!(repository.settle_all(&[], NOW).await.unwrap(), []);
    assert_eq!(repository.release_all(&[], NOW).await.unwrap(), []);
    stage.close().await;
}

/// 8.
pub async fn a_payment_begins_only_on_a_live_hold_whose_seats_are_its_own<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    for n in 1..=4 {
        stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
    }
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let paying = stage.begun_at(lapse.minus(MS), &stage.payment(2)).await;
    assert_eq!(paying.version, 2);
    let expected =
        usher_reservation::Payment { attempt: AttemptId::from_bytes(id(2)), resolve_at: lapse.minus(MS).plus(MINUTE) };
    assert_eq!(paying.state, State::Paying(expected));
    // A server whose clock is behind begins the third payment after the seat was taken over.
    stage.held_at(lapse, &stage.wish(5, &["A-1-3"])).await;

    let other_key = PayCommand { claim: claim(2, "other", 9), ..stage.payment(2) };
    let refusals = [
        stage.begin(&stage.payment(1)).await,
        stage.begin(&other_key).await,
        stage.begin_at(lapse.minus(MS), &stage.payment(3)).await,
        stage.begin_at(lapse, &stage.payment(4)).await,
        stage.begin(&stage.payment(9)).await,
    ];

    let reasons = [
        PayOutcome::Refused(TransitionError::WrongState),
        PayOutcome::Refused(TransitionError::WrongState),
        PayOutcome::Refused(TransitionError::HoldExpired),
        PayOutcome::Refused(TransitionError::HoldExpired),
        PayOutcome::NotFound,
    ];
    assert_eq!(refusals, reasons);
    // A refusal keeps no claim.
    assert_eq!(stage.settle(4, &Verdict::Declined, lapse).await, None);
    assert_eq!(stage.repository.find_hold(&stage.payment(4).claim, lapse).await.unwrap(), None);
    stage.close().await;
}

/// 3, 8 and 9: a payment begun late extends the hold, and that of its seats.
pub async fn a_payment_begun_late_keeps_its_seats_for_a_minute<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let begun_at = NOW.plus(HOLD_TTL).minus(MS);

    let paying = stage.begun_at(begun_at, &stage.payment(1)).await;

    let extended = begun_at.plus(MINUTE);
    assert_eq!(paying.held_until, extended);
    let rival = stage.wish(2, &["A-1-1"]);
    assert_eq!(stage.hold_at(extended.minus(MS), &rival).await, HoldOutcome::Taken(vec![seat("A-1-1")]));
    assert_eq!(stage.repository.expire_lapsed(extended, 1_000).await.unwrap(), 0, "a payment does not expire");

    // A decline restores the original deadline, which has passed, so the seat is free at once.
    assert!(matches!(stage.settle(1, &Verdict::Declined, begun_at.plus(MS)).await, Some(Settled::Declined { .. })));
    assert_eq!(stage.state(1, begun_at.plus(MS)).await, State::Expired);
    stage.held_at(begun_at.plus(MS), &stage.wish(3, &["A-1-1"])).await;
    stage.close().await;
}

/// 9, as a race: callers settle an attempt with different tickets. It ends once, and all get the same answer.
pub async fn a_captured_payment_sells_the_seats_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-3", "A-1-1"])).await;
    stage.begun(&stage.payment(1)).await;
    let settlers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.settle(AttemptId::from_bytes(id(1)), &captured(n, 2), NOW).await.unwrap().unwrap() }
    });

    let outcomes = race_all(settlers).await;

    let Settled::Confirmed(confirmed) = &outcomes[0] else { panic!("it is confirmed: {:?}", outcomes[0]) };
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "all get the same outcome");
    let State::Confirmed { attempt, at, tickets } = &confirmed.state else { panic!("{confirmed:?}") };
    assert_eq!((*attempt, *at), (AttemptId::from_bytes(id(1)), NOW));
    let seats: Vec<_> = tickets.iter().map(|ticket| ticket.seat.as_str()).collect();
    assert_eq!(seats, ["A-1-3", "A-1-1"], "one ticket per seat, in their order");
    assert_ne!(tickets[0].code, tickets[1].code);
    let found = stage.repository.find(confirmed.id, confirmed.account, NOW.plus(HOLD_TTL)).await.unwrap();
    assert_eq!(found.as_ref(), Some(confirmed));
    assert_eq!(stage.counts(NOW.plus(HOLD_TTL)).await, SeatCounts { total: 3, available: 1, held: 0, sold: 2 });
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), []);
    // Neither a later verdict nor another buyer changes a sale.
    assert_eq!(stage.settle(1, &Verdict::Unheard, NOW).await.as_ref(), outcomes.first());
    let rival = stage.wish(2, &["A-1-1"]);
    assert_eq!(stage.hold_at(NOW.plus(10 * HOLD_TTL), &rival).await, HoldOutcome::Taken(vec![seat("A-1-1")]));
    stage.close().await;
}

/// 9: after three declines no payment begins.
pub async fn a_declined_payment_goes_back_to_the_hold_and_its_time<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let first = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let late = NOW.plus(HOLD_TTL).minus(10 * MS);

    for ordinal in 1..=3 {
        let pay = PayCommand {
            attempt: AttemptId::from_bytes(id(ordinal)),
            claim: claim(1, &format!("confirm-{ordinal}"), ordinal),
            ..stage.payment(1)
        };
        stage.begun_at(late, &pay).await;
        let declined = Settled::Declined { ordinal, reservation: first.id };
        assert_eq!(stage.settle(ordinal, &Verdict::Declined, late).await, Some(declined.clone()));
        assert_eq!(stage.settle(ordinal, &Verdict::Unheard, late).await, Some(declined), "it ended once");
    }

    let found = stage.repository.find(first.id, first.account, late).await.unwrap().unwrap();
    assert_eq!((&found.state, found.held_until, found.declined), (&State::Held, first.held_until, 3));
    let fourth =
        PayCommand { attempt: AttemptId::from_bytes(id(4)), claim: claim(1, "confirm-4", 4), ..stage.payment(1) };
    assert_eq!(stage.begin_at(late, &fourth).await, PayOutcome::Refused(TransitionError::NoAttemptsLeft));
    assert_eq!(stage.seat("A-1-1", late.plus(10 * MS)).await.0, SeatStatus::Available, "it lapses at its time");
    stage.close().await;
}

/// 9.
pub async fn an_unheard_payment_goes_back_to_the_hold_and_frees_its_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let first = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let pay = stage.payment(1);
    stage.begun(&pay).await;

    assert_eq!(stage.settle(1, &Verdict::Unheard, NOW).await, Some(Settled::GivenUp));

    let found = stage.repository.find(first.id, first.account, NOW).await.unwrap().unwrap();
    assert_eq!((&found.state, found.held_until, found.declined), (&State::Held, first.held_until, 0));
    assert_eq!(stage.settle(1, &Verdict::Declined, NOW).await, Some(Settled::GivenUp), "it ended once");
    let again = PayCommand { attempt: AttemptId::from_bytes(id(2)), ..pay };
    stage.begun(&again).await;
    assert!(matches!(stage.settle(2, &captured(2, 1), NOW).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}

/// 9: the gateway is slow, and the hold lapses meanwhile, but no other buyer has the seats now.
pub async fn a_capture_whose_seats_are_free_again_sells_them<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2", "A-1-3", "A-1-4"])).await;
    stage.begun(&stage.payment(1)).await;
    // A-1-1 and A-1-4 are still its own; A-1-2 was taken over and released; A-1-3 was taken over, and that hold lapses.
    stage.held_at(lapse, &stage.wish(2, &["A-1-2"])).await;
    assert!(matches!(stage.release(2, lapse).await, ReleaseOutcome::Released(_)));
    stage.held_at(lapse, &stage.wish(3, &["A-1-3"])).await;
    let much_later = lapse.plus(HOLD_TTL);

    let settled = stage.settle(1, &captured(1, 4), much_later).await;

    let Some(Settled::Confirmed(confirmed)) = settled else { panic!("the seats are sold: {settled:?}") };
    assert_eq!(stage.counts(much_later).await, SeatCounts { total: 4, sold: 4, ..SeatCounts::default() });
    // The other lapsed hold cannot be paid; it expires, and takes no seat back.
    assert_eq!(stage.begin_at(much_later, &stage.payment(3)).await, PayOutcome::Refused(TransitionError::HoldExpired));
    assert_eq!(stage.repository.expire_lapsed(much_later, 1_000).await.unwrap(), 1);
    assert_eq!(stage.state(1, much_later).await, confirmed.state);
    stage.close().await;
}

/// 9, as a race.
pub async fn a_capture_whose_seats_are_gone_is_refunded_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    let lapse = NOW.plus(HOLD_TTL);
    let first = stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.begun(&stage.payment(1)).await;
    stage.held_at(lapse, &stage.wish(2, &["A-1-2"])).await;
    let settlers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.settle(AttemptId::from_bytes(id(1)), &captured(n, 2), lapse).await.unwrap() }
    });

    let outcomes = race_all(settlers).await;

    assert!(outcomes.iter().all(|outcome| *outcome == Some(Settled::Refunded)), "{outcomes:?}");
    let due = RefundDue { attempt: AttemptId::from_bytes(id(1)), amount: first.total };
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), [due]);
    assert_eq!(stage.state(1, lapse).await, State::Expired);
    // The next owner keeps the seat, and the other seat is free.
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 2, available: 1, held: 1, sold: 0 });
    assert_eq!(stage.begin_at(lapse, &stage.payment(1)).await, PayOutcome::Replayed(Settled::Refunded));
    stage.begun_at(lapse, &stage.payment(2)).await;
    assert!(matches!(stage.settle(2, &captured(200, 1), lapse).await, Some(Settled::Confirmed(_))));

    stage.repository.refund_sent(due.attempt, lapse).await.unwrap();
    stage.repository.refund_sent(due.attempt, lapse).await.unwrap();
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), []);
    assert_eq!(stage.settle(1, &captured(1, 2), lapse).await, Some(Settled::Refunded));
    assert_eq!(stage.repository.refunds_due(10).await.unwrap(), [], "it is not due again");
    stage.close().await;
}

/// 9: the gateway takes the money after the attempt ended as unheard or declined.
pub async fn a_capture_that_comes_after_the_end_is_refunded_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    for (n, verdict) in [(1, Verdict::Unheard), (2, Verdict::Declined)] {
        let reservation = stage.held(&stage.wish(n, &[&format!("A-1-{n}")])).await;
        stage.begun(&stage.payment(n)).await;
        assert!(stage.settle(n, &verdict, NOW).await.is_some());

        assert_eq!(stage.settle(n, &captured(n, 1), NOW).await, Some(Settled::Refunded));
        assert_eq!(stage.settle(n, &captured(n, 1), NOW).await, Some(Settled::Refunded));

        let due = RefundDue { attempt: AttemptId::from_bytes(id(n)), amount: reservation.total };
        let all = stage.repository.refunds_due(10).await.unwrap();
        assert_eq!(all.iter().filter(|refund| **refund == due).count(), 1);
        assert_eq!(stage.state(n, NOW).await, State::Held, "the hold goes on");
    }
    assert_eq!(stage.repository.refunds_due(1).await.unwrap().len(), 1);
    stage.close().await;
}

/// 9.
pub async fn payments_that_nobody_ended_are_found_when_their_time_comes<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    for (n, seats) in [(1, &["A-1-1", "A-1-2"][..]), (2, &["A-1-3"])] {
        stage.held(&stage.wish(n, seats)).await;
        stage.begun(&stage.payment(n)).await;
    }
    let due = |n, n_seats| Unsettled { attempt: AttemptId::from_bytes(id(n)), n_seats };
    let resolve_at = NOW.plus(MINUTE);

    assert_eq!(stage.repository.unsettled(resolve_at.minus(MS), 10).await.unwrap(), []);
    assert_eq!(stage.repository.unsettled(resolve_at, 10).await.unwrap().len(), 2);
    assert_eq!(stage.repository.unsettled(resolve_at, 1).await.unwrap().len(), 1);
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), NOW.plus(MS)).await.unwrap();
    assert_eq!(stage.repository.unsettled(NOW.plus(MS), 10).await.unwrap(), [due(1, 2)]);
    // `resolve_early` never sets a later time, and an attempt that ended is not listed.
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), resolve_at).await.unwrap();
    assert_eq!(stage.repository.unsettled(NOW.plus(MS), 10).await.unwrap(), [due(1, 2)]);
    assert!(stage.settle(1, &Verdict::Declined, NOW.plus(MS)).await.is_some());
    stage.repository.resolve_early(AttemptId::from_bytes(id(1)), NOW).await.unwrap();
    assert_eq!(stage.repository.unsettled(resolve_at, 10).await.unwrap(), [due(2, 1)]);
    stage.close().await;
}
