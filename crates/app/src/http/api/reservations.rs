//! Reservations: hold, pay, release, and list.

use std::sync::Arc;

use actix_web::web::{Data, Json};
use paperclip::actix::web::{ServiceConfig, get, post, resource};
use paperclip::actix::{Apiv2Schema, CreatedJson, NoContent, api_v2_operation};
use serde::{Deserialize, Serialize};
use usher_kernel::{PerformanceId, ReservationId, Violation};
use usher_reservation::ports::{PaymentToken, SeatWish};
use usher_reservation::service::HoldRequest;
use usher_reservation::{Reservation, ReservedSeat, State, Ticket};

use crate::http::bearer::LoggedIn;
use crate::http::detached::Detached;
use crate::http::edge::Edge;
use crate::http::paging::{List, PageQuery};
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{IdempotencyHeader, JsonBody, PassHeader, PathId, Query};
use crate::http::services::Services;
use crate::http::values::{Id, Instant, MoneyView};
use crate::live::boards::Boards;

pub(super) const REFUSALS: Refusals = &[
    (
        "reservations.hold",
        &[
            ProblemCode::PassRequired,
            ProblemCode::PassInvalid,
            ProblemCode::PassExpired,
            ProblemCode::PassUsed,
            ProblemCode::PassMismatch,
            ProblemCode::SeatTaken,
            ProblemCode::NotEnoughSeats,
            ProblemCode::LimitReached,
            ProblemCode::SaleNotOpen,
            ProblemCode::SaleClosed,
            ProblemCode::ReservationState,
            ProblemCode::IdempotencyInFlight,
            ProblemCode::IdempotencyMismatch,
            ProblemCode::StoreUnavailable,
        ],
    ),
    ("reservations.list", &[ProblemCode::StoreUnavailable]),
    ("reservations.find", &[ProblemCode::StoreUnavailable]),
    (
        "reservations.confirm",
        &[
            ProblemCode::PaymentDeclined,
            ProblemCode::HoldExpired,
            ProblemCode::ReservationState,
            ProblemCode::IdempotencyInFlight,
            ProblemCode::IdempotencyMismatch,
            ProblemCode::PaymentUnavailable,
            ProblemCode::StoreUnavailable,
        ],
    ),
    ("reservations.release", &[ProblemCode::HoldExpired, ProblemCode::ReservationState, ProblemCode::StoreUnavailable]),
];

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    let one = resource("/reservations/{reservation_id}");
    config
        .service(resource("/performances/{performance_id}/reservations").route(post().to(hold)))
        .service(resource("/reservations").route(get().to(list)))
        .service(one.route(get().to(find)).route(paperclip::actix::web::delete().to(release)))
        .service(resource("/reservations/{reservation_id}/confirm").route(post().to(confirm)));
}

/// The services that the handlers of reservations use.
pub(super) struct Context {
    reservations: usher_reservation::Service,
    boards: Boards,
    edge: Arc<Edge>,
    detached: Detached,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self {
            reservations: services.reservations.clone(),
            boards: services.boards.clone(),
            edge: Arc::clone(&services.edge),
            detached: services.detached.clone(),
        }
    }
}

/// A request to hold seats, all or none: either `seats` or `best_available`.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "Hold")]
#[serde(deny_unknown_fields)]
struct HoldWish {
    /// The names of the seats, e.g. `A-12-7`.
    seats: Option<Vec<String>>,
    /// Seats that the server chooses: side by side if possible, front rows first.
    best_available: Option<BestAvailable>,
}

/// A request for the best free seats.
#[derive(Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
struct BestAvailable {
    /// The number of seats: 1 to 100.
    count: u32,
    /// Their grade; if absent any, the most expensive first.
    grade: Option<String>,
}

impl HoldWish {
    fn read(self) -> Result<SeatWish<String>, Problem> {
        let invalid = |field, rule| Err(Problem::invalid(vec![Violation::new(field, rule)]));
        match (self.seats, self.best_available) {
            (Some(names), None) => Ok(SeatWish::Named(names)),
            (None, Some(BestAvailable { count, grade })) => Ok(SeatWish::Best { count, grade }),
            (None, None) => invalid("seats", "must be set unless `best_available` is"),
            (Some(_), Some(_)) => invalid("best_available", "cannot be set if `seats` is"),
        }
    }
}

/// A payment for a reservation.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "Confirm")]
#[serde(deny_unknown_fields)]
struct ConfirmWish {
    /// The payment.
    payment: PaymentWish,
}

/// The method and the token of a payment.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "Payment")]
#[serde(deny_unknown_fields)]
struct PaymentWish {
    /// `simulated`.
    method: PaymentMethod,
    /// The gateway's token: `tok_ok`, `tok_declined`, `tok_slow`, `tok_timeout_after_capture`.
    token: String,
}

/// The payment gateway.
#[derive(Deserialize, Apiv2Schema)]
#[serde(rename_all = "snake_case")]
enum PaymentMethod {
    /// A gateway that takes no money.
    Simulated,
}

