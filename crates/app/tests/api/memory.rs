//! A whole sale in one process without a file, and the commands that refuse a store in memory.

use std::fs;
use std::process::Output;

use crate::app::{SECRET, SaleOptions, TestApp, UsherProcess, assert_problem, id_of, json_of, section, usher};
use crate::store::{Store, assert_sound, captures_of};

#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_sign_up_to_tickets_is_the_same_in_memory() {
    let app = TestApp::start_on(Store::Memory, |_| {}).await;
    let hall = [section("A", 2, 10, "VIP", 150_000), section("B", 1, 10, "R", 90_000)];
    let performance = app.performance(&hall, SaleOptions::default()).await;

    let token = app.sign_up_and_log_in("minji@example.com").await;
    assert_problem(app.sign_up("minji@example.com", "correct horse").await, 409, "email-taken").await;
    let minji = app.admit(&token, &performance).await;
    let held = app.held(&minji, &["A-1-1", "A-1-2"]).await;
    assert_problem(app.confirm(&token, &id_of(&held), "tok_declined").await, 402, "payment-declined").await;
    let confirmed = app.confirmed(&token, &id_of(&held)).await;

    assert_eq!(confirmed["tickets"].as_array().unwrap().len(), 2);
    assert_eq!(app.list("/api/v1/reservations", Some(&token), 50).await, [confirmed]);
    app.wait_for_place(&minji.place, &performance, "done").await;

    let other = app.admitted(&performance).await;
    assert_problem(app.hold(&other, &["A-1-2", "A-1-3"]).await, 409, "seat-taken").await;
    let best = json_of(app.hold_best(&other, 2, Some("VIP")).await, 201).await;
    assert_eq!(app.release(&other.token, &id_of(&best)).await.status(), 204);
    let statuses = app.seat_statuses(&performance).await;
    let sold: Vec<_> = statuses.iter().filter(|(_, status)| *status == "sold").map(|(seat, _)| seat.as_str()).collect();
    assert_eq!(sold, ["A-1-1", "A-1-2"]);
    assert!(statuses.values().all(|status| status != "held"), "{statuses:?}");

    assert_eq!(app.get("/readyz").send().await.unwrap().status(), 200);
    assert_eq!(captures_of(&app, &performance).await, 1);
    assert_sound(&app, &performance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_in_memory_sells_tickets_warns_leaves_no_file_and_forgets_everything() {
    let (mut usher, log) = UsherProcess::start_demo_with_log(&[("STORE__URL", "memory://")]).await;
    let performances = "/api/v1/concerts/00000000-0000-7000-8000-000000000001/performances";

    let ann = usher.sign_up_and_log_in("ann@example.org").await;
    let performance = id_of(&usher.list(performances, None, 50).await[0]);
    let admitted = usher.admit(&ann, &performance).await;
    let held = usher.held(&admitted, &["A-1-1", "A-1-2"]).await;
    let confirmed = usher.confirmed(&ann, &id_of(&held)).await;

    assert_eq!(confirmed["tickets"].as_array().unwrap().len(), 2);
    let files = fs::read_dir(usher.folder()).unwrap().map(|file| file.unwrap().path());
    assert_eq!(files.collect::<Vec<_>>(), std::slice::from_ref(&log));
    let logged = fs::read_to_string(log).unwrap();
    let warnings: Vec<_> = logged.lines().filter(|line| line.contains("memory://")).collect();
    assert_eq!(warnings.len(), 1, "{logged}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains("are lost when this process ends"), "{logged}");

    usher.restart().await;
    assert_problem(usher.log_in("ann@example.org", "correct horse").await, 401, "invalid-credentials").await;
    let anew = id_of(&usher.list(performances, None, 50).await[0]);
    assert_ne!(anew, performance);
    assert!(usher.seat_statuses(&anew).await.values().all(|status| status == "available"));
}

/// Asserts that a command failed, with its reasons in one line.
#[track_caller]
fn assert_refused(output: &Output, reasons: &[&str]) {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(reasons.iter().all(|reason| said.contains(reason)), "{reasons:?}: {said}");
}

#[test]
fn commands_that_need_a_database_refuse_a_store_in_memory() {
    for (arguments, reason) in [
        (&["migrate", "up"][..], "has no schema to migrate: set it to"),
        (&["migrate", "down"], "has no schema to migrate: set it to"),
        (&["migrate", "status"], "has no schema to migrate: set it to"),
        (&["verify"], "only the server itself can read: set it to"),
        (
            &["operator", "create", "--email", "ann@example.org"],
            "start `usher serve --demo`, which creates an operator",
        ),
        (&["token", "mint"], "set auth.secret for this command and for the server"),
    ] {
        let output = usher(arguments, &[("STORE__URL", "memory://")]);

        assert_refused(&output, &["usher: store.url is memory://, ", reason]);
    }
}

#[test]
fn tokens_for_a_server_in_memory_are_signed_with_a_secret_that_it_shares() {
    let output = usher(&["token", "mint", "--count", "2"], &[("STORE__URL", "memory://"), ("AUTH__SECRET", SECRET)]);

    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2);
}

#[test]
fn a_server_refuses_a_store_in_memory_beside_a_line_on_redis() {
    let output = usher(
        &["serve"],
        &[
            ("STORE__URL", "memory://"),
            ("LINE__BACKEND", "redis"),
            ("LINE__REDIS_URL", "redis://127.0.0.1:1"),
            ("AUTH__SECRET", SECRET),
        ],
    );

    assert_refused(&output, &["store.url: is memory://", "set store.url to a mysql:// database, or line.backend to"]);
}
