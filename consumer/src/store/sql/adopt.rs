//! Whether a table that exists already can be the trace table: what every backend asks of it, each with its remedy.
//!
//! Pure: a backend reads its catalogue into [`Found`], looks itself at what only it knows of (engines, sequences), and
//! gives what depends on its dialect as [`Rules`].

use std::fmt::Display;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use crate::store::{ErrorKind, StoreError, TableName};

/// The columns that statements name.
pub const COLUMNS: [&str; 5] = ["id", "trace_id", "kind", "body", "created_at"];
/// Those of them that reads need an index on.
pub const INDEXED: [&str; 2] = ["trace_id", "created_at"];

/// What is said of a table that is not there.
pub const MISSING: &str = "it does not exist; let it be created with `manageSchema: true`";

/// A column as every catalogue tells it.
#[derive(Clone, Debug)]
pub struct Column {
    /// In lower case where the database does not tell cases apart.
    pub name: String,
    /// As it was declared.
    pub data_type: String,
    pub nullable: bool,
    /// The default's text; empty where there is none, or NULL.
    pub default_value: String,
    /// Filled by an identity or computed.
    pub generated: bool,
}

impl<'r, R> FromRow<'r, R> for Column
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            data_type: row.try_get("data_type")?,
            nullable: row.try_get("nullable")?,
            default_value: row.try_get("default_value")?,
            generated: row.try_get("generated")?,
        })
    }
}

impl AsRef<Self> for Column {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// A table that exists. `C` is [`Column`], or one of which a backend knows more.
#[derive(Debug)]
pub struct Found<C> {
    pub columns: Vec<C>,
    /// The first columns of its indexes.
    pub leading: Vec<String>,
    /// Its unique indexes without `id`.
    pub foreign_unique: Vec<String>,
}

impl<C: AsRef<Column>> Found<C> {
    /// One of [`COLUMNS`].
    ///
    /// # Errors
    /// It is not there, and the remedy.
    pub fn column(&self, name: &str) -> Result<&C, String> {
        self.columns
            .iter()
            .find(|column| column.as_ref().name == name)
            .ok_or_else(|| format!("it has no column {name}; add it, or name another table"))
    }

    fn has_index_on(&self, name: &str) -> bool {
        self.leading.iter().any(|leading| leading == name)
    }
}

/// What depends on the dialect.
pub struct Rules<C> {
    /// Whether one of [`COLUMNS`] can hold what is written to it; [`mistyped`] says so where it cannot.
    pub check_type: fn(&C) -> Result<(), String>,
    /// How the table gets a key of ids.
    pub add_key: &'static str,
    /// How it gets rid of a unique index.
    pub drop_unique: fn(&str) -> String,
    /// The time in any of the spellings that a default may have, in lower case.
    pub now: &'static [&'static str],
    /// What to say where `created_at` does not take the time by default; none where rows bring it then.
    pub no_time: Option<&'static str>,
}

/// Compares a table that is there with what it must be. Returns the columns that reads need an index on and that have
/// none.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn check<C: AsRef<Column>>(found: &Found<C>, rules: &Rules<C>) -> Result<Vec<&'static str>, String> {
    check_foreign_columns(&found.columns)?;
    (rules.check_type)(found.column("id")?)?;
    if !found.has_index_on("id") {
        return Err(format!("no key begins with id; {}", rules.add_key));
    }
    if let Some(index) = found.foreign_unique.first() {
        return Err(format!(
            "its unique index {index} does not contain id, so a span could be refused because of another one; {}",
            (rules.drop_unique)(index)
        ));
    }
    for name in &COLUMNS[1..] {
        (rules.check_type)(found.column(name)?)?;
    }
    match rules.no_time {
        Some(why) if !takes_the_time(found.column("created_at")?.as_ref(), rules.now) => Err(why.to_owned()),
        _ => Ok(INDEXED.into_iter().filter(|name| !found.has_index_on(name)).collect()),
    }
}

/// Columns that no statement of ours fills must fill themselves.
fn check_foreign_columns<C: AsRef<Column>>(columns: &[C]) -> Result<(), String> {
    let unfilled = columns.iter().map(AsRef::as_ref).find(|column| {
        !COLUMNS.contains(&column.name.as_str())
            && !column.nullable
            && column.default_value.is_empty()
            && !column.generated
    });
    match unfilled {
        Some(column) => Err(format!(
            "its column {} is not known and has no default; give it one, or let it be NULL",
            column.name
        )),
        None => Ok(()),
    }
}

