//! Whether a table that exists already can be the trace table ([`sql::adopt`]): what PostgreSQL asks, and how it says so.
//!
//! [`sql::adopt`]: crate::store::sql::adopt

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};
use crate::store::sql::adopt::{self, Column, Found, Rules, counts, mistyped};

/// The table as the catalogue tells it.
#[derive(Clone, Debug)]
pub struct Table {
    /// `pg_class.relkind`: r for a table, p for a partitioned one.
    pub kind: String,
    /// `pg_class.relpersistence`: p for a durable one.
    pub persistence: String,
    /// A rule (`CREATE RULE`) on what is inserted.
    pub insert_rule: Option<String>,
    /// Whether row security is on, for whomever it is.
    pub is_secured: bool,
    /// Whether a policy lets somebody insert.
    pub has_insert_policy: bool,
}

impl FromRow<'_, PgRow> for Table {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            kind: row.try_get("kind")?,
            persistence: row.try_get("persistence")?,
            insert_rule: row.try_get("insert_rule")?,
            is_secured: row.try_get("is_secured")?,
            has_insert_policy: row.try_get("has_insert_policy")?,
        })
    }
}

const RULES: Rules<Column> = Rules {
    check_type,
    add_key: "add PRIMARY KEY (id)",
    drop_unique: |_| "drop it or its constraint, and make an ordinary index where one is needed".to_owned(),
    // As `pg_get_expr` writes them.
    now: &["now()", "current_timestamp", "localtimestamp", "_timestamp()"],
    no_time: Some(
        "created_at does not take the time by default, but rows come without it; \
         let it, with ALTER TABLE … ALTER created_at SET DEFAULT now()",
    ),
};

/// Checks a table. Returns the columns that reads need an index on and that have none.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check(table: Option<&Table>, found: &Found<Column>) -> Result<Vec<&'static str>, String> {
    check_table(table)?;
    check_id(&found.columns)?;
    adopt::check(found, &RULES)
}

fn check_table(table: Option<&Table>) -> Result<(), String> {
    let table = table.ok_or(adopt::MISSING)?;
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
    if let Some(rule) = &table.insert_rule {
        return Err(format!(
            "its rule {rule} would put something else in the place of rows; \
             remove it with DROP RULE {rule} ON …, and use a trigger or another table"
        ));
    }
    Ok(())
}

/// Whether row security, which is on for this user, lets nobody insert.
///
/// # Errors
/// It does, and the remedy.
pub fn check_policies(table: &Table) -> Result<(), String> {
    if table.has_insert_policy {
        return Ok(());
    }
    Err("its row security lets this user insert nothing; CREATE POLICY … FOR INSERT … WITH CHECK (true), or let the user \
         pass by it (BYPASSRLS)"
        .to_owned())
}

/// The id must not fill itself.
fn check_id(columns: &[Column]) -> Result<(), String> {
    let is_filled = |column: &Column| column.generated || column.default_value.contains("nextval(");
    if columns.iter().any(|column| column.name == "id" && is_filled(column)) {
        let remedy = "remove that with ALTER TABLE … ALTER id DROP IDENTITY or DROP DEFAULT";
        return Err(counts("its id is filled by a sequence", remedy));
    }
    Ok(())
}

fn check_type(column: &Column) -> Result<(), String> {
    let found = column.data_type.as_str();
    let (expected, fits) = match column.name.as_str() {
        "id" => ("bigint".to_owned(), found == "bigint"),
        "trace_id" => text(found, MAX_TRACE_ID_CHARS),
        "kind" => text(found, MAX_KIND_CHARS),
        "body" => ("text".to_owned(), found == "text" || found == "character varying"),
        _ => ("timestamp with time zone".to_owned(), found.starts_with("timestamp")),
    };
    if fits {
        return Ok(());
    }
    let name = &column.name;
    let remedy = format_args!("change it with ALTER TABLE … ALTER {name} TYPE {expected}");
    Err(mistyped(name, &expected, found, remedy))
}

/// The type of a text of so many characters, and whether the one that was found has room for them.
fn text(found: &str, characters: usize) -> (String, bool) {
    let length = found.strip_prefix("character varying(").and_then(|rest| rest.strip_suffix(')'));
    let fits = match length {
        Some(length) => length.parse::<usize>().is_ok_and(|length| length >= characters),
        None => found == "text" || found == "character varying",
    };
    (format!("character varying({characters})"), fits)
}
