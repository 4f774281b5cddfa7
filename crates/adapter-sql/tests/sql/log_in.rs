//! Log-ins to a fresh database server, whose cache holds no password yet.

use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use usher_adapter_sql::{Database, Settings};
use usher_kernel::StoreError;
use usher_test_servers::mysql_server::{Durability, Server, create_database};

async fn text(db: &DatabaseConnection, sql: &str) -> String {
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
    row.try_get_by(row.column_names()[row.column_names().len() - 1].as_str()).unwrap()
}

/// Clears the server's cache of passwords.
async fn forget(root: &Database) {
    root.writer().execute_unprepared("FLUSH PRIVILEGES").await.unwrap();
}

async fn open(url: &str) -> Result<Database, StoreError> {
    let database = Database::open(&Settings::new(url, 1)).await?;
    database.ping().await?;
    Ok(database)
}

/// LESSONS S19. With `caching_sha2_password`, the default of MySQL, the first log-in sends the password itself: through
/// TLS, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_log_in_on_a_fresh_server_goes_through_tls() {
    let server = Server::start(Durability::None, &[]);
    let url = create_database(&server.url(), "usher").await;
    let root = open(&url).await.unwrap();
    let is_mariadb = text(root.writer(), "SELECT VERSION()").await.contains("MariaDB");
    for sql in ["CREATE USER usher@'%' IDENTIFIED BY 'pass word'", "GRANT ALL ON usher.* TO usher@'%'"] {
        root.writer().execute_unprepared(sql).await.unwrap();
    }
    let url = url.replacen("root@", "usher:pass%20word@", 1);

    let database = open(&url).await.unwrap();
    let cipher = text(database.writer(), "SHOW STATUS LIKE 'Ssl_cipher'").await;
    if is_mariadb {
        // By default MariaDB has no certificate, and its log-in needs none.
        assert_eq!(cipher, "");
        return;
    }
    assert!(cipher.starts_with("TLS_"), "TLS is used where the server has it: {cipher}");

    forget(&root).await;
    let in_the_clear = open(&format!("{url}?ssl-mode=DISABLED")).await.unwrap_err();
    assert!(matches!(in_the_clear, StoreError::Unavailable { operation: "database.open", .. }), "{in_the_clear:?}");

    let authority = format!("{}ca.pem", text(root.writer(), "SELECT @@datadir").await);
    let verified = format!("{url}?ssl-mode=VERIFY_CA&ssl-ca={authority}");
    open(&verified).await.unwrap();

    let by_a_stranger = open(&format!("{url}?ssl-mode=VERIFY_CA")).await;
    assert!(by_a_stranger.is_err(), "the server's own CA is not among the public ones");
}
