//! What can go wrong with a model.

use std::path::PathBuf;

use thiserror::Error;

/// Why a model could not be loaded, run or saved.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The config asks for something that is not supported.
    #[error("{key} = {value} is not supported (supported: {supported})")]
    Unsupported {
        /// The file and its key.
        key: String,
        /// Its value.
        value: String,
        /// What would be.
        supported: String,
    },
    /// The model has nothing to see with.
    #[error("this model reads text alone, not pictures or clips")]
    Blind,
    /// A frame could not be scaled.
    #[error(transparent)]
    Resample(#[from] savi_schema::ResampleError),
    /// The tensor library failed, or a checkpoint does not fit its config.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}
