//! The API document, the pages of problems, metrics and health.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use usher_app::http::problem::ProblemCode;

use crate::app::{
    Admitted, SaleOptions, TestApp, assert_problem, eventually, header, id_of, json_of, new_key, section,
};
use crate::store;

async fn document(app: &TestApp) -> Value {
    json_of(app.get("/api/openapi.json").send().await.unwrap(), 200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_served_document_is_the_stored_one() {
    let app = TestApp::start().await;
    let stored = std::fs::read_to_string(format!("{}/../../docs/openapi.json", env!("CARGO_MANIFEST_DIR"))).unwrap();

    let served = app.get("/api/openapi.json").send().await.unwrap();

    assert_eq!(header(&served, "content-type"), Some("application/json"));
    assert!(
        served.text().await.unwrap() == stored,
        "docs/openapi.json differs from the served document; if the change is meant, run `usher openapi > docs/openapi.json`",
    );
}

/// Calls operations, and checks each answer against the document.
struct Tour<'a> {
    app: &'a TestApp,
    document: Value,
    seen: BTreeMap<String, BTreeSet<u16>>,
}

impl Tour<'_> {
    /// Opens a stream at `template`, and checks only its head, because it has no end.
    async fn begin(&mut self, template: &str, request: RequestBuilder) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let operation = &self.document["paths"][template]["get"];
        let declared = &operation["responses"][status.to_string()];
        let content_type = header(&response, "content-type").unwrap();
        assert!(declared["content"][content_type].is_object(), "{template}: {status} {content_type}");
        let id = operation["operationId"].as_str().unwrap().to_owned();
        self.seen.entry(id).or_default().insert(status);
    }

    /// Sends a request to the operation at `template`, and returns the body.
    async fn call(&mut self, method: &Method, template: &str, request: RequestBuilder) -> Value {
        let response = request.send().await.unwrap();
        let (status, content_type) =
            (response.status().as_u16(), header(&response, "content-type").unwrap_or_default().to_owned());
        let text = response.text().await.unwrap();
        let case = format!("{method} {template}: {status} {text}");
        let operation = &self.document["paths"][template][method.as_str().to_lowercase()];
        assert!(operation.is_object(), "{case}: not in the document");
        let declared = &operation["responses"][status.to_string()];
        assert!(declared.is_object(), "{case}: not declared");
        let id = operation["operationId"].as_str().unwrap().to_owned();
        self.seen.entry(id).or_default().insert(status);
        if text.is_empty() {
            assert!(declared.get("content").is_none(), "{case}: should have content");
            return Value::Null;
        }
        if !content_type.contains("json") {
            return Value::String(text);
        }
        let body: Value = serde_json::from_str(&text).unwrap();
        let kind = content_type.split(';').next().unwrap();
        let schema = &declared["content"][kind]["schema"];
        let shared = kind == "application/problem+json" && declared["content"].get(kind).is_none();
        assert!(schema.is_object() || shared, "{case}: {kind} is not declared");
        if schema.is_object() {
            self.require_conformity(&body, schema, &case);
        }
        body
    }

    /// Asserts that the body has the required members, no undeclared ones, and the declared types.
    fn require_conformity(&self, body: &Value, schema: &Value, case: &str) {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
            return self.require_conformity(body, &self.document["components"]["schemas"][name], case);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.require_conformity(body, part, case);
        }
        match body {
            Value::Object(members) => {
                let Some(properties) = schema["properties"].as_object() else { return };
                for (name, member) in members {
                    let property = properties.get(name).unwrap_or_else(|| panic!("{case}: {name} is not declared"));
                    self.require_conformity(member, property, &format!("{case}: {name}"));
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    assert!(members.contains_key(name.as_str().unwrap()), "{case}: {name} is missing");
                }
            }
            Value::Array(items) => {
                assert_eq!(schema["type"], "array", "{case}");
                for item in items {
                    self.require_conformity(item, &schema["items"], case);
                }
            }
            Value::String(_) => assert_eq!(schema["type"], "string", "{case}"),
            Value::Number(number) => {
                let types: &[&str] = if number.is_f64() { &["number"] } else { &["integer", "number"] };
                assert!(types.contains(&schema["type"].as_str().unwrap_or_default()), "{case}");
            }
            Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{case}"),
            Value::Null => {}
        }
    }

    async fn get(&mut self, template: &str, path: &str) -> Value {
        self.call(&Method::GET, template, self.app.get(path)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_the_document_says() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 2, 5, "R", 100)], SaleOptions::default()).await;
    let (one_seat, next_week) = ([section("A", 1, 1, "R", 100)], Duration::from_secs(7 * 86_400));
    let scheduled = app.scheduled_performance(&one_seat, next_week, SaleOptions::default()).await;
    let mut tour = Tour { app: &app, document: document(&app).await, seen: BTreeMap::new() };
    let nothing = "01890a5d-ac96-774b-bcce-b302099a8057";

    accounts(&mut tour).await;
    catalogue(&mut tour, &performance, nothing).await;
    seats(&mut tour, &performance, nothing).await;
    let buyer = line(&mut tour, &performance, &scheduled, nothing).await;
    reservations(&mut tour, &buyer, nothing).await;
    operators(&mut tour, &performance, &scheduled, nothing).await;
    tour.get("/healthz", "/healthz").await;
    tour.get("/readyz", "/readyz").await;

    let operations =
        tour.document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for operation in operations.filter(|operation| operation.get("operationId").is_some()) {
        let id = operation["operationId"].as_str().unwrap();
        let seen = tour.seen.get(id).unwrap_or_else(|| panic!("{id} was not called"));
        let successes =
            operation["responses"].as_object().unwrap().keys().filter_map(|status| status.parse::<u16>().ok());
        for success in successes.filter(|status| *status < 400 && *status != 304) {
            assert!(seen.contains(&success), "{id} never answered {success}: {seen:?}");
        }
    }
}

