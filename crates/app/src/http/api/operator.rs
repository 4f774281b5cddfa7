//! Operations for operators: concerts, performances, seats, admission.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Data, Json};
use paperclip::actix::web::{ServiceConfig, get, patch, post, put, resource};
use paperclip::actix::{Apiv2Schema, CreatedJson, api_v2_operation};
use serde::{Deserialize, Serialize};
use usher_concert::{NewConcert, NewPerformance, SaleDefaults, SaleTimes, SeatLine, SeatMap, SectionPlan};
use usher_kernel::{Clock, ConcertId, PerformanceId, Violation};
use usher_queue::{AdmissionPolicy, LineState, PolicyPatch};

use super::catalogue::{ConcertView, PerformanceView, SeatCountsView};
use crate::http::bearer::Operator;
use crate::http::detached::Detached;
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{IdempotencyHeader, JsonBody, PathId, Upload, parse_json};
use crate::http::services::Services;
use crate::http::values::{Instant, MoneyView, money};
use crate::live::boards::Boards;

pub(super) const REFUSALS: Refusals = &[
    ("operator.add_concert", &[ProblemCode::IdempotencyMismatch, ProblemCode::StoreUnavailable]),
    ("operator.add_performance", &[ProblemCode::IdempotencyMismatch, ProblemCode::StoreUnavailable]),
    ("operator.replace_seats", &[ProblemCode::SeatsLocked, ProblemCode::StoreUnavailable]),
    ("operator.admission", &[ProblemCode::StoreUnavailable]),
    ("operator.patch_admission", &[ProblemCode::StoreUnavailable]),
    ("operator.stats", &[ProblemCode::LineUnavailable, ProblemCode::StoreUnavailable]),
];

/// The operation that takes CSV too.
pub(super) const UPLOAD: &str = "operator.replace_seats";

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    let policy = resource("/operator/performances/{performance_id}/admission");
    config
        .service(resource("/operator/concerts").route(post().to(add_concert)))
        .service(resource("/operator/concerts/{concert_id}/performances").route(post().to(add_performance)))
        .service(resource("/operator/performances/{performance_id}/seats").route(put().to(replace_seats)))
        .service(policy.route(get().to(admission)).route(patch().to(patch_admission)))
        .service(resource("/operator/performances/{performance_id}/stats").route(get().to(stats)));
}

/// The services that the handlers of operators use.
pub(super) struct Context {
    catalogue: usher_concert::Service,
    line: usher_queue::Service,
    clock: Arc<dyn Clock>,
    reservations: usher_reservation::Service,
    boards: Boards,
    detached: Detached,
    sale_defaults: SaleDefaults,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self {
            catalogue: services.catalogue.clone(),
            line: services.line.clone(),
            clock: Arc::clone(&services.clock),
            reservations: services.reservations.clone(),
            boards: services.boards.clone(),
            detached: services.detached.clone(),
            sale_defaults: services.sale_defaults,
        }
    }
}

/// A new concert.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "NewConcert")]
#[serde(deny_unknown_fields)]
struct ConcertWish {
    /// 1 to 200 characters.
    title: String,
    /// At most 4,000 characters; empty if absent.
    description: Option<String>,
    /// 1 to 200 characters.
    venue: String,
    /// 1 to 1,440.
    running_time_min: u32,
}

/// A new performance.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "NewPerformance")]
#[serde(deny_unknown_fields)]
struct PerformanceWish {
    /// When the performance starts.
    starts_at: Instant,
    /// The first moment of the sale.
    sale_opens_at: Instant,
    /// The first moment after the sale.
    sale_closes_at: Instant,
    /// Seats per account; the configured number if absent.
    seat_limit_per_buyer: Option<u32>,
    /// How long a hold lasts; the configured time if absent.
    hold_ttl_s: Option<u64>,
}

/// Seats as rectangles.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "NewSeats")]
#[serde(deny_unknown_fields)]
struct SeatsWish {
    /// The sections, in index order.
    sections: Vec<SectionWish>,
}

/// One rectangle of seats.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "NewSection")]
#[serde(deny_unknown_fields)]
struct SectionWish {
    /// 1 to 16 letters or digits.
    name: String,
    /// The number of rows.
    rows: u16,
    /// The number of seats in each row.
    seats_per_row: u16,
    /// The grade of all of them.
    grade: String,
    /// The price of each.
    price: MoneyView,
}

