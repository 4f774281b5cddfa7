//! Races of 64 tasks on all threads of the runtime.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::race::{RACERS, race};

/// How many servers run the scheduler.
const SCHEDULERS: usize = 4;
/// Timeout of a race. A place that is lost would wait for ever.
const RACE_MAX: Duration = Duration::from_secs(60);

fn assert_each_once(mut numbers: Vec<u64>, expected: impl Iterator<Item = u64>, what: &str) {
    numbers.sort_unstable();
    assert_eq!(numbers, expected.collect::<Vec<_>>(), "{what}");
}

/// 1, 3, L8: one person joins from 64 browser tabs.
pub async fn one_account_joining_from_many_tasks_gets_one_place<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_gate(Gate::Shut);

    let outcomes = race(|_| {
        let scene = scene.clone();
        async move { scene.join_one(1).await }
    })
    .await;

    let n_joined = outcomes.iter().filter(|outcome| **outcome == joined(1)).count();
    let n_already = outcomes.iter().filter(|outcome| **outcome == already(1)).count();
    assert_eq!((n_joined, n_already), (1, usize::from(RACERS) - 1), "one joins, the others are there already");
    let counts = scene.counts().await;
    assert_eq!((counts.issued.get(), counts.waiting), (1, 1));
}

/// 1, 3, L7: no number is given out twice or left out.
pub async fn many_accounts_joining_at_once_get_each_number_once<F: Fixture>() {
    const EACH: u64 = 20;
    let scene = Scene::open::<F>().await.with_gate(Gate::Shut);

    let places = race(|racer| {
        let scene = scene.clone();
        async move {
            let mut numbers = Vec::new();
            for index in u64::from(racer) * EACH..(u64::from(racer) + 1) * EACH {
                numbers.push(only(scene.queue_up(index..index + 1).await).number.get());
            }
            assert!(numbers.is_sorted(), "later joins have higher numbers: {numbers:?}");
            numbers
        }
    })
    .await;

    let total = u64::from(RACERS) * EACH;
    assert_each_once(places.concat(), 1..=total, "each number is given once");
    assert_eq!(scene.counts().await.waiting, total);
}

/// 1, 5, L2, L4: the room is filled once, not once per server.
pub async fn schedulers_at_once_fill_the_room_and_no_more<F: Fixture>() {
    let scene = Scene::with_waiting::<F>(1..301).await.with_capacity(150);

    let admitted = race(|_| {
        let scene = scene.clone();
        async move { numbers(&scene.admit_examining(5).await.granted) }
    })
    .await;

    assert_each_once(admitted.concat(), 1..=150, "each of the first is admitted once, and nobody over capacity");
    assert_eq!(scene.counts().await.active, 150);
}

/// 6, L3: the rate applies to the line, not to each server.
pub async fn schedulers_at_once_keep_the_rate<F: Fixture>() {
    let mut scene = Scene::with_waiting::<F>(1..501).await.with_capacity(500);
    scene.terms.rate_per_s = 400;

    let mut n_admitted = 0;
    // The bucket starts full: with the tokens of one tick, and the one token that keeps fractions.
    for n_due in [101, 100, 100] {
        let admitted = race(|_| {
            let scene = scene.clone();
            async move { numbers(&scene.admit().await.granted) }
        })
        .await;
        assert_each_once(admitted.concat(), n_admitted + 1..=n_admitted + n_due, "a tick's worth, each once");
        n_admitted += n_due;
        scene.later(scene.terms.tick);
    }
}

