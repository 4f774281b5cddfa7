//! The contract suite of [`CatalogueRepository`]. Numbers refer to the items of its contract.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use usher_concert::{
    AddOutcome, CatalogueRepository, Concert, Page, Performance, ReplaceSeatsOutcome, SaleTimes, SeatMap, SectionPlan,
};
use usher_kernel::{AccountId, Claim, ConcertId, Fingerprint, Money, PerformanceId, Timestamp};
use usher_reservation::SeatStatus;

use crate::race::{RACERS, race};

/// Gives each test a repository of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty repository, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The repository.
    fn repository(&self) -> Arc<dyn CatalogueRepository>;

    /// The status and version of each seat of a performance, which the port does not return.
    fn seats(&self, performance: PerformanceId) -> impl Future<Output = Vec<(SeatStatus, u32)>> + Send;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! catalogue_repository_contract {
    ($fixture:ty) => {
        $crate::catalogue_repository_contract! { $fixture:
            of_many_concerts_under_one_claim_one_is_added
            of_many_performances_under_one_claim_one_is_added
            a_repeated_claim_is_told_what_it_added
            a_claim_with_another_fingerprint_is_a_mismatch_while_it_is_kept
            claims_of_other_accounts_and_keys_do_not_meet
            a_refusal_keeps_neither_the_thing_nor_the_claim
            what_was_added_is_found_whole
            racing_maps_replace_each_other_whole
            a_new_map_makes_every_seat_available
            seats_are_locked_from_the_opening_on
            a_large_map_is_read_back_as_it_was
            lists_come_in_pages_in_the_order_of_ids
            a_performance_is_on_sale_from_its_lobby_until_it_closes
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::catalogue_repository::$item::<$fixture>().await;
        }
    )*};
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const MS: Duration = Duration::from_millis(1);

/// 1, as a race.
pub async fn of_many_concerts_under_one_claim_one_is_added<F: Fixture>() {
    let fixture = F::fresh().await;

    let outcomes = race(|n| {
        let repository = fixture.repository();
        async move {
            let concert = concert(n);
            let outcome = repository.add_concert(&concert, &claim("key", 1), NOW).await.unwrap();
            (concert, outcome)
        }
    })
    .await;

    let all = fixture.repository().concerts(Page { after: None, limit: 200 }).await.unwrap();
    one_was_added(outcomes, &all);
}

/// 1, as a race.
pub async fn of_many_performances_under_one_claim_one_is_added<F: Fixture>() {
    let fixture = F::fresh().await;
    let concert = concert(1);
    assert_eq!(fixture.repository().add_concert(&concert, &claim("concert", 1), NOW).await.unwrap(), AddOutcome::Added);

    let outcomes = race(|n| {
        let repository = fixture.repository();
        async move {
            let performance = performance(n);
            let outcome = repository.add_performance(&performance, &claim("key", 2), NOW).await.unwrap();
            (performance, outcome)
        }
    })
    .await;

    let all = fixture.repository().performances(concert.id, Page { after: None, limit: 200 }).await.unwrap();
    one_was_added(outcomes, &all);
}

fn one_was_added<T: Clone + PartialEq + std::fmt::Debug>(outcomes: Vec<(T, AddOutcome<T>)>, stored: &[T]) {
    let (added, others): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|(_, outcome)| *outcome == AddOutcome::Added);
    assert_eq!(added.len(), 1, "one is added");
    let first = &added[0].0;
    assert_eq!(stored, std::slice::from_ref(first), "and it is the one that is stored");
    for (_, outcome) in others {
        assert_eq!(outcome, AddOutcome::Replayed(first.clone()), "the others get it as a replay");
    }
}

/// 1, with sequential calls.
pub async fn a_repeated_claim_is_told_what_it_added<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let (for_concert, for_performance) = (claim("concert", 1), claim("performance", 2));

    let first = repository.add_concert(&concert(1), &for_concert, NOW).await.unwrap();
    let again = repository.add_concert(&concert(2), &for_concert, NOW).await.unwrap();

    assert_eq!((first, again), (AddOutcome::Added, AddOutcome::Replayed(concert(1))));
    assert_eq!(repository.concert(concert(2).id).await.unwrap(), None);

    let first = repository.add_performance(&performance(1), &for_performance, NOW).await.unwrap();
    let again = repository.add_performance(&performance(2), &for_performance, NOW).await.unwrap();

    assert_eq!((first, again), (AddOutcome::Added, AddOutcome::Replayed(performance(1))));
    assert_eq!(repository.performance(performance(2).id).await.unwrap(), None);
}

