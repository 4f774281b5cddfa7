//! Sales and their tickets. The primary key is the second barrier against selling a seat twice.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sold")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seat: String,
    pub reservation_id: Uuid,
    pub ticket_id: Uuid,
    pub code: String,
    pub sold_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
