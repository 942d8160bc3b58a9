//! Sentence embeddings (Reimers and Gurevych 2019): a frozen BERT whose token vectors become one of a text.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use candle_transformers::models::clip::div_l2_norm;
use savi_models::read_directory;
use savi_schema::{Embed, GenerateError, RgbImage};
use serde_json::Value;
use tokenizers::{Tokenizer, TruncationParams};

use crate::EngineError;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    Mean,
    /// That of the first token.
    Cls,
}

/// A BERT from a sentence-transformers directory: `config.json`, safetensors, `tokenizer.json`, `modules.json` and the pooling
/// that it names. It runs in f32 on the CPU, text by text, so that no embedding depends on its neighbours.
pub struct SentenceEncoder {
    model: BertModel,
    tokenizer: Tokenizer,
    pooling: Pooling,
    fingerprint: String,
}

impl std::fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentenceEncoder").field("fingerprint", &self.fingerprint).finish()
    }
}

/// A file of a directory, as JSON; none where it is absent.
fn json(dir: &Path, name: &str) -> Result<Option<Value>, EngineError> {
    let path: PathBuf = dir.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|source| EngineError::Io { path, source })?;
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| malformed(dir, name, error.to_string()))
}

fn malformed(dir: &Path, file: &str, reason: String) -> EngineError {
    EngineError::Malformed { file: dir.join(file).display().to_string(), reason }
}

impl SentenceEncoder {
    /// Reads a directory. Models, poolings and modules of other kinds are refused.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let files = read_directory(dir)?;
        let bad = |reason: String| malformed(dir, "config.json", reason);
        let kind = files.config.get("model_type").and_then(Value::as_str);
        if kind != Some("bert") {
            return Err(bad(format!("model_type = {kind:?} is not supported (supported: bert)")));
        }
        for (key, supported) in [("position_embedding_type", "absolute"), ("hidden_act", "gelu")] {
            let value = files.config.get(key).and_then(Value::as_str).unwrap_or(supported);
            if value != supported {
                let reason = format!("{key} = {value} is not supported (supported: {supported})");
                return Err(bad(reason));
            }
        }
        let config: Config =
            serde_json::from_value(files.config).map_err(|error| bad(error.to_string()))?;
        let heads = config.num_attention_heads;
        if heads == 0 || !config.hidden_size.is_multiple_of(heads) {
            return Err(bad(format!("num_attention_heads = {heads} does not divide hidden_size")));
        }
        let pooling = pooling(dir)?;
        let longest = json(dir, "sentence_bert_config.json")?
            .and_then(|value| value.get("max_seq_length")?.as_u64())
            .map_or(config.max_position_embeddings, |longest| longest as usize);
        let max_length = longest.min(config.max_position_embeddings);
        let name = "tokenizer.json";
        let path = dir.join(name);
        let bytes = std::fs::read(&path).map_err(|source| EngineError::Io { path, source })?;
        let of_tokenizer = |error: tokenizers::Error| malformed(dir, name, error.to_string());
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(of_tokenizer)?;
        let truncation = TruncationParams { max_length, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(of_tokenizer)?;
        tokenizer.with_padding(None);
        let tensors = files.tensors.load_all()?;
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{pooling:?} {max_length}").as_bytes());
        // Old files carry the positions along as whole numbers.
        for name in files.tensors.names().filter(|name| !name.ends_with("position_ids")) {
            let Some(tensor) = tensors.get(name) else { continue };
            hash.update(name.as_bytes());
            for value in tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()? {
                hash.update(&value.to_le_bytes());
            }
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Ok(Self {
            model: BertModel::load(weights, &config)?,
            tokenizer,
            pooling,
            fingerprint: format!("sentence:{}", hash.finalize().to_hex()),
        })
    }

    /// Names the weights and what is made of them.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn text(&self, text: &str) -> Result<Vec<f32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|error| EngineError::Conversation(error.to_string()))?;
        if encoding.is_empty() {
            let reason = format!("the text {text:?} has no tokens");
            return Err(EngineError::Conversation(reason));
        }
        let ids = Tensor::new(encoding.get_ids(), &Device::Cpu)?.unsqueeze(0)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let pooled = match self.pooling {
            Pooling::Mean => hidden.mean(1)?,
            Pooling::Cls => hidden.narrow(1, 0, 1)?.squeeze(1)?,
        };
        Ok(div_l2_norm(&pooled)?.squeeze(0)?.to_vec1()?)
    }
}

/// Reads `modules.json`: a transformer, a pooling, and at most a normalisation, which is done in any case.
fn pooling(dir: &Path) -> Result<Pooling, EngineError> {
    let name = "modules.json";
    let bad = |reason: String| malformed(dir, name, reason);
    let modules = json(dir, name)?.ok_or_else(|| bad("is missing".to_owned()))?;
    let mut path = None;
    for module in modules.as_array().ok_or_else(|| bad("is no list".to_owned()))? {
        let word = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or("");
        match word("type").rsplit('.').next().unwrap_or("") {
            "Transformer" if word("path").is_empty() => {}
            "Normalize" => {}
            "Pooling" => path = Some(word("path")),
            _ => {
                let supported = "Transformer in the directory itself, Pooling, Normalize";
                return Err(bad(format!("{module} is not supported (supported: {supported})")));
            }
        }
    }
    let path = path.ok_or_else(|| bad("names no Pooling".to_owned()))?;
    if Path::new(path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(bad(format!("the path {path:?} lies outside the directory")));
    }
    let name = format!("{path}/config.json");
    let bad = |reason: String| malformed(dir, &name, reason);
    let settings = json(dir, &name)?.ok_or_else(|| bad("is missing".to_owned()))?;
    let entries = settings.as_object().ok_or_else(|| bad("is no object".to_owned()))?;
    // Older files have a flag for each kind, newer ones a name.
    let flags = entries
        .iter()
        .filter(|(key, on)| key.starts_with("pooling_mode_") && on.as_bool().unwrap_or(false));
    let flags: Vec<&str> = flags.map(|(key, _)| key.trim_start_matches("pooling_mode_")).collect();
    let named = settings.get("pooling_mode").and_then(Value::as_str);
    match (named, flags.as_slice()) {
        (Some("mean"), []) | (None, ["mean_tokens"]) => Ok(Pooling::Mean),
        (Some("cls"), []) | (None, ["cls_token"]) => Ok(Pooling::Cls),
        (named, flags) => {
            let told = named.map_or_else(|| flags.join(" and "), str::to_owned);
            Err(bad(format!("pooling by {told:?} is not supported (supported: mean, cls)")))
        }
    }
}

impl Embed for SentenceEncoder {
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let text = |text: &String| self.text(text).map_err(|error| error.for_request("sentences"));
        texts.iter().map(text).collect()
    }

    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        Err(GenerateError::BadRequest {
            id: "sentences".to_owned(),
            reason: "a sentence encoder takes texts, not pictures".to_owned(),
        })
    }
}
