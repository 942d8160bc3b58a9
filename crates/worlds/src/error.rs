use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a world's data cannot be made or opened.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder holds something else.
    #[error("{path}: {reason}")]
    Occupied {
        /// Which folder.
        path: PathBuf,
        /// What it holds, and what to do.
        reason: String,
    },
    /// A file is not as this program writes it.
    #[error("{path}: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two scenes are the same.
    #[error("scenes {one} and {other} are the same; choose another seed")]
    SameScene {
        /// Id of one.
        one: String,
        /// Id of the other.
        other: String,
    },
    /// A family of questions is answered too often without seeing what it asks about.
    #[error("family {family}: {accuracy:.3} right from one frame or none, {chance:.3} is chance")]
    Unsound {
        /// Which family.
        family: &'static str,
        /// The higher of its two floors.
        accuracy: f64,
        /// What chance gives.
        chance: f64,
    },
    /// A clip cannot be written.
    #[error("clip {id}: {source}")]
    Clip {
        /// Which clip.
        id: String,
        /// Why.
        source: savi_video_ingest::IngestError,
    },
    /// Rows cannot be read or written.
    #[error(transparent)]
    Rows(#[from] savi_data::DataError),
    /// A file cannot be put in its place.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// The program was built without video.
    #[error("this program was built without the feature \"video\" and cannot write clips")]
    NoVideo,
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] savi_run::Interrupted),
}

impl WorldError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
