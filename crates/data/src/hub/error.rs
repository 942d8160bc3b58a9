//! What can go wrong between us and a hub.

use std::path::PathBuf;

use thiserror::Error;

/// Why a model of a hub could not be had. None of it ever says what token was sent.
#[derive(Debug, Error)]
pub enum HubError {
    /// There is no place for a cache.
    #[error("no place for the models of a hub: set HF_HOME or HF_HUB_CACHE")]
    NoCache,
    /// Files are not in the cache, and the hub may not be asked.
    #[error("{name} is no folder here and not whole in {cache}: {missing} is missing, and {reason}", cache = cache.display())]
    NotCached {
        /// The model.
        name: String,
        /// What is missing.
        missing: String,
        /// Where it should be.
        cache: PathBuf,
        /// Why it is not downloaded.
        reason: &'static str,
    },
    /// The hub says no.
    #[error("{name}: {url} answers {status}: {hint}")]
    Refused {
        /// The model.
        name: String,
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What to do.
        hint: &'static str,
    },
    /// The hub cannot be reached, or stopped in between.
    #[error("{name}: {url}: {reason}")]
    Connection {
        /// The model.
        name: String,
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// An answer or a file is not what it should be.
    #[error("{place}: {reason}")]
    Malformed {
        /// Which one.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the cache could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
