//! The live document as it is in effect: which one, since when, from where.
//!
//! Outside a cluster it is part of the pipeline file ([`file`]). In a cluster the operator writes it into a
//! ConfigMap, which is read in two ways ([`cluster`]); which documents count is decided in [`document`], without
//! I/O.

pub mod api;
mod changes;
pub mod cluster;
mod directory;
pub mod document;
pub mod file;
mod poll;

use sluice_crds::live::Live;

use crate::last_error::LastError;

/// The last good live document and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What is in effect.
    pub live: Live,
    /// Orders the applied documents; never goes back while the process runs. 0 before the first one.
    pub revision: u64,
    /// Where it can be read now, the quickest way first; none before the first document.
    pub origin: Option<Origin>,
    /// Why the newest document was *not* applied, while that is so.
    pub refused: Option<LastError>,
    /// Every place that is looked at, and whether it holds a usable document now.
    pub sources: Vec<(Origin, bool)>,
}

impl Applied {
    /// A good document from one place.
    pub fn new(live: Live, revision: u64, origin: Origin) -> Self {
        Self { live, revision, origin: Some(origin), refused: None, sources: vec![(origin, true)] }
    }

    /// Before the first document: the rate is 0.
    pub fn nothing_yet(places: &[Origin]) -> Self {
        let sources = places.iter().map(|origin| (*origin, false)).collect();
        Self { live: Live::closed(), revision: 0, origin: None, refused: None, sources }
    }
}

/// Where a live document came from; the `liveSource` of `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server, which pushes it.
    Api,
    /// The mounted directory, which the kubelet brings up to date about once a minute.
    Directory,
    /// The pipeline file that the command was given.
    File,
}

impl Origin {
    /// As shown in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Directory => "directory",
            Self::File => "file",
        }
    }
}