/// One buyer's group of seats.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Reservation")]
struct ReservationView {
    /// The reservation's id.
    id: Id,
    /// The performance's id.
    performance_id: Id,
    /// `held`, `paying`, `confirmed`, `released` or `expired`.
    status: &'static str,
    /// The seats.
    seats: Vec<ReservedSeatView>,
    /// The price of all seats.
    total: MoneyView,
    /// The first moment at which the seats are not held.
    held_until: Instant,
    /// When the reservation was made.
    created_at: Instant,
    /// One per seat, once confirmed.
    tickets: Vec<TicketView>,
}

/// A seat, at the price it had when it was held.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "ReservedSeat")]
struct ReservedSeatView {
    /// The seat's name.
    seat: String,
    /// Its grade.
    grade: String,
    /// Its price.
    price: MoneyView,
}

/// A ticket for one seat.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Ticket")]
struct TicketView {
    /// The ticket's id.
    id: Id,
    /// The seat's name.
    seat: String,
    /// The secret code that admits its owner to the performance.
    code: String,
}

impl From<Reservation> for ReservationView {
    fn from(reservation: Reservation) -> Self {
        let (status, tickets) = match reservation.state {
            State::Held => ("held", Vec::new()),
            State::Paying(_) => ("paying", Vec::new()),
            State::Confirmed { tickets, .. } => ("confirmed", tickets),
            State::Released => ("released", Vec::new()),
            State::Expired => ("expired", Vec::new()),
        };
        Self {
            id: Id(reservation.id.uuid()),
            performance_id: Id(reservation.performance.uuid()),
            status,
            seats: reservation.seats.into_iter().map(ReservedSeatView::from).collect(),
            total: reservation.total.into(),
            held_until: Instant(reservation.held_until),
            created_at: Instant(reservation.created_at),
            tickets: tickets.into_iter().map(TicketView::from).collect(),
        }
    }
}

impl From<ReservedSeat> for ReservedSeatView {
    fn from(ReservedSeat { seat, grade, price }: ReservedSeat) -> Self {
        Self { seat: seat.to_string(), grade, price: price.into() }
    }
}

impl From<Ticket> for TicketView {
    fn from(Ticket { id, seat, code }: Ticket) -> Self {
        Self { id: Id(id.uuid()), seat: seat.to_string(), code }
    }
}

/// Holds seats, all or none: named seats, or the best free ones.
#[api_v2_operation(tags("reservations"), operation_id = "reservations.hold")]
async fn hold(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    PathId(performance): PathId<PerformanceId>,
    PassHeader(pass): PassHeader,
    key: IdempotencyHeader,
    wish: JsonBody<HoldWish>,
) -> Result<CreatedJson<ReservationView>, Problem> {
    context.edge.purchases.check(&bearer.account)?;
    let claim = key.claim(bearer, wish.fingerprint);
    let seats = wish.value.read()?;
    let request = HoldRequest { performance, account: bearer.account, pass, seats, claim };
    let reservations = context.reservations.clone();
    let held = context.detached.change_seats(&context.boards, async move { Ok(reservations.hold(request).await?) });
    Ok(CreatedJson(held.await?.into()))
}

/// Lists the bearer's own reservations, oldest first.
#[api_v2_operation(tags("reservations"), operation_id = "reservations.list")]
async fn list(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<ReservationView>>, Problem> {
    let after = query.after()?.map(ReservationId::from_bytes);
    let found = context.reservations.list(bearer.account, after, query.limit_and_one()?).await?;
    Ok(Json(List::page(&query, found, |reservation| *reservation.id.as_bytes(), ReservationView::from)?))
}

/// Shows one of the bearer's own reservations.
#[api_v2_operation(tags("reservations"), operation_id = "reservations.find")]
async fn find(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    PathId(reservation): PathId<ReservationId>,
) -> Result<Json<ReservationView>, Problem> {
    Ok(Json(context.reservations.find(reservation, bearer.account).await?.into()))
}

/// Pays for a reservation, and issues its tickets.
#[api_v2_operation(tags("reservations"), operation_id = "reservations.confirm")]
async fn confirm(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    PathId(reservation): PathId<ReservationId>,
    key: IdempotencyHeader,
    wish: JsonBody<ConfirmWish>,
) -> Result<Json<ReservationView>, Problem> {
    context.edge.purchases.check(&bearer.account)?;
    let claim = key.claim(bearer, wish.fingerprint);
    let PaymentWish { method: PaymentMethod::Simulated, token } = wish.value.payment;
    let reservations = context.reservations.clone();
    let confirmed = context.detached.change_seats(&context.boards, async move {
        Ok(reservations.confirm(reservation, bearer.account, PaymentToken(token), claim).await?)
    });
    Ok(Json(confirmed.await?.into()))
}

/// Releases the seats of a held reservation.
#[api_v2_operation(tags("reservations"), operation_id = "reservations.release")]
async fn release(
    context: Data<Context>,
    LoggedIn(bearer): LoggedIn,
    PathId(reservation): PathId<ReservationId>,
) -> Result<NoContent, Problem> {
    let reservations = context.reservations.clone();
    context
        .detached
        .change_seats(&context.boards, async move { Ok(reservations.release(reservation, bearer.account).await?) })
        .await?;
    Ok(NoContent)
}
