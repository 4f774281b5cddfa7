//! One index that counts the seats and finds the best free ones.
//!
//! It replaces the index that only counts, so that taking a seat updates one index instead of two.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const FORMER: &str = "seats_count";
const WIDER: &str = "seats_by_status";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // An available seat has no `held_until`, so the index has those of a grade in the order of the hall.
        let columns = ["performance_id", "status", "held_until", "grade", "seat_index"];
        manager.create_index(index(WIDER, &columns)).await?;
        manager.drop_index(drop_index(FORMER)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_index(index(FORMER, &["performance_id", "status", "held_until"])).await?;
        manager.drop_index(drop_index(WIDER)).await
    }
}

fn index(name: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create().name(name).table("seats").to_owned();
    for column in columns {
        index.col(*column);
    }
    index
}

fn drop_index(name: &'static str) -> IndexDropStatement {
    Index::drop().name(name).table("seats").to_owned()
}
