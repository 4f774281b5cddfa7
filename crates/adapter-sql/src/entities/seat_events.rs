//! One row per change of a seat, or of a performance's whole map, written in the transaction of the change.

use sea_orm::entity::prelude::*;

/// The `seat` of an event that replaces the whole map. Its `version` is that of the new map. No seat has this name.
pub(crate) const WHOLE_MAP: &str = "";

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "seat_events")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub performance_id: Uuid,
    pub seat: String,
    pub version: i64,
    pub status: String,
    pub owner: Option<Uuid>,
    pub owner_before: Option<Uuid>,
    pub held_until: Option<i64>,
    pub at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
