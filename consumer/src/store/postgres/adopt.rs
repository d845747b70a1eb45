//! Whether a table that exists already can be the trace table: pure checks, each with its remedy.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};

/// The table as the catalogue tells it.
#[derive(Clone, Debug)]
pub struct Table {
    /// `pg_class.relkind`: r for a table, p for a partitioned one.
    pub kind: String,
    /// `pg_class.relpersistence`: p for a durable one.
    pub persistence: String,
}

impl FromRow<'_, PgRow> for Table {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { kind: row.try_get("kind")?, persistence: row.try_get("persistence")? })
    }
}

/// A column as the catalogue tells it.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// As `format_type` writes it.
    pub data_type: String,
    pub nullable: bool,
    /// The default's expression, or nothing.
    pub default_value: String,
    /// Filled by an identity or computed.
    pub generated: bool,
}

impl FromRow<'_, PgRow> for Column {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            data_type: row.try_get("data_type")?,
            nullable: row.try_get("nullable")?,
            default_value: row.try_get("default_value")?,
            generated: row.try_get("generated")?,
        })
    }
}

/// The time in any of its spellings, as `pg_get_expr` writes them.
const NOW: [&str; 4] = ["now()", "current_timestamp", "localtimestamp", "_timestamp()"];

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
    check_table(table)?;
    check_foreign_columns(columns)?;
    let column = |name: &str| {
        columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| format!("it has no column {name}; add it, or name another table"))
    };
    check_type(column("id")?, "bigint", |found| found == "bigint")?;
    if !leading.iter().any(|name| name == "id") {
        return Err("no key begins with id; add PRIMARY KEY (id)".to_owned());
    }
    if let Some(index) = foreign_unique.first() {
        return Err(format!(
            "its unique index {index} does not contain id, so a span could be refused because of another one; \
             drop it or its constraint, and make an ordinary index where one is needed"
        ));
    }
    check_text(column("trace_id")?, MAX_TRACE_ID_CHARS)?;
    check_text(column("kind")?, MAX_KIND_CHARS)?;
    check_type(column("body")?, "text", |found| found == "text" || found == "character varying")?;
    let created_at = column("created_at")?;
    check_type(created_at, "timestamp with time zone", |found| found.starts_with("timestamp"))?;
    let default_value = created_at.default_value.to_lowercase();
    if !NOW.iter().any(|now| default_value.contains(now)) {
        return Err("created_at does not take the time by default, but rows come without it; \
             let it, with ALTER TABLE … ALTER created_at SET DEFAULT now()"
            .to_owned());
    }
    Ok(["trace_id", "created_at"]
        .into_iter()
        .filter(|name| !leading.iter().any(|leading| leading == name))
        .collect())
}

fn check_table(table: Option<&Table>) -> Result<(), String> {
    let table = table.ok_or("it does not exist; let it be created with `manageSchema: true`")?;
    if table.kind != "r" && table.kind != "p" {
        return Err("it is not a table (a view, or foreign); name the table itself".to_owned());
    }
    if table.persistence != "p" {
        return Err(
            "it is UNLOGGED or temporary and would be empty after a crash, while positions are not; \
             change it with ALTER TABLE … SET LOGGED"
                .to_owned(),
        );
    }
    Ok(())
}

/// Columns that no statement of ours fills must fill themselves, and the id must not.
fn check_foreign_columns(columns: &[Column]) -> Result<(), String> {
    const OURS: [&str; 5] = ["id", "trace_id", "kind", "body", "created_at"];
    for column in columns {
        let ours = OURS.contains(&column.name.as_str());
        let counts = column.name == "id" && (column.generated || column.default_value.contains("nextval("));
        if counts {
            return Err("its id is filled by a sequence, but ids are given out by streams; \
                 remove that with ALTER TABLE … ALTER id DROP IDENTITY or DROP DEFAULT"
                .to_owned());
        }
        if !ours && !column.nullable && column.default_value.is_empty() && !column.generated {
            return Err(format!(
                "its column {} is not known and has no default; give it one, or let it be NULL",
                column.name
            ));
        }
    }
    Ok(())
}

fn check_text(column: &Column, characters: usize) -> Result<(), String> {
    let expected = format!("character varying({characters})");
    check_type(column, &expected, |found| {
        let length = found.strip_prefix("character varying(").and_then(|rest| rest.strip_suffix(')'));
        match length {
            Some(length) => length.parse::<usize>().is_ok_and(|length| length >= characters),
            None => found == "text" || found == "character varying",
        }
    })
}

fn check_type(column: &Column, expected: &str, fits: impl Fn(&str) -> bool) -> Result<(), String> {
    if fits(&column.data_type) {
        return Ok(());
    }
    Err(format!(
        "expected {name} {expected}, found {found}; change it with ALTER TABLE … ALTER {name} TYPE {expected}",
        name = column.name,
        found = column.data_type
    ))
}
