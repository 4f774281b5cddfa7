//! Many buyers of the same seats at once.

use super::*;

/// Checks that one command holds the seat, and all others get `Taken`.
pub(super) fn one_gets_the_seat(outcomes: &[HoldOutcome], name: &str) {
    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1, "one gets the seat");
    let n_taken = outcomes.iter().filter(|outcome| **outcome == HoldOutcome::Taken(vec![seat(name)])).count();
    assert_eq!(n_taken, outcomes.len() - 1, "and the others get `Taken`");
}

/// 1, as a race.
pub async fn of_a_thousand_buyers_of_one_seat_exactly_one_gets_it<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let commands = (1..=1_000).map(|n| stage.wish(n, &["A-1-1"])).collect();

    let outcomes = hold_at_once(commands, alone(&stage.repository)).await;

    one_gets_the_seat(&outcomes, "A-1-1");
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1, held: 1, ..SeatCounts::default() });
    stage.close().await;
}

/// 1, as a race: no buyer of another seat is refused.
pub async fn a_thousand_buyers_of_a_thousand_seats_all_get_theirs<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1_000).await;
    let commands = (1..=1_000).map(|n| stage.wish(n, &[&format!("A-1-{n}")])).collect();

    let outcomes = hold_at_once(commands, alone(&stage.repository)).await;

    assert_eq!(outcomes.iter().filter(|outcome| is_held(outcome)).count(), 1_000);
    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 1_000, held: 1_000, ..SeatCounts::default() });
    stage.close().await;
}

/// 1, as a race of batches: each command wants two neighbouring seats of a ring.
pub async fn racing_groups_that_overlap_are_held_whole_or_not_at_all<F: Fixture>() {
    let stage = Stage::<F>::with_seats(u16::try_from(RACERS).unwrap()).await;
    let pair = |n: u32| [format!("A-1-{}", n + 1), format!("A-1-{}", (n + 1) % RACERS + 1)];
    let batches = (0..RACERS).map(|n| {
        let repository = Arc::clone(&stage.repository);
        let [one, other] = pair(n);
        // In both orders: locks in the order of the requests would deadlock.
        let batch = [stage.wish(n + 1, &[&one, &other]), stage.wish(n + 1_001, &[&other, &one])];
        async move { repository.hold(&batch, NOW).await.unwrap() }
    });

    let outcomes: Vec<_> = race_all(batches).await.into_iter().flatten().collect();

    let n_held = outcomes.iter().filter(|outcome| is_held(outcome)).count();
    let n_taken = outcomes.iter().filter(|outcome| matches!(outcome, HoldOutcome::Taken(_))).count();
    assert_eq!(n_held + n_taken, outcomes.len());
    assert_eq!(stage.counts(NOW).await.held, 2 * n_held as u64);
    // Of three neighbouring pairs at least one is held.
    assert!(n_held >= RACERS as usize / 3, "{n_held} pairs are held");
    stage.close().await;
}
