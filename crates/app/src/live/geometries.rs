//! Seat maps as they are sent: a stadium is megabytes, so each version is written and compressed once, and kept while
//! there is room.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use usher_kernel::PerformanceId;

use super::shared_json::SharedJson;

/// How many bytes are kept: ten stadiums, or some hundred theatres.
const LEN_MAX: usize = 64 * 1024 * 1024;

/// The seat maps that were asked for lately.
#[derive(Default)]
pub struct Geometries {
    kept: Mutex<VecDeque<Geometry>>,
    /// However many ask for a map that is not there, it is written once.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Geometry {
    performance: PerformanceId,
    map_version: u32,
    json: SharedJson,
}

impl Geometries {
    /// This version of a map. If it is not kept, `write` writes the map that it finds, and returns it with its version.
    ///
    /// # Errors
    /// An error of `write`; nothing is kept then.
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

    /// Nothing that runs under this lock leaves a half-made state behind, so poison means nothing here.
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
