//! What can go wrong with a clip; every error names the file and the cause.

use savi_schema::{PolicyError, ResampleError};
use thiserror::Error;

/// A clip that could not be read or written.
#[derive(Debug, Error)]
pub enum IngestError {
    /// There is nothing at the path.
    #[error("{file}: no such file")]
    Missing {
        /// The clip.
        file: String,
    },
    /// The system refuses to read or write it.
    #[error("{file}: {source}")]
    Io {
        /// The clip.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A device, socket or pipe: such a thing may never end.
    #[error("{file}: neither a regular file nor a folder")]
    NotAFile {
        /// The clip.
        file: String,
    },
    /// The file has no bytes, or the folder no pictures.
    #[error("{file}: empty")]
    Empty {
        /// The clip.
        file: String,
    },
    /// The source names a protocol that is not allowed.
    #[error("{file}: protocol `{protocol}` is not allowed")]
    Protocol {
        /// The source as it was given.
        file: String,
        /// What stands before the colon.
        protocol: String,
    },
    /// No container format is recognised, or its header cannot be read.
    #[error("{file}: not a readable video: {reason}")]
    NotVideo {
        /// The clip.
        file: String,
        /// What FFmpeg said.
        reason: String,
    },
    /// A media file without a video stream.
    #[error("{file}: no video stream")]
    NoVideoStream {
        /// The clip.
        file: String,
    },
    /// This build or the installed FFmpeg cannot decode or encode it.
    #[error("{file}: {codec} is not supported here")]
    Unsupported {
        /// The clip.
        file: String,
        /// Name of the codec or feature.
        codec: String,
    },
    /// A video stream without a frame.
    #[error("{file}: the video stream has no frames")]
    NoFrames {
        /// The clip.
        file: String,
    },
    /// The file ends before the end that its header declares.
    #[error("{file}: truncated: {reason}")]
    Truncated {
        /// The clip.
        file: String,
        /// What is there and what should be.
        reason: String,
    },
    /// Frames that were asked for are damaged or cannot be decoded.
    #[error("{file}: cannot decode the frame at {time:.3} s: {reason}")]
    Decode {
        /// The clip.
        file: String,
        /// The moment of the first frame that is lost, in seconds.
        time: f64,
        /// What the decoder said.
        reason: String,
    },
    /// A configured limit is exceeded.
    #[error("{file}: {what} {value} is over the limit of {limit}")]
    Limit {
        /// The clip.
        file: String,
        /// Which quantity.
        what: &'static str,
        /// Its value.
        value: String,
        /// The configured limit.
        limit: String,
    },
    /// The deadline passed.
    #[error("{file}: not finished after {seconds:.1} s")]
    Deadline {
        /// The clip.
        file: String,
        /// The time that was allowed.
        seconds: f64,
    },
    /// The policy itself makes no sense.
    #[error("{file}: {source}")]
    Policy {
        /// The clip.
        file: String,
        /// What is wrong with it.
        source: PolicyError,
    },
    /// The policy asks for moments that this clip does not have.
    #[error("{file}: {reason}")]
    Range {
        /// The clip.
        file: String,
        /// What was asked and what there is.
        reason: String,
    },
    /// A picture of a frame folder cannot be read.
    #[error("{file}: {reason}")]
    Picture {
        /// The picture.
        file: String,
        /// Why.
        reason: String,
    },
    /// A frame cannot be scaled.
    #[error("{file}: {source}")]
    Resample {
        /// The clip.
        file: String,
        /// Why.
        source: ResampleError,
    },
    /// A clip cannot be written.
    #[error("{file}: cannot encode: {reason}")]
    Encode {
        /// The file to write.
        file: String,
        /// Why.
        reason: String,
    },
}

impl IngestError {
    /// Whether what was given to read is at fault.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Encode { .. })
    }
}
