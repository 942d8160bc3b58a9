//! What can end a run of the method.

use savi_schema::GenerateError;
use savi_train::LearnError;
use thiserror::Error;

use crate::{ConfigProblem, DataProblem, PromptProblem};

/// Why a run stopped before its end.
#[derive(Debug, Error)]
pub enum Error {
    /// It was asked to; everything made so far is saved.
    #[error("interrupted")]
    Interrupted,
    /// A stage or the run folder failed.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// The config cannot be carried out.
    #[error(transparent)]
    Config(#[from] ConfigProblem),
    /// A file of seeds, principles, examples, identity, queries or rows cannot be used.
    #[error(transparent)]
    Data(#[from] DataProblem),
    /// A prompt cannot be used or filled.
    #[error(transparent)]
    Prompt(#[from] PromptProblem),
    /// The model failed.
    #[error("{stage}")]
    Generate {
        /// Which stage.
        stage: &'static str,
        /// Why.
        source: GenerateError,
    },
    /// The model returned another number of completions than it was asked for.
    #[error("{stage}: {got} completions where {asked} were asked for")]
    WrongCount {
        /// Which stage.
        stage: &'static str,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
    /// A stage kept nothing, so that the next has nothing to work on.
    #[error(
        "{stage} kept nothing ({counts}): the model may be too weak to keep the format, or a filter too strict; \
         see what it wrote in stages/{folder}/records.jsonl"
    )]
    Nothing {
        /// Which stage.
        stage: &'static str,
        /// What became of what was made.
        counts: String,
        /// The folder of its records.
        folder: &'static str,
    },
    /// Rows could not be learnt.
    #[error("{stage}, learning")]
    Learn {
        /// Which stage.
        stage: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn of_learning(stage: &'static str, error: LearnError) -> Self {
        match error {
            LearnError::Interrupted => Self::Interrupted,
            LearnError::Run(error) => Self::Run(error),
            LearnError::Data(error) => Self::Learn { stage, source: Box::new(error) },
            LearnError::Failed(source) => Self::Learn { stage, source },
        }
    }

    pub(crate) fn of_model(stage: &'static str, source: GenerateError) -> Self {
        match source {
            GenerateError::Interrupted => Self::Interrupted,
            source => Self::Generate { stage, source },
        }
    }

    /// Whether the user can mend it: a config or a file that is wrong.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Data(_) | Self::Prompt(_))
    }
}

impl From<savi_run::Interrupted> for Error {
    fn from(_: savi_run::Interrupted) -> Self {
        Self::Interrupted
    }
}
