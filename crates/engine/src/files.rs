//! A model's files: a Hugging Face directory, or what is compiled in.

use std::fs;
use std::path::Path;

use candle_core::DType;
use savi_models::{ModelFiles, read_directory};
use serde_json::Value;

use crate::media::Processor;
use crate::{EngineError, builtin};

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDType {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    BF16,
}

impl StoredDType {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::BF16 => DType::BF16,
        }
    }
}

/// A model's files in memory.
#[derive(Debug)]
pub struct ModelDir {
    /// Config and weights.
    pub files: ModelFiles,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The Jinja chat template.
    pub template: String,
    /// How the model looks at clips.
    pub processor: Processor,
}

impl ModelDir {
    /// A model whose files are in memory, in the order of their names here.
    pub fn from_bytes(
        config: &[u8],
        weights: &[u8],
        tokenizer: &[u8],
        template: &[u8],
        processor: &[u8],
    ) -> Result<Self, EngineError> {
        Ok(Self {
            files: ModelFiles::from_bytes(config, weights)?,
            tokenizer: tokenizer.to_vec(),
            template: String::from_utf8_lossy(template).into_owned(),
            processor: serde_json::from_slice(processor).map_err(|e| EngineError::Malformed {
                file: "processor.json".to_owned(),
                reason: e.to_string(),
            })?,
        })
    }

    /// Reads a Hugging Face directory.
    pub fn read(dir: &Path) -> Result<Self, EngineError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|source| EngineError::Io { path, source })
        };
        let malformed =
            |file: &str, reason: String| EngineError::Malformed { file: file.to_owned(), reason };
        let template = if dir.join("chat_template.jinja").exists() {
            String::from_utf8_lossy(&read("chat_template.jinja")?).into_owned()
        } else {
            let config: Value = serde_json::from_slice(&read("tokenizer_config.json")?)
                .map_err(|e| malformed("tokenizer_config.json", e.to_string()))?;
            match config.get("chat_template").and_then(Value::as_str) {
                Some(template) => template.to_owned(),
                None => {
                    return Err(malformed("tokenizer_config.json", "no chat_template".to_owned()));
                }
            }
        };
        let processor = if dir.join("processor.json").exists() {
            serde_json::from_slice(&read("processor.json")?)
                .map_err(|e| malformed("processor.json", e.to_string()))?
        } else {
            Processor::default()
        };
        Ok(Self {
            files: read_directory(dir)?,
            tokenizer: read("tokenizer.json")?,
            template,
            processor,
        })
    }

    /// Finds a model by name: a directory or `builtin:NAME`.
    pub fn find(name: &str) -> Result<Self, EngineError> {
        if let Some(name) = name.strip_prefix("builtin:") {
            return builtin::open(name);
        }
        if Path::new(name).is_dir() {
            return Self::read(Path::new(name));
        }
        Err(EngineError::UnknownModel {
            name: name.to_owned(),
            reason: "expected a Hugging Face directory or builtin:tiny".to_owned(),
        })
    }
}