/// Whether a column's default is the time, in one of these spellings.
pub fn takes_the_time(column: &Column, now: &[&str]) -> bool {
    let default_value = column.default_value.to_lowercase();
    now.iter().any(|now| default_value.contains(now))
}

/// Says that something is not a table, but of another `kind`.
pub fn no_table(kind: &str) -> String {
    format!("it is a {kind}, not a table; name the table itself")
}

/// Says that the database gives out numbers, and how to end that.
pub fn counts(what: &str, remedy: impl Display) -> String {
    format!("{what}, but ids are given out by streams; {remedy}")
}

/// Says that a column has another type, and how to change it.
pub fn mistyped(name: &str, expected: &str, found: impl Display, remedy: impl Display) -> String {
    format!("expected {name} {expected}, found {found}; {remedy}")
}

/// The error for a table that cannot be used, from why not.
pub fn unusable(table: &TableName) -> impl Fn(String) -> StoreError + Copy {
    move |why| StoreError::new(ErrorKind::Schema, format!("cannot use the table {table}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<Column> = Rules {
        check_type: |column| match column.data_type.as_str() {
            "good" => Ok(()),
            found => Err(mistyped(&column.name, "good", found, "change it")),
        },
        add_key: "add one",
        drop_unique: |index| format!("drop {index}"),
        now: &["now()"],
        no_time: Some("created_at does not take the time"),
    };

    fn column(name: &str) -> Column {
        let default_value = if name == "created_at" { "NOW()" } else { "" };
        Column {
            name: name.to_owned(),
            data_type: "good".to_owned(),
            nullable: false,
            default_value: default_value.to_owned(),
            generated: false,
        }
    }

    fn table() -> Found<Column> {
        Found {
            columns: COLUMNS.map(column).into(),
            leading: ["id", "created_at"].map(str::to_owned).into(),
            foreign_unique: Vec::new(),
        }
    }

    /// What is said of the table after a change.
    fn refusal(change: impl FnOnce(&mut Found<Column>)) -> String {
        let mut found = table();
        change(&mut found);
        check(&found, &RULES).unwrap_err()
    }

    #[test]
    fn a_table_that_fits_is_used_and_the_indexes_that_it_lacks_are_named() {
        assert_eq!(check(&table(), &RULES), Ok(vec!["trace_id"]));
    }

    #[test]
    fn each_column_is_needed_and_must_hold_what_is_written_to_it() {
        for (at, name) in COLUMNS.into_iter().enumerate() {
            let why = refusal(|found| drop(found.columns.remove(at)));
            assert_eq!(why, format!("it has no column {name}; add it, or name another table"));
            let why = refusal(|found| found.columns[at].data_type = "bad".to_owned());
            assert_eq!(why, format!("expected {name} good, found bad; change it"));
        }
    }

    #[test]
    fn ids_need_a_key_and_nothing_else_may_be_unique() {
        assert_eq!(refusal(|found| drop(found.leading.remove(0))), "no key begins with id; add one");
        let why = refusal(|found| found.foreign_unique.push("one_a_trace".to_owned()));
        assert!(why.contains("index one_a_trace does not") && why.ends_with("; drop one_a_trace"), "{why}");
    }

    #[test]
    fn a_column_of_others_must_fill_itself() {
        let filled = |change: fn(&mut Column)| {
            let mut other = column("owner");
            change(&mut other);
            let mut found = table();
            found.columns.push(other);
            check(&found, &RULES)
        };
        assert!(filled(|_| ()).unwrap_err().starts_with("its column owner is not known"));
        for change in [
            (|other| other.nullable = true) as fn(&mut Column),
            |other| other.default_value = "''".to_owned(),
            |other| other.generated = true,
        ] {
            assert_eq!(filled(change), Ok(vec!["trace_id"]));
        }
    }

    #[test]
    fn rows_need_their_time_from_the_table_only_where_they_do_not_bring_it() {
        let mut found = table();
        found.columns[4].default_value = "'2000-01-01'".to_owned();
        assert_eq!(check(&found, &RULES).unwrap_err(), "created_at does not take the time");
        assert!(check(&found, &Rules { no_time: None, ..RULES }).is_ok());
    }
}
