//! Concerts, performances and seats: public and cacheable.

use std::sync::Arc;

use actix_web::http::header::HeaderValue;
use actix_web::middleware::Compress;
use actix_web::web::Data;
use paperclip::actix::web::{ServiceConfig, get, resource};
use paperclip::actix::{Apiv2Schema, api_v2_operation};
use serde::{Deserialize, Serialize};
use usher_concert::{Concert, Page, Performance, SaleTimes, SeatPlan, VersionedSeatMap};
use usher_kernel::{Clock, ConcertId, PerformanceId, Timestamp};
use usher_reservation::ports::SeatFilter;
use usher_reservation::{Seat, SeatCounts, SeatStatus};

use crate::http::answers::Cacheable;
use crate::http::paging::{List, PageQuery};
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{PathId, Query};
use crate::http::services::Services;
use crate::http::values::{Id, Instant, MoneyView};
use crate::live::boards::Boards;
use crate::live::geometries::Geometries;
use crate::live::shared_json::SharedJson;

/// Titles and venues hardly change.
const CONCERT: HeaderValue = HeaderValue::from_static("public, max-age=10");
/// The state of a sale and the number of seats left change all the time. One second keeps a crowd off the store.
const SALE: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// A map may be replaced until the sale opens.
const SEAT_MAP: HeaderValue = HeaderValue::from_static("public, max-age=60");
/// A version of a map never changes.
const SEAT_MAP_OF_VERSION: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

pub(super) const REFUSALS: Refusals = &[
    ("catalogue.concerts", &[ProblemCode::StoreUnavailable]),
    ("catalogue.concert", &[ProblemCode::StoreUnavailable]),
    ("catalogue.performances", &[ProblemCode::StoreUnavailable]),
    ("catalogue.performance", &[ProblemCode::StoreUnavailable]),
    ("catalogue.seats", &[ProblemCode::StoreUnavailable]),
    ("catalogue.seat_map", &[ProblemCode::StoreUnavailable]),
];

// `Compress` is only for public answers: it could leak a secret through the length of the answer (BREACH).
pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(resource("/concerts").route(get().to(concerts)).wrap(Compress::default()))
        .service(resource("/concerts/{concert_id}").route(get().to(concert)).wrap(Compress::default()))
        .service(
            resource("/concerts/{concert_id}/performances").route(get().to(performances)).wrap(Compress::default()),
        )
        .service(resource("/performances/{performance_id}").route(get().to(performance)).wrap(Compress::default()))
        .service(resource("/performances/{performance_id}/seats").route(get().to(seats)).wrap(Compress::default()))
        .service(resource("/performances/{performance_id}/seat-map").route(get().to(seat_map)));
}

/// The services that the handlers of the catalogue use.
pub(super) struct Context {
    catalogue: usher_concert::Service,
    line: usher_queue::Service,
    clock: Arc<dyn Clock>,
    reservations: usher_reservation::Service,
    boards: Boards,
    geometries: Arc<Geometries>,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self {
            catalogue: services.catalogue.clone(),
            line: services.line.clone(),
            clock: Arc::clone(&services.clock),
            reservations: services.reservations.clone(),
            boards: services.boards.clone(),
            geometries: Arc::clone(&services.geometries),
        }
    }
}

/// A show.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Concert")]
pub(super) struct ConcertView {
    /// The concert's id.
    id: Id,
    /// Its title.
    title: String,
    /// The description; may be empty.
    description: String,
    /// Where it takes place.
    venue: String,
    /// The running time.
    running_time_min: u32,
}

impl From<Concert> for ConcertView {
    fn from(concert: Concert) -> Self {
        let Concert { id, title, description, venue, running_time_min } = concert;
        Self { id: Id(id.uuid()), title, description, venue, running_time_min }
    }
}

/// One date of a concert.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Performance")]
pub(super) struct PerformanceView {
    /// The performance's id.
    id: Id,
    /// The concert's id.
    concert_id: Id,
    /// When the performance starts.
    starts_at: Instant,
    /// The first moment of the sale.
    sale_opens_at: Instant,
    /// The first moment after the sale.
    sale_closes_at: Instant,
    /// `scheduled`, `open`, `paused`, `closed` or `sold_out`.
    sale_state: &'static str,
}

impl PerformanceView {
    /// The performance, and the state of its sale at `now`.
    pub(super) fn of(performance: &Performance, line: &usher_queue::Service, now: Timestamp) -> Self {
        let Performance { id, concert, starts_at, sale: SaleTimes { opens_at, closes_at }, .. } = *performance;
        Self {
            id: Id(id.uuid()),
            concert_id: Id(concert.uuid()),
            starts_at: Instant(starts_at),
            sale_opens_at: Instant(opens_at),
            sale_closes_at: Instant(closes_at),
            sale_state: line.sale_state(id, opens_at, closes_at, now).as_str(),
        }
    }
}

