//! What PostgreSQL's error codes (SQLSTATE) mean for a batch.
//!
//! Codes: appendix A of PostgreSQL's manual.

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::store::sql::Told;
use crate::store::{ErrorKind, StoreError};

/// Adds to a driver's error what was being done, what it means, and the remedy where the error itself does not tell.
pub fn store_error(doing: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| {
        let remedy = error.as_database_error().and_then(|reported| remedy_for(&reported.code()?));
        let context = remedy.map_or_else(|| doing.to_owned(), |remedy| format!("{doing}: {remedy}"));
        StoreError::with_source(kind_of(&error), context, Told(error))
    }
}

/// A prepared statement that is there already, or is not there: only a pooler changes a client's session.
fn remedy_for(code: &str) -> Option<&'static str> {
    matches!(code, "42P05" | "26000").then_some(
        "a connection pooler gives every transaction another session; have it pool sessions (pool_mode = session), or \
         let it keep prepared statements (PgBouncer 1.21 or newer: max_prepared_statements)",
    )
}

/// What the server reports of an error beside its text.
#[derive(Clone, Copy, Debug, Default)]
struct Report<'a> {
    code: &'a str,
    /// The server's function that has reported it, the same in each language.
    routine: &'a str,
    /// For a duplicate: `Key (id)=(7) already exists.`, in the server's language.
    detail: Option<&'a str>,
    /// What was being done within the statement, innermost first: functions, COPY.
    within: Option<&'a str>,
}

/// The meaning of an error; a code that nobody has named waits.
pub fn kind_of(error: &Error) -> ErrorKind {
    let Error::Database(reported) = error else { return ErrorKind::Unavailable };
    let Some(reported) = reported.try_downcast_ref::<PgDatabaseError>() else {
        return ErrorKind::Unavailable;
    };
    kind_of_report(Report {
        code: reported.code(),
        routine: reported.routine().unwrap_or_default(),
        detail: reported.detail(),
        within: reported.r#where(),
    })
}

/// See [`kind_of`]. A code alone does not tell what a trigger has raised, or a policy refused, or where a duplicate is.
fn kind_of_report(report: Report<'_>) -> ErrorKind {
    match (kind_of_code(report.code), report.routine) {
        (ErrorKind::DuplicateId, _) if !is_of_an_id(report) => ErrorKind::Constraint,
        // RAISE, with a code of its own.
        (ErrorKind::Unavailable, "exec_stmt_raise") if !tells_to_wait(report.code) => ErrorKind::Constraint,
        // A policy's WITH CHECK.
        (ErrorKind::Unavailable, "ExecWithCheckOptions") => ErrorKind::Constraint,
        (kind, _) => kind,
    }
}

/// Whether a duplicate is one of a row's id, as far as it can be told: not one in a table that a trigger writes to, nor
/// in an index of other columns.
fn is_of_an_id(report: Report<'_>) -> bool {
    let innermost = report.within.and_then(|within| within.lines().next());
    if innermost.is_some_and(|doing| !doing.contains("COPY")) {
        return false;
    }
    let columns = report.detail.and_then(|detail| detail.split_once(")=(")?.0.split_once('('));
    columns.is_none_or(|(_, columns)| columns.split(", ").any(|column| column == "id"))
}

/// Classes by which also a trigger says that the database, and not the row, is to blame: connection, state of the
/// transaction, resources, intervention, system, internal.
fn tells_to_wait(code: &str) -> bool {
    ["08", "25", "40", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class))
}