/// The number of seats.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "SeatTotal")]
struct SeatTotalView {
    /// All seats.
    total: usize,
}

/// The admission policy of a line.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Admission")]
struct AdmissionView {
    /// The most people inside at any instant.
    capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    rate_per_s: u32,
    /// How long a pass is valid.
    pass_ttl_s: u64,
    /// People who did not poll for this long are away.
    presence_window_s: u64,
    /// `open`, `paused` or `closed`.
    state: &'static str,
}

/// A change of a line's admission policy. Absent members do not change.
#[derive(Deserialize, Apiv2Schema)]
#[openapi(rename = "AdmissionPatch")]
#[serde(deny_unknown_fields)]
struct AdmissionWish {
    /// The most people inside at any instant.
    capacity: Option<u32>,
    /// The most people admitted in a second; 0 is no limit.
    rate_per_s: Option<u32>,
    /// How long a pass is valid.
    pass_ttl_s: Option<u64>,
    /// People who did not poll for this long are away.
    presence_window_s: Option<u64>,
    /// `open`, `paused` or `closed`.
    state: Option<String>,
}

/// The statistics of a line.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "LineStats")]
struct StatsView {
    /// People in the line, present or away.
    waiting: u64,
    /// People in the line who are not known to be away.
    present: u64,
    /// People in the line who are away.
    away: u64,
    /// People inside.
    active: u64,
    /// The highest number ever called.
    serving: u64,
    /// The highest number ever issued.
    issued: u64,
    /// People admitted since the last loss of the line.
    admitted_total: u64,
    /// Admissions a second, measured over the last half minute.
    rate_per_s: f64,
    /// The seats in numbers.
    seats: SeatCountsView,
}

impl From<AdmissionPolicy> for AdmissionView {
    fn from(policy: AdmissionPolicy) -> Self {
        let AdmissionPolicy { capacity, rate_per_s, pass_ttl, presence_window, state } = policy;
        Self {
            capacity,
            rate_per_s,
            pass_ttl_s: pass_ttl.as_secs(),
            presence_window_s: presence_window.as_secs(),
            state: state.as_str(),
        }
    }
}

impl TryFrom<AdmissionWish> for PolicyPatch {
    type Error = Problem;

    fn try_from(wish: AdmissionWish) -> Result<Self, Problem> {
        let unknown = || Problem::invalid_field("state", "must be open, paused or closed");
        Ok(Self {
            capacity: wish.capacity,
            rate_per_s: wish.rate_per_s,
            pass_ttl: wish.pass_ttl_s.map(Duration::from_secs),
            presence_window: wish.presence_window_s.map(Duration::from_secs),
            state: wish.state.map(|name| LineState::from_name(&name).ok_or_else(unknown)).transpose()?,
        })
    }
}

fn read_sections(bytes: &[u8]) -> Result<SeatMap, Problem> {
    let SeatsWish { sections } = parse_json(bytes)?;
    let section = |(i, wish): (usize, SectionWish)| {
        let SectionWish { name, rows, seats_per_row, grade, price } = wish;
        Ok(SectionPlan { name, rows, seats_per_row, grade, price: price.read(&format!("sections[{i}].price"))? })
    };
    let sections: Result<Vec<_>, Violation> = sections.into_iter().enumerate().map(section).collect();
    let sections = sections.map_err(|violation| Problem::invalid(vec![violation]))?;
    SeatMap::from_sections(&sections).map_err(Problem::invalid)
}

/// One line of a file of seats.
#[derive(Deserialize)]
struct CsvLine {
    section: String,
    row: u16,
    number: u16,
    grade: String,
    amount: i64,
    currency: String,
}

/// The names in the first line of a file of seats.
const CSV_NAMES: [&str; 6] = ["section", "row", "number", "grade", "amount", "currency"];

