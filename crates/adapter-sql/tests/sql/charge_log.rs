//! The contract of the simulated gateway, on its log in SQL.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, Statement};
use usher_adapter_sql::SqlChargeLog;
use usher_contract_tests::race::race;
use usher_contract_tests::simulated_gateway::Fixture;
use usher_kernel::{AttemptId, Money, Timestamp};
use usher_reservation::ports::{PaymentGateway as _, PaymentToken};
use usher_reservation::{ChargeLog, SimulatedGateway};

use crate::backend::{Backend, On, on_every_database};

impl<B: Backend> Fixture for On<B> {
    async fn fresh() -> Self {
        Self::new().await
    }

    fn log(&self) -> Arc<dyn ChargeLog> {
        Arc::new(SqlChargeLog::new(self.database.clone()))
    }
}

on_every_database! {
    simulated_gateway_contract!
    racing_charges_of_one_attempt_leave_one_row
}

async fn racing_charges_of_one_attempt_leave_one_row<B: Backend>() {
    let fixture = On::<B>::new().await;
    let gateway = SimulatedGateway::new(fixture.log());
    let amount = Money::new(150_000, "KRW".parse().unwrap()).unwrap();

    race(|_| {
        let gateway = gateway.clone();
        async move {
            let (attempt, token) = (AttemptId::from_bytes([1; 16]), PaymentToken("tok_ok".into()));
            gateway.charge(attempt, amount, &token, Timestamp::EPOCH).await.unwrap()
        }
    })
    .await;

    let db = fixture.database.writer();
    let select = Statement::from_string(db.get_database_backend(), "SELECT 1 FROM simulated_charges");
    assert_eq!(db.query_all_raw(select).await.unwrap().len(), 1);
}
