//! The schema, as migrations that go up and down on SQLite, MySQL and MariaDB.

use sea_orm_migration::SchemaManager;
use sea_orm_migration::async_trait::async_trait;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, Statement};
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

impl Migrator {
    /// The names of the migrations that a database has, oldest first. Some may be newer than this program, because a
    /// database is migrated before its servers are replaced. `sea-orm-migration` itself refuses such a database.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`DbErr`] if the database cannot be read.
    pub async fn applied(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
        let table = Self::migration_table_name().to_string();
        if !SchemaManager::new(db).has_table(&table).await? {
            return Ok(Vec::new());
        }
        let names =
            Statement::from_string(db.get_database_backend(), format!("SELECT version FROM {table} ORDER BY 1"));
        db.query_all_raw(names).await?.iter().map(|row| row.try_get_by_index(0)).collect()
    }

    /// The names of this program's migrations that a database lacks, oldest first. Changes nothing.
    ///
    /// # Errors
    /// [`DbErr`] if the database cannot be read.
    pub async fn pending(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
        let applied = Self::applied(db).await?;
        let ours = Self::migrations().into_iter().map(|migration| migration.name().to_owned());
        Ok(ours.filter(|name| !applied.contains(name)).collect())
    }
}