/// 2.
pub async fn a_claim_with_another_fingerprint_is_a_mismatch_while_it_is_kept<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let (first, other) = (claim("key", 1), claim("key", 2));
    let over = NOW.plus(Claim::KEPT_FOR);
    assert_eq!(repository.add_concert(&concert(1), &first, NOW).await.unwrap(), AddOutcome::Added);

    let kept = over.minus(MS);
    assert_eq!(repository.add_concert(&concert(2), &other, kept).await.unwrap(), AddOutcome::KeyMismatch);
    assert_eq!(repository.add_performance(&performance(1), &other, kept).await.unwrap(), AddOutcome::KeyMismatch);
    assert_eq!(repository.add_concert(&concert(2), &first, kept).await.unwrap(), AddOutcome::Replayed(concert(1)));

    assert_eq!(repository.add_concert(&concert(2), &other, over).await.unwrap(), AddOutcome::Added);
    assert_eq!(repository.add_concert(&concert(3), &other, over).await.unwrap(), AddOutcome::Replayed(concert(2)));
    assert_eq!(repository.add_concert(&concert(3), &first, over).await.unwrap(), AddOutcome::KeyMismatch);
}

/// 2: keys are compared as bytes, and per account.
pub async fn claims_of_other_accounts_and_keys_do_not_meet<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let longest = "k".repeat(255);
    let claims = [
        claim("key", 1),
        claim("KEY", 2),
        Claim { account: AccountId::from_bytes([8; 16]), ..claim("key", 3) },
        claim(&longest, 4),
    ];

    for (n, claim) in (0..).zip(&claims) {
        assert_eq!(repository.add_concert(&concert(n), claim, NOW).await.unwrap(), AddOutcome::Added, "{n}");
    }

    for (n, claim) in (0..).zip(&claims) {
        let again = repository.add_concert(&concert(100), claim, NOW).await.unwrap();
        assert_eq!(again, AddOutcome::Replayed(concert(n)));
    }
}

/// 3.
pub async fn a_refusal_keeps_neither_the_thing_nor_the_claim<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let claim_of_performance = claim("performance", 2);

    let refused = repository.add_performance(&performance(1), &claim_of_performance, NOW).await.unwrap();

    assert_eq!(refused, AddOutcome::ParentMissing);
    assert_eq!(repository.performance(performance(1).id).await.unwrap(), None);
    assert_eq!(repository.add_concert(&concert(1), &claim("concert", 1), NOW).await.unwrap(), AddOutcome::Added);
    let added = repository.add_performance(&performance(1), &claim_of_performance, NOW).await.unwrap();
    assert_eq!(added, AddOutcome::Added);

    let refused = repository.add_performance(&performance(2), &claim("performance", 3), NOW).await.unwrap();

    assert_eq!(refused, AddOutcome::KeyMismatch);
    assert_eq!(repository.performance(performance(2).id).await.unwrap(), None);
    let replayed = repository.add_performance(&performance(2), &claim_of_performance, NOW).await.unwrap();
    assert_eq!(replayed, AddOutcome::Replayed(performance(1)));
}

/// 1: with the longest texts, and with times and spans to the millisecond.
pub async fn what_was_added_is_found_whole<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let concert = Concert {
        title: "🎻".repeat(200),
        description: "ä🎻".repeat(2_000),
        venue: "場".repeat(200),
        running_time_min: 1_440,
        ..concert(1)
    };
    let performance = Performance {
        starts_at: Timestamp::from_unix_ms(253_402_300_799_999),
        seat_limit_per_buyer: 100,
        hold_ttl: Duration::from_millis(1_500),
        ..performance(1)
    };

    assert_eq!(repository.add_concert(&concert, &claim("concert", 1), NOW).await.unwrap(), AddOutcome::Added);
    let added = repository.add_performance(&performance, &claim("performance", 2), NOW).await.unwrap();

    assert_eq!(added, AddOutcome::Added);
    assert_eq!(repository.concert(concert.id).await.unwrap(), Some(concert));
    assert_eq!(repository.performance(performance.id).await.unwrap(), Some(performance));
    assert_eq!(repository.concert(ConcertId::from_bytes([2; 16])).await.unwrap(), None);
    assert_eq!(repository.performance(PerformanceId::from_bytes([2; 16])).await.unwrap(), None);
}

