//! The live document in a mounted directory: a ConfigMap volume, in which the kubelet switches the link `..data`.
//!
//! Guarantee: a new document is found within half a second after the kubelet wrote it, which it does about once
//! a minute. Needs nothing of the API server.

use std::path::Path;

use super::document::Found;
use super::poll::{self, Content};
use sluice_crds::names::LIVE_KEY;

/// Calls `found` with each new content of the directory's file. Never ends.
pub async fn follow(directory: &Path, found: impl Fn(Found)) {
    // A link is switched: every text is whole.
    poll::follow(&directory.join(LIVE_KEY), |_| true, |content| found(as_found(content))).await;
}

fn as_found(content: &Content) -> Found {
    match content {
        Ok(text) => Found::Text(text.clone()),
        Err(unread) if unread.missing => Found::Missing(unread.message.clone()),
        Err(unread) => Found::Unreadable(unread.message.clone()),
    }
}
