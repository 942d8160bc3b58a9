//! What can go wrong with an engine.

use std::path::PathBuf;

use savi_schema::GenerateError;
use thiserror::Error;

/// Why a model could not be opened or asked.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The model's name fits nothing.
    #[error("model {name:?}: {reason}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{file}: {reason}")]
    Malformed {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The weights or their config.
    #[error(transparent)]
    Model(#[from] savi_models::ModelError),
    /// A model of a hub.
    #[error(transparent)]
    Hub(#[from] savi_data::hub::HubError),
    /// The tensor library failed.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
    /// A clip could not be read.
    #[error("{clip}: {reason}")]
    Media {
        /// Which clip.
        clip: String,
        /// Why.
        reason: String,
    },
    /// A conversation cannot be turned into tokens.
    #[error("conversation: {0}")]
    Conversation(String),
    /// A form that texts are to be held to cannot be followed.
    #[error("{0}")]
    Constraint(String),
}

impl EngineError {
    /// The same as what the traits' callers see.
    pub(crate) fn for_request(&self, id: &str) -> GenerateError {
        match self {
            Self::Media { clip, reason } => GenerateError::Media {
                id: id.to_owned(),
                media: clip.clone(),
                reason: reason.clone(),
            },
            Self::Conversation(reason) | Self::Constraint(reason) => {
                GenerateError::BadRequest { id: id.to_owned(), reason: reason.clone() }
            }
            other => GenerateError::Backend(other.to_string()),
        }
    }
}
