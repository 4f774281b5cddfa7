//! The end of a hold: expiry, release, and late calls.

use super::*;

/// 3, 9 and 10, as a race of three, many times: a buyer who pays at the last instant, the sweeper, and the next buyer.
pub async fn confirm_and_expiry_at_the_same_instant_never_both_happen<F: Fixture>() {
    const ROUNDS: u32 = 1_000;
    let stage = Stage::<F>::with_seats(u16::try_from(ROUNDS).unwrap()).await;
    // Each hold lapses two minutes after the one before, so that a round touches one hold only.
    let round = 2 * MINUTE;
    let lapse = |n: u32| NOW.plus(round * n);
    let holds: Vec<_> =
        (1..=ROUNDS).map(|n| HoldCommand { hold_ttl: round * n, ..stage.wish(n, &[&format!("A-1-{n}")]) }).collect();
    assert!(stage.repository.hold(&holds, NOW).await.unwrap().iter().all(is_held));
    let (mut n_paid, mut n_lapsed) = (0, 0);

    for n in 1..=ROUNDS {
        let (name, now) = (format!("A-1-{n}"), lapse(n));
        let pay = async || {
            let last_instant = now.minus(MS);
            match stage.begin_at(last_instant, &stage.payment(n)).await {
                PayOutcome::Begun(_) => stage.settle(n, &captured(n, 1), now).await,
                PayOutcome::Refused(TransitionError::HoldExpired) => None,
                other => panic!("unexpected outcome of a late payment: {other:?}"),
            }
        };
        let expire = async || stage.repository.expire_lapsed(now, 1).await.unwrap();
        let take_over = async || stage.hold_at(now, &stage.wish(n + 10_000, &[&name])).await;
        // In three of five rounds one of the calls goes first; in the others all run at once.
        let (paid, n_expired, taken) = match n % 5 {
            0 => {
                let paid = pay().await;
                (paid, expire().await, take_over().await)
            }
            1 => {
                let n_expired = expire().await;
                (pay().await, n_expired, take_over().await)
            }
            2 => {
                let taken = take_over().await;
                (pay().await, expire().await, taken)
            }
            _ => tokio::join!(pay(), expire(), take_over()),
        };

        let is_taken = is_held(&taken);
        match paid {
            Some(Settled::Confirmed(_)) => {
                n_paid += 1;
                assert_eq!((n_expired, is_taken), (0, false), "round {n}: paid, and not expired");
                assert!(matches!(stage.state(n, now).await, State::Confirmed { .. }));
            }
            None => {
                n_lapsed += 1;
                assert!(n_expired == 1 || is_taken, "round {n}: not paid, so expired or taken over");
                assert_eq!(stage.state(n, now).await, State::Expired);
            }
            other => panic!("round {n}: {other:?}"),
        }
        // Leaves nothing that the next round's sweeper would expire before that round's hold.
        while stage.repository.expire_lapsed(now, 1_000).await.unwrap() > 0 {}
        if is_taken {
            let rival = stage.repository.release(ReservationId::from_bytes(id(n + 10_000)), account(n + 10_000), now);
            assert!(matches!(rival.await.unwrap(), ReleaseOutcome::Released(_)));
        }
    }

    assert_eq!(n_paid + n_lapsed, ROUNDS);
    assert!(n_paid > 0 && n_lapsed > 0, "both happened: {n_paid} paid, {n_lapsed} lapsed");
    assert_eq!(stage.history().await.sales.len(), n_paid as usize);
    stage.close().await;
}

