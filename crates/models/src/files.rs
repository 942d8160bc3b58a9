//! Hugging Face directories: config and safetensors, read by memory and written whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::ModelError;

/// A model as files, before it is built.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Value,
    /// All tensors by name.
    pub tensors: HashMap<String, Tensor>,
}

/// Reads `config.json` and the safetensors (one file, or shards by their index) of a directory.
pub fn read_directory(dir: &Path) -> Result<ModelFiles, ModelError> {
    let config = read_json(&dir.join("config.json"))?;
    let index = dir.join("model.safetensors.index.json");
    let mut shards: Vec<PathBuf> = Vec::new();
    if index.exists() {
        let value = read_json(&index)?;
        let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
            return Err(ModelError::Malformed { path: index, reason: "no weight_map".to_owned() });
        };
        for file in map.values().filter_map(Value::as_str) {
            if Path::new(file).components().count() != 1 {
                let reason = format!("shard {file:?} lies outside the directory");
                return Err(ModelError::Malformed { path: index, reason });
            }
            let shard = dir.join(file);
            if !shards.contains(&shard) {
                shards.push(shard);
            }
        }
    } else {
        shards.push(dir.join("model.safetensors"));
    }
    let mut tensors = HashMap::new();
    for shard in shards {
        let bytes =
            fs::read(&shard).map_err(|source| ModelError::Io { path: shard.clone(), source })?;
        tensors.extend(parse_safetensors(&bytes, &shard)?);
    }
    Ok(ModelFiles { config, tensors })
}

impl ModelFiles {
    /// A model whose files are in memory.
    pub fn from_bytes(config: &[u8], safetensors: &[u8]) -> Result<Self, ModelError> {
        let config = serde_json::from_slice(config).map_err(|e| ModelError::Malformed {
            path: "config.json".into(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            config,
            tensors: parse_safetensors(safetensors, Path::new("model.safetensors"))?,
        })
    }
}

fn parse_safetensors(bytes: &[u8], path: &Path) -> Result<HashMap<String, Tensor>, ModelError> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
        .map_err(|e| ModelError::Malformed { path: path.to_owned(), reason: e.to_string() })
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|e| ModelError::Malformed { path: path.to_owned(), reason: e.to_string() })
}

/// Writes tensors under their names to a temporary file beside `path` and renames it.
pub fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let malformed = |e: safetensors::SafeTensorError| ModelError::Malformed {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let partial = path.with_extension("safetensors.partial");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(tensors.iter(), Some(metadata)).map_err(malformed)?;
    fs::write(&partial, bytes).map_err(io)?;
    fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&partial, path).map_err(io)
}
