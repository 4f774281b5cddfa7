//! One row per seat: its position, price, status and reservation.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "seats")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seat: String,
    pub seat_index: i32,
    pub section: String,
    pub row_no: i32,
    pub number: i32,
    pub grade: String,
    pub price_amount: i64,
    pub currency: String,
    pub x: i32,
    pub y: i32,
    pub status: String,
    pub reservation_id: Option<Uuid>,
    pub held_until: Option<i64>,
    pub version: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
