//! Qwen2, Qwen2.5 and Qwen3.

use super::{Defaults, Parsed, rope, set_windows, usual, windows};
use crate::decoder::{Biases, DecoderConfig};
use crate::reader::Reader;

const DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    max_position_embeddings: 32_768,
    kv_heads: Some(32),
    ..Defaults::LLAMA
};

/// Qwen2 and Qwen2.5: biases at queries, keys and values.
pub(super) fn qwen2(config: &Reader<'_>) -> Parsed {
    let decoder = usual(config, DEFAULTS)?;
    let bias = Biases { qkv: true, ..Biases::default() };
    windowed(config, DecoderConfig { bias, ..decoder })
}

/// Qwen3: queries and keys are normalised head by head.
pub(super) fn qwen3(config: &Reader<'_>) -> Parsed {
    let decoder = usual(config, Defaults { head_dim: Some(128), ..DEFAULTS })?;
    let bias = config.get("attention_bias")?.unwrap_or(false);
    let bias = Biases { qkv: bias, out: bias, mlp: false };
    windowed(config, DecoderConfig { bias, head_norm: true, ..decoder })
}

/// Windows from layer `max_window_layers` up, where `use_sliding_window` asks for them.
fn windowed(config: &Reader<'_>, mut decoder: DecoderConfig) -> Parsed {
    decoder.ropes = rope(config, &decoder, 10_000.0, |shape| shape)?;
    let on = config.get("use_sliding_window")?.unwrap_or(false);
    let window = config.window("sliding_window", 4096)?.filter(|_| on);
    let first = config.get::<usize>("max_window_layers")?.unwrap_or(28);
    let windows = windows(config, decoder.layers.len(), window, |layer| layer >= first)?;
    set_windows(&mut decoder, &windows);
    Ok(decoder)
}
