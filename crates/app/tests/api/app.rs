//! Servers to test, and the actions of their clients. A method that returns a `Response` accepts any status; all others
//! assert success.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use usher_account::Role;
use usher_adapter_memory::Database;
use usher_app::composition::Application;
use usher_app::config::{Secret, Settings};
use usher_app::durable::Durable;
use usher_app::identity::access_tokens::{AccessTokens, Bearer};
use usher_app::runtime::clock::SystemClock;
use usher_kernel::{AccountId, Clock as _, Timestamp};

use crate::store::Store;

/// A secret for servers that do not make their own.
pub(crate) const SECRET: &str = "a secret that servers share, of 32 bytes and more";
/// How long a condition may take to come true, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long the client keeps an idle connection: shorter than the server (5 s), which could close one at the moment of
/// the next request.
const IDLE_MAX: Duration = Duration::from_secs(2);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Waits until `condition` returns a value, and returns it.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(answer) = condition().await {
                return answer;
            }
            #[expect(clippy::disallowed_methods, reason = "between two looks at a condition that is waited for")]
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    };
    tokio::time::timeout(DEADLINE, tries).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// The time, as servers on this machine see it.
pub(crate) fn now() -> Timestamp {
    SystemClock::default().now()
}

/// A time as the API writes it.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.unix_ms()) * 1_000_000).unwrap();
    moment.format(&Rfc3339).unwrap()
}

/// A time that the API wrote.
pub(crate) fn timestamp(text: &Value) -> Timestamp {
    let moment = OffsetDateTime::parse(text.as_str().unwrap(), &Rfc3339).unwrap();
    Timestamp::from_unix_ms(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap())
}

/// An idempotency key that was not used before.
pub(crate) fn new_key() -> String {
    static LATEST: AtomicU64 = AtomicU64::new(0);
    format!("key-{}-{}", std::process::id(), LATEST.fetch_add(1, Ordering::Relaxed))
}

/// The text of a header.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Asserts the status, and returns the JSON.
pub(crate) async fn json_of(response: Response, status: u16) -> Value {
    let url = response.url().clone();
    let actual = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(actual, status, "{url}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}

/// Asserts a refusal in the form of RFC 9457, and returns its body.
pub(crate) async fn assert_problem(response: Response, status: u16, code: &str) -> Value {
    Answer::of(response).await.problem(status, code)
}

/// An answer that has arrived as a whole.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The path of the request.
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (path, status, headers) =
            (response.url().path().to_owned(), response.status().as_u16(), response.headers().clone());
        Self { path, status, headers, text: response.text().await.unwrap() }
    }

    /// Parses an answer. `None` if the bytes are none.
    fn parse(path: &str, bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, text) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| -> Option<(HeaderName, HeaderValue)> {
            let (name, value) = line.split_once(": ")?;
            Some((name.parse().ok()?, value.parse().ok()?))
        };
        Some(Self { path: path.into(), status, headers: lines.filter_map(header).collect(), text: text.into() })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status, and the code of a problem.
    pub(crate) fn verdict(&self) -> (u16, String) {
        let code = if self.status < 400 { String::new() } else { self.json()["code"].as_str().unwrap().to_owned() };
        (self.status, code)
    }

    /// Status and body, which a repeated request must get again.
    pub(crate) fn said(&self) -> (u16, &str) {
        (self.status, &self.text)
    }

    /// Asserts a refusal in the form of RFC 9457, and returns its body.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let Self { path, headers, text, .. } = self;
        let context = format!("{path}: {} {text}", self.status);
        assert_eq!(self.status, status, "{context}");
        let content_type = headers.get("content-type").unwrap_or_else(|| panic!("{context}: no content type"));
        assert_eq!(content_type, "application/problem+json", "{context}");
        let body: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(body["code"], code, "{context}");
        assert_eq!(body["type"], format!("/problems/{code}"), "{context}");
        assert_eq!(body["status"], status, "{context}");
        assert_eq!(body["instance"], path.as_str(), "{context}");
        for name in ["title", "detail"] {
            assert!(body[name].as_str().is_some_and(|text| !text.is_empty()), "{context}");
        }
        let request_id = headers.get("x-request-id").unwrap_or_else(|| panic!("{context}: no request id"));
        let told = (status >= 500).then(|| request_id.to_str().unwrap());
        assert_eq!(body["request_id"].as_str(), told, "{context}");
        let waits = (body.get("retry_after_ms").is_some(), headers.contains_key("retry-after"));
        assert_eq!(waits.0, waits.1, "{context}");
        body
    }
}

