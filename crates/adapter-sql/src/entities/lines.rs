//! The part of a line that survives a loss of the line store.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "lines")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: Uuid,
    pub epoch: i64,
    pub start: i64,
    pub ceiling: i64,
    pub serving: i64,
    pub issued: i64,
    pub waiting: i64,
    pub active: i64,
    pub active_until: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
