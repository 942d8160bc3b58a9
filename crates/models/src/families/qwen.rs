//! Qwen2, Qwen2.5 and Qwen3, and the decoders of Qwen2-VL and Qwen2.5-VL.

use super::{Defaults, Parsed, rope, set_windows, usual, windows};
use crate::decoder::{Biases, DecoderConfig};
use crate::reader::Reader;
use crate::rope::RopeShape;

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
    windowed(config, DecoderConfig { bias, ..decoder }, USUAL)
}

/// Qwen2-VL and Qwen2.5-VL: Qwen2 with positions on three axes.
pub(super) fn qwen2_vl(config: &Reader<'_>) -> Parsed {
    let defaults =
        Defaults { vocab_size: 152_064, kv_heads: Some(8), rms_norm_eps: 1e-5, ..DEFAULTS };
    let decoder = usual(config, defaults)?;
    if decoder.head_dim * decoder.num_attention_heads != decoder.hidden_size {
        let heads = decoder.num_attention_heads;
        let supported = format!("divisors of {}", decoder.hidden_size);
        return Err(config.unsupported("num_attention_heads", heads, supported));
    }
    let bias = Biases { qkv: true, ..Biases::default() };
    let axes = Windowed { theta: 1_000_000.0, axes: true, first: 80 };
    windowed(config, DecoderConfig { bias, ..decoder }, axes)
}

/// Qwen3: queries and keys are normalised head by head.
pub(super) fn qwen3(config: &Reader<'_>) -> Parsed {
    let decoder = usual(config, Defaults { head_dim: Some(128), ..DEFAULTS })?;
    let bias = config.get("attention_bias")?.unwrap_or(false);
    let bias = Biases { qkv: bias, out: bias, mlp: false };
    windowed(config, DecoderConfig { bias, head_norm: true, ..decoder }, USUAL)
}

/// What differs in ropes and windows.
struct Windowed {
    theta: f64,
    /// Whether positions have three axes.
    axes: bool,
    /// The first layer with a window.
    first: usize,
}

const USUAL: Windowed = Windowed { theta: 10_000.0, axes: false, first: 28 };

/// Windows from layer `max_window_layers` up, where `use_sliding_window` asks for them.
fn windowed(config: &Reader<'_>, mut decoder: DecoderConfig, defaults: Windowed) -> Parsed {
    let Windowed { theta, axes, first } = defaults;
    decoder.ropes = rope(config, &decoder, theta, |shape| RopeShape { axes, ..shape })?;
    let on = config.get("use_sliding_window")?.unwrap_or(false);
    let window = config.window("sliding_window", 4096)?.filter(|_| on);
    let first = config.get::<usize>("max_window_layers")?.unwrap_or(first);
    let windows = windows(config, decoder.layers.len(), window, |layer| layer >= first)?;
    set_windows(&mut decoder, &windows);
    Ok(decoder)
}
