//! A cache of seat maps in JSON. The map of a stadium has megabytes, so each version is serialized and compressed once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use usher_kernel::PerformanceId;

use super::shared_json::SharedJson;

/// The most bytes in the cache: ten stadiums, or some hundred theatres.
const LEN_MAX: usize = 64 * 1024 * 1024;

/// A cache of the seat maps that were used last.
#[derive(Default)]
pub struct Geometries {
    kept: Mutex<VecDeque<Geometry>>,
    /// Held while a map is written, so that concurrent requests write it once.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Geometry {
    performance: PerformanceId,
    map_version: u32,
    json: SharedJson,
}

impl Geometries {
    /// Returns this version of a map. If it is not in the cache, `write` reads the current map, and returns it with its
    /// version.
    ///
    /// # Errors
    /// The error of `write`; the cache does not change.
    pub async fn get<E>(
        &self,
        performance: PerformanceId,
        map_version: u32,
        write: impl AsyncFnOnce() -> Result<(u32, SharedJson), E>,
    ) -> Result<(u32, SharedJson), E> {
        if let Some(json) = self.find(performance, map_version) {
            return Ok((map_version, json));
        }
        let _alone = self.writing.lock().await;
        if let Some(json) = self.find(performance, map_version) {
            return Ok((map_version, json));
        }
        let (map_version, json) = write().await?;
        self.keep(Geometry { performance, map_version, json: json.clone() });
        Ok((map_version, json))
    }

    fn find(&self, performance: PerformanceId, map_version: u32) -> Option<SharedJson> {
        let mut kept = self.kept();
        let is_it = |one: &Geometry| (one.performance, one.map_version) == (performance, map_version);
        let latest = kept.back().filter(|latest| is_it(latest)).map(|latest| latest.json.clone());
        if latest.is_some() {
            return latest;
        }
        let found = kept.iter().position(is_it).and_then(|nth| kept.remove(nth))?;
        kept.push_back(found.clone());
        Some(found.json)
    }

    fn keep(&self, new: Geometry) {
        let mut kept = self.kept();
        // A performance has one map at a time.
        kept.retain(|one| one.performance != new.performance);
        kept.push_back(new);
        while kept.len() > 1 && kept.iter().map(|one| one.json.n_bytes()).sum::<usize>() > LEN_MAX {
            kept.pop_front();
        }
    }

    /// Ignores poison: no panic under this lock leaves an inconsistent state behind.
    fn kept(&self) -> MutexGuard<'_, VecDeque<Geometry>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn of(n: u8) -> PerformanceId {
        PerformanceId::from_bytes([n; 16])
    }

    async fn len(geometries: &Geometries, n: u8, map_version: u32, written: Option<usize>) -> usize {
        let write =
            async || Ok::<_, Infallible>((map_version, SharedJson::of(vec![b'x'; written.expect("it is kept")])));
        geometries.get(of(n), map_version, write).await.unwrap().1.n_bytes()
    }

    #[tokio::test]
    async fn a_map_is_written_once_for_each_version() {
        let geometries = Geometries::default();

        let first = len(&geometries, 1, 1, Some(1)).await;
        let again = len(&geometries, 1, 1, None).await;
        let new = len(&geometries, 1, 2, Some(2)).await;

        assert_eq!((first, again, new), (1, 1, 2));
        assert_eq!(geometries.kept().len(), 1, "the old version is gone");
    }

    #[tokio::test]
    async fn what_was_not_asked_for_longest_makes_room() {
        let geometries = Geometries::default();
        for n in 1..=3 {
            len(&geometries, n, 1, Some(LEN_MAX / 4)).await;
        }
        len(&geometries, 1, 1, None).await;

        len(&geometries, 4, 1, Some(LEN_MAX / 3)).await;

        let kept: Vec<_> = geometries.kept().iter().map(|one| one.performance).collect();
        assert_eq!(kept, [3, 1, 4].map(of));
    }
}
