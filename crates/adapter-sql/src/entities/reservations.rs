//! One row per reservation.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub performance_id: Uuid,
    pub account_id: Uuid,
    pub pass_number: i64,
    pub n_seats: i32,
    pub total_amount: i64,
    pub currency: String,
    pub created_at: i64,
    pub held_until: i64,
    pub held_until_original: i64,
    pub declined: i32,
    pub version: i64,
    pub state: String,
    pub attempt_id: Option<Uuid>,
    pub resolve_at: Option<i64>,
    pub confirmed_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
