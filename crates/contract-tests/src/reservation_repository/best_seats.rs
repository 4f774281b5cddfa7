//! Holds that let the server choose the best seats.

use super::*;

/// 12: the seats are those that [`usher_reservation::best`] chooses.
pub async fn the_best_seats_are_side_by_side_in_front_and_in_the_middle<F: Fixture>() {
    let hall = [rows_of("C", 1, 6, "S", 90), rows_of("A", 2, 6, "VIP", 150), rows_of("B", 1, 6, "R", 120)];
    let stage = Stage::<F>::with_hall(&hall).await;

    let first = stage.held(&stage.best(1, 2, None)).await;
    let of_grade = stage.held(&stage.best(2, 3, Some("R"))).await;
    let further_back = stage.held(&stage.best(3, 4, None)).await;
    let beside = stage.held(&stage.best(4, 2, None)).await;

    assert_eq!(names(&first), ["A-1-3", "A-1-4"], "of the most expensive grade, wherever its rows are");
    assert_eq!((first.total.amount(), first.seats[0].grade.as_str()), (300, "VIP"));
    assert_eq!(names(&of_grade), ["B-1-1", "B-1-2", "B-1-3"], "in the middle, one would be left alone on each side");
    assert_eq!(of_grade.total.amount(), 360);
    assert_eq!(names(&further_back), ["A-2-1", "A-2-2", "A-2-3", "A-2-4"], "where four are side by side");
    assert_eq!(names(&beside), ["A-1-1", "A-1-2"]);
    stage.close().await;
}

/// 1 and 12.
pub async fn the_best_seats_are_chosen_among_what_earlier_commands_left<F: Fixture>() {
    let stage = Stage::<F>::with_seats(8).await;
    let commands = [
        stage.wish(1, &["A-1-4", "A-1-5"]),
        stage.best(2, 2, None),
        stage.wish(3, &["A-1-1", "A-1-8"]),
        HoldCommand { seat_limit: 1, ..stage.best(4, 2, None) },
        stage.best(5, 2, Some("VIP")),
        stage.wish(6, &["A-1-7"]),
        stage.best(7, 1, None),
    ];

    let outcomes = stage.repository.hold(&commands, NOW).await.unwrap();

    let seats = outcomes.iter().map(|outcome| match outcome {
        HoldOutcome::Held(reservation) => names(reservation).join(" "),
        HoldOutcome::Taken(seats) => format!("taken: {}", seats[0]),
        other => format!("{other:?}"),
    });
    let expected =
        ["A-1-4 A-1-5", "A-1-2 A-1-3", "A-1-1 A-1-8", "LimitReached", "A-1-6 A-1-7", "taken: A-1-7", "NotEnoughSeats"];
    assert_eq!(seats.collect::<Vec<_>>(), expected);
    stage.close().await;
}

/// 1 and 12: the same names in two performances are different seats.
pub async fn a_batch_chooses_seats_of_one_performance_and_takes_named_ones_of_another<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let (before, after) = (PerformanceId::from_bytes(id(0)), PerformanceId::from_bytes(id(2)));
    for other in [before, after] {
        stage.fixture.seed(other, &SeatMap::from_sections(&[section("A", 2, "R", 7)]).unwrap()).await;
    }
    let commands = [
        HoldCommand { performance: before, ..stage.wish(1, &["A-1-2", "A-1-1"]) },
        stage.wish(2, &["A-1-1"]),
        stage.best(3, 2, None),
        HoldCommand { performance: before, ..stage.wish(4, &["A-1-2"]) },
        HoldCommand { performance: after, ..stage.best(5, 2, Some("R")) },
        HoldCommand { performance: after, ..stage.wish(6, &["A-1-1"]) },
    ];

    let outcomes = stage.repository.hold(&commands, NOW).await.unwrap();

    let [named, here, best, taken, there, taken_too] = <[HoldOutcome; 6]>::try_from(outcomes).unwrap();
    assert_eq!((names(&held(named)), names(&held(here))), (vec!["A-1-2", "A-1-1"], vec!["A-1-1"]));
    assert_eq!((names(&held(best)), names(&held(there))), (vec!["A-1-2", "A-1-3"], vec!["A-1-1", "A-1-2"]));
    assert_eq!(taken, HoldOutcome::Taken(vec![seat("A-1-2")]));
    assert_eq!(taken_too, HoldOutcome::Taken(vec![seat("A-1-1")]));
    for other in [before, after] {
        assert!(audit::check(&stage.history_of(other).await).contradictions.is_empty());
    }
    stage.close().await;
}