/// A connection to which the test writes raw bytes, which need not be valid HTTP.
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// Sends a chunk again and again, until the server closes the connection. Returns the server's answer.
    pub(crate) async fn send_without_end(self, path: &str, chunk: &[u8]) -> Answer {
        let (mut reader, mut writer) = self.0.into_split();
        let writing = async {
            while writer.write_all(chunk).await.is_ok() {}
            // A failed write is expected: only the answer counts.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            bytes = read_to_end(&mut reader) => answer_in(path, &bytes),
            () = writing => unreachable!("it goes on until the server has answered"),
        }
    }

    /// The server's answer, read until it closes the connection.
    pub(crate) async fn answer(&mut self, path: &str) -> Answer {
        answer_in(path, &read_to_end(&mut self.0).await)
    }

    /// Whether the server has sent nothing yet, and keeps the connection open.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

fn answer_in(path: &str, bytes: &[u8]) -> Answer {
    Answer::parse(path, bytes).unwrap_or_else(|| panic!("{path}: no answer in {:?}", String::from_utf8_lossy(bytes)))
}

async fn read_to_end(reader: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after the answer does no harm.
    let reading = async { reader.read_to_end(&mut bytes).await.map(drop).unwrap_or_default() };
    tokio::time::timeout(DEADLINE, reading).await.expect("the server closed the connection");
    bytes
}

/// A block of seats of one grade.
pub(crate) fn section(name: &str, rows: u16, seats_per_row: u16, grade: &str, amount: i64) -> Value {
    let price = json!({"amount": amount, "currency": "KRW"});
    json!({"name": name, "rows": rows, "seats_per_row": seats_per_row, "grade": grade, "price": price})
}

/// How a performance is sold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SaleOptions {
    pub(crate) lasts: Duration,
    pub(crate) seats_per_buyer: u32,
    pub(crate) hold_ttl_s: u64,
}

impl Default for SaleOptions {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(86_400), seats_per_buyer: 4, hold_ttl_s: 300 }
    }
}

/// A buyer with a pass.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) token: String,
    pub(crate) performance: String,
    pub(crate) place: String,
    pub(crate) pass: String,
}

/// A client of a server.
pub(crate) struct Api {
    address: SocketAddr,
    metrics_address: SocketAddr,
    client: reqwest::Client,
    access_tokens: AccessTokens,
}

impl Api {
    /// A client of the server at these addresses of requests and of metrics. It accepts tokens signed with the secret of
    /// `settings`.
    pub(crate) fn new((address, metrics_address): (SocketAddr, SocketAddr), settings: &Settings) -> Self {
        let token_ttl = Duration::from_secs(settings.auth.token_ttl_s);
        let access_tokens = AccessTokens::new(settings.secret().unwrap().expose(), None, token_ttl);
        let client =
            reqwest::Client::builder().no_proxy().timeout(DEADLINE).pool_idle_timeout(IDLE_MAX).build().unwrap();
        Self { address, metrics_address, client, access_tokens }
    }