/// 4, as a race: each map gets a version of its own, and a concurrent reader gets a whole map with its version.
pub async fn racing_maps_replace_each_other_whole<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = with_performance(&fixture).await;

    let outcomes = race(|n| {
        let repository = fixture.repository();
        async move {
            let map = map(u16::from(n) + 1);
            let outcome = repository.replace_seats(performance.id, &map, NOW).await.unwrap();
            let read = repository.seat_map(performance.id).await.unwrap().unwrap();
            (map, outcome, read)
        }
    })
    .await;

    let mut reads = Vec::new();
    let mut maps = HashMap::new();
    for (map, outcome, read) in outcomes {
        let ReplaceSeatsOutcome::Replaced { map_version } = outcome else {
            panic!("refused: {outcome:?}");
        };
        maps.insert(map_version, map);
        reads.push(read);
    }
    let mut versions: Vec<_> = maps.keys().copied().collect();
    versions.sort_unstable();
    assert!(versions.into_iter().eq(1..=u32::from(RACERS)), "each map has its own version");
    reads.push(fixture.repository().seat_map(performance.id).await.unwrap().unwrap());
    assert_eq!(reads.last().map(|read| read.version), Some(u32::from(RACERS)));
    for read in reads {
        assert_eq!(maps.get(&read.version), Some(&read.map), "a map is read whole, with its own version");
    }
}

/// 4.
pub async fn a_new_map_makes_every_seat_available<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = with_performance(&fixture).await;
    let repository = fixture.repository();
    let before = repository.seat_map(performance.id).await.unwrap().unwrap();
    assert_eq!((before.version, before.map.seats()), (0, [].as_slice()));

    for (map_version, n_seats) in [(1, 3), (2, 2), (3, 4)] {
        let outcome = repository.replace_seats(performance.id, &map(n_seats), NOW).await.unwrap();

        assert_eq!(outcome, ReplaceSeatsOutcome::Replaced { map_version });
        assert_eq!(fixture.seats(performance.id).await, vec![(SeatStatus::Available, 1); usize::from(n_seats)]);
        let read = repository.seat_map(performance.id).await.unwrap().unwrap();
        assert_eq!((read.version, read.map), (map_version, map(n_seats)));
        let found = repository.performance(performance.id).await.unwrap().unwrap();
        assert_eq!(found, Performance { map_version, ..performance.clone() });
    }

    let missing = PerformanceId::from_bytes([9; 16]);
    assert_eq!(repository.replace_seats(missing, &map(1), NOW).await.unwrap(), ReplaceSeatsOutcome::NotFound);
    assert_eq!(repository.seat_map(missing).await.unwrap(), None);
}

/// 4.
pub async fn seats_are_locked_from_the_opening_on<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = with_performance(&fixture).await;
    let repository = fixture.repository();
    let opens_at = performance.sale.opens_at;

    let before = repository.replace_seats(performance.id, &map(2), opens_at.minus(MS)).await.unwrap();
    let at_the_opening = repository.replace_seats(performance.id, &map(3), opens_at).await.unwrap();
    let after_the_sale = repository.replace_seats(performance.id, &map(3), performance.sale.closes_at).await.unwrap();

    assert_eq!(before, ReplaceSeatsOutcome::Replaced { map_version: 1 });
    assert_eq!([at_the_opening, after_the_sale], [ReplaceSeatsOutcome::Locked; 2]);
    let read = repository.seat_map(performance.id).await.unwrap().unwrap();
    assert_eq!((read.version, read.map), (1, map(2)));
}

/// 4: more seats than fit into one statement, in sections whose names differ only in case.
pub async fn a_large_map_is_read_back_as_it_was<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = with_performance(&fixture).await;
    let repository = fixture.repository();
    let large = SeatMap::from_sections(&[section("b", 60, 50, "VIP"), section("B", 40, 51, "Ränge 🎻")]).unwrap();

    let outcome = repository.replace_seats(performance.id, &large, NOW).await.unwrap();

    assert_eq!(outcome, ReplaceSeatsOutcome::Replaced { map_version: 1 });
    let read = repository.seat_map(performance.id).await.unwrap().unwrap();
    assert!(read.map == large, "the map is read back as it was");
}

