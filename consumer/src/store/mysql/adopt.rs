//! Whether a table that exists already can be the trace table: pure checks, each with its remedy.

use sqlx::mysql::MySqlRow;
use sqlx::{FromRow, Row};

use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};

/// The table as `information_schema` tells it.
#[derive(Clone, Debug)]
pub struct Table {
    pub table_type: String,
    pub engine: String,
    pub transactional: bool,
}

impl FromRow<'_, MySqlRow> for Table {
    fn from_row(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            table_type: row.try_get("table_type")?,
            engine: row.try_get("engine")?,
            transactional: row.try_get("transactional")?,
        })
    }
}

/// A column as `information_schema` tells it; names and types in lower case.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub column_type: String,
    pub data_type: String,
    /// In characters; 0 where it means nothing.
    pub length: u64,
    /// Empty where it means nothing.
    pub character_set: String,
    pub nullable: bool,
    /// The default's text; empty where there is none, or NULL.
    pub default_value: String,
    pub extra: String,
}

impl Column {
    /// Computed from others. MySQL says `default_generated` of a default that is an expression, which is none.
    fn is_generated(&self) -> bool {
        ["virtual generated", "stored generated"].iter().any(|kind| self.extra.contains(kind))
    }

    /// Filled by the database with something.
    fn has_default(&self) -> bool {
        !self.default_value.is_empty()
    }
}

impl FromRow<'_, MySqlRow> for Column {
    fn from_row(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            column_type: row.try_get("column_type")?,
            data_type: row.try_get("data_type")?,
            length: row.try_get("length")?,
            character_set: row.try_get("character_set")?,
            nullable: row.try_get("nullable")?,
            default_value: row.try_get("default_value")?,
            extra: row.try_get("extra")?,
        })
    }
}

/// What the store must know about a table that it can use.
#[derive(Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whether `created_at` has a default that fills it with the time.
    pub fills_created_at: bool,
    /// What `body` has room for.
    pub max_body_bytes: usize,
    /// Whether texts are kept as the bytes that they have here.
    pub is_utf8: bool,
    /// Columns that reads need an index on.
    pub missing_indexes: Vec<&'static str>,
}

/// The time in any of its spellings.
const NOW: [&str; 5] = ["current_timestamp", "now(", "localtime", "utc_timestamp", "sysdate"];

/// Checks a table; `leading` are the first columns of its indexes, `foreign_unique` its unique ones without `id`.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(
    table: Option<&Table>,
    columns: &[Column],
    leading: &[String],
    foreign_unique: &[String],
) -> Result<Adopted, String> {
    check_engine(table)?;
    check_foreign_columns(columns)?;
    let column = |name: &str| {
        columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| format!("it has no column {name}; add it, or name another table"))
    };
    check_type(column("id")?, "bigint unsigned", |column| column.data_type == "bigint")?;
    if !leading.iter().any(|name| name == "id") {
        return Err("no key begins with id; add PRIMARY KEY (id)".to_owned());
    }
    if let Some(index) = foreign_unique.first() {
        return Err(format!(
            "its unique index {index} does not contain id, so a span could be refused because of another one; \
             make it an ordinary index with ALTER TABLE … DROP INDEX {index}, ADD INDEX {index} (…)"
        ));
    }
    let (trace_id, kind, body) = (column("trace_id")?, column("kind")?, column("body")?);
    check_text(trace_id, MAX_TRACE_ID_CHARS)?;
    check_text(kind, MAX_KIND_CHARS)?;
    check_type(body, "longtext", |column| {
        matches!(column.data_type.as_str(), "longtext" | "mediumtext" | "text")
    })?;
    let created_at = column("created_at")?;
    check_type(created_at, "timestamp", |column| {
        matches!(column.data_type.as_str(), "timestamp" | "datetime")
    })?;
    Ok(Adopted {
        fills_created_at: NOW.iter().any(|now| created_at.default_value.contains(now)),
        max_body_bytes: usize::try_from(body.length).unwrap_or(usize::MAX),
        is_utf8: are_utf8([trace_id, kind, body]),
        missing_indexes: ["trace_id", "created_at"]
            .into_iter()
            .filter(|name| !leading.iter().any(|leading| leading == name))
            .collect(),
    })
}

fn are_utf8(columns: [&Column; 3]) -> bool {
    columns.iter().all(|column| column.character_set == "utf8mb4")
}

