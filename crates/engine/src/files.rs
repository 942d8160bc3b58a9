//! A model's files: a Hugging Face directory, or what is compiled in.

use std::fs;
use std::path::Path;

use savi_data::hub::{Hub, HubName};
use savi_models::{ModelFiles, read_directory, read_gguf};
use serde_json::Value;

use crate::media::Processor;
use crate::side::{self, SideFiles};
use crate::{EngineError, TextFiles, builtin, gguf};

/// A model's files: weights mapped, the rest in memory.
#[derive(Debug)]
pub struct ModelDir {
    /// Config and weights.
    pub files: ModelFiles,
    /// Tokenizer and chat template.
    pub text: TextFiles,
    /// How the model looks at clips, where a file of our own says so.
    pub processor: Option<Processor>,
    /// The files beside weights and config, where they come from a directory.
    pub(crate) side: Option<SideFiles>,
}

impl ModelDir {
    /// A model whose files are in memory, in the order of their names here; one that reads has no
    /// `processor`.
    pub fn from_bytes(
        config: &[u8],
        weights: &[u8],
        tokenizer: &[u8],
        template: &[u8],
        processor: Option<&[u8]>,
    ) -> Result<Self, EngineError> {
        let template = String::from_utf8_lossy(template);
        Ok(Self {
            files: ModelFiles::from_bytes(config, weights)?,
            text: TextFiles::chatml(tokenizer.to_vec(), template),
            processor: processor.map(|bytes| parse("processor.json", bytes)).transpose()?,
            side: None,
        })
    }

    /// Reads a Hugging Face directory.
    pub fn read(dir: &Path) -> Result<Self, EngineError> {
        let files = read_directory(dir)?;
        let text = TextFiles::read(dir, &files.config)?;
        let processor = match optional(dir, "processor.json")? {
            Some(bytes) => Some(parse("processor.json", &bytes)?),
            None => None,
        };
        let side = Some(side::read(dir, &files.config)?);
        Ok(Self { files, text, processor, side })
    }

    /// Reads a GGUF file.
    pub fn read_gguf(path: &Path) -> Result<Self, EngineError> {
        let (files, metadata) = read_gguf(path)?;
        Ok(Self { files, text: gguf::text(&metadata)?, processor: None, side: None })
    }

    /// The files beside weights and config: those of the directory, or such as it would have.
    pub(crate) fn side_files(&self) -> SideFiles {
        match &self.side {
            Some(side) => side.clone(),
            None => side::generated(&self.text, self.processor.as_ref()),
        }
    }

    /// Finds a model by name: a directory, a GGUF file, `org/name[@revision]` on a hub or
    /// `builtin:NAME`. What exists here goes before the hub.
    pub fn find(name: &str) -> Result<Self, EngineError> {
        if let Some(name) = name.strip_prefix("builtin:") {
            return builtin::open(name);
        }
        let path = Path::new(name);
        if path.is_dir() {
            return Self::read(path);
        }
        if path.extension().is_some_and(|extension| extension == "gguf") {
            return Self::read_gguf(path);
        }
        if let Some(name) = HubName::of_model(name) {
            return Self::read(&Hub::from_env()?.model(&name, &mut |_| {})?);
        }
        let reason = "expected a Hugging Face directory, a .gguf file, org/name on a hub, builtin:tiny or builtin:tiny-text";
        Err(EngineError::UnknownModel { name: name.to_owned(), reason: reason.to_owned() })
    }
}

impl TextFiles {
    /// Reads `tokenizer.json`, and the chat template and special tokens from where a directory has
    /// them.
    fn read(dir: &Path, config: &Value) -> Result<Self, EngineError> {
        let path = dir.join("tokenizer.json");
        let tokenizer = fs::read(&path).map_err(|source| EngineError::Io { path, source })?;
        let settings = match optional(dir, "tokenizer_config.json")? {
            Some(bytes) => parse("tokenizer_config.json", &bytes)?,
            None => Value::Null,
        };
        let template = match optional(dir, "chat_template.jinja")? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            // Processors of older versions have it in a file of their own.
            None => match optional(dir, "chat_template.json")? {
                Some(bytes) => {
                    let value: Value = parse("chat_template.json", &bytes)?;
                    value.get("chat_template").and_then(default_template)
                }
                None => settings.get("chat_template").and_then(default_template),
            },
        };
        // A token is a word, or an object that holds it.
        let token = |key: &str| {
            let value = settings.get(key)?;
            let word = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
            word.map(str::to_owned)
        };
        const NAMED: [&str; 6] =
            ["unk_token", "pad_token", "sep_token", "cls_token", "mask_token", "image_token"];
        let named = NAMED.iter().filter_map(|&key| Some((key.to_owned(), token(key)?))).collect();
        let generation = match optional(dir, "generation_config.json")? {
            Some(bytes) => parse("generation_config.json", &bytes)?,
            None => Value::Null,
        };
        let own = config.get("text_config").and_then(|text| text.get("eos_token_id"));
        let ends = generation.get("eos_token_id").or(config.get("eos_token_id")).or(own);
        let eos_ids = match ends {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
            Some(value) => value.as_u64().into_iter().collect::<Vec<u64>>(),
            None => Vec::new(),
        };
        Ok(Self {
            tokenizer,
            template,
            bos: token("bos_token"),
            eos: token("eos_token"),
            eos_ids: eos_ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect(),
            named,
        })
    }
}

/// A template as it is, or the one named "default" of several.
fn default_template(value: &Value) -> Option<String> {
    if let Some(template) = value.as_str() {
        return Some(template.to_owned());
    }
    let named = value.as_array()?.iter().find(|t| t.get("name").is_some_and(|n| n == "default"))?;
    named.get("template")?.as_str().map(str::to_owned)
}

fn optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
    let path = dir.join(name);
    if !path.exists() {
        return Ok(None);
    }
    fs::read(&path).map(Some).map_err(|source| EngineError::Io { path, source })
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(bytes)
        .map_err(|e| EngineError::Malformed { file: file.to_owned(), reason: e.to_string() })
}
