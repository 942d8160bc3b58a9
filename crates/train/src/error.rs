//! What can stop training.

use std::path::PathBuf;

use savi_engine::EngineError;
use thiserror::Error;

/// Why training stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A setting makes no sense.
    #[error("{key} = {value}: {reason}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        reason: &'static str,
    },
    /// There is nothing to learn from.
    #[error("there is nothing to learn from: no {0}")]
    Nothing(&'static str),
    /// A record cannot be learnt from.
    #[error("record {id}: {reason}")]
    Record {
        /// Which record.
        id: String,
        /// Why.
        reason: String,
    },
    /// The loss or a gradient was not a number; the weights are those of the step before.
    #[error(
        "step {step}: {what}; records: {}; the weights are those of the step before, and a run that \
         is started again goes on from its last checkpoint", ids.join(", ")
    )]
    NotFinite {
        /// Which step.
        step: u64,
        /// That the loss or which gradient is not finite.
        what: String,
        /// The records that give it, each alone; all of the step where none does.
        ids: Vec<String>,
    },
    /// A checkpoint file.
    #[error("{path}: {reason}", path = path.display())]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A checkpoint could not be written; what was saved before is as it was.
    #[error(
        "the state after step {step} could not be saved: {reason}; {}, so make room and run again to go on",
        match last { Some(last) => format!("that of step {last} is kept"), None => "none is kept yet".to_owned() }
    )]
    Unsaved {
        /// The step.
        step: u64,
        /// What the file system said, with the file.
        reason: String,
        /// The newest step that is saved.
        last: Option<u64>,
    },
    /// Stopped on request; the state is saved.
    #[error("interrupted")]
    Interrupted,
    /// Ranks do not go together, or cannot reach each other.
    #[error("ranks: {0}")]
    Ranks(String),
    /// Completions could not be drawn or judged.
    #[error(transparent)]
    Generate(savi_schema::GenerateError),
    /// The model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model's files.
    #[error(transparent)]
    Model(#[from] savi_models::ModelError),
    /// The loss.
    #[error(transparent)]
    Objective(#[from] savi_objectives::ObjectiveError),
    /// The run folder.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// The tensor library.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl From<savi_schema::GenerateError> for TrainError {
    fn from(error: savi_schema::GenerateError) -> Self {
        match error {
            savi_schema::GenerateError::Interrupted => Self::Interrupted,
            other => Self::Generate(other),
        }
    }
}
