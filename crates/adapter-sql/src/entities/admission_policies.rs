//! The changes that operators made to admission policies. Null means the default.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "admission_policies")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: Uuid,
    pub capacity: Option<i64>,
    pub rate_per_s: Option<i64>,
    pub pass_ttl_ms: Option<i64>,
    pub presence_window_ms: Option<i64>,
    pub state: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