/// One date of a concert, with its seats in numbers.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "PerformanceWithSeats")]
struct PerformanceWithSeatsView {
    #[serde(flatten)]
    performance: PerformanceView,
    /// Its seats in numbers.
    seats: SeatCountsView,
}

/// Seats in numbers.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "SeatCounts")]
pub(super) struct SeatCountsView {
    /// All seats.
    total: u64,
    /// Free seats.
    available: u64,
    /// Held seats.
    held: u64,
    /// Sold seats.
    sold: u64,
}

impl From<SeatCounts> for SeatCountsView {
    fn from(counts: SeatCounts) -> Self {
        let SeatCounts { total, available, held, sold } = counts;
        Self { total, available, held, sold }
    }
}

/// Which seats to list.
#[derive(Deserialize, Apiv2Schema)]
struct SeatQuery {
    /// Only of this status: `available`, `held` or `sold`.
    status: Option<String>,
    /// Only of this grade.
    grade: Option<String>,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
    /// The most entries of the page: 1 to 200; 50 if absent.
    limit: Option<u64>,
}

impl SeatQuery {
    fn into_filter(self) -> Result<(SeatFilter, PageQuery), Problem> {
        let Self { status, grade, cursor, limit } = self;
        let unknown = || Problem::invalid_field("status", "must be available, held or sold");
        let status = status.map(|name| SeatStatus::from_name(&name).ok_or_else(unknown)).transpose()?;
        let page = PageQuery::new(cursor, limit);
        let after = page.after()?.map(u32::from_be_bytes);
        Ok((SeatFilter { status, grade, after, limit: page.limit_and_one()? }, page))
    }
}

/// One seat.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Seat")]
struct SeatView {
    /// Its name: `SECTION-ROW-NUMBER`.
    seat: String,
    /// Its section.
    section: String,
    /// Its row.
    row: u16,
    /// Its number in the row.
    number: u16,
    /// Its grade.
    grade: String,
    /// Its price.
    price: MoneyView,
    /// `available`, `held` or `sold`.
    status: &'static str,
    /// The version: +1 with each change of status or owner.
    version: u32,
}

impl From<Seat> for SeatView {
    fn from(seat: Seat) -> Self {
        let Seat { seat, section, row, number, grade, price, status, version, .. } = seat;
        Self {
            seat: seat.to_string(),
            section,
            row,
            number,
            grade,
            price: price.into(),
            status: status.as_str(),
            version,
        }
    }
}

/// The seat map of a performance. Immutable per version.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "SeatMap")]
struct SeatMapView {
    /// The version: +1 with each new map.
    map_version: u32,
    /// The sections, in the operator's order. Indices of seats run through all sections, from 0.
    sections: Vec<SectionView>,
}

/// One section of a seat map.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Section")]
struct SectionView {
    /// The section's name.
    name: String,
    /// Its rows, from the front.
    rows: Vec<RowView>,
}

/// One row of a section.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Row")]
struct RowView {
    /// The row's number.
    row: u16,
    /// Its seats, in index order.
    seats: Vec<PlannedSeatView>,
}

/// One seat of a map.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "PlannedSeat")]
struct PlannedSeatView {
    /// Its index in the availability.
    index: usize,
    /// Its name.
    seat: String,
    /// Its number in the row.
    number: u16,
    /// Across the hall, in half seats; 0 is the middle of the row.
    x: i32,
    /// Away from the stage, in rows.
    y: i32,
    /// Its grade.
    grade: String,
    /// Its price.
    price: MoneyView,
}

impl From<VersionedSeatMap> for SeatMapView {
    fn from(map: VersionedSeatMap) -> Self {
        let mut sections: Vec<SectionView> = Vec::new();
        let mut index = 0;
        // Index order goes by section, then by row.
        for row in map.map.seats().chunk_by(|a, b| a.section == b.section && a.row == b.row) {
            let Some(first) = row.first() else { continue };
            let seats = row.iter().zip(index..).map(planned_seat).collect();
            index += row.len();
            let row = RowView { row: first.row, seats };
            match sections.last_mut().filter(|section| section.name == first.section) {
                Some(section) => section.rows.push(row),
                None => sections.push(SectionView { name: first.section.clone(), rows: vec![row] }),
            }
        }
        Self { map_version: map.version, sections }
    }
}

fn planned_seat((plan, index): (&SeatPlan, usize)) -> PlannedSeatView {
    let SeatPlan { seat, number, grade, price, x, y, .. } = plan;
    let (number, x, y) = (*number, *x, *y);
    PlannedSeatView { index, seat: seat.to_string(), number, x, y, grade: grade.clone(), price: (*price).into() }
}

