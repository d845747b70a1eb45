//! The *settings* document: everything of a pipeline whose change needs a restart.

use serde::{Deserialize, Serialize};

use crate::v1alpha1::{DeadLetter, Encryption, Format, JsonPaths, Sink, Source, TracePipelineSpec};
use crate::wire::{Document, DocumentError, hash};

/// What a consumer needs to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// `namespace/name` of the pipeline.
    pub pipeline: String,
    /// `metadata.uid` of the pipeline; none for one that is a file. It never changes for a pipeline, and tells it
    /// apart from another one of the same name: their settings have different hashes, and a consumer applies live
    /// documents of this uid only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// See [`TracePipelineSpec::source`].
    pub source: Source,
    /// See [`TracePipelineSpec::format`].
    pub format: Format,
    /// See [`TracePipelineSpec::json`].
    pub json: JsonPaths,
    /// See [`TracePipelineSpec::sink`].
    pub sink: Sink,
    /// See [`TracePipelineSpec::encryption`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// See [`TracePipelineSpec::dead_letter`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

impl Document for Settings {
    const NAME: &'static str = "settings";
    const READER: u32 = 3;

    /// A reader of version 1 knows nothing of `encryption`: it would store bodies as they are. One of version 2 knows
    /// nothing of `deadLetter`: what it could not store would never reach the topic.
    fn min_reader(&self) -> u32 {
        match (&self.dead_letter, &self.encryption) {
            (Some(_), _) => 3,
            (None, Some(_)) => 2,
            (None, None) => 1,
        }
    }
}

impl Settings {
    /// Those of a spec, of a pipeline that is a file; see [`Self::with_uid`].
    pub fn of(pipeline: &str, spec: &TracePipelineSpec) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            uid: None,
            source: spec.source.clone(),
            format: spec.format,
            json: spec.json.clone(),
            // Live, though it stands here.
            sink: Sink { retention: None, ..spec.sink.clone() },
            encryption: spec.encryption.clone(),
            dead_letter: spec.dead_letter.clone().filter(|letters| !letters.topic.is_empty()),
        }
    }

    /// The same, of a pipeline that is an object with this `metadata.uid`.
    #[must_use]
    pub fn with_uid(self, uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..self }
    }

    /// Tells two settings apart: 16 hexadecimal digits.
    ///
    /// # Errors
    /// The settings have no JSON form.
    pub fn hash(&self) -> Result<String, DocumentError> {
        hash(self)
    }
}
