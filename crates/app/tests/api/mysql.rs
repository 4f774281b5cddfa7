//! A whole sale on MariaDB or MySQL and Redis: two servers on one database and one line.

use std::process::Output;

use futures_util::future::join_all;
use usher_app::composition::Application;
use usher_app::config::{LineBackend, Secret, Settings};
use usher_test_servers::mysql_server::ScratchDatabase;
use usher_test_servers::redis_server;

use crate::app::{self, SECRET, SaleOptions, TestApp, id_of, json_of, section};

fn on(database: &ScratchDatabase, settings: &mut Settings) {
    settings.line.backend = LineBackend::Redis;
    settings.line.redis_url = Secret::new(redis_server::shared_url());
    settings.store.url = Secret::new(database.url());
    settings.auth.secret = Secret::new(SECRET);
}

/// Runs a command of `usher` on the database at this URL.
pub(crate) fn usher(database: &str, arguments: &[&str]) -> Output {
    let variables = [("STORE__URL", database), ("AUTH__SECRET", SECRET), ("LOG__FILTER", "warn")];
    app::usher(arguments, &variables)
}

pub(crate) fn assert_says(output: &Output, text: &str) {
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(text), "{output:?}");
}

async fn migrated() -> ScratchDatabase {
    let database = ScratchDatabase::fresh().await;
    assert_says(&usher(database.url(), &["migrate", "up"]), "applied m0001");
    database
}

/// MySQL cannot roll back a migration that another process disturbs.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_migrations_at_once_one_migrates_and_the_others_find_nothing_to_do() {
    let database = ScratchDatabase::fresh().await;

    let outputs: Vec<_> = std::thread::scope(|scope| {
        let up = || usher(database.url(), &["migrate", "up"]);
        let running: Vec<_> = (0..4).map(|_| scope.spawn(up)).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });

    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let said = |output: &&Output| String::from_utf8_lossy(&output.stdout).contains("applied m0001");
    assert_eq!(outputs.iter().filter(said).count(), 1, "{outputs:?}");
    assert_says(&usher(database.url(), &["migrate", "status", "--check"]), "applied m0001");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_sign_up_to_tickets_leads_over_two_servers_on_one_database() {
    const BUYERS: usize = 40;
    let database = migrated().await;
    let start = async || TestApp::start_with(|settings| on(&database, settings)).await;
    let (first, second) = (start().await, start().await);
    let performance = first.performance(&[section("A", 2, 50, "VIP", 150_000)], SaleOptions::default()).await;
    second.wait_for_sale_state(&performance, "open").await;

    json_of(first.sign_up("minji@example.com", "correct horse").await, 201).await;
    let token = json_of(second.log_in("minji@example.com", "correct horse").await, 200).await;
    let token = token["access_token"].as_str().unwrap();
    let minji = first.admit(token, &performance).await;
    let held = second.held(&minji, &["A-1-1", "A-1-2"]).await;
    let confirmed = first.confirmed(token, &id_of(&held)).await;

    assert_eq!(confirmed["tickets"].as_array().unwrap().len(), 2);
    assert_eq!(second.list("/api/v1/reservations", Some(token), 50).await, [confirmed]);
    second.wait_for_place(&minji.place, &performance, "done").await;

    // All buyers first want the same seat, from both servers, and then each another one.
    let servers = [&first, &second];
    let crowd = join_all((0..BUYERS).map(async |n| (n, servers[n % 2].admitted(&performance).await))).await;
    let taken = join_all(crowd.iter().map(async |(n, who)| servers[(n + 1) % 2].hold(who, &["A-2-50"]).await)).await;
    let mut n_held = 0;
    for (answer, (_, who)) in taken.into_iter().zip(&crowd) {
        if answer.status() == 201 {
            n_held += 1;
            let released = id_of(&json_of(answer, 201).await);
            assert_eq!(first.release(&who.token, &released).await.status(), 204);
        } else {
            assert_eq!(json_of(answer, 409).await["code"], "seat-taken");
        }
    }
    assert_eq!(n_held, 1);
    let sold = join_all(crowd.iter().map(async |(n, who)| {
        let app = servers[n % 2];
        let held = app.held(who, &[&format!("A-2-{}", n + 1)]).await;
        app.confirmed(&who.token, &id_of(&held)).await
    }))
    .await;
    assert!(sold.iter().all(|sold| sold["tickets"].as_array().unwrap().len() == 1));

    let statuses = first.seat_statuses(&performance).await;
    assert_eq!(statuses.values().filter(|status| *status == "sold").count(), 2 + BUYERS);
    assert_eq!(second.get("/readyz").send().await.unwrap().status(), 200);
    assert_says(&usher(database.url(), &["verify"]), &performance);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_database_is_migrated_by_its_operator_and_may_be_ahead_of_its_servers() {
    let database = ScratchDatabase::fresh().await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::load(None).unwrap();
    settings.http.bind = ([127, 0, 0, 1], 0).into();
    settings.data.dir = folder.path().to_owned();
    on(&database, &mut settings);

    let refused = Application::build(&settings, false).await.err().unwrap().to_string();
    assert!(refused.contains("run `usher migrate up` first"), "{refused}");
    assert_says(&usher(database.url(), &["migrate", "status"]), "pending m0001");

    assert_says(&usher(database.url(), &["migrate", "up"]), "applied m0001");
    Application::build(&settings, false).await.unwrap();
    assert_eq!(usher(database.url(), &["migrate", "up"]).stdout, b"", "there is nothing more to do");

    database.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_of_a_newer_version', 0)").await;
    Application::build(&settings, false).await.unwrap();
    assert_says(&usher(database.url(), &["migrate", "status"]), "applied m9999_of_a_newer_version");
    assert_eq!(usher(database.url(), &["migrate", "up"]).stdout, b"");
}
