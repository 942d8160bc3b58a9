//! Clips of a prompt: how this model looks at them, and their frames.

use savi_schema::{Clip, CountRule, Media, MediaPolicy};
use savi_video_ingest::{IngestOptions, read_clip};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// How a model looks at clips, saved beside its weights as `processor.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// Used for every clip that does not bring its own policy.
    pub policy: MediaPolicy,
}

impl Default for Processor {
    fn default() -> Self {
        Self { policy: MediaPolicy::count(8, CountRule::MidSegment) }
    }
}

/// What identifies a clip's frames: its source and how it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClipKey(pub String);

impl Processor {
    /// The policy of a clip.
    pub fn policy<'a>(&'a self, media: &'a Media) -> &'a MediaPolicy {
        media.policy.as_ref().unwrap_or(&self.policy)
    }

    /// What identifies the frames that a prompt's clip gives.
    pub fn key(&self, media: &Media) -> ClipKey {
        let policy = serde_json::to_string(self.policy(media)).unwrap_or_default();
        ClipKey(format!("{}\n{policy}", media.source))
    }

    /// Reads a clip's frames.
    pub fn read(&self, media: &Media, options: &IngestOptions) -> Result<Clip, EngineError> {
        read_clip(&media.source, self.policy(media), options).map_err(|error| EngineError::Media {
            clip: media.source.clone(),
            reason: error.to_string(),
        })
    }
}
