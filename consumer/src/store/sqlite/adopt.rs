//! Whether a table that exists already can be the trace table ([`sql::adopt`]): what SQLite asks, and how it says so.
//!
//! [`sql::adopt`]: crate::store::sql::adopt

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::store::sql::adopt::{self, Column, Found, Rules, counts, mistyped};

/// The table as `sqlite_schema` tells it.
#[derive(Clone, Debug)]
pub struct Table {
    /// `table` or `view`.
    pub kind: String,
    /// The statement that made it.
    pub sql: String,
}

impl FromRow<'_, SqliteRow> for Table {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self { kind: row.try_get("kind")?, sql: row.try_get("sql")? })
    }
}

const RULES: Rules<Column> = Rules {
    check_type,
    add_key: "copy its rows into a table with id INTEGER PRIMARY KEY",
    drop_unique: |_| "drop it, or copy the rows into a table without it".to_owned(),
    now: &["current_timestamp", "'now'", "datetime()", "strftime(", "unixepoch()"],
    no_time: Some(
        "created_at does not take the time by default; copy its rows into a table where it does \
         (DEFAULT CURRENT_TIMESTAMP)",
    ),
};

/// Checks a table. Returns the columns that reads need an index on and that have none.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(table: Option<&Table>, found: &Found<Column>) -> Result<Vec<&'static str>, String> {
    let table = table.ok_or(adopt::MISSING)?;
    if table.kind != "table" {
        return Err(adopt::no_table(&table.kind));
    }
    if table.sql.to_ascii_uppercase().contains("AUTOINCREMENT") {
        return Err(counts("its id is AUTOINCREMENT", "copy its rows into a table without"));
    }
    adopt::check(found, &RULES)
}

/// How far `created_at` may lie from now when it fills itself: a local time, cut to its day.
const DAYS_SECONDS: f64 = 2.0 * 86_400.0;

/// Checks what the default of `created_at` is now, as it is read afterwards: seconds from now, nothing where it cannot be
/// read.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check_default(seconds_off: Option<f64>) -> Result<(), String> {
    if seconds_off.is_some_and(|seconds| seconds.abs() < DAYS_SECONDS) {
        return Ok(());
    }
    Err("created_at takes the time by default, but in a form that cannot be read: expected a date and time, seconds since \
         1970 or a Julian day; copy its rows into a table with DEFAULT CURRENT_TIMESTAMP"
        .to_owned())
}

/// A text in a column of numeric affinity would become a number where it looks like one.
fn check_type(column: &Column) -> Result<(), String> {
    let declared = column.data_type.to_ascii_uppercase();
    let is_text = declared.contains("CHAR") || declared.contains("TEXT") || declared.contains("CLOB");
    let (fits, expected) = match column.name.as_str() {
        "id" => (declared.contains("INT"), "INTEGER"),
        "created_at" => (!declared.contains("BLOB"), "TEXT"),
        _ => (is_text, "TEXT"),
    };
    if fits && !column.generated {
        return Ok(());
    }
    // In quotes: it may have been declared without a type.
    let found = format_args!("{:?}", column.data_type);
    Err(mistyped(&column.name, expected, found, "copy its rows into a table with that type"))
}
