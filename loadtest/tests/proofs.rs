//! Every proof once, small. They run the `usher` that was built beside them: `cargo test --workspace` builds it, and so
//! does `cargo build --package usher-app --bin usher`.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use usher_loadtest::prove::{PROOFS, Size};

/// Runs a proof in a folder of its own.
async fn holds(name: &str) {
    let proof = PROOFS.iter().find(|proof| proof.name == name).unwrap();
    let folder = tempfile::tempdir().unwrap();

    let verdict = proof.run(Size::Quick, 1, folder.path().join(name)).await.unwrap();

    assert_eq!(verdict.findings, [""; 0], "{:#?}", verdict.figures);
}

macro_rules! proofs {
    ($(fn $test:ident() proves $name:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            holds($name).await;
        })*

        #[test]
        fn every_proof_is_tested() {
            let tested = [$($name),*];

            let untested = PROOFS.iter().filter(|proof| !tested.contains(&proof.name));

            assert_eq!(untested.map(|proof| proof.name).collect::<Vec<_>>(), [""; 0]);
        }
    };
}

proofs! {
    fn four_servers_admit_in_order_within_capacity_and_rate() proves "four-servers";
    fn killed_servers_cost_nobody_their_place() proves "killed-servers";
    fn a_flushed_redis_costs_nobody_their_place() proves "flushed";
    fn a_killed_redis_costs_nobody_their_place() proves "redis-killed";
    fn a_stale_copy_in_redis_place_costs_nobody_their_place() proves "failover";
    fn a_redis_that_stands_still_stops_nobody_from_asking() proves "redis-stopped";
    fn no_command_grows_with_the_line() proves "monitor";
    fn polls_cost_redis_nothing() proves "quiet-polls";
    fn a_rush_for_the_seats_sells_each_once() proves "seat-rush";
    fn a_killed_database_takes_no_purchase_back() proves "database-killed";
    fn aborted_holds_cost_nobody_else_a_purchase() proves "aborted-holds";
    fn a_frozen_database_is_refused_for_and_used_again() proves "database-frozen";
    fn writers_and_sweepers_are_never_told_of_a_deadlock() proves "sweepers";
}