/// 10.
pub async fn a_late_call_changes_nothing_of_the_next_owner<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.held(&stage.wish(2, &["A-1-3"])).await;
    stage.begun(&stage.payment(2)).await;
    stage.held_at(lapse, &stage.wish(3, &["A-1-1", "A-1-3"])).await;
    let of_next = [stage.seat("A-1-1", lapse).await, stage.seat("A-1-3", lapse).await];
    assert_eq!(of_next, [(SeatStatus::Held, 3), (SeatStatus::Held, 3)]);

    // Releases before the expiry is stored: at the deadline, and by a clock that is behind.
    assert_eq!(stage.release(1, lapse).await, ReleaseOutcome::Refused(TransitionError::HoldExpired));
    let behind = lapse.minus(MS);
    assert!(matches!(stage.release(1, behind).await, ReleaseOutcome::Released(_)));
    assert_eq!(stage.seat("A-1-2", behind).await, (SeatStatus::Available, 3), "its own seat is free");
    // The sweeper expires nothing: 1 is released, 2 is being paid, 3 is live. After a late decline 2 expires, and 3
    // keeps the seat that it took over from 2.
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 0);
    assert!(matches!(stage.settle(2, &Verdict::Declined, lapse).await, Some(Settled::Declined { .. })));
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 1);
    assert_eq!(stage.begin_at(lapse, &stage.payment(1)).await, PayOutcome::Refused(TransitionError::WrongState));

    assert_eq!([stage.seat("A-1-1", lapse).await, stage.seat("A-1-3", lapse).await], of_next);
    assert_eq!(stage.state(3, lapse).await, State::Held);
    stage.begun_at(lapse, &stage.payment(3)).await;
    assert!(matches!(stage.settle(3, &captured(3, 2), lapse).await, Some(Settled::Confirmed(_))));
    stage.close().await;
}

/// 10, also with several sweepers at once.
pub async fn only_what_has_lapsed_expires_and_only_once<F: Fixture>() {
    let stage = Stage::<F>::with_seats(240).await;
    let lapse = NOW.plus(HOLD_TTL);
    let mut holds: Vec<_> = (1..=230).map(|n| stage.wish(n, &[&format!("A-1-{n}")])).collect();
    holds.push(HoldCommand { hold_ttl: HOLD_TTL + MS, ..stage.wish(231, &["A-1-231"]) });
    assert!(stage.repository.hold(&holds, NOW).await.unwrap().iter().all(is_held));
    stage.begun(&stage.payment(230)).await;

    assert_eq!(stage.repository.expire_lapsed(lapse.minus(MS), 1_000).await.unwrap(), 0);
    assert_eq!(stage.repository.expire_lapsed(lapse, 9).await.unwrap(), 9);
    let sweepers = (0..4).map(|_| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.expire_lapsed(lapse, 1_000).await.unwrap() }
    });
    let n_expired: u32 = race_all(sweepers).await.iter().sum();

    assert_eq!(n_expired, 220, "all but the one being paid and the one that is live, each once");
    assert_eq!(stage.repository.expire_lapsed(lapse, 1_000).await.unwrap(), 0);
    assert_eq!(stored_statuses(&*stage.events, stage.performance).await[0], SeatStatus::Available);
    let history = stage.history().await;
    let freed = history.events.iter().filter(|event| event.status == SeatStatus::Available);
    assert_eq!(freed.count(), 229);
    assert_eq!(stage.state(231, lapse).await, State::Held);
    stage.close().await;
}

/// 10.
pub async fn a_second_release_reports_that_nothing_was_done<F: Fixture>() {
    let stage = Stage::<F>::with_seats(2).await;
    stage.held(&stage.wish(1, &["A-1-1"])).await;
    let releases = (0..RACERS).map(|_| {
        let repository = Arc::clone(&stage.repository);
        async move { repository.release(ReservationId::from_bytes(id(1)), account(1), NOW).await.unwrap() }
    });

    let outcomes = race_all(releases).await;

    let n_done = outcomes.iter().filter(|outcome| matches!(outcome, ReleaseOutcome::Released(_))).count();
    let n_nothing = outcomes.iter().filter(|outcome| **outcome == ReleaseOutcome::AlreadyReleased).count();
    assert_eq!((n_done, n_nothing), (1, outcomes.len() - 1));
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Available, 3), "it was freed once");
    stage.held(&stage.wish(2, &["A-1-1"])).await;
    assert_eq!(stage.release(1, NOW).await, ReleaseOutcome::AlreadyReleased);
    assert_eq!(stage.seat("A-1-1", NOW).await, (SeatStatus::Held, 4), "the next owner keeps it");
    let paid = stage.sold(3, &["A-1-2"]).await;
    assert_eq!(stage.release(3, NOW).await, ReleaseOutcome::Refused(TransitionError::WrongState));
    assert_eq!(stage.state(3, NOW).await, paid.state);
    stage.close().await;
}