/// 12: a group that finds no block gets separate seats.
pub async fn a_group_that_finds_no_block_gets_pieces_and_is_refused_by_nothing_but_a_lack_of_seats<F: Fixture>() {
    let hall = [rows_of("A", 1, 5, "VIP", 150), rows_of("B", 1, 3, "R", 120)];
    let stage = Stage::<F>::with_hall(&hall).await;
    stage.held(&stage.wish(1, &["A-1-3", "B-1-2"])).await;

    assert_eq!(stage.hold(&stage.best(2, 5, Some("VIP"))).await, HoldOutcome::LimitReached);
    let five = HoldCommand { seat_limit: 10, ..stage.best(2, 5, Some("VIP")) };
    assert_eq!(stage.hold(&five).await, HoldOutcome::NotEnoughSeats, "of the grade");
    let seven = HoldCommand { seat_limit: 10, ..stage.best(2, 7, None) };
    assert_eq!(stage.hold(&seven).await, HoldOutcome::NotEnoughSeats, "at all");
    let six = HoldCommand { seat_limit: 10, ..stage.best(2, 6, None) };

    let everything = stage.held(&six).await;

    assert_eq!(names(&everything), ["A-1-1", "A-1-2", "A-1-4", "A-1-5", "B-1-1", "B-1-3"]);
    assert_eq!(everything.total.amount(), 4 * 150 + 2 * 120);
    assert_eq!(stage.hold(&stage.best(3, 1, None)).await, HoldOutcome::NotEnoughSeats, "nothing is left");
    stage.close().await;
}

/// 3 and 12.
pub async fn best_seats_of_lapsed_holds_are_taken_over_and_those_of_live_ones_are_not<F: Fixture>() {
    let stage = Stage::<F>::with_seats(4).await;
    let lapse = NOW.plus(HOLD_TTL);
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.held_at(NOW.plus(MS), &stage.wish(2, &["A-1-3"])).await;

    // One millisecond before the lapse, and at it.
    let too_early = stage.hold_at(lapse.minus(MS), &stage.best(3, 2, None)).await;
    let commands = [stage.best(4, 3, None), stage.best(5, 1, None)];
    let outcomes = stage.repository.hold(&commands, lapse).await.unwrap();

    let [in_time, too_many] = <[HoldOutcome; 2]>::try_from(outcomes).unwrap();
    assert_eq!(too_early, HoldOutcome::NotEnoughSeats);
    assert_eq!(names(&held(in_time)), ["A-1-1", "A-1-2", "A-1-4"]);
    assert_eq!(too_many, HoldOutcome::NotEnoughSeats);
    assert_eq!(stage.state(2, lapse).await, State::Held);
    stage.close().await;
}

/// 4 and 12.
pub async fn a_refused_wish_for_best_seats_changes_nothing_and_keeps_no_claim<F: Fixture>() {
    let stage = Stage::<F>::with_seats(3).await;
    stage.held(&stage.wish(1, &["A-1-1", "A-1-2"])).await;
    stage.fixture.leave(stage.performance, PassNumber(9), NOW).await;
    let before = stage.history().await;
    let wish = stage.best(2, 2, None);

    let refused = [
        stage.hold(&wish).await,
        stage.hold(&HoldCommand { seats: stage.best(2, 1, Some("R")).seats, ..wish.clone() }).await,
        stage.hold(&HoldCommand { seat_limit: 1, ..wish.clone() }).await,
        stage.hold(&HoldCommand { pass: PassNumber(9), ..wish.clone() }).await,
        stage.hold(&HoldCommand { account: account(1), pass: PassNumber(1), ..wish.clone() }).await,
        stage.hold(&HoldCommand { performance: PerformanceId::from_bytes(id(9)), ..wish.clone() }).await,
    ];

    let expected = [
        HoldOutcome::NotEnoughSeats,
        HoldOutcome::UnknownGrade,
        HoldOutcome::LimitReached,
        HoldOutcome::PassUsed,
        HoldOutcome::PassBusy,
        HoldOutcome::NotEnoughSeats,
    ];
    assert_eq!(refused, expected);
    assert_eq!(stage.history().await, before);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    assert_eq!(names(&stage.held(&wish).await), ["A-1-1", "A-1-2"], "the same request, judged afresh");
    stage.close().await;
}

