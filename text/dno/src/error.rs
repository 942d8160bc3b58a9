//! What can end a run of the method.

use savi_schema::GenerateError;
use savi_train::LearnError;
use thiserror::Error;

/// Why a run stopped before its end.
#[derive(Debug, Error)]
pub enum Error {
    /// It was asked to; everything made so far is saved.
    #[error("interrupted")]
    Interrupted,
    /// A stage or the run folder failed.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// What an iteration learns could not be written.
    #[error(transparent)]
    Data(savi_data::DataError),
    /// A prompt could not be filled.
    #[error(transparent)]
    Prompt(#[from] crate::PromptError),
    /// A model failed.
    #[error("iteration {iteration}, {stage}")]
    Generate {
        /// Which iteration.
        iteration: u32,
        /// Which stage.
        stage: &'static str,
        /// Why.
        source: GenerateError,
    },
    /// A model gave another number of completions than it was asked for.
    #[error("iteration {iteration}, {stage}: {got} completions where {asked} were asked for")]
    WrongCount {
        /// Which iteration.
        iteration: u32,
        /// Which stage.
        stage: &'static str,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
    /// An iteration could not be learnt.
    #[error("iteration {iteration}, learning")]
    Learn {
        /// Which iteration.
        iteration: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An iteration made nothing to learn from.
    #[error(
        "iteration {iteration} made no pair ({counts}); the annotator's form may be too hard for the model, or the rule \
         too strict: see the stages' done.json, method.pairs and method.no_pairs"
    )]
    NothingToLearn {
        /// Which iteration.
        iteration: u32,
        /// What became of the prompts.
        counts: String,
    },
    /// The inputs do not fit the config.
    #[error("{0}")]
    Inputs(String),
}

impl Error {
    pub(crate) fn of_learning(iteration: u32, error: LearnError) -> Self {
        match error {
            LearnError::Interrupted => Self::Interrupted,
            LearnError::Run(error) => Self::Run(error),
            LearnError::Data(error) => Self::Data(error),
            LearnError::Failed(source) => Self::Learn { iteration, source },
        }
    }

    pub(crate) fn of_model(iteration: u32, stage: &'static str, source: GenerateError) -> Self {
        match source {
            GenerateError::Interrupted => Self::Interrupted,
            source => Self::Generate { iteration, stage, source },
        }
    }
}

impl From<savi_run::Interrupted> for Error {
    fn from(_: savi_run::Interrupted) -> Self {
        Self::Interrupted
    }
}
