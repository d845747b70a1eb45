//! Which live documents are applied. No I/O: what the places have found comes in, what is in effect comes out.
//!
//! Guarantees:
//!
//! - only documents of the uid that the settings name are applied, and only with a revision that is greater than
//!   that of every one applied before; so a late file, a thawed leader, or an object of an earlier pipeline of
//!   the same name undoes nothing;
//! - whatever else is found (nothing, garbage, a document for newer readers, the same revision with other
//!   content) changes nothing, and is told in [`Applied::refused`] while no better place says otherwise;
//! - before the first good document the rate is 0.

use std::cmp::Ordering;

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::live::{LiveDocument, MAX_REVISION};
use sluice_crds::problem::Problems;
use sluice_crds::validate::validate_live;
use sluice_crds::wire;

use super::{Applied, Origin};
use crate::last_error::LastError;

/// What a look at a place has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The text of a document.
    Text(String),
    /// The place can be looked at, and no document is there.
    Missing(String),
    /// Something is there that is no text, or too large.
    Unreadable(String),
    /// The place cannot be looked at.
    Unreachable(String),
}

/// What is known of a place.
#[derive(Clone, Debug)]
enum State {
    /// It has not answered yet.
    Unasked,
    /// It told a document of this revision, which was then the newest one. Another place may have told a newer one
    /// since, while this one is silent.
    Good(u64),
    /// It told a document of this revision while a newer one was in effect.
    Older(u64),
    /// It holds none that can be applied.
    Bad(LastError),
    /// It cannot be looked at.
    Unreachable(LastError),
}

/// The live document of one pipeline, as several places tell it.
#[derive(Debug)]
pub struct Documents {
    uid: String,
    /// The first one is believed before the next: what comes later only copies it, late.
    places: Vec<(Origin, State)>,
    applied: Applied,
}

impl Documents {
    /// Nothing has been found yet. `places` are in the order in which they are believed.
    pub fn new(uid: &str, places: &[Origin]) -> Self {
        Self {
            uid: uid.to_owned(),
            places: places.iter().map(|origin| (*origin, State::Unasked)).collect(),
            applied: Applied::nothing_yet(places),
        }
    }

    /// What is in effect now.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Takes what a look at `origin` has found.
    pub fn take(&mut self, origin: Origin, found: Found) {
        let state = match found {
            Found::Text(text) => match self.judge(&text) {
                Ok(revision) if revision < self.applied.revision => State::Older(revision),
                Ok(revision) => State::Good(revision),
                Err(message) => State::Bad(LastError::new(ErrorReason::LiveRefused, message)),
            },
            Found::Missing(message) => State::Bad(LastError::new(ErrorReason::LiveMissing, message)),
            Found::Unreadable(message) => State::Bad(LastError::new(ErrorReason::LiveRefused, message)),
            Found::Unreachable(message) => {
                State::Unreachable(LastError::new(ErrorReason::LiveUnreachable, message))
            }
        };
        if let Some((_, known)) = self.places.iter_mut().find(|(known, _)| *known == origin) {
            *known = state;
        }
        let in_effect = self.applied.revision;
        let holds_it = |state: &State| matches!(state, State::Good(revision) if *revision == in_effect);
        if let Some((origin, _)) = self.places.iter().find(|(_, state)| holds_it(state)) {
            self.applied.origin = Some(*origin);
        }
        self.applied.refused = self.trouble();
        let is_usable = |state: &State| matches!(state, State::Good(_) | State::Older(_));
        self.applied.sources =
            self.places.iter().map(|(origin, state)| (*origin, is_usable(state))).collect();
    }

    /// Applies a document where it is newer. Returns its revision, or why it cannot be applied.
    fn judge(&mut self, text: &str) -> Result<u64, String> {
        let document: LiveDocument = wire::read(text).map_err(|error| error.to_string())?;
        let LiveDocument { uid, revision, live } = document;
        if uid != self.uid {
            let found = if uid.is_empty() { "no uid".to_owned() } else { format!("uid {uid}") };
            return Err(format!(
                "the live document belongs to another pipeline: expected uid {}, found {found}",
                self.uid
            ));
        }
        let problems = validate_live(&live);
        if !problems.is_empty() {
            return Err(format!("the live document is not valid: {}", Problems(problems)));
        }
        if !(1..=MAX_REVISION).contains(&revision) {
            return Err(format!("the live document has revision {revision}, expected 1 to {MAX_REVISION}"));
        }
        match revision.cmp(&self.applied.revision) {
            Ordering::Greater => (self.applied.live, self.applied.revision) = (live, revision),
            Ordering::Equal if live != self.applied.live => {
                return Err(format!(
                    "the live document says something else than before and still has revision {revision}"
                ));
            }
            Ordering::Equal | Ordering::Less => {}
        }
        Ok(revision)
    }

    /// What a person should know. A place that answers speaks for those after it.
    fn trouble(&self) -> Option<LastError> {
        let in_effect = self.applied.revision;
        let mut unreachable = None;
        for (origin, state) in &self.places {
            match state {
                State::Unasked => {}
                // Silent, and perhaps out of reach: the place behind it is ahead.
                State::Good(revision) if *revision < in_effect && *origin == Origin::Api => {}
                // Only the API tells the newest document; in the directory an older one is merely late.
                State::Older(revision) if *origin == Origin::Api => {
                    let message = format!(
                        "the live document went back to revision {revision}; {in_effect} stays in effect"
                    );
                    return Some(LastError::new(ErrorReason::LiveRefused, message));
                }
                State::Good(_) | State::Older(_) => return None,
                State::Bad(error) => return Some(error.clone()),
                State::Unreachable(error) => {
                    unreachable.get_or_insert_with(|| error.clone());
                }
            }
        }
        unreachable
    }
}

#[cfg(test)]
mod tests;