/// 5 and 12.
pub async fn a_repeated_wish_for_best_seats_is_answered_with_the_same_seats<F: Fixture>() {
    let stage = Stage::<F>::with_seats(6).await;
    let wish = stage.best(1, 2, None);
    let again = HoldCommand { id: ReservationId::from_bytes(id(101)), ..wish.clone() };
    let other_body = HoldCommand { claim: claim(1, "hold", 102), ..again.clone() };

    let outcomes = stage.repository.hold(&[wish, again.clone(), other_body.clone()], NOW).await.unwrap();
    let [first, in_one_call, mismatch] = <[HoldOutcome; 3]>::try_from(outcomes).unwrap();
    let first = held(first);

    assert_eq!(names(&first), ["A-1-3", "A-1-4"]);
    assert_eq!((in_one_call, mismatch), (HoldOutcome::Replayed(first.clone()), HoldOutcome::KeyMismatch));
    assert_eq!(stage.hold(&again).await, HoldOutcome::Replayed(first.clone()));
    assert_eq!(stage.hold(&other_body).await, HoldOutcome::KeyMismatch);
    assert!(matches!(stage.release(1, NOW).await, ReleaseOutcome::Released(_)));
    let HoldOutcome::Replayed(released) = stage.hold(&again).await else { panic!("it is replayed") };
    assert_eq!((names(&released), &released.state), (names(&first), &State::Released));
    stage.close().await;
}

/// 5 and 12, as a race.
pub async fn of_many_twins_that_want_the_best_seats_one_gets_them<F: Fixture>() {
    let stage = Stage::<F>::with_seats(10).await;
    let wish = stage.best(1, 2, None);
    let twins = (0..RACERS).map(|n| HoldCommand { id: ReservationId::from_bytes(id(100 + n)), ..wish.clone() });

    let outcomes = hold_at_once(twins.collect(), alone(&stage.repository)).await;

    let first = outcomes.iter().find(|outcome| is_held(outcome)).cloned().map(held).unwrap();
    let n_replayed = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::Replayed(first.clone())).count();
    assert_eq!(n_replayed, outcomes.len() - 1);
    assert_eq!(stage.counts(NOW).await.held, 2);
    stage.close().await;
}

/// Buyers who want the best seats at the same time.
pub(super) const RUSH: u32 = 160;

/// Buyers who share a call, as if there were sixteen servers.
const TOGETHER: usize = 10;

/// The number of seats that a command asks for.
fn wanted(command: &HoldCommand) -> u32 {
    match &command.seats {
        SeatWish::Named(names) => u32::try_from(names.len()).unwrap(),
        SeatWish::Best { count, .. } => *count,
    }
}

/// Checks that each buyer got as many seats as they wanted, or was refused because fewer were free. Returns how many of
/// the `n_free` seats are left.
pub(super) fn nobody_is_refused_while_seats_are_free(outcomes: &[(u32, HoldOutcome)], n_free: u32) -> u32 {
    let n_wanted: u32 = outcomes.iter().map(|(count, _)| count).sum();
    let mut n_left = n_free;
    let mut refused = Vec::new();
    for (count, outcome) in outcomes {
        match outcome {
            HoldOutcome::Held(reservation) => {
                assert_eq!(reservation.seats.len(), *count as usize);
                n_left -= count;
            }
            HoldOutcome::NotEnoughSeats => refused.push(*count),
            other => panic!("seats are free or not: {other:?}"),
        }
    }
    assert!(n_wanted > n_free || refused.is_empty(), "{} are refused while seats are free", refused.len());
    // No seat became free meanwhile, so each refused buyer wanted more seats than are left.
    assert!(refused.iter().all(|count| *count > n_left), "{refused:?} are refused, and {n_left} seats are left");
    n_left
}

