//! Whether a table that exists already can be the trace table ([`sql::adopt`]): what MySQL asks, and how it says so.
//!
//! [`sql::adopt`]: crate::store::sql::adopt

use sqlx::mysql::MySqlRow;
use sqlx::{FromRow, Row};

use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};
use crate::store::sql::adopt::{self, Found, Rules, counts, mistyped, takes_the_time};

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
    /// What every catalogue tells.
    pub common: adopt::Column,
    /// Its type without a length.
    pub bare_type: String,
    /// In characters; 0 where it means nothing.
    pub length: u64,
    /// Empty where it means nothing.
    pub character_set: String,
    /// Given out by the server, ascending.
    pub counts: bool,
}

impl AsRef<adopt::Column> for Column {
    fn as_ref(&self) -> &adopt::Column {
        &self.common
    }
}

impl FromRow<'_, MySqlRow> for Column {
    fn from_row(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        let extra: String = row.try_get("extra")?;
        Ok(Self {
            common: adopt::Column {
                name: row.try_get("name")?,
                data_type: row.try_get("column_type")?,
                nullable: row.try_get("nullable")?,
                default_value: row.try_get("default_value")?,
                generated: is_generated(&extra),
            },
            bare_type: row.try_get("data_type")?,
            length: row.try_get("length")?,
            character_set: row.try_get("character_set")?,
            counts: extra.contains("auto_increment"),
        })
    }
}

/// Computed from others. MySQL says `default_generated` of a default that is an expression, which is none.
fn is_generated(extra: &str) -> bool {
    ["virtual generated", "stored generated"].iter().any(|kind| extra.contains(kind))
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

const RULES: Rules<Column> = Rules {
    check_type,
    add_key: "add PRIMARY KEY (id)",
    drop_unique: |index| {
        format!("make it an ordinary index with ALTER TABLE … DROP INDEX {index}, ADD INDEX {index} (…)")
    },
    now: &["current_timestamp", "now(", "localtime", "utc_timestamp", "sysdate"],
    no_time: None,
};

/// Checks a table.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(table: Option<&Table>, found: &Found<Column>) -> Result<Adopted, String> {
    check_table(table)?;
    check_counting(&found.columns)?;
    let missing_indexes = adopt::check(found, &RULES)?;
    let (trace_id, kind, body) = (found.column("trace_id")?, found.column("kind")?, found.column("body")?);
    Ok(Adopted {
        fills_created_at: takes_the_time(&found.column("created_at")?.common, RULES.now),
        max_body_bytes: usize::try_from(body.length).unwrap_or(usize::MAX),
        is_utf8: are_utf8([trace_id, kind, body]),
        missing_indexes,
    })
}

fn are_utf8(columns: [&Column; 3]) -> bool {
    columns.iter().all(|column| column.character_set == "utf8mb4")
}

fn check_table(table: Option<&Table>) -> Result<(), String> {
    let table = table.ok_or(adopt::MISSING)?;
    if table.table_type != "BASE TABLE" {
        return Err(adopt::no_table(&table.table_type));
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

fn check_counting(columns: &[Column]) -> Result<(), String> {
    let Some(counting) = columns.iter().find(|column| column.counts) else { return Ok(()) };
    let name = &counting.common.name;
    let remedy = format_args!("remove it with ALTER TABLE … MODIFY {name} bigint unsigned NOT NULL");
    Err(counts(&format!("its column {name} is AUTO_INCREMENT"), remedy))
}

fn check_type(column: &Column) -> Result<(), String> {
    const TEXTS: [&str; 3] = ["text", "mediumtext", "longtext"];
    let bare_type = column.bare_type.as_str();
    let text = |characters: usize| {
        let has_room = usize::try_from(column.length).is_ok_and(|length| length >= characters);
        let fits = has_room && (bare_type == "varchar" || TEXTS.contains(&bare_type));
        (format!("varchar({characters})"), fits)
    };
    let adopt::Column { name, data_type, generated, .. } = &column.common;
    let (expected, fits) = match name.as_str() {
        "id" => ("bigint unsigned".to_owned(), bare_type == "bigint"),
        "trace_id" => text(MAX_TRACE_ID_CHARS),
        "kind" => text(MAX_KIND_CHARS),
        "body" => ("longtext".to_owned(), TEXTS.contains(&bare_type)),
        _ => ("timestamp".to_owned(), matches!(bare_type, "timestamp" | "datetime")),
    };
    if fits && !generated {
        return Ok(());
    }
    let remedy = format_args!("change it with ALTER TABLE … MODIFY {name} {expected}");
    Err(mistyped(name, &expected, data_type, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, bare_type: &str, default_value: &str, extra: &str) -> Column {
        Column {
            common: adopt::Column {
                name: name.to_owned(),
                data_type: bare_type.to_owned(),
                nullable: false,
                default_value: default_value.to_owned(),
                generated: is_generated(extra),
            },
            bare_type: bare_type.to_owned(),
            length: 1 << 16,
            character_set: "utf8mb4".to_owned(),
            counts: false,
        }
    }

    fn look(created_at: Column, foreign_unique: &[&str]) -> Result<Adopted, String> {
        let table =
            Table { table_type: "BASE TABLE".to_owned(), engine: "InnoDB".to_owned(), transactional: true };
        let found = Found {
            columns: vec![
                column("id", "bigint", "", ""),
                column("trace_id", "varchar", "", ""),
                column("kind", "varchar", "", ""),
                column("body", "longtext", "", ""),
                created_at,
            ],
            leading: vec!["id".to_owned()],
            foreign_unique: foreign_unique.iter().map(|name| (*name).to_owned()).collect(),
        };
        check(Some(&table), &found)
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
