//! One server with one sale, and the calls that benchmarks make beside the load: joins, polls, the server's counts.

use std::path::Path;
use std::slice;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use usher_concert::SectionPlan;

use super::Outcome;
use crate::world::clock::eventually;
use crate::world::passes::{Credentials, Signer};
use crate::world::sale::{HOLD_TTL_S, Offer, Sale};
use crate::world::servers::{Server, Site};

/// How long the server may take to show a change.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Concurrent joins and polls.
const AT_ONCE: usize = 64;
/// The server's metric that counts answers by route pattern.
const COUNTED: &str = "usher_http_requests_total";

/// A server and its sale.
pub struct Stage {
    site: Site,
    /// The server process.
    pub server: Server,
    client: Client,
    /// The sale.
    pub sale: Sale,
}

/// A site in a new folder.
///
/// # Errors
/// If the folder exists already, or `usher` is not built.
pub fn site(folder: &Path) -> Outcome<Site> {
    std::fs::create_dir(folder)?;
    Ok(Site::new(folder)?)
}

impl Stage {
    /// Starts a server whose line takes joins and is paused.
    ///
    /// # Errors
    /// If the server does not start, or refuses the sale.
    pub async fn with_line(site: Site) -> Outcome<Self> {
        let server = site.start("usher").await?;
        let sale = Sale::open(&site, slice::from_ref(&server), &json!({"state": "paused"})).await?;
        Ok(Self { site, server, client: Client::new(), sale })
    }

    /// Starts a server that sells these sections.
    ///
    /// # Errors
    /// If the server does not start, or refuses the sale.
    pub async fn with_seats(site: Site, sections: &[SectionPlan]) -> Outcome<Self> {
        let server = site.start("usher").await?;
        let offer = Offer { admission: &json!({"state": "open"}), sections, hold_ttl_s: HOLD_TTL_S };
        let sale = Sale::open_with(&site, slice::from_ref(&server), offer).await?;
        Ok(Self { site, server, client: Client::new(), sale })
    }

    /// Ends the server, and runs `usher verify` on its database.
    ///
    /// # Errors
    /// If it finds a contradiction.
    pub fn verify(self) -> Outcome<()> {
        let Self { site, server, .. } = self;
        drop(server);
        site.run(&["verify"], "")?;
        Ok(())
    }

    /// The server's base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// The path of its line.
    #[must_use]
    pub fn queue(&self) -> String {
        format!("/api/v1/performances/{}/queue", self.sale.performance())
    }

    /// The path of its reservations.
    #[must_use]
    pub fn reservations(&self) -> String {
        format!("/api/v1/performances/{}/reservations", self.sale.performance())
    }

    /// A signer of its place tokens and passes.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::of(&self.site, self.sale.performance())
    }

    /// The credentials of new buyers.
    ///
    /// # Errors
    /// If `usher token mint` fails.
    pub fn buyers(&self, count: usize) -> Outcome<Vec<Credentials>> {
        Ok(self.signer().buyers(&self.site, count)?)
    }

    /// `Authorization` headers of new buyers.
    ///
    /// # Errors
    /// If `usher token mint` fails.
    pub fn mint(&self, count: usize) -> Outcome<Vec<String>> {
        Ok(self.site.mint(count)?.into_iter().map(|token| format!("Bearer {token}")).collect())
    }

    /// Joins the line over HTTP with new accounts, and returns their place tokens.
    ///
    /// # Errors
    /// If a join fails.
    pub async fn join(&self, count: usize) -> Outcome<Vec<String>> {
        let url = format!("{}{}", self.url(), self.queue());
        let joining = self.mint(count)?.into_iter().map(|bearer| {
            let request = self.client.post(&url).header("Authorization", bearer);
            async {
                let place = done(request).await?;
                Outcome::Ok(place["place"].as_str().ok_or("the answer to a join has no place")?.to_owned())
            }
        });
        stream::iter(joining).buffered(AT_ONCE).try_collect().await
    }

    /// Polls each of these places once.
    ///
    /// # Errors
    /// If a poll fails.
    pub async fn poll(&self, places: &[String]) -> Outcome<()> {
        let url = format!("{}{}", self.url(), self.queue());
        let polls = places.iter().map(|place| done(self.client.get(&url).header("Usher-Place", place)));
        stream::iter(polls).buffered(AT_ONCE).try_for_each(async |_| Ok(())).await
    }

    /// Waits until the server counts so many people waiting.
    ///
    /// # Errors
    /// If it does not within [`PATIENCE`].
    pub async fn knows_waiting(&self, n_people: u64) -> Outcome<()> {
        let waiting = format!("usher_line_waiting {n_people}");
        let knows = async || self.metrics().await.ok()?.lines().any(|line| line == waiting).then_some(());
        let known = eventually(PATIENCE, knows).await;
        known.ok_or_else(|| format!("the server does not count {n_people} people waiting").into())
    }

    /// How many requests with this method, to routes with this ending, were answered with a status that `with` accepts.
    ///
    /// # Errors
    /// If the server does not return its metrics.
    pub async fn answered(&self, method: &str, route_ends: &str, with: impl Fn(StatusCode) -> bool) -> Outcome<u64> {
        Ok(answers(&self.metrics().await?, method, route_ends, with))
    }

    async fn metrics(&self) -> Outcome<String> {
        let answer = self.client.get(format!("http://{}/metrics", self.server.metrics_address())).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }
}

/// Sends a request that must succeed, and returns the answer's body.
///
/// # Errors
/// If it fails.
pub async fn done(request: RequestBuilder) -> Outcome<Value> {
    Ok(request.send().await?.error_for_status()?.json().await?)
}

/// The sum of the counts of answers, over the statuses that `with` accepts.
fn answers(metrics: &str, method: &str, route_ends: &str, with: impl Fn(StatusCode) -> bool) -> u64 {
    let label = |line: &str, name: &str| -> Option<String> {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let count = |line: &str| {
        let is_asked = label(line, "method")? == method
            && label(line, "route")?.ends_with(route_ends)
            && with(label(line, "status")?.parse().ok()?);
        line.rsplit_once(' ')?.1.parse::<u64>().ok().filter(|_| is_asked)
    };
    metrics.lines().filter(|line| line.starts_with(COUNTED)).filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_method_route_and_status() {
        let line = |method, status, count| {
            let route = "/api/v1/performances/{performance_id}/queue";
            format!("{COUNTED}{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}\n")
        };
        let metrics = [line("POST", 201, 70), line("POST", 200, 5), line("GET", 200, 900), "other 3\n".into()].concat();

        assert_eq!(answers(&metrics, "POST", "/queue", |status| status == StatusCode::CREATED), 70);
        assert_eq!(answers(&metrics, "POST", "/queue", |_| true), 75);
        assert_eq!(answers(&metrics, "POST", "/gate", |_| true), 0);
    }
}
