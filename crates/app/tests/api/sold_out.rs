//! A whole sale as in production: two servers in processes of their own, with MySQL and Redis in containers where there
//! is a Docker engine, and 2,000 buyers for 500 seats.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use usher_app::config::{Secret, Settings};
use usher_test_servers::mysql_server::{self, Durability};
use usher_test_servers::redis_server;

use crate::app::{Admitted, Answer, Api, SECRET, SaleOptions, UsherProcess, id_of, json_of, new_key, section};
use crate::at_once::raise_file_limit;
use crate::mysql::{assert_says, usher};

const BUYERS: usize = 2_000;
const SEATS: usize = 500;
/// The capacity of the line.
const CAPACITY: &str = "100";
/// How long the sale may take on a busy machine.
const SALE_MAX: Duration = Duration::from_secs(180);
/// The number of buyers between two reports of progress.
const TELL_EVERY: usize = 250;

/// How the sale ended for a buyer.
#[derive(Debug)]
enum End {
    /// Bought these seats.
    Bought(Vec<String>),
    /// Left in the line, because every seat was sold.
    SoldOut,
    /// Admitted, but every seat was taken.
    NoSeat,
}

/// Sends a request until the server accepts it. After a 503, a buyer repeats the call when the answer says.
async fn taken(request: RequestBuilder) -> Answer {
    loop {
        let answer = Answer::of(request.try_clone().unwrap().send().await.unwrap()).await;
        if answer.status != 503 {
            return answer;
        }
        wait_ms(&answer.json()["retry_after_ms"]).await;
    }
}

async fn wait_ms(span: &Value) {
    #[expect(clippy::disallowed_methods, reason = "people ask again when they are told to")]
    tokio::time::sleep(Duration::from_millis(span.as_u64().unwrap())).await;
}

/// A buyer joins and polls at one server, and buys at the other.
async fn visit(line: &Api, shop: &Api, performance: &str, mut wanted: u32) -> End {
    let (token, path) = (line.buyer(), format!("/api/v1/performances/{performance}/queue"));
    let joined = taken(line.post(&path).bearer_auth(&token)).await;
    assert!(matches!(joined.status, 200 | 201), "{joined:?}");
    let mut status = joined.json();
    let place = status["place"].as_str().unwrap().to_owned();
    while status["state"] == "waiting" {
        if status["sale_state"] == "sold_out" {
            return End::SoldOut;
        }
        wait_ms(&status["poll_after_ms"]).await;
        let polled = taken(line.get(&path).header("Usher-Place", &place)).await;
        assert_eq!(polled.status, 200, "{polled:?}");
        status = polled.json();
    }
    assert_eq!(status["state"], "admitted", "{status}");
    let pass = status["pass"]["token"].as_str().unwrap().to_owned();
    let buyer = Admitted { token, performance: performance.to_owned(), place, pass };
    loop {
        let wish = json!({"best_available": {"count": wanted}});
        let answer = taken(shop.hold_request(&buyer, &new_key(), &wish)).await;
        match answer.verdict() {
            (201, _) => {
                let reservation = id_of(&answer.json());
                let paid = taken(shop.confirm_request(&buyer.token, &reservation, &new_key(), "tok_ok")).await;
                assert_eq!(paid.status, 200, "{paid:?}");
                let confirmed = paid.json();
                let seats = confirmed["tickets"].as_array().unwrap().iter();
                return End::Bought(seats.map(|ticket| ticket["seat"].as_str().unwrap().to_owned()).collect());
            }
            (409, code) if code == "not-enough-seats" && wanted > 1 => wanted -= 1,
            (409, code) if code == "not-enough-seats" => {
                let left = taken(line.delete(&path).header("Usher-Place", &buyer.place)).await;
                assert_eq!(left.status, 204, "{left:?}");
                return End::NoSeat;
            }
            verdict => panic!("seats are free or not: {verdict:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_buyers_at_two_servers_buy_each_of_five_hundred_seats_once() {
    raise_file_limit();
    let (redis, mysql) = (redis_server::Server::start(&[]), mysql_server::Server::start(Durability::Full, &[]));
    let database = mysql_server::create_database(&mysql.url(), "usher").await;
    assert_says(&usher(&database, &["migrate", "up"]), "applied m0001");
    let redis_url = redis.url();
    let variables = [
        ("AUTH__SECRET", SECRET),
        ("LINE__BACKEND", "redis"),
        ("LINE__CAPACITY", CAPACITY),
        ("LINE__REDIS_URL", &redis_url),
        ("STORE__URL", &database),
    ];
    let processes = [UsherProcess::start_with(&variables).await, UsherProcess::start_with(&variables).await];
    let mut settings = Settings::load(None).unwrap();
    settings.auth.secret = Secret::new(SECRET);
    let servers = processes.each_ref().map(|process| Api::new(process.addresses(), &settings));
    let performance = servers[0].performance(&[section("A", 10, 50, "VIP", 150_000)], SaleOptions::default()).await;
    servers[1].wait_for_sale_state(&performance, "open").await;

    let visits = stream::iter(0..BUYERS).map(|n| {
        let (line, shop) = (&servers[n % 2], &servers[(n + 1) % 2]);
        visit(line, shop, &performance, if n % 3 == 0 { 2 } else { 1 })
    });
    let (mut seats, mut n_sold_out, mut n_without) = (Vec::new(), 0, 0);
    let sale = async {
        let mut visits = std::pin::pin!(visits.buffer_unordered(BUYERS));
        let mut n_done = 0;
        while let Some(end) = visits.next().await {
            match end {
                End::Bought(bought) => seats.extend(bought),
                End::SoldOut => n_sold_out += 1,
                End::NoSeat => n_without += 1,
            }
            n_done += 1;
            if n_done % TELL_EVERY == 0 {
                eprintln!("{n_done} of {BUYERS} buyers are done, {} of {SEATS} seats are sold", seats.len());
            }
        }
    };
    let in_time = tokio::time::timeout(SALE_MAX, sale).await;

    in_time
        .unwrap_or_else(|_| panic!("{} seats sold, {n_sold_out} and {n_without} refused in {SALE_MAX:?}", seats.len()));
    assert_eq!((seats.len(), seats.iter().collect::<BTreeSet<_>>().len()), (SEATS, SEATS));
    assert!(n_sold_out > 0, "some buyers learned in the line that all seats are sold");
    for server in &servers {
        server.wait_for_sale_state(&performance, "sold_out").await;
        let seen = json_of(server.get(&format!("/api/v1/performances/{performance}")).send().await.unwrap(), 200).await;
        assert_eq!(seen["seats"], json!({"total": SEATS, "available": 0, "held": 0, "sold": SEATS}));
    }
    assert_says(&usher(&database, &["verify"]), ": 0 contradictions");
}
