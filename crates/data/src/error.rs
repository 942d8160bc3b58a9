//! What can be wrong with data on disk.

use std::path::PathBuf;

use thiserror::Error;

/// Why data could not be read or written. Rows are counted from 1.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file cannot be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row is not the JSON object that it should be.
    #[error("{path}, row {row}: {reason}")]
    Row {
        /// Which file.
        path: PathBuf,
        /// Which row.
        row: u64,
        /// What is wrong.
        reason: String,
    },
    /// A row lacks a key.
    #[error("{path}, row {row}: missing key {key:?}")]
    MissingKey {
        /// Which file.
        path: PathBuf,
        /// Which row.
        row: u64,
        /// Which key.
        key: String,
    },
    /// A row has a key twice; readers disagree on which one counts.
    #[error("{path}, row {row}: key {key:?} appears twice")]
    DuplicateKey {
        /// Which file.
        path: PathBuf,
        /// Which row.
        row: u64,
        /// Which key, with the keys that lead to it.
        key: String,
    },
    /// Two rows have the same id.
    #[error("{path}, row {row}: id {id:?} was used in row {first} already")]
    DuplicateId {
        /// Which file.
        path: PathBuf,
        /// The second row.
        row: u64,
        /// The first row.
        first: u64,
        /// Their id.
        id: String,
    },
    /// A record cannot be written in the layout that was asked for.
    #[error("record {id:?}: {reason}")]
    Layout {
        /// Which record.
        id: String,
        /// Why.
        reason: String,
    },
    /// A file is not what its name says.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A manifest is not as it should be.
    #[error("{path}: {reason}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
