//! What a store finds in its database without changing it: the basis of `sluice check --connect`.

use super::{ErrorKind, StoreError};

/// A database as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Name and version of the server.
    pub server: String,
    /// Whether the server refuses writes (a replica, or `read_only`).
    pub read_only: bool,
    /// Settings of the server with which nothing could be stored.
    pub settings: Vec<BadSetting>,
    /// Whether the trace table can be used.
    pub table: TableState,
    /// Sluice's own tables that do not exist yet.
    pub missing_tables: Vec<&'static str>,
    /// Whether every migration is recorded as done, so that nothing needs to be created for it.
    pub is_migrated: bool,
    /// Why tables cannot be created; none where they can be.
    pub cannot_create: Option<String>,
    /// Rights that are missing on tables that exist or will be made, such as `INSERT on sluice_rate`.
    pub missing_rights: Vec<String>,
}

/// A setting of the server with which nothing could be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    /// What it is, and what is wrong with it.
    pub detail: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// The trace table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// It does not exist.
    Missing,
    /// It can be used; these columns have no index yet.
    Usable(Vec<&'static str>),
    /// It cannot be used: what is wrong, and the remedy.
    Unusable(String),
}

impl TableState {
    /// What a look at a table that exists has told: the columns that have no index yet.
    ///
    /// # Errors
    /// It could not be looked at.
    pub(super) fn of(looked: Result<Vec<&'static str>, StoreError>) -> Result<Self, StoreError> {
        match looked {
            Ok(missing) => Ok(Self::Usable(missing)),
            Err(error) if error.kind == ErrorKind::Schema => Ok(Self::Unusable(error.context)),
            Err(error) => Err(error),
        }
    }
}

/// Sluice's own tables, with the rights that the statements on each need.
pub(super) const OWN_TABLES: [(&str, &[&str]); 9] = [
    ("sluice_lock", &["SELECT", "INSERT", "UPDATE"]),
    ("sluice_progress", &["SELECT", "INSERT", "UPDATE"]),
    ("sluice_rate", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("sluice_dead_letter", &["SELECT", "INSERT", "DELETE"]),
    ("sluice_dead_letter_chunk", &["SELECT", "INSERT", "DELETE"]),
    ("sluice_redrive", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("sluice_dead_letter_unsent", &["SELECT", "INSERT", "DELETE"]),
    ("sluice_data_key", &["SELECT", "INSERT", "UPDATE"]),
    ("sluice_dictionary", &["SELECT", "INSERT"]),
];
/// What the trace table needs, where old rows are removed or not.
pub(super) fn trace_rights(has_retention: bool) -> &'static [&'static str] {
    if has_retention { &["SELECT", "INSERT", "DELETE"] } else { &["SELECT", "INSERT"] }
}
/// What it needs of those who only write.
pub(super) const WRITE_RIGHTS: &[&str] = &["INSERT"];
