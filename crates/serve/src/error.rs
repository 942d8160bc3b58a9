//! Why a server could not be started or ended badly.

use std::path::PathBuf;

use thiserror::Error;

/// Why a server could not be started or ended badly.
#[derive(Debug, Error)]
pub enum ServeError {
    /// An option has a value that means nothing.
    #[error("{option}: {reason}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder whose files may be read cannot be.
    #[error("allow_files: {path}: {source}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("{address}: {source}")]
    Bind {
        /// Which address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no threads or sockets.
    #[error("server: {0}")]
    Io(#[from] std::io::Error),
}
