//! The first schema.
//!
//! Ids are 16 bytes, times are Unix milliseconds, texts compare byte by byte. Reservations name accounts without a
//! foreign key: a valid token is enough to buy, and the account may be stored elsewhere.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for mut table in tables() {
            // MySQL compares texts without case by default, but keys and seats are case-sensitive.
            if manager.get_database_backend() == DbBackend::MySql {
                table.engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin");
            }
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        let first_epoch = Query::insert()
            .into_table("line_epoch")
            .columns(["id", "epoch"])
            .values_panic([1.into(), 0.into()])
            .to_owned();
        manager.execute(first_epoch).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for name in TABLES.iter().rev() {
            manager.drop_table(Table::drop().table(*name).to_owned()).await?;
        }
        Ok(())
    }
}

const TABLES: [&str; 18] = [
    "accounts",
    "concerts",
    "performances",
    "seats",
    "seat_events",
    "sold",
    "buyers",
    "reservations",
    "reservation_seats",
    "payment_attempts",
    "refunds",
    "idempotency_keys",
    "ended_passes",
    "line_epoch",
    "lines",
    "line_grants",
    "admission_policies",
    "simulated_charges",
];

fn tables() -> [TableCreateStatement; TABLES.len()] {
    let [
        accounts,
        concerts,
        performances,
        seats,
        seat_events,
        sold,
        buyers,
        reservations,
        reservation_seats,
        payment_attempts,
        refunds,
        idempotency_keys,
        ended_passes,
        line_epoch,
        lines,
        line_grants,
        admission_policies,
        simulated_charges,
    ] = TABLES;
    [
        Table::create()
            .table(accounts)
            .col(id("id").primary_key())
            .col(text("email", 254).unique_key())
            .col(text("name", 100))
            .col(text("role", 16))
            .col(text("password_hash", 255))
            .col(long("created_at"))
            .to_owned(),
        Table::create()
            .table(concerts)
            .col(id("id").primary_key())
            .col(text("title", 200))
            .col(ColumnDef::new("description").text().not_null())
            .col(text("venue", 200))
            .col(int("running_time_min"))
            .to_owned(),
        Table::create()
            .table(performances)
            .col(id("id").primary_key())
            .col(id("concert_id"))
            .col(long("starts_at"))
            .col(long("sale_opens_at"))
            .col(long("sale_closes_at"))
            .col(int("seat_limit_per_buyer"))
            .col(long("hold_ttl_ms"))
            .col(int("map_version"))
            .foreign_key(
                ForeignKey::create().name("performances_concert").from(performances, "concert_id").to(concerts, "id"),
            )
            .to_owned(),
        Table::create()
            .table(seats)
            .col(id("performance_id"))
            .col(text("seat", SEAT_LEN))
            .col(int("seat_index"))
            .col(text("section", 16))
            .col(int("row_no"))
            .col(int("number"))
            .col(text("grade", 32))
            .col(long("price_amount"))
            .col(text("currency", 3))
            .col(int("x"))
            .col(int("y"))
            .col(text("status", 16))
            .col(id_or_null("reservation_id"))
            .col(long_or_null("held_until"))
            .col(long("version"))
            .primary_key(Index::create().col("performance_id").col("seat"))
            .to_owned(),
        Table::create()
            .table(seat_events)
            .col(ColumnDef::new("id").big_integer().not_null().auto_increment().primary_key())
            .col(id("performance_id"))
            .col(text("seat", SEAT_LEN))
            .col(long("version"))
            .col(text("status", 16))
            .col(id_or_null("owner"))
            .col(id_or_null("owner_before"))
            .col(long_or_null("held_until"))
            .col(long("at"))
            .to_owned(),
        Table::create()
            .table(sold)
            .col(id("performance_id"))
            .col(text("seat", SEAT_LEN))
            .col(id("reservation_id"))
            .col(id("ticket_id").unique_key())
            .col(text("code", 64))
            .col(long("sold_at"))
            .primary_key(Index::create().col("performance_id").col("seat"))
            .to_owned(),
        Table::create()
            .table(buyers)
            .col(id("performance_id"))
            .col(id("account_id"))
            .primary_key(Index::create().col("performance_id").col("account_id"))
            .to_owned(),
        Table::create()
            .table(reservations)
            .col(id("id").primary_key())
            .col(id("performance_id"))
            .col(id("account_id"))
            .col(long("pass_number"))
            .col(int("n_seats"))
            .col(long("total_amount"))
            .col(text("currency", 3))
            .col(long("created_at"))
            .col(long("held_until"))
            .col(long("held_until_original"))
            .col(int("declined"))
            .col(long("version"))
            .col(text("state", 16))
            .col(id_or_null("attempt_id"))
            .col(long_or_null("resolve_at"))
            .col(long_or_null("confirmed_at"))
            .to_owned(),
        Table::create()
            .table(reservation_seats)
            .col(id("reservation_id"))
            .col(int("ordinal"))
            .col(text("seat", SEAT_LEN))
            .col(text("grade", 32))
            .col(long("price_amount"))
            .col(text("currency", 3))
            .primary_key(Index::create().col("reservation_id").col("ordinal"))
            .to_owned(),
        Table::create()
            .table(payment_attempts)
            .col(id("id").primary_key())
            .col(id("reservation_id"))
            .col(long("amount"))
            .col(text("currency", 3))
            .col(text("state", 16))
            .col(ColumnDef::new("ordinal").integer().null())
            .col(long("created_at"))
            .col(long_or_null("ended_at"))
            .to_owned(),
        Table::create()
            .table(refunds)
            .col(id("attempt_id").primary_key())
            .col(long("amount"))
            .col(text("currency", 3))
            .col(long("due_at"))
            .col(long_or_null("sent_at"))
            .to_owned(),
        Table::create()
            .table(idempotency_keys)
            .col(id("account_id"))
            .col(text("idem_key", 255))
            .col(ColumnDef::new("fingerprint").binary_len(32).not_null())
            .col(text("operation", 32))
            .col(id("subject_id"))
            .col(long("created_at"))
            .primary_key(Index::create().col("account_id").col("idem_key"))
            .to_owned(),
        Table::create()
            .table(ended_passes)
            .col(id("performance_id"))
            .col(long("number"))
            .col(long("ended_at"))
            .primary_key(Index::create().col("performance_id").col("number"))
            .to_owned(),
        Table::create().table(line_epoch).col(int("id").primary_key()).col(long("epoch")).to_owned(),
        Table::create()
            .table(lines)
            .col(id("performance_id").primary_key())
            .col(long("epoch"))
            .col(long("start"))
            .col(long("ceiling"))
            .col(long("serving"))
            .col(long("issued"))
            .col(long("waiting"))
            .col(long("active"))
            .col(long_or_null("active_until"))
            .to_owned(),
        Table::create()
            .table(line_grants)
            .col(id("performance_id"))
            .col(long("number"))
            .col(id("account_hash"))
            .col(long("expires_at"))
            .primary_key(Index::create().col("performance_id").col("number"))
            .to_owned(),
        Table::create()
            .table(admission_policies)
            .col(id("performance_id").primary_key())
            .col(long_or_null("capacity"))
            .col(long_or_null("rate_per_s"))
            .col(long_or_null("pass_ttl_ms"))
            .col(long_or_null("presence_window_ms"))
            .col(ColumnDef::new("state").string_len(16).null())
            .to_owned(),
        Table::create()
            .table(simulated_charges)
            .col(id("attempt_id").primary_key())
            .col(long("amount"))
            .col(text("currency", 3))
            .col(text("outcome", 16))
            .col(long("charged_at"))
            .col(long_or_null("refunded_at"))
            .to_owned(),
    ]
}