fn read_csv(bytes: &[u8]) -> Result<SeatMap, Problem> {
    let refuse = |origin: &str, rule: String| Problem::invalid_field(origin, rule);
    let mut file = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let names = file.headers().map_err(|error| refuse("line 1", csv_rule(&error)))?.clone();
    if names.iter().ne(CSV_NAMES) {
        return Err(refuse("line 1", format!("must be {}", CSV_NAMES.join(","))));
    }
    let mut lines = Vec::new();
    for record in file.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line);
            refuse(&format!("line {line}"), csv_rule(&error))
        })?;
        let origin = format!("line {}", record.position().map_or(0, csv::Position::line));
        let read: CsvLine = record.deserialize(Some(&names)).map_err(|error| refuse(&origin, csv_rule(&error)))?;
        let CsvLine { section, row, number, grade, amount, currency } = read;
        let price = money(amount, &currency, &origin).map_err(|violation| Problem::invalid(vec![violation]))?;
        lines.push(SeatLine { origin, section, row, number, grade, price });
        // Too many already, so the rest need not be read.
        if lines.len() > SeatMap::SEATS_MAX {
            break;
        }
    }
    SeatMap::from_lines(lines).map_err(Problem::invalid)
}

/// The rule that a line breaks, without the content of the line.
fn csv_rule(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("must have {expected_len} values, not {len}")
        }
        csv::ErrorKind::Utf8 { .. } => "must be UTF-8".into(),
        csv::ErrorKind::Deserialize { err, .. } => {
            let name = err.field().and_then(|i| CSV_NAMES.get(usize::try_from(i).ok()?)).unwrap_or(&"the line");
            format!("{name} cannot be read")
        }
        _ => "cannot be read".into(),
    }
}

/// Adds a concert.
#[api_v2_operation(tags("operators"), operation_id = "operator.add_concert")]
async fn add_concert(
    context: Data<Context>,
    Operator(bearer): Operator,
    key: IdempotencyHeader,
    wish: JsonBody<ConcertWish>,
) -> Result<CreatedJson<ConcertView>, Problem> {
    let claim = key.claim(bearer, wish.fingerprint);
    let ConcertWish { title, description, venue, running_time_min } = wish.value;
    let wish = NewConcert::new(&title, &description.unwrap_or_default(), &venue, running_time_min)
        .map_err(Problem::invalid)?;
    let catalogue = context.catalogue.clone();
    let added = context.detached.run(async move { Ok(catalogue.add_concert(wish, &claim).await?) });
    Ok(CreatedJson(added.await?.into()))
}

/// Adds a date to a concert.
#[api_v2_operation(tags("operators"), operation_id = "operator.add_performance")]
async fn add_performance(
    context: Data<Context>,
    Operator(bearer): Operator,
    PathId(concert): PathId<ConcertId>,
    key: IdempotencyHeader,
    wish: JsonBody<PerformanceWish>,
) -> Result<CreatedJson<PerformanceView>, Problem> {
    let claim = key.claim(bearer, wish.fingerprint);
    let defaults = context.sale_defaults;
    let PerformanceWish { starts_at, sale_opens_at, sale_closes_at, seat_limit_per_buyer, hold_ttl_s } = wish.value;
    let sale = SaleTimes { opens_at: sale_opens_at.0, closes_at: sale_closes_at.0 };
    let seat_limit = seat_limit_per_buyer.unwrap_or(defaults.seat_limit_per_buyer);
    let hold_ttl = hold_ttl_s.map_or(defaults.hold_ttl, Duration::from_secs);
    let wish = NewPerformance::new(starts_at.0, sale, seat_limit, hold_ttl).map_err(Problem::invalid)?;
    let catalogue = context.catalogue.clone();
    let added = context.detached.run(async move { Ok(catalogue.add_performance(concert, wish, &claim).await?) });
    Ok(CreatedJson(PerformanceView::of(&added.await?, &context.line, context.clock.now())))
}

/// Replaces all seats of a performance before its sale opens.
///
/// JSON describes rectangles of seats. `text/csv` has one line for each seat, after a first line
/// `section,row,number,grade,amount,currency`.
#[api_v2_operation(tags("operators"), operation_id = "operator.replace_seats")]
async fn replace_seats(
    context: Data<Context>,
    Operator(_): Operator,
    PathId(performance): PathId<PerformanceId>,
    upload: Upload<SeatsWish>,
) -> Result<Json<SeatTotalView>, Problem> {
    let catalogue = context.catalogue.clone();
    let replaced = context.detached.change_seats(&context.boards, async move {
        // Parsing a stadium would block the worker.
        let map = tokio::task::spawn_blocking(move || match upload {
            Upload::Json(bytes, _) => read_sections(&bytes),
            Upload::Csv(bytes) => read_csv(&bytes),
        });
        let map = map.await.map_err(|error| Problem::internal(&error))??;
        catalogue.replace_seats(performance, &map).await?;
        Ok(map.seats().len())
    });
    Ok(Json(SeatTotalView { total: replaced.await? }))
}

