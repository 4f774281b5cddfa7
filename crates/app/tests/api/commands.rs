//! The commands that operators and container engines run beside a server, and how a server tells that it stops.

use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;

use super::app::{TestApp, UsherProcess, eventually, json_of, usher};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_configuration_is_checked_without_a_server_and_tells_no_secret() {
    let secret = "a secret that servers share, of 32 bytes and more";
    let settings = [("STORE__URL", "mysql://usher:hunter2@nowhere/usher"), ("AUTH__SECRET", secret)];

    let checked = usher(&["config", "check"], &settings);
    let refused = usher(&["config", "check"], &[("HTTP__BIND", "nowhere")]);

    let text = said(&checked);
    assert!(checked.status.success() && text.contains("MySQL or MariaDB"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains(secret), "{text}");
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("http.bind"), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_running_server_and_fails_without_one() {
    let app = TestApp::start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    let (_, metrics) = app.addresses();

    let healthy = usher(&["health"], &[("METRICS__BIND", &metrics.to_string())]);
    let everywhere = usher(&["health"], &[("METRICS__BIND", &format!("0.0.0.0:{}", metrics.port()))]);
    // This listener accepts connections, and never answers.
    let silent = usher(&["health"], &[("METRICS__BIND", &nobody)]);
    drop(free);
    let absent = usher(&["health"], &[("METRICS__BIND", &nobody)]);

    assert_eq!((healthy.status.code(), everywhere.status.code()), (Some(0), Some(0)), "{}", said(&healthy));
    assert_eq!((silent.status.code(), absent.status.code()), (Some(1), Some(1)));
    assert!(said(&silent).contains("no answer within 1s"), "{}", said(&silent));
    assert!(said(&absent).contains(&nobody), "{}", said(&absent));
}

#[test]
fn pending_migrations_are_a_failure_only_for_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATA__DIR", folder.path().to_str().unwrap())];

    let listed = usher(&["migrate", "status"], &settings);
    let checked = usher(&["migrate", "status", "--check"], &settings);
    let applied = usher(&["migrate", "up"], &settings);
    let again = usher(&["migrate", "status", "--check"], &settings);

    assert!(listed.status.success() && said(&listed).contains("pending"), "{}", said(&listed));
    assert_eq!(checked.status.code(), Some(1));
    assert!(applied.status.success() && again.status.success(), "{}", said(&again));
}

#[test]
fn the_demo_is_set_up_once_however_often_and_by_how_many_it_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("DATA__DIR", folder.path().to_str().unwrap())];
    assert!(usher(&["migrate", "up"], &settings).status.success());

    let outputs: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(|| usher(&["demo"], &settings))).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let again = usher(&["demo"], &settings);

    let performance = |output: &Output| {
        assert!(output.status.success(), "{}", said(output));
        said(output).lines().find_map(|line| Some(line.split_once("/performances/")?.1.to_owned())).unwrap()
    };
    let first = performance(&again);
    assert!(outputs.iter().all(|output| performance(output) == first));
    let with_password = outputs.iter().filter(|output| said(output).contains("shown once"));
    assert_eq!(with_password.count(), 1);
    assert!(usher(&["verify"], &settings).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_is_not_ready_and_still_answers() {
    let mut process = UsherProcess::start_with(&[("HTTP__DRAIN_S", "3600")]).await;
    assert_eq!(process.get("/readyz").send().await.unwrap().status(), 200);

    process.terminate();

    let report = eventually("the server is not ready", async || {
        let readiness = process.get("/readyz").send().await.unwrap();
        (readiness.status() == 503).then_some(readiness)
    })
    .await;
    assert!(report.text().await.unwrap().starts_with("usher: stopping\n"));
    assert_eq!(process.get_metrics("/readyz").send().await.unwrap().status(), 503);
    let concerts: Value = json_of(process.get("/api/v1/concerts").send().await.unwrap(), 200).await;
    assert_eq!(concerts["items"], Value::Array(Vec::new()));
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn purchases_have_an_address_and_threads_of_their_own() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = free.local_addr().unwrap();
    drop(free);
    let app = TestApp::start_with(|settings| settings.http.purchase_bind = Some(bind)).await;

    let answer = reqwest::get(format!("http://{bind}/api/v1/concerts")).await.unwrap();

    assert_eq!(answer.status(), 200);
    assert_eq!(app.get("/api/v1/concerts").send().await.unwrap().status(), 200);
}

/// Each of two servers with the line in its memory would admit people up to the capacity.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_database_of_an_embedded_one_is_refused() {
    let first = UsherProcess::start().await;
    let folder = first.folder().to_str().unwrap();
    let settings = [("DATA__DIR", folder), ("HTTP__BIND", "127.0.0.1:0"), ("METRICS__BIND", "127.0.0.1:0")];

    let second = usher(&["serve"], &settings);

    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("another server uses") && said(&second).contains("usher.db"), "{}", said(&second));
    assert_eq!(first.get("/api/v1/concerts").send().await.unwrap().status(), 200);
    // Commands are no servers.
    assert!(usher(&["verify"], &settings[..1]).status.success());
}
