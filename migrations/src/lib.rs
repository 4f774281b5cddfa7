//! The schema, as migrations that go up and down on SQLite, MySQL and MariaDB.

use sea_orm_migration::async_trait::async_trait;
pub use sea_orm_migration::{MigrationTrait, MigratorTrait};

mod m0001_create_tables;
mod m0002_index_free_seats;

/// All migrations, in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_create_tables::Migration), Box::new(m0002_index_free_seats::Migration)]
    }
}