/// 5.
pub async fn lists_come_in_pages_in_the_order_of_ids<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    // Not in order. A store that compares ids as signed bytes puts 128 and 129 first.
    for n in [129, 1, 128, 3, 127, 2] {
        let claim = claim(&format!("concert-{n}"), n);
        assert_eq!(repository.add_concert(&concert(n), &claim, NOW).await.unwrap(), AddOutcome::Added);
    }
    for (n, concert_of) in [(5, 1), (129, 1), (4, 2), (127, 1)] {
        let performance = Performance { concert: concert(concert_of).id, ..performance(n) };
        let claim = claim(&format!("performance-{n}"), n);
        assert_eq!(repository.add_performance(&performance, &claim, NOW).await.unwrap(), AddOutcome::Added);
    }

    let concerts = async |after: Option<u8>, limit| {
        let after = after.map(|n| concert(n).id);
        let page = repository.concerts(Page { after, limit }).await.unwrap();
        page.into_iter().map(|concert| concert.id.as_bytes()[0]).collect::<Vec<_>>()
    };
    assert_eq!(concerts(None, 4).await, [1, 2, 3, 127]);
    assert_eq!(concerts(Some(127), 4).await, [128, 129]);
    assert_eq!(concerts(Some(129), 4).await, [0; 0]);

    let performances = async |concert_of, after: Option<u8>, limit| {
        let after = after.map(|n| performance(n).id);
        let page = repository.performances(concert(concert_of).id, Page { after, limit }).await.unwrap();
        page.into_iter().map(|performance| performance.id.as_bytes()[0]).collect::<Vec<_>>()
    };
    assert_eq!(performances(1, None, 2).await, [5, 127]);
    assert_eq!(performances(1, Some(127), 2).await, [129]);
    assert_eq!(performances(2, None, 2).await, [4]);
    assert_eq!(performances(3, None, 2).await, [0; 0]);
}

/// 6.
pub async fn a_performance_is_on_sale_from_its_lobby_until_it_closes<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = with_performance(&fixture).await;
    let repository = fixture.repository();
    let later = SaleTimes { opens_at: performance.sale.closes_at, closes_at: performance.sale.closes_at.plus(MS) };
    let next = Performance { sale: later, ..self::performance(2) };
    assert_eq!(repository.add_performance(&next, &claim("next", 3), NOW).await.unwrap(), AddOutcome::Added);
    let lobby = Duration::from_secs(60);

    let opens_at = performance.sale.opens_at;
    for (now, lobby, expected) in [
        (opens_at.minus(lobby).minus(MS), lobby, vec![]),
        (opens_at.minus(lobby), lobby, vec![performance.clone()]),
        (opens_at.minus(MS), Duration::ZERO, vec![]),
        (opens_at, Duration::ZERO, vec![performance.clone()]),
        (later.opens_at.minus(MS), Duration::ZERO, vec![performance.clone()]),
        (later.opens_at.minus(MS), MS, vec![performance.clone(), next.clone()]),
        (later.opens_at, lobby, vec![next.clone()]),
        (later.closes_at, lobby, vec![]),
    ] {
        let mut on_sale = repository.performances_on_sale(now, lobby).await.unwrap();
        on_sale.sort_by_key(|performance| performance.id);
        assert_eq!(on_sale, expected, "at {now:?} with a lobby of {lobby:?}");
    }
}

async fn with_performance<F: Fixture>(fixture: &F) -> Performance {
    let repository = fixture.repository();
    assert_eq!(repository.add_concert(&concert(1), &claim("concert", 1), NOW).await.unwrap(), AddOutcome::Added);
    let performance = performance(1);
    let added = repository.add_performance(&performance, &claim("performance", 2), NOW).await.unwrap();
    assert_eq!(added, AddOutcome::Added);
    performance
}

fn concert(n: u8) -> Concert {
    Concert {
        id: ConcertId::from_bytes([n; 16]),
        title: format!("Concert {n}"),
        description: String::new(),
        venue: "Hall".into(),
        running_time_min: 90,
    }
}