/// Shows the admission policy of a line.
#[api_v2_operation(tags("operators"), operation_id = "operator.admission")]
async fn admission(
    context: Data<Context>,
    Operator(_): Operator,
    PathId(performance): PathId<PerformanceId>,
) -> Result<Json<AdmissionView>, Problem> {
    Ok(Json(context.line.policy(performance).await?.into()))
}

/// Changes the admission policy of a line.
#[api_v2_operation(tags("operators"), operation_id = "operator.patch_admission")]
async fn patch_admission(
    context: Data<Context>,
    Operator(_): Operator,
    PathId(performance): PathId<PerformanceId>,
    wish: JsonBody<AdmissionWish>,
) -> Result<Json<AdmissionView>, Problem> {
    let patch = PolicyPatch::try_from(wish.value)?;
    let line = context.line.clone();
    let patched = context.detached.run(async move { Ok(line.patch_policy(performance, &patch).await?) });
    Ok(Json(patched.await?.into()))
}

/// Shows the statistics of a line and its seats.
#[api_v2_operation(tags("operators"), operation_id = "operator.stats")]
async fn stats(
    context: Data<Context>,
    Operator(_): Operator,
    PathId(performance): PathId<PerformanceId>,
) -> Result<Json<StatsView>, Problem> {
    let line = context.line.stats(performance).await?;
    let counts = line.counts;
    Ok(Json(StatsView {
        waiting: counts.waiting + counts.away,
        present: counts.waiting,
        away: counts.away,
        active: counts.active,
        serving: counts.serving.get(),
        issued: counts.issued.get(),
        admitted_total: counts.admitted_total,
        rate_per_s: line.admitted_per_s,
        seats: context.reservations.seat_counts(performance).await?.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "section,row,number,grade,amount,currency\n";

    fn refusal(lines: &str) -> String {
        format!("{:?}", read_csv(format!("{NAMES}{lines}").as_bytes()).unwrap_err())
    }

    #[test]
    fn a_file_of_seats_is_read_line_by_line() {
        let file = format!("{NAMES}B,1,2,R,100,KRW\nB,1,1,R,100,KRW\n\"A\", 1 ,1,VIP,200,KRW\n");

        let map = read_csv(file.as_bytes()).unwrap();

        let seats: Vec<_> = map.seats().iter().map(|seat| (seat.seat.as_str(), seat.price.amount())).collect();
        assert_eq!(seats, [("B-1-1", 100), ("B-1-2", 100), ("A-1-1", 200)]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let good = "A,1,1,R,100,KRW\n";
        for (bad, rule) in [
            ("A,1\n", "must have 6 values, not 2"),
            ("A,one,2,R,100,KRW\n", "row cannot be read"),
            ("A,1,70000,R,100,KRW\n", "number cannot be read"),
            ("A,1,2,R,100,krw\n", "three capital letters"),
            ("A,1,2,R,-1,KRW\n", "an amount is 0 to"),
            ("A-B,1,2,R,100,KRW\n", "section must be"),
            ("A,1,1,R,100,KRW\n", "this seat is named twice"),
            ("A,1,2,R,100,EUR\n", "one currency"),
        ] {
            let refusal = refusal(&format!("{good}{bad}"));

            assert!(refusal.contains("\"line 3\"") && refusal.contains(rule), "{bad}: {refusal}");
        }
    }

    #[test]
    fn a_file_without_its_names_is_refused() {
        let refusal = format!("{:?}", read_csv(b"A,1,1,R,100,KRW\n").unwrap_err());

        assert!(refusal.contains("\"line 1\"") && refusal.contains("section,row,number"), "{refusal}");
        assert!(read_csv(b"").is_err());
    }

    #[test]
    fn a_bad_section_is_named_by_its_place() {
        let json = br#"{"sections": [{"name": "A", "rows": 1, "seats_per_row": 1, "grade": "R",
            "price": {"amount": -5, "currency": "KRW"}}]}"#;

        let refusal = format!("{:?}", read_sections(json).unwrap_err());

        assert!(refusal.contains("sections[0].price"), "{refusal}");
    }
}
