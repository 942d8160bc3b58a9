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
    /// A round's lesson could not be written.
    #[error(transparent)]
    Data(savi_data::DataError),
    /// A prompt could not be filled.
    #[error(transparent)]
    Prompt(#[from] crate::PromptError),
    /// The model failed.
    #[error("round {round}, {stage}")]
    Generate {
        /// Which round.
        round: u32,
        /// Which stage.
        stage: &'static str,
        /// Why.
        source: GenerateError,
    },
    /// The model returned another number of completions than it was asked for.
    #[error("round {round}, {stage}: {got} completions where {asked} were asked for")]
    WrongCount {
        /// Which round.
        round: u32,
        /// Which stage.
        stage: &'static str,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
    /// The held-out questions could not be asked.
    #[error("round {round}, held-out questions")]
    Evaluate {
        /// Which round.
        round: u32,
        /// Why.
        source: savi_suites::EvaluateError,
    },
    /// A pair could not be compared with its clip.
    #[error("CLIP check of {pair}")]
    ClipCheck {
        /// Which pair.
        pair: String,
        /// Why.
        source: savi_judge::ClipCheckError,
    },
    /// The pairs could not be learnt.
    #[error("round {round}, learning")]
    Learn {
        /// Which round.
        round: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A round made nothing to learn from.
    #[error(
        "round {round} made nothing to learn from ({counts}); the model may be too weak to keep \
         the judge's format, or a filter too strict: see the stages' done.json"
    )]
    NothingToLearn {
        /// Which round.
        round: u32,
        /// What became of the questions.
        counts: String,
    },
    /// The inputs do not fit the config.
    #[error("{0}")]
    Inputs(String),
}

impl Error {
    pub(crate) fn of_learning(round: u32, error: LearnError) -> Self {
        match error {
            LearnError::Interrupted => Self::Interrupted,
            LearnError::Run(error) => Self::Run(error),
            LearnError::Data(error) => Self::Data(error),
            LearnError::Failed(source) => Self::Learn { round, source },
        }
    }
}

impl From<savi_run::Interrupted> for Error {
    fn from(_: savi_run::Interrupted) -> Self {
        Self::Interrupted
    }
}
