//! Why there is no report.

use std::path::PathBuf;

use thiserror::Error;

/// Why there is no report. Missing parts of a run folder are no errors.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The folder is not that of a run.
    #[error("{0} is not a run folder: it has neither a manifest.json nor a stages folder")]
    NotARun(PathBuf),
    /// No record has the id that was asked for.
    #[error("no decision, question, answer or clip of the run has the id {0:?}")]
    NoSuchRecord(String),
    /// A file cannot be written.
    #[error(transparent)]
    Run(#[from] savi_run::RunError),
    /// A picture cannot be made.
    #[error("thumbnail {path}: {reason}")]
    Thumbnail {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The template does not fit its values: a fault of the program.
    #[error("report template: {0}")]
    Template(#[from] minijinja::Error),
}
