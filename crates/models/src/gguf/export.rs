//! A model in Hugging Face's layout as a GGUF file, as llama.cpp's converter makes them: names, the
//! order of Llama's query and key rows, metadata.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::GgmlType;
use super::write::{GgufEntry, GgufValue, write_file};
use crate::decoder::{Activation, DecoderConfig};
use crate::{Model, ModelError, ModelFiles};

/// How a model is written as GGUF.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufOptions {
    /// How matrices are stored: F32, F16, BF16 or Q8_0. Vectors are F32 always, and matrices whose rows
    /// are no whole blocks F16.
    pub kind: GgmlType,
    /// More metadata: the tokenizer.
    pub metadata: Vec<(String, GgufValue)>,
}

/// Writes a model of Llama, Qwen2 or Qwen3. What the format has no place for is refused.
pub fn write_gguf(
    path: &Path,
    files: &ModelFiles,
    options: &GgufOptions,
) -> Result<(), ModelError> {
    let decoder = Model::decoder_config(&files.config)?;
    let family = files.config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let (mut metadata, divisors) = metadata(family, &files.config, &decoder)?;
    let file_type = match options.kind {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q8_0 => 7,
        GgmlType::BF16 => 32,
        other => {
            return Err(unsupported("kind", format!("{other:?}"), "F32, F16, BF16, Q8_0"));
        }
    };
    metadata.push(("general.file_type".to_owned(), GgufValue::U32(file_type)));
    metadata.push(("general.quantization_version".to_owned(), GgufValue::U32(2)));
    metadata.extend(options.metadata.iter().cloned());
    let mut entries = Vec::new();
    let mut sources = Vec::new();
    for (name, _, shape) in files.tensors.shapes() {
        let repeats = decoder.tied && name == "lm_head.weight";
        if repeats || name.ends_with("rotary_emb.inv_freq") {
            continue;
        }
        let Some((theirs, part)) = translated(&name) else {
            let reason = format!("GGUF files of {family} have no place for the tensor {name}");
            return Err(ModelError::Malformed { path: path.to_owned(), reason });
        };
        let kind = match shape.as_slice() {
            [_] => GgmlType::F32,
            [.., width] if !width.is_multiple_of(options.kind.block().0) => GgmlType::F16,
            _ => options.kind,
        };
        let heads = match part {
            "q_proj" if family == "llama" => decoder.num_attention_heads,
            "k_proj" if family == "llama" => decoder.num_key_value_heads,
            _ => 0,
        };
        entries.push(GgufEntry { name: theirs, kind, shape });
        sources.push((name, heads));
    }
    if let Some(divisors) = &divisors {
        let (name, shape) = ("rope_freqs.weight".to_owned(), vec![divisors.len()]);
        entries.push(GgufEntry { name, kind: GgmlType::F32, shape });
    }
    write_file(path, &metadata, &entries, |i| {
        let Some((name, heads)) = sources.get(i) else {
            let divisors = divisors.clone().unwrap_or_default();
            let count = divisors.len();
            return Ok(Tensor::from_vec(divisors, count, &Device::Cpu)?);
        };
        let Some(value) = files.tensors.load(name)? else {
            let reason = format!("the tensor {name} is not there any more");
            return Err(ModelError::Malformed { path: path.to_owned(), reason });
        };
        if *heads == 0 { Ok(value) } else { Ok(interleaved(&value, *heads)?) }
    })
}

/// Rows of each head in pairs that are half a head apart, as llama.cpp's rotation of Llama wants them.
fn interleaved(value: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = value.dims().to_vec();
    let rows = shape.first().copied().unwrap_or(0);
    if !rows.is_multiple_of(2 * heads) {
        candle_core::bail!("{rows} rows are not {heads} heads of pairs");
    }
    let rest: usize = shape.iter().skip(1).product();
    let value = value.reshape((heads, 2, rows / heads / 2, rest))?;
    value.transpose(1, 2)?.contiguous()?.reshape(shape)
}

/// GGUF's name of a tensor, and the part of a layer that it is.
fn translated(name: &str) -> Option<(String, &str)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let whole = match stem {
        "model.embed_tokens" => Some("token_embd"),
        "model.norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        _ => None,
    };
    if let Some(theirs) = whole {
        return Some((format!("{theirs}.{kind}"), stem));
    }
    let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, theirs) = PARTS.iter().find(|(ours, _)| *ours == part)?;
    let short = part.rsplit('.').next()?;
    Some((format!("blk.{layer}.{theirs}.{kind}"), short))
}

/// Names of a layer's parts, here and in GGUF.
pub(super) const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// What a family's config becomes.
type Described = (Vec<(String, GgufValue)>, Option<Vec<f32>>);

