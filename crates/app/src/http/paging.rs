//! Pages of lists. A cursor names the last entry of a page, so that entries that are added or removed meanwhile neither
//! repeat nor hide others.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use paperclip::actix::{Apiv2Schema, OperationModifier};
use paperclip::v2::models::{DataType, DefaultSchemaRaw};
use paperclip::v2::schema::{Apiv2Schema, TypedData};
use serde::{Deserialize, Serialize};

use super::problem::Problem;

const LIMIT_MAX: u64 = 200;
const LIMIT_DEFAULT: u64 = 50;

/// The query for a page of a list.
#[derive(Debug, Deserialize, Apiv2Schema)]
pub(super) struct PageQuery {
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
    /// The most entries of the page: 1 to 200; 50 if absent.
    limit: Option<u64>,
}

impl PageQuery {
    /// The page of a query with more parameters.
    pub(super) const fn new(cursor: Option<String>, limit: Option<u64>) -> Self {
        Self { cursor, limit }
    }

    /// The bytes of the cursor: the page begins after this entry.
    pub(super) fn after<const N: usize>(&self) -> Result<Option<[u8; N]>, Problem> {
        let decode = |text: &String| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok();
        let refused = || Problem::invalid_field("cursor", "must be the next_cursor of a page of this list");
        self.cursor.as_ref().map(|text| decode(text).ok_or_else(refused)).transpose()
    }

    /// The most entries of the page.
    pub(super) fn limit(&self) -> Result<u64, Problem> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::invalid_field("limit", format!("must be 1 to {LIMIT_MAX}")))
        }
    }

    /// The entries to ask a store for: one more than the page has, to know whether more follow.
    pub(super) fn limit_and_one(&self) -> Result<u64, Problem> {
        Ok(self.limit()? + 1)
    }
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

impl<T> List<T> {
    /// The first entries of `found`, as many as `query` asks for, and a cursor if there are more.
    pub(super) fn page<E, const N: usize>(
        query: &PageQuery,
        mut found: Vec<E>,
        cursor: impl FnOnce(&E) -> [u8; N],
        view: impl FnMut(E) -> T,
    ) -> Result<Self, Problem> {
        let limit = usize::try_from(query.limit()?).unwrap_or(usize::MAX);
        let more_follow = found.len() > limit;
        found.truncate(limit);
        let next_cursor = found.last().filter(|_| more_follow).map(|last| URL_SAFE_NO_PAD.encode(cursor(last)));
        Ok(Self { items: found.into_iter().map(view).collect(), next_cursor })
    }
}

// Not derived, because the derive would name it `List<T>`, which is no valid name of an OpenAPI component.
impl<T: Apiv2Schema> Apiv2Schema for List<T> {
    fn name() -> Option<String> {
        T::name().map(|name| format!("{name}List"))
    }

    fn description() -> &'static str {
        "One page of a list."
    }

    fn raw_schema() -> DefaultSchemaRaw {
        let cursor = DefaultSchemaRaw {
            data_type: Some(String::data_type()),
            description: Some("Where the next page begins; null on the last one.".into()),
            ..DefaultSchemaRaw::default()
        };
        DefaultSchemaRaw {
            name: Self::name(),
            data_type: Some(DataType::Object),
            properties: BTreeMap::from([
                ("items".to_owned(), Vec::<T>::raw_schema().into()),
                ("next_cursor".to_owned(), cursor.into()),
            ]),
            required: ["items".to_owned()].into(),
            ..DefaultSchemaRaw::default()
        }
    }
}

impl<T: Apiv2Schema> OperationModifier for List<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(cursor: Option<&str>, limit: Option<u64>) -> PageQuery {
        PageQuery::new(cursor.map(str::to_owned), limit)
    }

    #[test]
    fn a_cursor_leads_to_the_page_behind_it() {
        let first = List::page(&query(None, Some(2)), vec![1_u32, 2, 3], |n| n.to_be_bytes(), |n| n).unwrap();
        let next = query(first.next_cursor.as_deref(), Some(2));

        assert_eq!(first.items, [1, 2]);
        assert_eq!(next.after().unwrap().map(u32::from_be_bytes), Some(2));
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let last = List::page(&query(None, Some(2)), vec![1_u32, 2], |n| n.to_be_bytes(), |n| n).unwrap();

        assert_eq!((last.items.len(), last.next_cursor), (2, None));
    }

    #[test]
    fn a_cursor_of_something_else_is_refused() {
        for cursor in ["", "x", "AAAAAA==", "ä", &URL_SAFE_NO_PAD.encode([0; 16])] {
            assert!(query(Some(cursor), None).after::<4>().is_err(), "{cursor}");
        }
    }

    #[test]
    fn a_page_is_1_to_200_long() {
        assert_eq!(query(None, None).limit().unwrap(), 50);
        assert_eq!(query(None, Some(200)).limit_and_one().unwrap(), 201);
        assert!(query(None, Some(0)).limit().is_err());
        assert!(query(None, Some(201)).limit().is_err());
    }
}
