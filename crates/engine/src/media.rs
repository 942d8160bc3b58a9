//! Pictures and clips of a prompt: how this model looks at them, and their frames.

use std::path::Path;

use savi_models::{Visual, VisualKind};
use savi_schema::{CountRule, Media, MediaPolicy};
use savi_video_ingest::{IngestOptions, read_clip, read_picture};
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

/// A picture or a clip that a message shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Which of both.
    pub kind: VisualKind,
    /// Where it is, and how it is looked at.
    pub media: Media,
    /// How many pictures the prompt has.
    pub pictures: usize,
}

/// What identifies the frames of a picture or a clip: its source and how it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClipKey(pub String);

impl Processor {
    /// The policy of a clip.
    pub fn policy<'a>(&'a self, media: &'a Media) -> &'a MediaPolicy {
        media.policy.as_ref().unwrap_or(&self.policy)
    }

    /// What identifies the frames that a prompt's picture or clip gives; `source` identifies its file.
    pub(crate) fn key(&self, shown: &Shown, source: &str) -> ClipKey {
        let policy = match shown.kind {
            VisualKind::Image if shown.pictures > 1 => "one of several pictures".to_owned(),
            VisualKind::Image => "picture".to_owned(),
            VisualKind::Video => {
                serde_json::to_string(self.policy(&shown.media)).unwrap_or_default()
            }
        };
        ClipKey(format!("{source}\n{policy}"))
    }

    /// Reads a picture, or a clip's frames.
    pub fn read(&self, shown: &Shown, options: &IngestOptions) -> Result<Visual, EngineError> {
        let source = &shown.media.source;
        let read = match shown.kind {
            VisualKind::Image => read_picture(Path::new(source), options)
                .map(|image| Visual { pictures: shown.pictures, ..Visual::image(image) }),
            VisualKind::Video => {
                read_clip(source, self.policy(&shown.media), options).map(Visual::from)
            }
        };
        read.map_err(|error| EngineError::Media { clip: source.clone(), reason: error.to_string() })
    }
}