/// 1, 7: a person leaves while the scheduler admits. Either the place leaves the line, or its pass ends; never both.
pub async fn a_place_that_leaves_while_it_is_admitted_does_one_of_both<F: Fixture>() {
    let scene = Scene::open::<F>().await.with_capacity(1_000);
    let places = scene.queue_up(1..33).await;

    let outcomes = race(|racer| {
        let scene = scene.clone();
        let place = places.get(usize::from(racer)).copied();
        async move {
            match place {
                Some(place) => (Some((place.number.get(), scene.leave(place).await)), vec![]),
                None => (None, numbers(&scene.admit_examining(1).await.granted)),
            }
        }
    })
    .await;

    let admitted: Vec<_> = outcomes.iter().flat_map(|(_, admitted)| admitted).copied().collect();
    let mut ended = Vec::new();
    for (number, outcome) in outcomes.iter().filter_map(|(left, _)| *left) {
        match outcome {
            LeaveOutcome::EndedPass => ended.push(number),
            LeaveOutcome::LeftTheLine => assert!(!admitted.contains(&number), "{number} left, but was admitted"),
            LeaveOutcome::NotThere => panic!("{number} was not found"),
        }
    }
    ended.sort_unstable();
    assert_each_once(admitted, ended.into_iter(), "each admitted place ended its pass");
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.active), (0, 0));
}

/// 1, 5, 7, L1, L2, L3, L4: a crowd joins, is admitted by four schedulers, stays a while and leaves, all at once. Each
/// place is admitted exactly once, and the places inside never exceed the capacity.
pub async fn a_crowd_goes_through_and_nobody_is_lost_or_one_too_many<F: Fixture>() {
    let crowd = crowd(Scene::open::<F>().await.with_capacity(10));
    tokio::time::timeout(RACE_MAX, crowd).await.expect("all places pass: none is lost, and no room leaks");
}

async fn crowd(scene: Scene) {
    const EACH: u64 = 5;
    let total = u64::from(RACERS) * EACH;
    let n_inside = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));

    let mut schedulers = JoinSet::new();
    for _ in 0..SCHEDULERS {
        let (scene, is_over) = (scene.clone(), Arc::clone(&is_over));
        schedulers.spawn(async move {
            let mut admitted = BTreeSet::new();
            while !is_over.load(Ordering::SeqCst) {
                for number in numbers(&scene.admit_examining(3).await.granted) {
                    assert!(admitted.insert(number), "{number} was admitted twice");
                }
                tokio::task::yield_now().await;
            }
            admitted
        });
    }
    let by_joining = race(|racer| {
        let (scene, n_inside) = (scene.clone(), Arc::clone(&n_inside));
        async move {
            let mut by_joining = Vec::new();
            for index in u64::from(racer) * EACH..(u64::from(racer) + 1) * EACH {
                let place = match scene.join_one(index).await {
                    JoinOutcome::Joined(Standing::Admitted(grant)) => {
                        by_joining.push(grant.number.get());
                        scene.place(grant.number.get(), index)
                    }
                    JoinOutcome::Joined(Standing::Waiting(number)) => scene.place(number.get(), index),
                    other => panic!("{index} joins for the first time, but {other:?}"),
                };
                go_through(&scene, place, &n_inside).await;
            }
            by_joining
        }
    })
    .await;
    is_over.store(true, Ordering::SeqCst);

    let mut admitted = by_joining.concat();
    admitted.extend(schedulers.join_all().await.into_iter().flatten());
    assert_each_once(admitted, 1..=total, "each place is admitted once");
    let counts = scene.counts().await;
    assert_eq!((counts.waiting, counts.away, counts.active, counts.admitted_total), (0, 0, 0, total));
}

/// Waits to be admitted, stays for some steps, and leaves. Counts itself as inside only while it has its pass, so
/// `n_inside` is never too high.
async fn go_through(scene: &Scene, place: Place, n_inside: &AtomicUsize) {
    let capacity = usize::try_from(scene.terms.capacity).expect("a small number");
    loop {
        match scene.resolve_one(place).await {
            Resolution::Admitted(grant) => {
                assert_eq!((grant.number, grant.account), (place.number, place.account));
                break;
            }
            Resolution::Waiting { number, .. } => assert_eq!(number, place.number),
            other => panic!("{} was lost: {other:?}", place.number),
        }
        tokio::task::yield_now().await;
    }
    let n_together = n_inside.fetch_add(1, Ordering::SeqCst) + 1;
    assert!(n_together <= capacity, "{n_together} are inside");
    assert!(scene.counts().await.active <= u64::from(scene.terms.capacity));
    tokio::task::yield_now().await;
    n_inside.fetch_sub(1, Ordering::SeqCst);
    assert_eq!(scene.leave(place).await, LeaveOutcome::EndedPass);
}
