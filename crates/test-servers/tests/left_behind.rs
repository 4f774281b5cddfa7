//! A process that is killed leaves no server, no data and no container behind.

#![expect(clippy::unwrap_used, reason = "a panic fails the test where it is")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use sqlx::{Connection as _, MySqlConnection};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{ListContainersOptionsBuilder, WaitContainerOptionsBuilder};
use testcontainers::core::client::docker_client_instance;

/// How long servers and containers may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// The data folder of the Redis behind this connection.
fn folder_of_redis(mut connection: &TcpStream) -> String {
    connection.write_all(b"CONFIG GET dir\r\n").unwrap();
    let reply = BufReader::new(connection).lines().map(Result::unwrap).nth(4);
    reply.unwrap()
}

/// The data folder of the MySQL at this URL.
async fn folder_of_mysql(url: &str) -> String {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    let folder = sqlx::query_scalar("SELECT @@datadir").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    folder
}

async fn wait_until_gone(folder: &str) {
    let gone = async {
        while Path::new(folder).exists() {
            #[expect(clippy::disallowed_methods, reason = "the pause between two checks of a condition")]
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ENDED_WITHIN, gone).await.unwrap_or_else(|_| panic!("{folder} is left behind"));
}

/// The containers that a process has started.
async fn containers_of(docker: &Docker, process: u32) -> Vec<String> {
    let filters = HashMap::from([("label", vec!["usher-test-server.owner"])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = docker.list_containers(Some(all)).await.unwrap();
    let is_its =
        |labels: &HashMap<String, String>| labels.values().any(|owner| owner.ends_with(&format!("/{process}")));
    let its = containers.into_iter().filter(|container| container.labels.as_ref().is_some_and(is_its));
    its.filter_map(|container| container.id).collect()
}

#[tokio::test]
async fn servers_containers_and_data_end_with_a_process_that_is_killed() {
    let docker = docker_client_instance().await.ok();
    let mut holder = Command::new(env!("CARGO_BIN_EXE_with-servers"));
    holder.args([
        "sh",
        "-c",
        "echo $USHER_TEST_REDIS_URL; echo $USHER_TEST_MYSQL_URL; echo $USHER_TEST_REDIS_IMAGE; cat",
    ]);
    // `make test` gives servers to all tests, but this command must start its own.
    holder.env_remove("USHER_TEST_REDIS_URL").env_remove("USHER_TEST_MYSQL_URL");
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    let urls = [said.next().unwrap(), said.next().unwrap()];
    let connections = urls.each_ref().map(|url| {
        let stream = TcpStream::connect(url.rsplit(['/', '@']).next().unwrap()).unwrap();
        stream.set_read_timeout(Some(ENDED_WITHIN)).unwrap();
        stream
    });
    let folders = [folder_of_redis(&connections[0]), folder_of_mysql(&urls[1]).await];
    let is_containers = said.next().unwrap() != "none";
    let containers = match &docker {
        Some(docker) if is_containers => containers_of(docker, holder.id()).await,
        _ => Vec::new(),
    };
    assert_eq!(containers.len(), if is_containers { 2 } else { 0 });

    holder.kill().unwrap();
    holder.wait().unwrap();

    for mut connection in connections {
        // A reset, too, shows that the server is gone; a timeout does not.
        if let Err(error) = connection.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    for folder in &folders {
        wait_until_gone(folder).await;
    }
    for id in containers {
        let docker = docker.as_ref().unwrap();
        let removed = WaitContainerOptionsBuilder::new().condition("removed").build();
        // An error means that the container is gone already.
        let mut waiting = docker.wait_container(&id, Some(removed)).boxed();
        drop(tokio::time::timeout(ENDED_WITHIN, waiting.next()).await.unwrap());
    }
    if let Some(docker) = docker.filter(|_| is_containers) {
        assert_eq!(containers_of(&docker, holder.id()).await, [""; 0]);
    }
}
