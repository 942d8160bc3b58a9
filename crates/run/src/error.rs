//! What can go wrong between a run and its folder.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A run folder that cannot be used as asked.
#[derive(Debug, Error)]
pub enum RunError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the folder does not hold what it should.
    #[error("{path}{}: {reason}", line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1, where it has lines.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// The folder belongs to a run with another config.
    #[error(
        "{dir} holds a run with another config (changed: {}); choose another --run-dir, or \
         --fresh to discard that run",
        keys.join(", ")
    )]
    ConfigChanged {
        /// The folder.
        dir: PathBuf,
        /// Dotted names of the keys that differ.
        keys: Vec<String>,
    },
    /// The folder holds something that is not a run.
    #[error("{0} is not empty and not a run folder; choose another --run-dir")]
    NotARunFolder(PathBuf),
    /// Another process works in the folder.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// A stage was given what it cannot order or store.
    #[error("stage {stage}: {reason}")]
    Stage {
        /// Which stage.
        stage: String,
        /// What is wrong.
        reason: String,
    },
    /// A value has no JSON or TOML form.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// What was to be written.
        what: String,
        /// Why not.
        reason: String,
    },
}

impl RunError {
    /// Says which path an input or output error is about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// True where the user's command or config is at fault, not the machine.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::ConfigChanged { .. } | Self::NotARunFolder(_) | Self::Locked(_))
    }
}
