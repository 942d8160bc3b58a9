//! Llama 2 and 3, Vicuna, SmolLM2 and whatever else names itself `llama`.

use super::{Defaults, Parsed, rope, usual};
use crate::decoder::{Biases, DecoderConfig};
use crate::reader::Reader;
use crate::rope::RopeShape;

pub(super) fn config(config: &Reader<'_>) -> Parsed {
    let decoder = usual(config, Defaults::LLAMA)?;
    let bias = config.get("attention_bias")?.unwrap_or(false);
    let original = config.get("original_max_position_embeddings")?;
    Ok(DecoderConfig {
        ropes: rope(config, &decoder, 10_000.0, |shape| RopeShape { original, ..shape })?,
        bias: Biases { qkv: bias, out: bias, mlp: config.get("mlp_bias")?.unwrap_or(false) },
        ..decoder
    })
}