/// See [`kind_of`].
pub fn kind_of_code(code: &str) -> ErrorKind {
    match code {
        // Serialisation failure, deadlock, lock time-out.
        "40001" | "40P01" | "55P03" => ErrorKind::Conflict,
        "23505" => ErrorKind::DuplicateId,
        // Program limit exceeded: a field or row beyond 1 GiB, or a value that an index has no room for.
        "54000" => ErrorKind::TooLarge,
        // NOT NULL, exclusion.
        "23000" | "23502" | "23P01" => ErrorKind::Refused,
        // Foreign key; CHECK and "no partition of relation found for row"; a trigger's RAISE.
        "23503" | "23514" | "P0001" => ErrorKind::Constraint,
        // Class 22, data exception: too long, out of range, a character that the encoding lacks, NUL.
        code if code.starts_with("22") => ErrorKind::Refused,
        // Everything else waits. Known members: 08 connection, 25006 read-only, 25P03 idle in transaction for
        // too long, 28 authentication, 3D000 no such database, 42501 no right, 42703 and 42P01 no such column
        // or table, 53 resources (disk full, out of memory, too many connections), 57 intervention (shutting
        // down, statement time-out), 58 system error, XX internal error.
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_wait() {
        assert_eq!(kind_of_code("ZZ999"), ErrorKind::Unavailable);
        assert_eq!(kind_of(&Error::PoolTimedOut), ErrorKind::Unavailable);
    }

    #[test]
    fn a_lost_session_has_a_remedy() {
        assert!(["42P05", "26000"].into_iter().all(|code| remedy_for(code).is_some()));
        assert_eq!(remedy_for("42P01"), None);
    }

    #[test]
    fn what_a_trigger_raises_and_a_policy_refuses_is_a_rule_whatever_its_code() {
        let kind = |code, routine| kind_of_report(Report { code, routine, ..Report::default() });
        assert_eq!(kind("APP01", "exec_stmt_raise"), ErrorKind::Constraint);
        assert_eq!(kind("42501", "ExecWithCheckOptions"), ErrorKind::Constraint);
        assert_eq!(kind("42501", "aclcheck_error"), ErrorKind::Unavailable);
        assert_eq!(kind("APP01", "exec_simple_query"), ErrorKind::Unavailable);
        assert_eq!(kind("40001", "exec_stmt_raise"), ErrorKind::Conflict);
        assert_eq!(kind("53100", "exec_stmt_raise"), ErrorKind::Unavailable);
    }

    #[test]
    fn a_duplicate_beside_the_ids_is_a_rule() {
        let kind = |detail, within| {
            kind_of_report(Report { code: "23505", routine: "_bt_check_unique", detail, within })
        };
        for detail in [
            None,
            Some("Key (id)=(7) already exists."),
            Some("Schlüssel »(id, created_at)=(7, x)« existiert bereits."),
            Some("Key (table_name, id)=(t, 7) already exists."),
        ] {
            assert_eq!(kind(detail, None), ErrorKind::DuplicateId, "{detail:?}");
            assert_eq!(kind(detail, Some("COPY connectivity_trace, line 1")), ErrorKind::DuplicateId);
            let within = Some("SQL statement \"INSERT INTO seen …\"\nPL/pgSQL function f() line 2");
            assert_eq!(kind(detail, within), ErrorKind::Constraint, "{detail:?}");
        }
        assert_eq!(kind(Some("Key (trace_id)=(id) already exists."), None), ErrorKind::Constraint);
        assert_eq!(kind(Some("Key (lower(kind))=(x) already exists."), None), ErrorKind::Constraint);
    }

    #[test]
    fn every_data_exception_is_a_refused_value() {
        for code in ["22001", "22003", "22021", "22P05"] {
            assert_eq!(kind_of_code(code), ErrorKind::Refused);
        }
    }

    #[test]
    fn every_named_code_has_its_meaning() {
        let meanings: [(ErrorKind, &[&str]); 6] = [
            (ErrorKind::Conflict, &["40001", "40P01", "55P03"]),
            (ErrorKind::DuplicateId, &["23505"]),
            (ErrorKind::TooLarge, &["54000"]),
            (ErrorKind::Refused, &["23000", "23502", "23P01"]),
            (ErrorKind::Constraint, &["23503", "23514", "P0001"]),
            (ErrorKind::Unavailable, &["08006", "25006", "28P01", "42501", "42P01", "53100", "57P01"]),
        ];
        for (kind, codes) in meanings {
            for code in codes {
                assert_eq!(kind_of_code(code), kind, "{code}");
            }
        }
    }
}
