//! A shop in which people buy one seat after the other. It keeps every acknowledged purchase, to request it again.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use usher_kernel::Timestamp;

use super::super::ProofError;
use super::stage::{Answer, Buyer, Stage};
use crate::world::hall::seat_of;

/// The section on sale.
pub(super) const SECTION: &str = "A";

/// A shop and its concurrent buyers.
pub(super) struct Shop {
    pub(super) stage: Stage,
    n_seats: usize,
    next_seat: AtomicUsize,
    is_over: AtomicBool,
    bought: Mutex<Vec<Bought>>,
    /// For each of the concurrent buyers: when they sent the last request that succeeded (Unix ms).
    served: Vec<AtomicI64>,
}

/// An acknowledged purchase, and its answer.
struct Bought {
    buyer: Buyer,
    reservation: String,
    told: Value,
}

impl Shop {
    /// Opens a shop that sells the first `n_seats` of its section to `n_at_once` concurrent buyers.
    pub(super) fn open(stage: Stage, n_at_once: usize, n_seats: usize) -> Self {
        let served = (0..n_at_once).map(|_| AtomicI64::new(0)).collect();
        let (next_seat, is_over, bought) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::default());
        Self { stage, n_seats, next_seat, is_over, bought, served }
    }

    /// Keeps people buying until `something` is done.
    pub(super) async fn while_buying<T>(
        &self,
        something: impl Future<Output = Result<T, ProofError>>,
    ) -> Result<T, ProofError> {
        let buying = join_all((0..self.served.len()).map(|person| self.buy_on(person)));
        let something = async {
            let done = something.await;
            self.is_over.store(true, Ordering::SeqCst);
            done
        };
        let (bought, done) = tokio::join!(buying, something);
        bought.into_iter().collect::<Result<(), _>>()?;
        done
    }

    async fn buy_on(&self, person: usize) -> Result<(), ProofError> {
        while !self.is_over.load(Ordering::SeqCst) {
            let n = self.next_seat.fetch_add(1, Ordering::SeqCst);
            if n >= self.n_seats {
                self.stage.find("all seats were sold before the proof ended".into());
                return Ok(());
            }
            self.buy(person, n).await?;
        }
        Ok(())
    }

    /// Holds the n-th seat and pays for it.
    pub(super) async fn buy(&self, person: usize, n: usize) -> Result<(), ProofError> {
        let buyer = self.stage.buyer()?;
        let wish = json!({"seats": [seat_of(SECTION, n)]});
        let held = self.until_served(person, || self.stage.hold(&buyer, "hold", &wish), StatusCode::CREATED).await;
        let Some(held) = held else { return Ok(()) };
        let reservation = held.body["id"].as_str().unwrap_or_default().to_owned();
        let paid = self.until_served(person, || self.stage.confirm(&buyer, &reservation), StatusCode::OK).await;
        if let Some(Answer { body: told, .. }) = paid {
            let bought = Bought { buyer, reservation, told };
            self.bought.lock().unwrap_or_else(PoisonError::into_inner).push(bought);
        }
        Ok(())
    }

    async fn until_served(
        &self,
        person: usize,
        request: impl Fn() -> RequestBuilder,
        expected: StatusCode,
    ) -> Option<Answer> {
        let answer = self.stage.until_answered(request, expected).await?;
        self.served[person].fetch_max(answer.asked_at.unix_ms(), Ordering::SeqCst);
        Some(answer)
    }

    pub(super) fn n_bought(&self) -> usize {
        self.bought.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether each concurrent buyer has sent a request after `since` that succeeded.
    pub(super) fn all_served_since(&self, since: Timestamp) -> bool {
        self.served.iter().all(|served| served.load(Ordering::SeqCst) >= since.unix_ms())
    }

    /// Repeats the request of each acknowledged purchase, at the other server: the answer and the stored reservation
    /// must be the same. Returns the number of purchases.
    pub(super) async fn ask_for_all_again(&self) -> Result<usize, ProofError> {
        let all = std::mem::take(&mut *self.bought.lock().unwrap_or_else(PoisonError::into_inner));
        self.stage.context.say(format_args!("repeating the requests of {} purchases", all.len()));
        for Bought { buyer, reservation, told } in &all {
            let buyer = buyer.elsewhere();
            let confirm = || self.stage.confirm(&buyer, reservation);
            if let Some(again) = self.stage.until_answered(confirm, StatusCode::OK).await
                && again.body != *told
            {
                self.stage.find(format!("the answer to a repeated purchase differs: {}", again.body["status"]));
            }
            let path = format!("reservations/{reservation}");
            let find = || self.stage.ask(&buyer, Method::GET, &path, "-");
            if let Some(found) = self.stage.until_answered(find, StatusCode::OK).await
                && (found.body["status"] != "confirmed" || found.body["tickets"] != told["tickets"])
            {
                self.stage.find(format!("an acknowledged purchase is lost: {}", found.body["status"]));
            }
        }
        Ok(all.len())
    }
}
