//! The contract of the line store, on one Redis server and on a cluster.

use std::sync::{Arc, OnceLock};

use usher_adapter_redis::RedisLineStore;
use usher_contract_tests::line_store::Fixture;
use usher_contract_tests::line_store_contract;
use usher_queue::ports::LineStore;

use usher_test_servers::redis_server::{self, Cluster};

struct Redis;

impl Fixture for Redis {
    async fn store() -> Arc<dyn LineStore> {
        Arc::new(RedisLineStore::connect(redis_server::shared_url()).await.expect("the server is up"))
    }
}

line_store_contract!(Redis);

struct RedisCluster;

impl Fixture for RedisCluster {
    async fn store() -> Arc<dyn LineStore> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        let url = SHARED.get_or_init(Cluster::start).url();
        Arc::new(RedisLineStore::connect(&url).await.expect("the cluster is up"))
    }
}

mod cluster {
    use super::{RedisCluster, line_store_contract};

    line_store_contract!(whole RedisCluster);
}
