//! What is written wrong while a planted bug is awake; see [`crate::planted`].

use kube::ResourceExt;
use sluice_crds::names;

use super::FIELD_MANAGER;
use crate::planted::{Bug, is};

/// Whether a child counts as being as it should be, where it is or is not.
pub(super) fn is_as_it_should_be<K: ResourceExt>(actual: Option<&K>, desired: &K, really: bool) -> bool {
    let applied = |object: &K| object.annotations().get(names::ANNOTATION_APPLIED_HASH).cloned();
    if is(Bug::WriteAlways) {
        false
    } else if is(Bug::LeaveDrift) {
        actual.is_some_and(|actual| applied(actual) == applied(desired))
    } else {
        really
    }
}

/// Who writes: somebody else each time, so that what was said before stays theirs.
pub(super) fn manager(desired: &impl ResourceExt) -> String {
    match desired.annotations().get(names::ANNOTATION_APPLIED_HASH) {
        Some(hash) if is(Bug::KeepMembers) => format!("{FIELD_MANAGER}-{hash}"),
        _ => FIELD_MANAGER.to_owned(),
    }
}

/// Whether settings count as being used.
pub(super) fn in_use(really: bool, hash: &str, newest: &str) -> bool {
    if is(Bug::ForgetSettings) { hash == newest } else { really }
}
