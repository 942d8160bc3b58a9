//! The cache of huggingface_hub: where a repository's files are, and which are missing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{HubError, HubName, Kind};

/// The index of weights in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Weights in one file.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// A repository's folder in the cache.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) folder: PathBuf,
}

impl Repository {
    pub(super) fn of(cache: &Path, name: &HubName) -> Self {
        let kind = match name.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        Self { folder: cache.join(format!("{kind}--{}", name.repository.replace('/', "--"))) }
    }

    /// The folder of a revision, if there is one.
    pub(super) fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let commit = if name.is_commit() {
            name.revision.clone()
        } else {
            fs::read_to_string(self.reference(name)).ok()?.trim().to_owned()
        };
        // A name of a folder and nothing else.
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        Some(self.of_commit(&commit)).filter(|folder| folder.is_dir())
    }

    /// The folder of a commit.
    pub(super) fn of_commit(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The file that holds the commit of a branch or tag.
    pub(super) fn reference(&self, name: &HubName) -> PathBuf {
        self.folder.join("refs").join(&name.revision)
    }
}

/// What a model needs and a snapshot does not have.
pub(super) fn missing(snapshot: &Path) -> Result<Vec<String>, HubError> {
    let has = |name: &str| snapshot.join(name).is_file();
    let mut missing = Vec::new();
    if !has("config.json") {
        missing.push("config.json".to_owned());
    }
    if has(INDEX) {
        missing.extend(shards(&snapshot.join(INDEX))?.into_iter().filter(|shard| !has(shard)));
    } else if !has(WEIGHTS) {
        missing.push(WEIGHTS.to_owned());
    }
    if !["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"]
        .iter()
        .any(|name| has(name))
    {
        missing.push("tokenizer.json".to_owned());
    }
    Ok(missing)
}

/// The files that an index names, in order, each once.
pub(super) fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let bad = |reason: String| HubError::Malformed { place: index.display().to_string(), reason };
    let bytes =
        fs::read(index).map_err(|source| HubError::Io { path: index.to_owned(), source })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(bad("no weight_map".to_owned()));
    };
    let mut shards = Vec::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            Some(name) if !name.contains(['/', '\\']) && name.ends_with(".safetensors") => {
                shards.push(name.to_owned());
            }
            _ => return Err(bad(format!("{tensor}: {shard} is no safetensors file beside it"))),
        }
    }
    shards.sort_unstable();
    shards.dedup();
    Ok(shards)
}