    /// The address of the server.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses of requests and of metrics.
    pub(crate) const fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.address, self.metrics_address)
    }

    /// A request to the listener of metrics and health.
    pub(crate) fn get_metrics(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.metrics_address))
    }

    /// All metrics.
    pub(crate) async fn metrics(&self) -> String {
        self.get_metrics("/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// A new connection, on which nothing was sent.
    pub(crate) async fn connect(&self) -> Wire {
        let stream = TcpStream::connect(self.address).await.unwrap();
        // Sends each write at once.
        stream.set_nodelay(true).unwrap();
        Wire(stream)
    }

    /// A connection on which a request's head was sent, and the beginning of its body of 1,000 bytes.
    pub(crate) async fn begin_slow_request(&self, path: &str) -> Wire {
        let mut wire = self.connect().await;
        let head = "Host: usher\r\nContent-Type: application/json\r\nContent-Length: 1000";
        wire.send(format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n{{\"email\":")).await;
        wire
    }

    /// Keeps a server that answers one request at a time busy, for as long as the wires live. Returns the refusal of
    /// another request.
    pub(crate) async fn keep_busy(&self) -> (Vec<Wire>, Answer) {
        let mut wires = Vec::new();
        let refusal = eventually("a request is refused while another is under way", async || {
            // A slow request that arrives during the other request is refused, and the next round sends another.
            wires.push(self.begin_slow_request("/api/v1/auth/login").await);
            let answer = Answer::of(self.get("/api/v1/concerts").send().await.unwrap()).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        (wires, refusal)
    }

    /// Any request. `path` begins with a slash, and may have a query.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &str) -> RequestBuilder {
        self.request(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// An access token, as `usher token mint` makes it.
    pub(crate) fn token(&self, account: AccountId, role: Role) -> String {
        self.access_tokens.sign(Bearer { account, role }, now()).unwrap()
    }

    /// The access token of a new buyer.
    pub(crate) fn buyer(&self) -> String {
        self.token(AccountId::from_bytes(rand::random()), Role::Buyer)
    }

    /// The access token of an operator.
    pub(crate) fn operator(&self) -> String {
        self.token(AccountId::from_bytes(rand::random()), Role::Operator)
    }

    pub(crate) async fn sign_up(&self, email: &str, password: &str) -> Response {
        let body = json!({"email": email, "password": password, "name": "Kim Minji"});
        self.post("/api/v1/auth/signup").json(&body).send().await.unwrap()
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Response {
        let body = json!({"email": email, "password": password});
        self.post("/api/v1/auth/login").json(&body).send().await.unwrap()
    }

    /// Creates an account, and returns an access token of its owner.
    pub(crate) async fn sign_up_and_log_in(&self, email: &str) -> String {
        json_of(self.sign_up(email, "correct horse").await, 201).await;
        let body = json_of(self.log_in(email, "correct horse").await, 200).await;
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// Creates a concert, and returns its id.
    pub(crate) async fn concert(&self, title: &str) -> String {
        let body = json!({"title": title, "description": "Two hours.", "venue": "Usher Hall", "running_time_min": 120});
        let request = self.post("/api/v1/operator/concerts").bearer_auth(self.operator());
        id_of(&json_of(request.header("Idempotency-Key", new_key()).json(&body).send().await.unwrap(), 201).await)
    }

    /// Creates a performance without seats, whose sale opens in `opens_in`, and returns its id.
    pub(crate) async fn performance_without_seats(
        &self,
        concert: &str,
        opens_in: Duration,
        options: SaleOptions,
    ) -> String {
        let opens_at = now().plus(opens_in);
        let closes_at = opens_at.plus(options.lasts);
        let body = json!({
            "starts_at": rfc3339(closes_at.plus(Duration::from_secs(3_600))),
            "sale_opens_at": rfc3339(opens_at),
            "sale_closes_at": rfc3339(closes_at),
            "seat_limit_per_buyer": options.seats_per_buyer,
            "hold_ttl_s": options.hold_ttl_s,
        });
        let request = self.post(&format!("/api/v1/operator/concerts/{concert}/performances"));
        let request = request.bearer_auth(self.operator()).header("Idempotency-Key", new_key());
        id_of(&json_of(request.json(&body).send().await.unwrap(), 201).await)
    }

    pub(crate) async fn put_seats(&self, performance: &str, sections: &[Value]) -> Response {
        let request = self.put(&format!("/api/v1/operator/performances/{performance}/seats"));
        request.bearer_auth(self.operator()).json(&json!({"sections": sections})).send().await.unwrap()
    }

    /// Creates a performance of a new concert, whose sale opens in `opens_in`, and returns its id.
    pub(crate) async fn scheduled_performance(
        &self,
        sections: &[Value],
        opens_in: Duration,
        options: SaleOptions,
    ) -> String {
        let concert = self.concert("The First Night").await;
        let performance = self.performance_without_seats(&concert, opens_in, options).await;
        json_of(self.put_seats(&performance, sections).await, 200).await;
        performance
    }

    /// Creates a performance of a new concert, waits until its sale is open, and returns its id.
    pub(crate) async fn performance(&self, sections: &[Value], options: SaleOptions) -> String {
        let concert = self.concert("The First Night").await;
        // On a busy machine the sale may open before the seats are stored. The next try has more time.
        for opens_in_ms in [300, 1_500, 10_000] {
            let opens_in = Duration::from_millis(opens_in_ms);
            let performance = self.performance_without_seats(&concert, opens_in, options).await;
            let put = self.put_seats(&performance, sections).await;
            if put.status() != StatusCode::CONFLICT {
                json_of(put, 200).await;
                self.wait_for_sale_state(&performance, "open").await;
                return performance;
            }
        }
        panic!("three sales opened before their seats were stored");
    }

    /// Waits until the sale is in this state.
    pub(crate) async fn wait_for_sale_state(&self, performance: &str, state: &str) {
        let path = format!("/api/v1/performances/{performance}");
        eventually(&format!("the sale is {state}"), async || {
            let body = json_of(self.get(&path).send().await.unwrap(), 200).await;
            (body["sale_state"] == state).then_some(())
        })
        .await;
    }

    /// Changes the admission policy of a line.
    pub(crate) async fn patch_admission(&self, performance: &str, patch: &Value) -> Response {
        let request = self.patch(&format!("/api/v1/operator/performances/{performance}/admission"));
        request.bearer_auth(self.operator()).json(patch).send().await.unwrap()
    }

    pub(crate) async fn join(&self, token: &str, performance: &str) -> Response {
        let path = format!("/api/v1/performances/{performance}/queue");
        self.post(&path).bearer_auth(token).send().await.unwrap()
    }

    /// Joins the line, and returns the place.
    pub(crate) async fn joined(&self, token: &str, performance: &str) -> Value {
        let response = self.join(token, performance).await;
        let status = response.status().as_u16();
        assert!(status == 201 || status == 200, "{status}: {}", response.text().await.unwrap());
        json_of(response, status).await
    }

    pub(crate) async fn poll(&self, place: &str, performance: &str) -> Response {
        let path = format!("/api/v1/performances/{performance}/queue");
        self.get(&path).header("Usher-Place", place).send().await.unwrap()
    }

    pub(crate) async fn leave(&self, place: &str, performance: &str) -> Response {
        let path = format!("/api/v1/performances/{performance}/queue");
        self.delete(&path).header("Usher-Place", place).send().await.unwrap()
    }

    /// Polls until the place is in this state. Ignores refusals, because it polls faster than the server allows.
    pub(crate) async fn wait_for_place(&self, place: &str, performance: &str, state: &str) -> Value {
        eventually(&format!("the place is {state}"), async || {
            let response = self.poll(place, performance).await;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                return None;
            }
            Some(json_of(response, 200).await).filter(|body| body["state"] == state)
        })
        .await
    }

    /// Joins the line and waits to be admitted.
    pub(crate) async fn admit(&self, token: &str, performance: &str) -> Admitted {
        let joined = self.joined(token, performance).await;
        let place = joined["place"].as_str().unwrap().to_owned();
        let status = match joined["state"] == "admitted" {
            true => joined,
            false => self.wait_for_place(&place, performance, "admitted").await,
        };
        let pass = status["pass"]["token"].as_str().unwrap().to_owned();
        Admitted { token: token.to_owned(), performance: performance.to_owned(), place, pass }
    }

    /// A new buyer, admitted.
    pub(crate) async fn admitted(&self, performance: &str) -> Admitted {
        self.admit(&self.buyer(), performance).await
    }

    /// Many new buyers, admitted, in no order.
    pub(crate) async fn crowd(&self, performance: &str, size: usize) -> Vec<Admitted> {
        let people = stream::iter(0..size).map(|_| self.admitted(performance));
        people.buffer_unordered(32).collect().await
    }

    /// A request to hold seats. `wish` is the body.
    pub(crate) fn hold_request(&self, who: &Admitted, key: &str, wish: &Value) -> RequestBuilder {
        let request = self.post(&format!("/api/v1/performances/{}/reservations", who.performance));
        let request = request.bearer_auth(&who.token).header("Usher-Pass", &who.pass);
        request.header("Idempotency-Key", key).json(wish)
    }

    pub(crate) async fn hold(&self, who: &Admitted, seats: &[&str]) -> Response {
        self.hold_request(who, &new_key(), &json!({"seats": seats})).send().await.unwrap()
    }

    /// Holds these seats, and returns the reservation.
    pub(crate) async fn held(&self, who: &Admitted, seats: &[&str]) -> Value {
        json_of(self.hold(who, seats).await, 201).await
    }

    /// Holds the best free seats, of one grade or of any.
    pub(crate) async fn hold_best(&self, who: &Admitted, count: u32, grade: Option<&str>) -> Response {
        let wish = match grade {
            Some(grade) => json!({"best_available": {"count": count, "grade": grade}}),
            None => json!({"best_available": {"count": count}}),
        };
        self.hold_request(who, &new_key(), &wish).send().await.unwrap()
    }

    /// A request to pay for a reservation. `payment` is the simulated gateway's token.
    pub(crate) fn confirm_request(&self, token: &str, reservation: &str, key: &str, payment: &str) -> RequestBuilder {
        let request = self.post(&format!("/api/v1/reservations/{reservation}/confirm")).bearer_auth(token);
        let body = json!({"payment": {"method": "simulated", "token": payment}});
        request.header("Idempotency-Key", key).json(&body)
    }

    pub(crate) async fn confirm(&self, token: &str, reservation: &str, payment: &str) -> Response {
        self.confirm_request(token, reservation, &new_key(), payment).send().await.unwrap()
    }

    /// Pays for a reservation, and returns it with its tickets.
    pub(crate) async fn confirmed(&self, token: &str, reservation: &str) -> Value {
        json_of(self.confirm(token, reservation, "tok_ok").await, 200).await
    }

    pub(crate) async fn release(&self, token: &str, reservation: &str) -> Response {
        self.delete(&format!("/api/v1/reservations/{reservation}")).bearer_auth(token).send().await.unwrap()
    }

    pub(crate) async fn reservation(&self, token: &str, reservation: &str) -> Response {
        self.get(&format!("/api/v1/reservations/{reservation}")).bearer_auth(token).send().await.unwrap()
    }

    /// The statistics of a line.
    pub(crate) async fn stats(&self, performance: &str) -> Value {
        let request = self.get(&format!("/api/v1/operator/performances/{performance}/stats"));
        json_of(request.bearer_auth(self.operator()).send().await.unwrap(), 200).await
    }

    /// The status of every seat, by name.
    pub(crate) async fn seat_statuses(&self, performance: &str) -> BTreeMap<String, String> {
        let seats = self.list(&format!("/api/v1/performances/{performance}/seats"), None, 200).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        seats.iter().map(|seat| (text(&seat["seat"]), text(&seat["status"]))).collect()
    }

    /// All entries of a list, read page by page.
    pub(crate) async fn list(&self, path: &str, token: Option<&str>, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        let separator = if path.contains('?') { '&' } else { '?' };
        loop {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let mut request = self.get(&format!("{path}{separator}limit={limit}{after}"));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let page = json_of(request.send().await.unwrap(), 200).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit, "{page}");
            all.extend(items.iter().cloned());
            match &page["next_cursor"] {
                Value::Null => return all,
                next => cursor = Some(next.as_str().unwrap().to_owned()),
            }
        }
    }
}

/// The id in a body.
pub(crate) fn id_of(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

/// The default settings of tests: a free port, quick ticks, files in `folder`.
fn settings_in(folder: &Path) -> Settings {
    let mut settings = Settings::load(None).unwrap();
    settings.http.bind = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.http.workers = 2;
    settings.metrics.bind = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.data.dir = folder.to_owned();
    settings.line.tick_ms = 50;
    settings
}

/// A server in this process. It stops with the test.
pub(crate) struct TestApp {
    api: Api,
    settings: Settings,
    folder: Arc<TempDir>,
    memory: Option<Database>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl TestApp {
    /// Starts a server on a new database.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server on an empty store of this kind, with adjusted settings.
    pub(crate) async fn start_on(store: Store, adjust: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(|settings| {
            match store {
                Store::Sqlite => {}
                Store::Memory => {
                    settings.store.url = Secret::new("memory://");
                    settings.auth.secret = Secret::new(SECRET);
                }
            }
            adjust(settings);
        })
        .await
    }

    /// Starts a server on a new database, with adjusted settings.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings_in(folder.path());
        adjust(&mut settings);
        settings.validate().unwrap();
        Self::run(settings, Arc::new(folder)).await
    }

    async fn run(settings: Settings, folder: Arc<TempDir>) -> Self {
        let memory = settings.store.is_memory().then(Database::new);
        let application = match &memory {
            Some(database) => Application::build_on(Durable::in_memory(database.clone()), &settings, false).await,
            None => Application::build(&settings, false).await,
        };
        let application = application.unwrap();
        let api = Api::new((application.address(), application.metrics_address()), &settings);
        let (stop, stopped) = oneshot::channel::<()>();
        #[expect(clippy::disallowed_methods, reason = "the server itself; the test's runtime ends it")]
        let running = tokio::spawn(async move {
            let stop = async {
                // A dropped sender stops the server, too.
                stopped.await.unwrap_or_default();
            };
            application.run_until_stopped(stop).await.unwrap();
        });
        Self { api, settings, folder, memory, stop: Some(stop), running: Some(running) }
    }

    /// Stops the server as SIGTERM would, and waits until it has stopped.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Stops the server, and starts another one on its data, at another port.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await;
        Self::run(self.settings.clone(), Arc::clone(&self.folder)).await
    }

    /// The folder of the server's data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's store, if it is in memory.
    pub(crate) const fn memory(&self) -> Option<&Database> {
        self.memory.as_ref()
    }

    /// The server's settings.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Deref for TestApp {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// The real binary, in a process of its own. It is killed with the test.
pub(crate) struct UsherProcess {
    api: Api,
    child: Child,
    settings: Settings,
    arguments: &'static [&'static str],
    variables: Vec<(String, String)>,
    folder: TempDir,
}

impl UsherProcess {
    /// Runs `usher serve` on a new database.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Runs `usher serve` on a new database, with these variables, e.g. `("LINE__CAPACITY", "5")`.
    pub(crate) async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &["serve"], variables, Stdio::inherit()).await
    }

    /// Like [`Self::start_with`], with the log in a file. Returns its path, too.
    pub(crate) async fn start_with_log(variables: &[(&str, &str)]) -> (Self, PathBuf) {
        Self::start_logged(&["serve"], variables).await
    }

    /// Runs `usher serve --demo`, with the log in a file. Returns its path, too.
    pub(crate) async fn start_demo_with_log(variables: &[(&str, &str)]) -> (Self, PathBuf) {
        Self::start_logged(&["serve", "--demo"], variables).await
    }

    async fn start_logged(arguments: &'static [&'static str], variables: &[(&str, &str)]) -> (Self, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("usher.log");
        let file = std::fs::File::create(&log).unwrap();
        (Self::start_in(folder, arguments, variables, file.into()).await, log)
    }

    async fn start_in(
        folder: TempDir,
        arguments: &'static [&'static str],
        variables: &[(&str, &str)],
        stderr: Stdio,
    ) -> Self {
        let mut settings = settings_in(folder.path());
        if let Some((_, url)) = variables.iter().find(|(key, _)| *key == "STORE__URL") {
            settings.store.url = Secret::new(*url);
        }
        let common = [
            ("DATA__DIR", folder.path().to_str().unwrap()),
            ("HTTP__BIND", "127.0.0.1:0"),
            ("HTTP__WORKERS", "2"),
            ("METRICS__BIND", "127.0.0.1:0"),
            ("LINE__TICK_MS", "50"),
            ("LOG__FILTER", "warn"),
        ];
        let variables = common.iter().chain(variables);
        let variables: Vec<_> = variables.map(|(key, value)| (format!("USHER__{key}"), (*value).to_owned())).collect();
        let (child, addresses) = spawn_usher(arguments, &variables, stderr).await;
        Self { api: Api::new(addresses, &settings), child, settings, arguments, variables, folder }
    }

    /// The folder of the server's data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the process at once, with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Runs `usher serve` again, on the same data and the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let bind = ("USHER__HTTP__BIND".to_owned(), self.api.address.to_string());
        self.variables.retain(|(key, _)| *key != bind.0);
        self.variables.push(bind);
        let (child, addresses) = spawn_usher(self.arguments, &self.variables, Stdio::inherit()).await;
        self.child = child;
        self.api = Api::new(addresses, &self.settings);
    }

    /// Sends SIGTERM to the process.
    pub(crate) fn terminate(&self) {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the process ended", async || self.child.try_wait().unwrap()).await
    }
}