fn indexes() -> impl Iterator<Item = IndexCreateStatement> {
    let index = |name: &'static str, table: &'static str, columns: &[&'static str]| {
        let mut index = Index::create().name(name).table(table).to_owned();
        for column in columns {
            index.col(*column);
        }
        index
    };
    let mut seat_order = index("seats_order", "seats", &["performance_id", "seat_index"]);
    [
        index("performances_of_concert", "performances", &["concert_id", "id"]),
        // Finds the live lines by the end of the sale: few performances close later than now.
        index("performances_on_sale", "performances", &["sale_closes_at"]),
        seat_order.unique().to_owned(),
        // Counts seats from the index alone, with lapsed holds apart.
        index("seats_count", "seats", &["performance_id", "status", "held_until"]),
        index("seat_events_of_performance", "seat_events", &["performance_id", "id"]),
        index("sold_of_reservation", "sold", &["reservation_id"]),
        index("reservations_of_account", "reservations", &["account_id", "id"]),
        index("reservations_of_buyer", "reservations", &["performance_id", "account_id"]),
        index("reservations_to_expire", "reservations", &["state", "held_until"]),
        index("reservations_to_resolve", "reservations", &["state", "resolve_at"]),
        index("payment_attempts_of_reservation", "payment_attempts", &["reservation_id"]),
        index("refunds_due", "refunds", &["sent_at"]),
        index("line_grants_live", "line_grants", &["performance_id", "expires_at"]),
    ]
    .into_iter()
}

/// `SeatId::LEN_MAX` of the kernel.
const SEAT_LEN: u32 = 26;

fn id(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).binary_len(16).not_null().to_owned()
}

fn id_or_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).binary_len(16).null().to_owned()
}

fn text(name: &'static str, len: u32) -> ColumnDef {
    ColumnDef::new(name).string_len(len).not_null().to_owned()
}

fn int(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().not_null().to_owned()
}

fn long(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().to_owned()
}

fn long_or_null(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().to_owned()
}
