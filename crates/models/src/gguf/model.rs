//! A GGUF file as a model in Hugging Face's layout: names, shapes, config.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::export::PARTS;
use super::{Gguf, Metadata};
use crate::ModelError;

/// Divisors of the rotary frequencies, where a file has them.
const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// What has to be undone of what the conversion to GGUF did to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// Rows of each head were put into the order of interleaved rotations.
    Permuted(usize),
}

/// A model in a GGUF file: its config in Hugging Face's layout, and its tensors by their names there.
#[derive(Debug)]
pub(crate) struct GgufModel {
    file: Gguf,
    /// Hugging Face's name to the file's.
    names: BTreeMap<String, (String, Undo)>,
}

impl GgufModel {
    /// The model, its config in Hugging Face's layout and the file's metadata.
    pub(crate) fn open(path: &Path) -> Result<(Self, Value, Metadata), ModelError> {
        let mut file = Gguf::open(path)?;
        let bad = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
        let Some(family) = file.metadata.get("general.architecture").and_then(Value::as_str) else {
            return Err(bad("has no general.architecture".to_owned()));
        };
        let family = family.to_owned();
        let config = config(&file, &family).map_err(bad)?;
        let heads = |key: &str| config[key].as_u64().unwrap_or(1) as usize;
        let mut names = BTreeMap::new();
        for (name, ..) in file.tensors() {
            let Some((ours, part)) = translated(name) else {
                if name == ROPE_FREQUENCIES {
                    continue;
                }
                return Err(bad(format!("has no place for the tensor {name}")));
            };
            let undo = match part {
                "attn_q" if family == "llama" => Undo::Permuted(heads("num_attention_heads")),
                "attn_k" if family == "llama" => Undo::Permuted(heads("num_key_value_heads")),
                _ => Undo::Nothing,
            };
            names.insert(ours, (name.to_owned(), undo));
        }
        let metadata = std::mem::take(&mut file.metadata);
        Ok((Self { file, names }, config, metadata))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Names, types and shapes.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (String, String, Vec<usize>)> {
        self.names.iter().filter_map(|(ours, (theirs, _))| {
            let place = self.file.tensors.get(theirs)?;
            Some((ours.clone(), format!("{:?}", place.kind).to_lowercase(), place.shape.clone()))
        })
    }

    pub(crate) fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some((theirs, undo)) = self.names.get(name) else { return Ok(None) };
        match *undo {
            Undo::Nothing => self.file.load(theirs),
            Undo::Permuted(heads) => self.file.load_rows(theirs, |row, rows| {
                // Whoever asked expects another shape then, and says so.
                if heads == 0 || !rows.is_multiple_of(2 * heads) {
                    return row;
                }
                // Pairs of rows stand side by side in the file and half a head apart here.
                let half = rows / heads / 2;
                let (head, within) = (row / (2 * half), row % (2 * half));
                head * 2 * half + within % 2 * half + within / 2
            }),
        }
    }
}

/// Hugging Face's name of a tensor, and the part of a block that it is.
fn translated(name: &str) -> Option<(String, &str)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let Some(block) = stem.strip_prefix("blk.") else {
        let ours = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            _ => return None,
        };
        return Some((format!("{ours}.{kind}"), stem));
    };
    let (layer, part) = block.split_once('.')?;
    let (ours, _) = PARTS.iter().find(|(_, theirs)| *theirs == part)?;
    Some((format!("model.layers.{layer}.{ours}.{kind}"), part))
}

/// `config.json` as the metadata gives it.
fn config(file: &Gguf, family: &str) -> Result<Value, String> {
    if !matches!(family, "llama" | "qwen2" | "qwen3") {
        let supported = "llama, qwen2, qwen3";
        return Err(format!("is of the architecture {family:?} (supported: {supported})"));
    }
    let get = |key: &str| file.metadata.get(&format!("{family}.{key}")).cloned();
    let need = |key: &str| get(key).ok_or_else(|| format!("has no {family}.{key}"));
    let has = |name: &str| file.tensors.contains_key(name);
    let Some(embedding) = file.tensors.get("token_embd.weight") else {
        return Err("has no token_embd.weight".to_owned());
    };
    let heads = need("attention.head_count")?;
    let context = need("context_length")?;
    let class = match family {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        _ => "Qwen3ForCausalLM",
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": family,
        "hidden_size": need("embedding_length")?,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv").unwrap_or(heads),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon")?,
        "max_position_embeddings": context,
        "vocab_size": embedding.shape.first(),
        "tie_word_embeddings": !has("output.weight"),
        "rope_theta": get("rope.freq_base").unwrap_or(json!(10_000.0)),
    });
    let mut set = |key: &str, value: Value| config[key] = value;
    for key in ["bos_token_id", "eos_token_id"] {
        if let Some(id) = file.metadata.get(&format!("tokenizer.ggml.{key}")) {
            set(key, id.clone());
        }
    }
    if let Some(dim) = get("attention.key_length") {
        set("head_dim", dim);
    }
    if family != "qwen2" {
        set("attention_bias", json!(has("blk.0.attn_q.bias")));
    }
    if family == "llama" {
        set("mlp_bias", json!(has("blk.0.ffn_gate.bias")));
    }
    let original = get("rope.scaling.original_context_length").unwrap_or(context);
    if let Some(tensor) = file.load(ROPE_FREQUENCIES).map_err(|e| e.to_string())? {
        // Llama 3.1: the divisors of all frequencies, ready made.
        let divisors = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>());
        let divisors = divisors.map_err(|e| e.to_string())?;
        set(
            "rope_scaling",
            json!({"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                "attention_factor": 1.0, "original_max_position_embeddings": original}),
        );
    } else if let Some(kind) = get("rope.scaling.type").filter(|kind| kind != "none") {
        set(
            "rope_scaling",
            json!({"rope_type": kind, "factor": need("rope.scaling.factor")?,
                "original_max_position_embeddings": original}),
        );
    }
    Ok(config)
}