async fn accounts(tour: &mut Tour<'_>) {
    let app = tour.app;
    let (sign_up, log_in, me) = ("/api/v1/auth/signup", "/api/v1/auth/login", "/api/v1/members/me");
    let account = json!({"email": "minji@example.com", "password": "correct horse", "name": "Kim Minji"});
    let credentials = json!({"email": "minji@example.com", "password": "correct horse"});
    for body in [&account, &account, &json!({}), &json!([])] {
        tour.call(&Method::POST, sign_up, app.post(sign_up).json(body)).await;
    }
    let token = tour.call(&Method::POST, log_in, app.post(log_in).json(&credentials)).await;
    let wrong = json!({"email": "minji@example.com", "password": "wrong horse"});
    tour.call(&Method::POST, log_in, app.post(log_in).json(&wrong)).await;
    tour.call(&Method::POST, log_in, app.post(log_in).body("{}")).await;
    let token = token["access_token"].as_str().unwrap().to_owned();
    tour.call(&Method::GET, me, app.get(me).bearer_auth(token)).await;
    tour.call(&Method::GET, me, app.get(me).bearer_auth(app.buyer())).await;
    tour.call(&Method::GET, me, app.get(me)).await;
}

async fn catalogue(tour: &mut Tour<'_>, performance: &str, nothing: &str) {
    let concerts = tour.get("/api/v1/concerts", "/api/v1/concerts?limit=1").await;
    tour.get("/api/v1/concerts", "/api/v1/concerts?limit=0").await;
    let concert = id_of(&concerts["items"][0]);
    for (template, id) in [
        ("/api/v1/concerts/{concert_id}", concert.as_str()),
        ("/api/v1/concerts/{concert_id}/performances", &concert),
        ("/api/v1/performances/{performance_id}", performance),
        ("/api/v1/performances/{performance_id}/seats", performance),
        ("/api/v1/performances/{performance_id}/seat-map", performance),
        ("/api/v1/performances/{performance_id}/availability", performance),
    ] {
        for id in [id, nothing] {
            let path = template.replace("{concert_id}", id).replace("{performance_id}", id);
            tour.get(template, &path).await;
        }
        let path = template.replace("{concert_id}", id).replace("{performance_id}", id);
        let tag = header(&tour.app.get(&path).send().await.unwrap(), "etag").unwrap().to_owned();
        tour.call(&Method::GET, template, tour.app.get(&path).header("If-None-Match", tag)).await;
    }
}

