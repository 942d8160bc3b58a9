//! What can end a search.

use savi_schema::GenerateError;
use thiserror::Error;

/// Why a search or a run stopped before its end.
#[derive(Debug, Error)]
pub enum Error {
    /// It was asked to; everything paid for so far is saved.
    #[error("interrupted")]
    Interrupted,
    /// A value of the config cannot be carried out.
    #[error(transparent)]
    Config(#[from] crate::ConfigProblem),
    /// A prompt could not be filled.
    #[error(transparent)]
    Prompt(#[from] crate::PromptError),
    /// A stage or a file of the run failed.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// The model failed.
    #[error("{what} of {id}")]
    Model {
        /// What it was asked for.
        what: &'static str,
        /// For which question.
        id: String,
        /// Why.
        source: GenerateError,
    },
    /// The model returned something else than it was asked for.
    #[error("{what} of {id}: {reason}")]
    Answer {
        /// What it was asked for.
        what: &'static str,
        /// For which question.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// A trace does not say what the search does.
    #[error("trace of {id}, line {line}: {reason}")]
    Trace {
        /// Of which question.
        id: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A question cannot be searched for.
    #[error("question {id}: {reason}")]
    Question {
        /// Which.
        id: String,
        /// Why.
        reason: String,
    },
}

impl From<savi_run::Interrupted> for Error {
    fn from(_: savi_run::Interrupted) -> Self {
        Self::Interrupted
    }
}

impl Error {
    /// An error of the model; an interruption stays one.
    pub(crate) fn model(what: &'static str, id: &str, source: GenerateError) -> Self {
        match source {
            GenerateError::Interrupted => Self::Interrupted,
            source => Self::Model { what, id: id.to_owned(), source },
        }
    }
}