/// Lists all concerts.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.concerts")]
async fn concerts(
    context: Data<Context>,
    Query(query): Query<PageQuery>,
) -> Result<Cacheable<List<ConcertView>>, Problem> {
    let page = Page { after: query.after()?.map(ConcertId::from_bytes), limit: query.limit_and_one()? };
    let found = context.catalogue.concerts(page).await?;
    let list = List::page(&query, found, |concert| *concert.id.as_bytes(), ConcertView::from)?;
    Ok(Cacheable::of(list, CONCERT))
}

/// Shows one concert.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.concert")]
async fn concert(
    context: Data<Context>,
    PathId(concert): PathId<ConcertId>,
) -> Result<Cacheable<ConcertView>, Problem> {
    Ok(Cacheable::of(context.catalogue.concert(concert).await?.into(), CONCERT))
}

/// Lists the dates of a concert.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.performances")]
async fn performances(
    context: Data<Context>,
    PathId(concert): PathId<ConcertId>,
    Query(query): Query<PageQuery>,
) -> Result<Cacheable<List<PerformanceView>>, Problem> {
    let page = Page { after: query.after()?.map(PerformanceId::from_bytes), limit: query.limit_and_one()? };
    let found = context.catalogue.performances(concert, page).await?;
    let now = context.clock.now();
    let view = |performance: Performance| PerformanceView::of(&performance, &context.line, now);
    let list = List::page(&query, found, |performance| *performance.id.as_bytes(), view)?;
    Ok(Cacheable::of(list, SALE))
}

/// Shows one date of a concert, and how many seats are left.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.performance")]
async fn performance(
    context: Data<Context>,
    PathId(id): PathId<PerformanceId>,
) -> Result<Cacheable<PerformanceWithSeatsView>, Problem> {
    let performance = context.catalogue.performance(id).await?;
    let performance = PerformanceView::of(&performance, &context.line, context.clock.now());
    let seats = context.reservations.seat_counts(id).await?.into();
    Ok(Cacheable::of(PerformanceWithSeatsView { performance, seats }, SALE))
}

/// Lists the seats of a performance.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.seats")]
async fn seats(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    Query(query): Query<SeatQuery>,
) -> Result<Cacheable<List<SeatView>>, Problem> {
    let (filter, page) = query.into_filter()?;
    let found = context.reservations.seats(performance, &filter).await?;
    let list = List::page(&page, found, |seat| seat.index.to_be_bytes(), SeatView::from)?;
    Ok(Cacheable::of(list, SALE))
}

/// Which seat map to show.
#[derive(Deserialize, Apiv2Schema)]
struct SeatMapQuery {
    /// The `map_version` of the availability. If it is the current one, the answer may be cached for ever.
    map_version: Option<u32>,
}

/// Shows the seat map of a performance.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.seat_map")]
async fn seat_map(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    Query(SeatMapQuery { map_version: asked }): Query<SeatMapQuery>,
) -> Result<Cacheable<SeatMapView>, Problem> {
    let present = context.boards.open(performance).await?.picture().map_version;
    let write = async || {
        let map = context.catalogue.seat_map(performance).await?;
        let version = map.version;
        // Serializing a stadium would block the worker.
        let json = tokio::task::spawn_blocking(move || serde_json::to_vec(&SeatMapView::from(map)).map(SharedJson::of));
        let json = json.await.map_err(|error| Problem::internal(&error))?;
        Ok::<_, Problem>((version, json.map_err(|error| Problem::internal(&error))?))
    };
    let (version, json) = context.geometries.get(performance, present, write).await?;
    Ok(Cacheable::shared(json, if asked == Some(version) { SEAT_MAP_OF_VERSION } else { SEAT_MAP }))
}

#[cfg(test)]
mod tests {
    use usher_concert::{SeatMap, SectionPlan};

    use super::*;

    #[test]
    fn a_map_counts_its_seats_through_sections_and_rows() {
        let price = crate::http::values::money(100, "KRW", "price").unwrap();
        let section = |name: &str, rows, seats_per_row| SectionPlan {
            name: name.into(),
            rows,
            seats_per_row,
            grade: "R".into(),
            price,
        };
        let map = SeatMap::from_sections(&[section("B", 2, 2), section("A", 1, 1)]).unwrap();

        let view = SeatMapView::from(VersionedSeatMap { version: 1, map });

        let names: Vec<_> = view.sections.iter().map(|section| (section.name.as_str(), section.rows.len())).collect();
        let seats = view.sections.iter().flat_map(|section| &section.rows).flat_map(|row| &row.seats);
        let seats: Vec<_> = seats.map(|seat| (seat.index, seat.seat.as_str())).collect();
        assert_eq!(names, [("B", 2), ("A", 1)]);
        assert_eq!(seats, [(0, "B-1-1"), (1, "B-1-2"), (2, "B-2-1"), (3, "B-2-2"), (4, "A-1-1")]);
    }
}
