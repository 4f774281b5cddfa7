//! The contract of [`CatalogueRepository`].

use std::sync::Arc;

use sea_orm::{ConnectionTrait, Statement};
use usher_adapter_sql::SqlCatalogueRepository;
use usher_concert::CatalogueRepository;
use usher_contract_tests::catalogue_repository::Fixture;
use usher_kernel::PerformanceId;
use usher_reservation::SeatStatus;

use crate::backend::{Backend, On, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn repository(&self) -> Arc<dyn CatalogueRepository> {
        Arc::new(SqlCatalogueRepository::new(self.database.clone()))
    }

    async fn seats(&self, performance: PerformanceId) -> Vec<(SeatStatus, u32)> {
        let db = self.database.writer();
        let sql = "SELECT status, version FROM seats WHERE performance_id = ? ORDER BY seat_index";
        let select = Statement::from_sql_and_values(db.get_database_backend(), sql, [performance.uuid().into()]);
        let seat = |row: sea_orm::QueryResult| {
            let status: String = row.try_get("", "status").unwrap();
            let version: i64 = row.try_get("", "version").unwrap();
            (SeatStatus::from_name(&status).unwrap(), u32::try_from(version).unwrap())
        };
        db.query_all_raw(select).await.unwrap().into_iter().map(seat).collect()
    }
}

on_every_database!(catalogue_repository_contract!);
