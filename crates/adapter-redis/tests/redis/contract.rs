//! Redis is a line store like any other.

use std::sync::Arc;

use usher_adapter_redis::RedisLineStore;
use usher_contract_tests::line_store::Fixture;
use usher_contract_tests::line_store_contract;
use usher_queue::ports::LineStore;

use usher_contract_tests::redis_server;

struct Redis;

impl Fixture for Redis {
    async fn store() -> Arc<dyn LineStore> {
        Arc::new(RedisLineStore::connect(redis_server::shared_url()).await.expect("the server is up"))
    }
}

line_store_contract!(Redis);