/// Metadata of a model, and the divisors of its rotary frequencies where it has any.
fn metadata(
    family: &str,
    config: &Value,
    decoder: &DecoderConfig,
) -> Result<Described, ModelError> {
    if !matches!(family, "llama" | "qwen2" | "qwen3") {
        return Err(unsupported("model_type", family, "for GGUF: llama, qwen2, qwen3"));
    }
    if decoder.activation != Activation::Silu {
        return Err(unsupported(
            "hidden_act",
            format!("{:?}", decoder.activation),
            "for GGUF: silu",
        ));
    }
    if let Some(window) = decoder.layers.iter().find_map(|layer| layer.window) {
        return Err(unsupported("sliding_window", window, "for GGUF: null"));
    }
    let mut all = vec![("general.architecture".to_owned(), GgufValue::Text(family.to_owned()))];
    let mut set = |key: &str, value: GgufValue| all.push((format!("{family}.{key}"), value));
    for (key, size) in [
        ("block_count", decoder.layers.len()),
        ("context_length", decoder.max_position_embeddings),
        ("embedding_length", decoder.hidden_size),
        ("feed_forward_length", decoder.intermediate_size),
        ("attention.head_count", decoder.num_attention_heads),
        ("attention.head_count_kv", decoder.num_key_value_heads),
        ("attention.key_length", decoder.head_dim),
        ("attention.value_length", decoder.head_dim),
        ("rope.dimension_count", decoder.head_dim),
        ("vocab_size", decoder.vocab_size),
    ] {
        set(key, GgufValue::U32(size as u32));
    }
    set("attention.layer_norm_rms_epsilon", GgufValue::F32(decoder.rms_norm_eps as f32));
    let rope = Rope::of(config);
    let theta = rope.number("rope_theta").unwrap_or(10_000.0);
    set("rope.freq_base", GgufValue::F32(theta as f32));
    let kind = rope.kind();
    let original = rope
        .number("original_max_position_embeddings")
        .unwrap_or(decoder.max_position_embeddings as f64);
    let factor = || {
        rope.number("factor").ok_or_else(|| unsupported("rope_scaling.factor", "null", "a number"))
    };
    let mut divisors = None;
    match kind {
        "default" => rope.only(&[])?,
        "linear" | "yarn" => {
            rope.only(&["factor", "original_max_position_embeddings"])?;
            set("rope.scaling.type", GgufValue::Text(kind.to_owned()));
            set("rope.scaling.factor", GgufValue::F32(factor()? as f32));
            set("rope.scaling.original_context_length", GgufValue::U32(original as u32));
        }
        "llama3" if family == "llama" => {
            rope.only(&[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ])?;
            let low = rope.number("low_freq_factor").unwrap_or(1.0);
            let high = rope.number("high_freq_factor").unwrap_or(4.0);
            let shape = Llama3 { theta, factor: factor()?, low, high, original };
            divisors = Some(shape.divisors(decoder.head_dim));
        }
        other => {
            return Err(unsupported("rope_type", other, "for GGUF: default, linear, yarn, llama3"));
        }
    }
    Ok((all, divisors))
}

/// The rotary settings of a config, under the names of any version of transformers.
struct Rope<'a> {
    config: &'a Value,
    scaling: Option<&'a Value>,
}

impl<'a> Rope<'a> {
    fn of(config: &'a Value) -> Self {
        let object = |key: &str| config.get(key).filter(|value| value.is_object());
        Self { config, scaling: object("rope_parameters").or_else(|| object("rope_scaling")) }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let inner = self.scaling.and_then(|scaling| scaling.get(key));
        inner.or_else(|| self.config.get(key)).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    fn kind(&self) -> &'a str {
        let inner = |key: &str| self.scaling?.get(key)?.as_str();
        inner("rope_type").or_else(|| inner("type")).unwrap_or("default")
    }

    /// Refuses settings beside these, which the file has no place for.
    fn only(&self, keys: &[&str]) -> Result<(), ModelError> {
        let settings = self.scaling.and_then(Value::as_object);
        for (key, value) in settings.into_iter().flatten() {
            let known = ["rope_type", "type", "rope_theta"].contains(&key.as_str())
                || keys.contains(&key.as_str());
            if !known && !value.is_null() {
                return Err(unsupported(&format!("rope_scaling.{key}"), value, "for GGUF: null"));
            }
        }
        match self.number("partial_rotary_factor").filter(|&factor| factor != 1.0) {
            Some(factor) => Err(unsupported("partial_rotary_factor", factor, "for GGUF: 1")),
            None => Ok(()),
        }
    }
}

/// Llama 3.1's scaling of rotary frequencies.
struct Llama3 {
    theta: f64,
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    /// What each frequency is divided by: long waves by the factor, short ones by 1, between them
    /// something between.
    fn divisors(&self, head_dim: usize) -> Vec<f32> {
        let divisor = |i: usize| {
            let frequency = self.theta.powf(-((2 * i) as f64) / head_dim as f64);
            let turns = self.original * frequency / std::f64::consts::TAU;
            let share = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - share) / self.factor + share)
        };
        (0..head_dim / 2).map(|i| divisor(i) as f32).collect()
    }
}

fn unsupported(key: &str, value: impl std::fmt::Display, supported: &str) -> ModelError {
    ModelError::Unsupported {
        key: key.to_owned(),
        value: value.to_string(),
        supported: supported.to_owned(),
    }
}
