//! Whether a table that exists already can be the trace table: pure checks, each with its remedy.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

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

/// A column as `pragma_table_xinfo` tells it.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// As declared.
    pub data_type: String,
    pub nullable: bool,
    /// The default's text, or nothing.
    pub default_value: String,
    pub generated: bool,
    pub primary_key: bool,
}

impl FromRow<'_, SqliteRow> for Column {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            data_type: row.try_get("data_type")?,
            nullable: row.try_get("nullable")?,
            default_value: row.try_get("default_value")?,
            generated: row.try_get("generated")?,
            primary_key: row.try_get("primary_key")?,
        })
    }
}

/// The time in any of its spellings.
const NOW: [&str; 5] = ["current_timestamp", "'now'", "datetime()", "strftime(", "unixepoch()"];

/// Checks a table; `leading` are the first columns of its indexes, `foreign_unique` its unique ones without `id`.
/// Returns the columns that reads need an index on and that have none.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(
    table: Option<&Table>,
    columns: &[Column],
    leading: &[String],
    foreign_unique: &[String],
) -> Result<Vec<&'static str>, String> {
    const OURS: [&str; 5] = ["id", "trace_id", "kind", "body", "created_at"];
    let table = table.ok_or("it does not exist; let it be created with `manageSchema: true`")?;
    if table.kind != "table" {
        return Err(format!("it is a {}, not a table; name the table itself", table.kind));
    }
    if table.sql.to_ascii_uppercase().contains("AUTOINCREMENT") {
        return Err("its id is AUTOINCREMENT, but ids are given out by streams; \
             copy its rows into a table without"
            .to_owned());
    }
    for name in OURS {
        let column = columns.iter().find(|column| column.name == name);
        let column =
            column.ok_or_else(|| format!("it has no column {name}; add it, or name another table"))?;
        check_affinity(column)?;
    }
    let is_key = |name: &str| columns.iter().any(|column| column.name == name && column.primary_key);
    if !is_key("id") && !leading.iter().any(|name| name == "id") {
        return Err(
            "no key begins with id; copy its rows into a table with id INTEGER PRIMARY KEY".to_owned()
        );
    }
    if let Some(index) = foreign_unique.first() {
        return Err(format!(
            "its unique index {index} does not contain id, so a span could be refused because of another one; \
             drop it, or copy the rows into a table without it"
        ));
    }
    let takes_the_time = |column: &Column| {
        let default_value = column.default_value.to_lowercase();
        NOW.iter().any(|now| default_value.contains(now))
    };
    if columns.iter().any(|column| column.name == "created_at" && !takes_the_time(column)) {
        return Err(
            "created_at does not take the time by default; copy its rows into a table where it does \
             (DEFAULT CURRENT_TIMESTAMP)"
                .to_owned(),
        );
    }
    let unfilled = columns.iter().find(|column| {
        !OURS.contains(&column.name.as_str())
            && !column.nullable
            && column.default_value.is_empty()
            && !column.generated
    });
    if let Some(column) = unfilled {
        return Err(format!(
            "its column {} is not known and has no default; give it one, or let it be NULL",
            column.name
        ));
    }
    Ok(["trace_id", "created_at"]
        .into_iter()
        .filter(|name| !leading.iter().any(|leading| leading == name))
        .collect())
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
fn check_affinity(column: &Column) -> Result<(), String> {
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
    Err(format!(
        "expected {} {expected}, found {:?}; copy its rows into a table with that type",
        column.name, column.data_type
    ))
}
