//! `--demo`: one concert with one open performance of 50 seats, and an operator.

use std::sync::Arc;
use std::time::Duration;

use usher_account::{Password, Role, SignUp};
use usher_concert::ports::{AddOutcome, CatalogueRepository, ReplaceSeatsOutcome};
use usher_concert::{Concert, Page, Performance, SaleTimes, SeatMap, SectionPlan};
use usher_kernel::{
    AccountId, Claim, Clock, ConcertId, Fingerprint, IdGenerator, Money, PerformanceId, StoreError, Timestamp,
};

/// The demo's operator.
pub const OPERATOR_EMAIL: &str = "operator@usher.example";
/// The demo's concert is the same one at every start (a UUIDv7 of 1970).
const CONCERT: ConcertId = ConcertId::from_bytes([0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);
const SALE_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The parts of the demo that its operator needs to know.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The performance whose sale is open.
    pub performance: PerformanceId,
    /// The operator's password, if the account is new. It is shown once.
    pub operator_password: Option<String>,
}

/// Why the demo could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operator could not be signed up.
    #[error("the demo's operator could not be signed up")]
    Operator(#[source] usher_account::Error),
    /// The demo breaks one of Usher's own rules.
    #[error("the demo's data is not valid: {0}")]
    Data(String),
}

/// Adds the missing parts of the demo. Each start uses the same concert.
///
/// # Errors
/// See [`DemoError`].
pub async fn set_up(
    catalogue: &Arc<dyn CatalogueRepository>,
    accounts: &usher_account::Service,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn IdGenerator>,
) -> Result<Demo, DemoError> {
    let now = clock.now();
    if catalogue.concert(CONCERT).await?.is_none() {
        let concert = Concert {
            id: CONCERT,
            title: "The First Night".into(),
            description: "A demo concert that is always on sale.".into(),
            venue: "Usher Hall".into(),
            running_time_min: 120,
        };
        require_added(&catalogue.add_concert(&concert, &claim("demo-concert"), now).await?)?;
    }
    let performances = catalogue.performances(CONCERT, Page { after: None, limit: Page::<()>::LIMIT_MAX }).await?;
    let is_open = |performance: &&Performance| performance.sale.opens_at <= now && now < performance.sale.closes_at;
    let performance = match performances.iter().find(is_open) {
        Some(open) => open.clone(),
        None => {
            let id = PerformanceId::from_uuid(ids.next_uuid());
            add_performance(catalogue, id, &format!("demo-performance-{}", performances.len()), now).await?
        }
    };
    if performance.map_version == 0 {
        add_seats(catalogue, &performance).await?;
    }
    Ok(Demo { performance: performance.id, operator_password: add_operator(accounts, ids).await? })
}

/// Adds a performance, unless another process has just used the key to add one.
async fn add_performance(
    catalogue: &Arc<dyn CatalogueRepository>,
    id: PerformanceId,
    key: &str,
    now: Timestamp,
) -> Result<Performance, DemoError> {
    let performance = Performance {
        id,
        concert: CONCERT,
        starts_at: now.plus(SALE_LASTS),
        sale: SaleTimes { opens_at: now, closes_at: now.plus(SALE_LASTS) },
        seat_limit_per_buyer: 4,
        hold_ttl: Duration::from_secs(300),
        map_version: 0,
    };
    Ok(match catalogue.add_performance(&performance, &claim(key), now).await? {
        AddOutcome::Replayed(first) => first,
        outcome => {
            require_added(&outcome)?;
            performance
        }
    })
}

/// Lays out the seats of a performance, unless another process has done so and sold some.
async fn add_seats(catalogue: &Arc<dyn CatalogueRepository>, performance: &Performance) -> Result<(), DemoError> {
    // Seats cannot be replaced once the sale is open, so this uses a time just before.
    let before_opening = performance.sale.opens_at.minus(Duration::from_millis(1));
    match catalogue.replace_seats(performance.id, &seats()?, before_opening).await? {
        ReplaceSeatsOutcome::Replaced { .. } | ReplaceSeatsOutcome::Locked => Ok(()),
        ReplaceSeatsOutcome::NotFound => Err(DemoError::Data("the performance is gone".into())),
    }
}

fn seats() -> Result<SeatMap, DemoError> {
    let invalid = |error: &dyn std::fmt::Display| DemoError::Data(error.to_string());
    let currency = "KRW".parse().map_err(|error| invalid(&error))?;
    let section = |name: &str, seats_per_row, grade: &str, amount| {
        let price = Money::new(amount, currency).map_err(|error| invalid(&error))?;
        Ok::<_, DemoError>(SectionPlan { name: name.into(), rows: 1, seats_per_row, grade: grade.into(), price })
    };
    let sections = [section("A", 10, "VIP", 150_000)?, section("B", 20, "R", 120_000)?, section("C", 20, "S", 90_000)?];
    SeatMap::from_sections(&sections).map_err(|violations| DemoError::Data(format!("{violations:?}")))
}

/// Creates the operator, unless it exists. Returns the password of a new one.
async fn add_operator(
    accounts: &usher_account::Service,
    ids: &Arc<dyn IdGenerator>,
) -> Result<Option<String>, DemoError> {
    let password = ids.next_code();
    let wish = SignUp::new(OPERATOR_EMAIL, Password::new(password.as_str()), "Demo operator")
        .map_err(|violations| DemoError::Data(format!("{violations:?}")))?;
    match accounts.sign_up(wish, Role::Operator).await {
        Ok(_) => Ok(Some(password)),
        Err(usher_account::Error::EmailTaken) => Ok(None),
        Err(error) => Err(DemoError::Operator(error)),
    }
}

/// An idempotency claim in the name of account zero, which no buyer has.
fn claim(key: &str) -> Claim {
    let key = key.parse().unwrap_or_else(|_| unreachable!("the demo's keys are visible ASCII"));
    Claim { account: AccountId::from_bytes([0; 16]), key, fingerprint: Fingerprint([0; 32]) }
}

fn require_added<T>(outcome: &AddOutcome<T>) -> Result<(), DemoError> {
    match outcome {
        AddOutcome::Added | AddOutcome::Replayed(_) => Ok(()),
        AddOutcome::KeyMismatch | AddOutcome::ParentMissing => Err(DemoError::Data("the catalogue refuses it".into())),
    }
}