/// A performance of the first concert. Its sale opens in an hour.
fn performance(n: u8) -> Performance {
    let opens_at = NOW.plus(Duration::from_secs(3_600));
    Performance {
        id: PerformanceId::from_bytes([n; 16]),
        concert: concert(1).id,
        starts_at: opens_at.plus(Duration::from_secs(7_200)),
        sale: SaleTimes { opens_at, closes_at: opens_at.plus(Duration::from_secs(3_600)) },
        seat_limit_per_buyer: 4,
        hold_ttl: Duration::from_secs(300),
        map_version: 0,
    }
}

fn claim(key: &str, fingerprint: u8) -> Claim {
    Claim {
        account: AccountId::from_bytes([7; 16]),
        key: key.parse().unwrap(),
        fingerprint: Fingerprint([fingerprint; 32]),
    }
}

/// One row with this many seats. A seat has another price and position in each of these maps.
fn map(n_seats: u16) -> SeatMap {
    SeatMap::from_sections(&[section("A", 1, n_seats, "R")]).unwrap()
}

fn section(name: &str, rows: u16, seats_per_row: u16, grade: &str) -> SectionPlan {
    let price = Money::new(Money::AMOUNT_MAX - i64::from(seats_per_row), "KRW".parse().unwrap()).unwrap();
    SectionPlan { name: name.into(), rows, seats_per_row, grade: grade.into(), price }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use usher_concert::VersionedSeatMap;
    use usher_kernel::StoreError;

    use super::*;
    use crate::race::Gap;

    #[derive(Clone, Default)]
    struct Contents {
        claims: HashMap<(AccountId, String), (Fingerprint, [u8; 16], Timestamp)>,
        concerts: BTreeMap<ConcertId, Concert>,
        performances: BTreeMap<PerformanceId, Performance>,
        maps: HashMap<PerformanceId, SeatMap>,
    }

    impl Contents {
        fn claimed(&self, claim: &Claim, now: Timestamp) -> Option<Result<[u8; 16], ()>> {
            let (fingerprint, made, stored_at) = self.claims.get(&(claim.account, claim.key.as_str().into()))?;
            let kept = !Claim::is_over(*stored_at, now);
            kept.then_some(if *fingerprint == claim.fingerprint { Ok(*made) } else { Err(()) })
        }

        fn keep(&mut self, claim: &Claim, made: [u8; 16], now: Timestamp) {
            self.claims.insert((claim.account, claim.key.as_str().into()), (claim.fingerprint, made, now));
        }
    }

    /// Decides on a copy that it read, and writes after other callers could read too.
    #[derive(Default)]
    struct CheckThenAct(Mutex<Contents>, Gap);

    impl CheckThenAct {
        async fn look(&self) -> Contents {
            let seen = self.0.lock().unwrap().clone();
            self.1.wait_for_others().await;
            seen
        }
    }

    #[async_trait]
    impl CatalogueRepository for CheckThenAct {
        async fn add_concert(
            &self,
            concert: &Concert,
            claim: &Claim,
            now: Timestamp,
        ) -> Result<AddOutcome<Concert>, StoreError> {
            let seen = self.look().await;
            match seen.claimed(claim, now) {
                Some(Ok(made)) => return Ok(AddOutcome::Replayed(seen.concerts[&ConcertId::from_bytes(made)].clone())),
                Some(Err(())) => return Ok(AddOutcome::KeyMismatch),
                None => {}
            }
            let mut contents = self.0.lock().unwrap();
            contents.keep(claim, *concert.id.as_bytes(), now);
            contents.concerts.insert(concert.id, concert.clone());
            Ok(AddOutcome::Added)
        }

        async fn add_performance(
            &self,
            performance: &Performance,
            claim: &Claim,
            now: Timestamp,
        ) -> Result<AddOutcome<Performance>, StoreError> {
            let seen = self.look().await;
            match seen.claimed(claim, now) {
                Some(Ok(made)) => {
                    return Ok(AddOutcome::Replayed(seen.performances[&PerformanceId::from_bytes(made)].clone()));
                }
                Some(Err(())) => return Ok(AddOutcome::KeyMismatch),
                None if !seen.concerts.contains_key(&performance.concert) => return Ok(AddOutcome::ParentMissing),
                None => {}
            }
            let mut contents = self.0.lock().unwrap();
            contents.keep(claim, *performance.id.as_bytes(), now);
            contents.performances.insert(performance.id, performance.clone());
            Ok(AddOutcome::Added)
        }

        async fn concert(&self, id: ConcertId) -> Result<Option<Concert>, StoreError> {
            Ok(self.look().await.concerts.get(&id).cloned())
        }

        async fn concerts(&self, page: Page<ConcertId>) -> Result<Vec<Concert>, StoreError> {
            let concerts = self.look().await.concerts.into_values();
            let behind = concerts.filter(|concert| page.after.is_none_or(|after| concert.id > after));
            Ok(behind.take(usize::try_from(page.limit).unwrap()).collect())
        }

        async fn performance(&self, id: PerformanceId) -> Result<Option<Performance>, StoreError> {
            Ok(self.look().await.performances.get(&id).cloned())
        }

        async fn performances(
            &self,
            concert: ConcertId,
            page: Page<PerformanceId>,
        ) -> Result<Vec<Performance>, StoreError> {
            let performances = self.look().await.performances.into_values().filter(|one| one.concert == concert);
            let behind = performances.filter(|performance| page.after.is_none_or(|after| performance.id > after));
            Ok(behind.take(usize::try_from(page.limit).unwrap()).collect())
        }

        async fn performances_on_sale(&self, now: Timestamp, lobby: Duration) -> Result<Vec<Performance>, StoreError> {
            let performances = self.look().await.performances.into_values();
            let on_sale = |one: &Performance| one.sale.opens_at.minus(lobby) <= now && now < one.sale.closes_at;
            Ok(performances.filter(on_sale).collect())
        }

        async fn replace_seats(
            &self,
            performance: PerformanceId,
            map: &SeatMap,
            now: Timestamp,
        ) -> Result<ReplaceSeatsOutcome, StoreError> {
            let Some(mut seen) = self.performance(performance).await? else {
                return Ok(ReplaceSeatsOutcome::NotFound);
            };
            if now >= seen.sale.opens_at {
                return Ok(ReplaceSeatsOutcome::Locked);
            }
            seen.map_version += 1;
            let map_version = seen.map_version;
            let mut contents = self.0.lock().unwrap();
            contents.performances.insert(performance, seen);
            contents.maps.insert(performance, map.clone());
            Ok(ReplaceSeatsOutcome::Replaced { map_version })
        }

        async fn seat_map(&self, performance: PerformanceId) -> Result<Option<VersionedSeatMap>, StoreError> {
            let mut seen = self.look().await;
            let map = seen.maps.remove(&performance).unwrap_or(SeatMap::from_stored(Vec::new()));
            Ok(seen.performances.get(&performance).map(|one| VersionedSeatMap { version: one.map_version, map }))
        }
    }

    struct Control(Arc<CheckThenAct>);

    impl Fixture for Control {
        async fn fresh() -> Self {
            Self(Arc::default())
        }

        fn repository(&self) -> Arc<dyn CatalogueRepository> {
            Arc::<CheckThenAct>::clone(&self.0)
        }

        async fn seats(&self, performance: PerformanceId) -> Vec<(SeatStatus, u32)> {
            let map = self.0.seat_map(performance).await.unwrap().unwrap().map;
            map.seats().iter().map(|_| (SeatStatus::Available, 1)).collect()
        }
    }

    #[tokio::test]
    #[should_panic(expected = "one is added")]
    async fn adding_a_concert_by_what_was_seen_is_rejected() {
        of_many_concerts_under_one_claim_one_is_added::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "one is added")]
    async fn adding_a_performance_by_what_was_seen_is_rejected() {
        of_many_performances_under_one_claim_one_is_added::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "each map has its own version")]
    async fn replacing_seats_by_what_was_seen_is_rejected() {
        racing_maps_replace_each_other_whole::<Control>().await;
    }

    #[tokio::test]
    async fn only_the_races_reject_the_control() {
        a_repeated_claim_is_told_what_it_added::<Control>().await;
        a_claim_with_another_fingerprint_is_a_mismatch_while_it_is_kept::<Control>().await;
        claims_of_other_accounts_and_keys_do_not_meet::<Control>().await;
        a_refusal_keeps_neither_the_thing_nor_the_claim::<Control>().await;
        what_was_added_is_found_whole::<Control>().await;
        a_new_map_makes_every_seat_available::<Control>().await;
        seats_are_locked_from_the_opening_on::<Control>().await;
        a_large_map_is_read_back_as_it_was::<Control>().await;
        lists_come_in_pages_in_the_order_of_ids::<Control>().await;
        a_performance_is_on_sale_from_its_lobby_until_it_closes::<Control>().await;
    }
}