impl Deref for UsherProcess {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for UsherProcess {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Runs a command of `usher` to its end, with some variables, e.g. `("LOG__FILTER", "warn")`.
pub(crate) fn usher(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(arguments).stdin(Stdio::null());
    command.envs(variables.iter().map(|(key, value)| (format!("USHER__{key}"), value))).output().unwrap()
}

/// Runs `usher serve`, and waits for the line that says where it listens.
async fn spawn_usher(
    arguments: &[&str],
    variables: &[(String, String)],
    stderr: Stdio,
) -> (Child, (SocketAddr, SocketAddr)) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(arguments).envs(variables.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (found, addresses) = oneshot::channel();
    std::thread::spawn(move || {
        let (mut found, mut requests) = (Some(found), None);
        // Read to the end, so that the process never waits for a reader.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let url = line.split_once("http://").map(|(_, rest)| rest);
            let address = url.and_then(|rest| rest.split([' ', '/']).next()?.trim_end().parse::<SocketAddr>().ok());
            // The first address is that of requests.
            requests = requests.or(address);
            if line.contains("metrics and health")
                && let (Some(requests), Some(metrics)) = (requests, address)
                && let Some(found) = found.take()
            {
                found.send((requests, metrics)).unwrap_or_default();
            }
        }
    });
    match tokio::time::timeout(DEADLINE, addresses).await {
        Ok(Ok(addresses)) => (child, addresses),
        outcome => {
            // Without this, the process would outlive the test.
            child.kill().unwrap_or_default();
            panic!("usher did not say where it listens: {outcome:?}, {:?}", child.wait());
        }
    }
}
