//! A GGUF file as a model in Hugging Face's layout: names and shapes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::config::config;
use super::{Gguf, Metadata};
use crate::ModelError;

/// Divisors of the rotary frequencies, where a file has them: for all lengths, or for short and long ones.
const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// What has to be undone of what the conversion to GGUF did to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// Rows of each head were put into the order of interleaved rotations.
    Permuted(usize),
    /// 1 was added.
    Raised,
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
            if ROPE_TENSORS.contains(&name) {
                continue;
            }
            let Some((ours, part)) = translated(name, &family) else {
                return Err(bad(format!("has no place for the tensor {name}")));
            };
            let undo = match part {
                "attn_q" if family == "llama" => Undo::Permuted(heads("num_attention_heads")),
                "attn_k" if family == "llama" => Undo::Permuted(heads("num_key_value_heads")),
                _ if family.starts_with("gemma") && name.ends_with("norm.weight") => Undo::Raised,
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
            Undo::Raised => match self.file.load(theirs)? {
                Some(value) => Ok(Some((value - 1.0)?)),
                None => Ok(None),
            },
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
fn translated<'a>(name: &'a str, family: &str) -> Option<(String, &'a str)> {
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
    let ours = match (part, family) {
        ("attn_qkv", "phi3") => "self_attn.qkv_proj",
        ("ffn_up", "phi3") => "mlp.gate_up_proj",
        ("ffn_gate" | "attn_q" | "attn_k" | "attn_v", "phi3") => return None,
        ("ffn_norm", "gemma2" | "gemma3") => "pre_feedforward_layernorm",
        ("post_attention_norm", "gemma2" | "gemma3") => "post_attention_layernorm",
        ("post_ffw_norm", "gemma2" | "gemma3") => "post_feedforward_layernorm",
        ("attn_norm", _) => "input_layernorm",
        ("attn_q", _) => "self_attn.q_proj",
        ("attn_k", _) => "self_attn.k_proj",
        ("attn_v", _) => "self_attn.v_proj",
        ("attn_output", _) => "self_attn.o_proj",
        ("attn_q_norm", _) => "self_attn.q_norm",
        ("attn_k_norm", _) => "self_attn.k_norm",
        ("ffn_norm", _) => "post_attention_layernorm",
        ("ffn_gate", _) => "mlp.gate_proj",
        ("ffn_up", _) => "mlp.up_proj",
        ("ffn_down", _) => "mlp.down_proj",
        _ => return None,
    };
    Some((format!("model.layers.{layer}.{ours}.{kind}"), part))
}