/// 12, as a race: all buyers want the best seats, and no seat is left over.
pub async fn a_rush_for_the_best_seats_sells_every_one_of_them<F: Fixture>() {
    let stage = Stage::<F>::with_hall(&[rows_of("A", 40, 30, "VIP", 150), rows_of("B", 20, 20, "R", 120)]).await;
    let mut n_left = 1_600;
    let mut buyers = 1_u32..;
    let mut n_rounds = 0;

    while n_left > 0 {
        let half = n_left > 800;
        let wishes: Vec<_> = buyers.by_ref().take(RUSH as usize).map(|n| stage.best(n, n % 4 + 1, None)).collect();
        let rushing = wishes.chunks(TOGETHER).map(|batch| {
            let (repository, batch) = (Arc::clone(&stage.repository), batch.to_vec());
            async move {
                let outcomes = repository.hold(&batch, NOW).await.unwrap();
                batch.iter().map(wanted).zip(outcomes).collect::<Vec<_>>()
            }
        });
        let outcomes: Vec<_> = race_all(rushing).await.into_iter().flatten().collect();
        n_left = nobody_is_refused_while_seats_are_free(&outcomes, n_left);
        assert!(!half || outcomes.into_iter().all(|(_, outcome)| are_side_by_side(&held(outcome))));
        n_rounds += 1;
        assert!(n_rounds < 100, "{n_left} seats are never sold");
    }

    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1_600, held: 1_600, ..SeatCounts::default() });
    stage.close().await;
}

fn are_side_by_side(reservation: &Reservation) -> bool {
    let place = |name: &str| {
        let (row, number) = name.rsplit_once('-').unwrap();
        (row.to_owned(), number.parse::<u16>().unwrap())
    };
    let places: Vec<_> = names(reservation).into_iter().map(place).collect();
    places.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1)
}

/// 12, as a race of batches: buyers name seats, let the server choose, and release seats at once.
pub async fn who_names_seats_and_who_wants_the_best_are_not_in_each_others_way<F: Fixture>() {
    let stage = Stage::<F>::with_hall(&[rows_of("A", 20, 20, "VIP", 150)]).await;
    let given_back: Vec<_> = (1..=20).map(|n| stage.wish(2_000 + n, &[&format!("A-{n}-10")])).collect();
    assert!(stage.repository.hold(&given_back, NOW).await.unwrap().iter().all(is_held));
    let racers = (1..=RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        let (row, number) = (n % 4 + 1, 2 * (n % 8) + 3);
        let [one, other] = [format!("A-{row}-{number}"), format!("A-{row}-{}", number + 1)];
        let named = stage.wish(n, &[&other, &one]);
        let best = stage.best(1_000 + n, 2, None);
        let batch = match n % 3 {
            0 => vec![named, best],
            1 => vec![best],
            _ => vec![named],
        };
        async move {
            if n <= 20 {
                let (reservation, owner) = (ReservationId::from_bytes(id(2_000 + n)), account(2_000 + n));
                let released = repository.release(reservation, owner, NOW).await.unwrap();
                assert!(matches!(released, ReleaseOutcome::Released(_)));
            }
            repository.hold(&batch, NOW).await.unwrap()
        }
    });

    let outcomes: Vec<_> = race_all(racers).await.into_iter().flatten().collect();

    let is_refused = |outcome: &&HoldOutcome| !is_held(outcome);
    assert!(outcomes.iter().filter(is_refused).all(|outcome| matches!(outcome, HoldOutcome::Taken(_))));
    let best = outcomes.iter().filter_map(|outcome| match outcome {
        HoldOutcome::Held(reservation) if reservation.pass > PassNumber(1_000) => Some(reservation),
        _ => None,
    });
    let n_best = (1..=RACERS).filter(|n| n % 3 != 2).count();
    assert_eq!(best.filter(|reservation| are_side_by_side(reservation)).count(), n_best, "all of them");
    stage.close().await;
}