fn check_engine(table: Option<&Table>) -> Result<(), String> {
    let table = table.ok_or("it does not exist; let it be created with `manageSchema: true`")?;
    if table.table_type != "BASE TABLE" {
        return Err(format!("it is a {}, not a table; name the table itself", table.table_type));
    }
    if !table.transactional {
        return Err(format!(
            "its engine {} knows no transactions, so a batch could be stored by halves; \
             convert it with ALTER TABLE … ENGINE=InnoDB",
            table.engine
        ));
    }
    Ok(())
}

/// Columns that no statement of ours fills must fill themselves, and none may count.
fn check_foreign_columns(columns: &[Column]) -> Result<(), String> {
    const OURS: [&str; 5] = ["id", "trace_id", "kind", "body", "created_at"];
    if let Some(counting) = columns.iter().find(|column| column.extra.contains("auto_increment")) {
        return Err(format!(
            "its column {name} is AUTO_INCREMENT, but ids are given out by streams; \
             remove it with ALTER TABLE … MODIFY {name} bigint unsigned NOT NULL",
            name = counting.name
        ));
    }
    let unfilled = columns.iter().find(|column| {
        !OURS.contains(&column.name.as_str())
            && !column.nullable
            && !column.has_default()
            && !column.is_generated()
    });
    match unfilled {
        Some(column) => Err(format!(
            "its column {} is not known and has no default; give it one, or let it be NULL",
            column.name
        )),
        None => Ok(()),
    }
}

fn check_text(column: &Column, characters: usize) -> Result<(), String> {
    let expected = format!("varchar({characters})");
    check_type(column, &expected, |column| {
        matches!(column.data_type.as_str(), "varchar" | "text" | "mediumtext" | "longtext")
            && usize::try_from(column.length).is_ok_and(|length| length >= characters)
    })
}

fn check_type(column: &Column, expected: &str, fits: impl Fn(&Column) -> bool) -> Result<(), String> {
    if fits(column) && !column.is_generated() {
        return Ok(());
    }
    Err(format!(
        "expected {name} {expected}, found {found}; change it with ALTER TABLE … MODIFY {name} {expected}",
        name = column.name,
        found = column.column_type
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data_type: &str, default_value: &str, extra: &str) -> Column {
        Column {
            name: name.to_owned(),
            column_type: data_type.to_owned(),
            data_type: data_type.to_owned(),
            length: 1 << 16,
            character_set: "utf8mb4".to_owned(),
            nullable: false,
            default_value: default_value.to_owned(),
            extra: extra.to_owned(),
        }
    }

    fn look(created_at: Column, foreign_unique: &[&str]) -> Result<Adopted, String> {
        let table =
            Table { table_type: "BASE TABLE".to_owned(), engine: "InnoDB".to_owned(), transactional: true };
        let columns = [
            column("id", "bigint", "", ""),
            column("trace_id", "varchar", "", ""),
            column("kind", "varchar", "", ""),
            column("body", "longtext", "", ""),
            created_at,
        ];
        let foreign_unique: Vec<String> = foreign_unique.iter().map(|name| (*name).to_owned()).collect();
        check(Some(&table), &columns, &["id".to_owned()], &foreign_unique)
    }

    #[test]
    fn a_default_as_mysql_8_reports_it_is_no_computed_column() {
        let created_at = column("created_at", "timestamp", "current_timestamp", "default_generated");
        assert!(look(created_at, &[]).unwrap().fills_created_at);
        let computed = column("created_at", "timestamp", "", "stored generated");
        assert!(look(computed, &[]).is_err());
    }

    #[test]
    fn only_a_default_that_is_the_time_fills_the_time() {
        for (default_value, fills) in
            [("current_timestamp(3)", true), ("now()", true), ("'2000-01-01 00:00:00'", false), ("", false)]
        {
            let created_at = column("created_at", "datetime", default_value, "");
            assert_eq!(look(created_at, &[]).unwrap().fills_created_at, fills, "{default_value}");
        }
    }

    #[test]
    fn texts_may_be_sent_as_bytes_only_where_every_column_keeps_them_as_such() {
        let mut texts = ["trace_id", "kind", "body"].map(|name| column(name, "longtext", "", ""));
        assert!(are_utf8(texts.each_ref()));
        texts[1].character_set = "latin1".to_owned();
        assert!(!are_utf8(texts.each_ref()));
        // utf8mb3 lacks the characters beyond its three bytes: the server is to say so of a text.
        texts[1].character_set = "utf8mb3".to_owned();
        assert!(!are_utf8(texts.each_ref()));
    }

    #[test]
    fn a_unique_index_without_the_id_is_refused_by_name() {
        let created_at = column("created_at", "timestamp", "current_timestamp()", "");
        let why = look(created_at, &["one_a_trace"]).unwrap_err();
        assert!(why.contains("DROP INDEX one_a_trace"), "{why}");
    }
}
