//! Runs every proof once, in its quick size. The proofs start the `usher` that was built beside them.
//! `cargo test --workspace` builds it, and so does `cargo build --package usher-app --bin usher`.

#![expect(clippy::unwrap_used, reason = "a panic fails the test where it is")]

use usher_loadtest::prove::{PROOFS, Size};

/// Runs a proof in a temporary folder.
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
    fn a_stale_replica_in_place_of_redis_costs_nobody_their_place() proves "failover";
    fn a_paused_redis_refuses_joins_and_leaves_polls_answered() proves "redis-stopped";
    fn no_command_grows_with_the_line() proves "monitor";
    fn polls_send_no_command_to_redis() proves "quiet-polls";
    fn a_rush_sells_each_seat_once() proves "seat-rush";
    fn a_killed_database_loses_no_purchase() proves "database-killed";
    fn aborted_holds_cost_nobody_else_a_purchase() proves "aborted-holds";
    fn a_paused_database_is_used_again_when_it_resumes() proves "database-frozen";
    fn no_client_sees_a_deadlock_of_writers_and_sweepers() proves "sweepers";
}
