//! What is wrong right now: a text for people, and one of a closed set of reasons for programs.

use std::error::Error;

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::problem::chain;

use crate::secrets::SecretError;
use crate::source::SourceError;
use crate::store::{self, ErrorKind, StoreError};

/// An error that has not been followed by a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// For programs.
    pub reason: ErrorReason,
    /// For people: what was tried, what was found, on one line.
    pub message: String,
}

impl LastError {
    /// An error in words.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<&SecretError> for LastError {
    fn from(error: &SecretError) -> Self {
        Self::new(secret_reason(error), chain(error))
    }
}

impl From<&SourceError> for LastError {
    fn from(error: &SourceError) -> Self {
        let reason = match error {
            SourceError::Unavailable { .. } => ErrorReason::SourceUnreachable,
            SourceError::Denied { .. } => ErrorReason::SourceDenied,
            SourceError::UnknownTopic(_) => ErrorReason::TopicUnknown,
            SourceError::Configuration(_) => ErrorReason::SourceConfiguration,
            SourceError::NotOwned(_) => ErrorReason::SourceFailed,
        };
        Self::new(reason, chain(error))
    }
}

impl From<&StoreError> for LastError {
    fn from(error: &StoreError) -> Self {
        Self::new(store_reason(error), chain(error))
    }
}

fn secret_reason(error: &SecretError) -> ErrorReason {
    match error {
        SecretError::Missing { .. } => ErrorReason::SecretMissing,
        _ => ErrorReason::SecretUnusable,
    }
}

/// The first telling error of the chain: a missing Secret stands behind a database that cannot be reached, and
/// a refusal behind a table that accepts nothing.
fn store_reason(error: &StoreError) -> ErrorReason {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(secret) = inner.downcast_ref::<SecretError>() {
            return secret_reason(secret);
        }
        match inner.downcast_ref::<StoreError>().map(|error| error.kind) {
            Some(ErrorKind::Schema) => return ErrorReason::StoreSchema,
            Some(
                ErrorKind::Refused | ErrorKind::Constraint | ErrorKind::TooLarge | ErrorKind::DuplicateId,
            ) => return ErrorReason::StoreRefused,
            _ if store::is_denied(inner) => return ErrorReason::StoreDenied,
            _ => cause = inner.source(),
        }
    }
    ErrorReason::StoreUnavailable
}

#[cfg(test)]
mod tests {
    use sluice_crds::v1alpha1::SecretKeyRef;

    use super::*;
    use crate::secrets::Secrets;

    fn missing() -> SecretError {
        let reference = SecretKeyRef { name: "db".to_owned(), key: "url-of-the-tests".to_owned() };
        Secrets::new(None).resolve(&reference).unwrap_err()
    }

    #[test]
    fn a_missing_secret_is_named_also_behind_a_database_that_cannot_be_reached() {
        let error = StoreError::with_source(ErrorKind::Unavailable, "cannot connect", missing());
        for found in [LastError::from(&missing()), LastError::from(&error)] {
            assert_eq!(found.reason, ErrorReason::SecretMissing);
            assert!(found.message.contains("db/url-of-the-tests"), "{}", found.message);
        }
    }

    #[test]
    fn a_table_that_refuses_everything_is_no_database_that_is_away() {
        let refused = StoreError::new(ErrorKind::Refused, "a CHECK");
        let waits = StoreError::with_source(ErrorKind::Unavailable, "it refuses the probe, too", refused);
        assert_eq!(LastError::from(&waits).reason, ErrorReason::StoreRefused);
        let away = StoreError::with_source(ErrorKind::Unavailable, "away", sqlx::Error::PoolTimedOut);
        assert_eq!(LastError::from(&away).reason, ErrorReason::StoreUnavailable);
    }
}