async fn seats(tour: &mut Tour<'_>, performance: &str, nothing: &str) {
    let template = "/api/v1/performances/{performance_id}/availability/stream";
    let stream = |id: &str| template.replace("{performance_id}", id);
    tour.begin(template, tour.app.get(&stream(performance))).await;
    tour.begin(template, tour.app.get(&stream(performance)).header("Last-Event-ID", "nonsense")).await;
    tour.get(template, &stream(nothing)).await;
    tour.get(template, &format!("{}?after=nonsense", stream(performance))).await;
}

async fn line(tour: &mut Tour<'_>, performance: &str, scheduled: &str, nothing: &str) -> Admitted {
    let app = tour.app;
    let (queue, gate) = ("/api/v1/performances/{performance_id}/queue", "/api/v1/performances/{performance_id}/gate");
    let at = |template: &str, id: &str| template.replace("{performance_id}", id);
    let buyer = app.admitted(performance).await;
    for id in [performance, scheduled, nothing] {
        let somebody = app.buyer();
        for _ in 0..2 {
            tour.call(&Method::POST, queue, app.post(&at(queue, id)).bearer_auth(&somebody)).await;
        }
        tour.call(&Method::POST, queue, app.post(&at(queue, id))).await;
        for place in [&buyer.place, "nonsense"] {
            tour.call(&Method::GET, queue, app.get(&at(queue, id)).header("Usher-Place", place)).await;
        }
        tour.call(&Method::GET, gate, app.get(&at(gate, id)).header("Usher-Pass", &buyer.pass)).await;
    }
    let leaver = app.admitted(performance).await;
    for (id, place) in [(performance, &leaver.place), (scheduled, &leaver.place)] {
        tour.call(&Method::DELETE, queue, app.delete(&at(queue, id)).header("Usher-Place", place)).await;
    }
    let stream = "/api/v1/performances/{performance_id}/queue/stream";
    for (id, place) in [(performance, leaver.place.as_str()), (scheduled, &leaver.place), (performance, "nonsense")] {
        tour.call(&Method::GET, stream, app.get(&at(stream, id)).header("Usher-Place", place)).await;
    }
    buyer
}

async fn reservations(tour: &mut Tour<'_>, buyer: &Admitted, nothing: &str) {
    let app = tour.app;
    let (hold, one) = ("/api/v1/performances/{performance_id}/reservations", "/api/v1/reservations/{reservation_id}");
    let (list, confirm) = ("/api/v1/reservations", "/api/v1/reservations/{reservation_id}/confirm");
    let wish = json!({"seats": ["A-1-1", "A-1-2"]});
    let stranger = Admitted { token: app.buyer(), ..buyer.clone() };
    let rival = app.admitted(&buyer.performance).await;
    let held = tour.call(&Method::POST, hold, app.hold_request(buyer, &new_key(), &wish)).await;
    for refused in [
        app.hold_request(&stranger, &new_key(), &wish),
        app.hold_request(&rival, &new_key(), &wish),
        app.hold_request(&rival, &new_key(), &json!({"seats": ["Z-1-1"]})),
        app.post(&format!("/api/v1/performances/{nothing}/reservations")).bearer_auth(&buyer.token),
        app.post(&format!("/api/v1/performances/{nothing}/reservations")),
    ] {
        tour.call(&Method::POST, hold, refused).await;
    }
    let id = id_of(&held);
    let pay = |id: &str, token: &str| app.confirm_request(&buyer.token, id, &new_key(), token);
    for (id, token) in
        [(id.as_str(), "tok_declined"), (nothing, "tok_ok"), (&id, "tok_free"), (&id, "tok_ok"), (&id, "tok_ok")]
    {
        tour.call(&Method::POST, confirm, pay(id, token)).await;
    }
    for (id, token) in [(id.as_str(), &buyer.token), (&id, &stranger.token), (nothing, &buyer.token)] {
        tour.call(&Method::GET, one, app.get(&format!("/api/v1/reservations/{id}")).bearer_auth(token)).await;
    }
    tour.call(&Method::GET, list, app.get(list).bearer_auth(&buyer.token)).await;
    tour.call(&Method::GET, list, app.get(list)).await;
    let to_release = id_of(&app.held(&rival, &["A-1-3"]).await);
    for (id, token) in [(&to_release, &rival.token), (&id, &buyer.token), (&to_release, &buyer.token)] {
        tour.call(&Method::DELETE, one, app.delete(&format!("/api/v1/reservations/{id}")).bearer_auth(token)).await;
    }
}

