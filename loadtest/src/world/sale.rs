//! A sale, set up through the operator's API.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use usher_concert::SectionPlan;
use usher_kernel::{PerformanceId, Timestamp};

use crate::world::clock::{self, eventually};
use crate::world::hall::{self, section};
use crate::world::servers::{Server, ServerError, Site};

const EMAIL: &str = "operator@example.com";
const PASSWORD: &str = "correct horse battery staple";
/// How far ahead the sale opens: its seat map must be put before that.
const OPENS_IN: Duration = Duration::from_secs(2);
/// Seats of a sale whose subject is the line.
const FEW_SEATS: usize = 100;
const LASTS: Duration = Duration::from_secs(6 * 3_600);
/// Default lifetime of a hold, in seconds: longer than any benchmark or proof runs.
pub const HOLD_TTL_S: u32 = 300;
/// How long the servers may take to see the sale open.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// Why a sale could not be opened or asked for.
#[derive(Debug, thiserror::Error)]
pub enum SaleError {
    /// The operator account could not be created.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A request to a server failed.
    #[error("a request to a server failed")]
    Http(#[from] reqwest::Error),
    /// A server refused.
    #[error("{call}: {status}: {body}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The status of the answer.
        status: StatusCode,
        /// The body of the answer.
        body: String,
    },
    /// An answer lacks a field.
    #[error("malformed answer: no `{0}`")]
    Odd(&'static str),
    /// The sale did not open.
    #[error("the sale did not open within {OPEN_WITHIN:?}")]
    NotOpen,
}

/// What an operator offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The line's policy: the body of the admission PATCH.
    pub admission: &'a Value,
    /// The sections of the hall.
    pub sections: &'a [SectionPlan],
    /// Lifetime of a hold, in seconds: 1 to 3,600.
    pub hold_ttl_s: u32,
}

/// A sale, as its operator controls it.
#[derive(Clone, Debug)]
pub struct Sale {
    client: reqwest::Client,
    server: String,
    token: String,
    performance: PerformanceId,
}

impl Sale {
    /// Opens a sale of a few seats with this admission policy (the body of the PATCH), and waits until every server
    /// sees it open.
    ///
    /// # Errors
    /// See [`SaleError`].
    pub async fn open(site: &Site, servers: &[Server], admission: &Value) -> Result<Self, SaleError> {
        let sections = [section("A", FEW_SEATS, "R")];
        Self::open_with(site, servers, Offer { admission, sections: &sections, hold_ttl_s: HOLD_TTL_S }).await
    }

    /// Opens a sale of this offer, and waits until every server sees it open.
    ///
    /// # Errors
    /// See [`SaleError`].
    pub async fn open_with(site: &Site, servers: &[Server], offer: Offer<'_>) -> Result<Self, SaleError> {
        let Offer { admission, sections, hold_ttl_s } = offer;
        site.run(&["operator", "create", "--email", EMAIL], &format!("{PASSWORD}\n"))?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let server = servers.first().map(|server| format!("http://{}", server.address())).unwrap_or_default();
        let body = json!({"email": EMAIL, "password": PASSWORD});
        let log_in = client.post(format!("{server}/api/v1/auth/login")).json(&body);
        let token = text(&answer("log in", log_in).await?, "access_token")?;
        let mut sale = Self { client, server, token, performance: PerformanceId::from_bytes([0; 16]) };

        let body =
            json!({"title": "The First Night", "description": "", "venue": "Usher Hall", "running_time_min": 90});
        let concert = text(&answer("concert", sale.ask(Method::POST, "operator/concerts").json(&body)).await?, "id")?;
        let opens_at = clock::now().plus(OPENS_IN);
        let closes_at = opens_at.plus(LASTS);
        let body = json!({
            "starts_at": rfc3339(closes_at), "sale_opens_at": rfc3339(opens_at), "sale_closes_at": rfc3339(closes_at),
            "seat_limit_per_buyer": 4, "hold_ttl_s": hold_ttl_s,
        });
        let performances = format!("operator/concerts/{concert}/performances");
        let performance = answer("performance", sale.ask(Method::POST, &performances).json(&body)).await?;
        let performance = text(&performance, "id")?;
        sale.performance = performance.parse().map_err(|_| SaleError::Odd("id"))?;
        let put = sale.ask(Method::PUT, &format!("operator/performances/{performance}/seats"));
        answer("seats", put.json(&hall::as_put(sections))).await?;
        sale.patch(admission).await?;
        for server in servers {
            sale.wait_until_begun(server).await?;
        }
        Ok(sale)
    }

    /// Changes the admission policy of the line.
    ///
    /// # Errors
    /// See [`SaleError`].
    pub async fn patch(&self, admission: &Value) -> Result<(), SaleError> {
        let path = format!("operator/performances/{}/admission", self.performance);
        answer("admission", self.ask(Method::PATCH, &path).json(admission)).await.map(drop)
    }

    /// The operator's statistics of the line.
    ///
    /// # Errors
    /// See [`SaleError`].
    pub async fn stats(&self) -> Result<Value, SaleError> {
        answer("stats", self.ask(Method::GET, &format!("operator/performances/{}/stats", self.performance))).await
    }

    /// The performance on sale.
    #[must_use]
    pub const fn performance(&self) -> PerformanceId {
        self.performance
    }

    /// Waits until a server sees the sale started, whether or not its line is paused.
    async fn wait_until_begun(&self, server: &Server) -> Result<(), SaleError> {
        let url = format!("http://{}/api/v1/performances/{}", server.address(), self.performance);
        let opened = eventually(OPEN_WITHIN, || async {
            let seen = answer("performance", self.client.get(&url)).await.ok()?;
            (seen["sale_state"] != "scheduled").then_some(())
        });
        opened.await.ok_or(SaleError::NotOpen)
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let key = format!("{:032x}", rand::random::<u128>());
        let request = self.client.request(method, format!("{}/api/v1/{path}", self.server));
        request.bearer_auth(&self.token).header("Idempotency-Key", key)
    }
}

async fn answer(call: &'static str, request: RequestBuilder) -> Result<Value, SaleError> {
    let response = request.send().await?;
    let status = response.status();
    if !status.is_success() {
        return Err(SaleError::Refused { call, status, body: response.text().await? });
    }
    Ok(response.json().await?)
}

fn text(body: &Value, name: &'static str) -> Result<String, SaleError> {
    body[name].as_str().map(str::to_owned).ok_or(SaleError::Odd(name))
}

fn rfc3339(at: Timestamp) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.unix_ms()) * 1_000_000);
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}