async fn operators(tour: &mut Tour<'_>, performance: &str, scheduled: &str, nothing: &str) {
    let app = tour.app;
    let concerts = "/api/v1/operator/concerts";
    let performances = "/api/v1/operator/concerts/{concert_id}/performances";
    let seats = "/api/v1/operator/performances/{performance_id}/seats";
    let admission = "/api/v1/operator/performances/{performance_id}/admission";
    let stats = "/api/v1/operator/performances/{performance_id}/stats";
    let concert = json!({"title": "T", "description": "", "venue": "V", "running_time_min": 90});
    let (operator, key) = (app.operator(), new_key());
    let add = |path: &str| app.post(path).bearer_auth(&operator);
    let added = tour.call(&Method::POST, concerts, add(concerts).header("Idempotency-Key", &key).json(&concert)).await;
    let other = json!({"title": "U", "description": "", "venue": "V", "running_time_min": 90});
    tour.call(&Method::POST, concerts, add(concerts).header("Idempotency-Key", &key).json(&other)).await;
    tour.call(&Method::POST, concerts, add(concerts).json(&concert)).await;
    tour.call(&Method::POST, concerts, app.post(concerts)).await;
    let times = json!({
        "starts_at": "2099-01-03T00:00:00.000Z", "sale_opens_at": "2099-01-01T00:00:00.000Z",
        "sale_closes_at": "2099-01-02T00:00:00.000Z",
    });
    for concert in [&id_of(&added), nothing] {
        let path = performances.replace("{concert_id}", concert);
        tour.call(&Method::POST, performances, add(&path).header("Idempotency-Key", new_key()).json(&times)).await;
    }
    let plan = json!({"sections": [section("A", 1, 1, "R", 100)]});
    for id in [performance, scheduled, nothing] {
        let at = |template: &str| template.replace("{performance_id}", id);
        tour.call(&Method::PUT, seats, app.put(&at(seats)).bearer_auth(&operator).json(&plan)).await;
        let csv = app.put(&at(seats)).bearer_auth(&operator).header("Content-Type", "text/csv");
        tour.call(&Method::PUT, seats, csv.body("section,row\n")).await;
        tour.call(&Method::GET, admission, app.get(&at(admission)).bearer_auth(&operator)).await;
        for patch in [json!({"capacity": 50}), json!({"capacity": "many"})] {
            tour.call(&Method::PATCH, admission, app.patch(&at(admission)).bearer_auth(&operator).json(&patch)).await;
        }
        tour.call(&Method::GET, stats, app.get(&at(stats)).bearer_auth(&operator)).await;
        tour.call(&Method::GET, stats, app.get(&at(stats)).bearer_auth(app.buyer())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_code_has_a_page() {
    let app = TestApp::start().await;

    for code in ProblemCode::ALL {
        let page = app.get(&code.page()).send().await.unwrap();
        assert_eq!((page.status().as_u16(), header(&page, "content-type")), (200, Some("text/html; charset=utf-8")));
        let text = page.text().await.unwrap();
        assert!(text.contains(code.title()) && text.contains(code.explanation()), "{code:?}: {text}");
    }
    assert_problem(app.get("/problems/no-such-code").send().await.unwrap(), 404, "not-found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_shown_to_people_and_nothing_else_is() {
    let app = TestApp::start().await;

    let page = app.get("/swagger-ui/?url=https://example.org/other.json").send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(header(&page, "content-type").unwrap().starts_with("text/html"));
    let policy = header(&page, "content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    let page = page.text().await.unwrap();

    let files: Vec<_> = page.split('"').filter_map(|text| text.strip_prefix("./")).collect();
    assert!(
        files.iter().any(|file| file.ends_with(".js")) && files.iter().any(|file| file.ends_with(".css")),
        "{page}"
    );
    for file in files.into_iter().chain(["index.html"]) {
        let path = format!("/swagger-ui/{file}");
        assert_eq!(app.get(&path).send().await.unwrap().status(), 200, "{path}");
    }
    let script = app.get("/swagger-ui/start.js").send().await.unwrap().text().await.unwrap();
    assert!(script.contains("queryConfigEnabled: false") && script.contains("validatorUrl: null"), "{script}");
    assert_eq!(app.get("/swagger-ui").send().await.unwrap().url().path(), "/swagger-ui/");
    for unknown in ["nothing.js", "../Cargo.toml", "%2e%2e/Cargo.toml", "index.html/", "assets/x"] {
        let response = app.get(&format!("/swagger-ui/{unknown}")).send().await.unwrap();
        assert_problem(response, 404, "not-found").await;
    }

    let without = TestApp::start_with(|settings| settings.http.swagger_ui = false).await;
    assert_problem(without.get("/swagger-ui/").send().await.unwrap(), 404, "not-found").await;
    assert_eq!(without.get("/api/openapi.json").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told_in_plain_text() {
    let app = TestApp::start().await;

    let health = app.get("/healthz").send().await.unwrap();
    let readiness = app.get("/readyz").send().await.unwrap();

    assert_eq!((health.status().as_u16(), readiness.status().as_u16()), (200, 200));
    assert_eq!(header(&health, "content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(health.text().await.unwrap(), "ok");
    let readiness = readiness.text().await.unwrap();
    assert!(readiness.lines().any(|line| line == "store: ok"), "{readiness}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_still_answers_readers() {
    let app = TestApp::start().await;
    let _lock = store::lock(app.folder()).await;

    let listed = app.get("/api/v1/concerts").send().await.unwrap();
    let readiness = app.get("/readyz").send().await.unwrap();

    assert_eq!((listed.status().as_u16(), readiness.status().as_u16()), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_told_in_the_format_of_prometheus() {
    let app = TestApp::start_with(|settings| settings.line.capacity = 1).await;
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    app.held(&buyer, &["A-1-1"]).await;
    app.joined(&app.buyer(), &performance).await;

    let metrics = eventually("the line's numbers are measured", async || {
        let response = app.get_metrics("/metrics").send().await.unwrap();
        assert_eq!(header(&response, "content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = response.text().await.unwrap();
        text.contains(&format!("usher_line_waiting{{performance=\"{performance}\"}} 1\n")).then_some(text)
    })
    .await;

    for line in [
        format!("usher_line_active{{performance=\"{performance}\"}} 1"),
        format!("usher_line_capacity{{performance=\"{performance}\"}} 1"),
        format!("usher_line_state{{performance=\"{performance}\",state=\"open\"}} 1"),
        "usher_line_live 1".to_owned(),
        "usher_holds_total{outcome=\"held\"} 1".to_owned(),
        format!("usher_build_info{{commit=\"unknown\",version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    assert!(metrics.contains("process_resident_memory_bytes"), "{metrics}");
    let admitted = metrics.lines().find_map(|line| line.strip_prefix("usher_line_admitted_total "));
    assert_eq!(admitted, Some("1"));
    for secret in [&buyer.token, &buyer.pass, &buyer.place] {
        assert!(!metrics.contains(secret.as_str()), "no secrets");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_on_a_listener_of_their_own_which_moves_if_its_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let app = TestApp::start_with(|settings| settings.metrics.bind = bind).await;

    let here = app.get("/metrics").send().await.unwrap();
    let (_, there) = app.addresses();

    assert_problem(here, 404, "not-found").await;
    assert!(there.ip() == bind.ip() && there.port() > bind.port(), "{there} is above {bind}");
    assert!(app.metrics().await.contains("usher_http_request_duration_seconds"));
}
