//! Phi-3, Phi-3.5 and Phi-4-mini: fused projections, LongRoPE, heads that are rotated in part.

use super::{Defaults, Parsed, rope, set_windows, usual};
use crate::decoder::{DecoderConfig, Projections};
use crate::reader::Reader;
use crate::rope::RopeShape;

pub(super) fn config(config: &Reader<'_>) -> Parsed {
    let defaults = Defaults {
        vocab_size: 32_064,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    };
    config.only("resid_pdrop", 0.0)?;
    config.only("embd_pdrop", 0.0)?;
    let decoder = usual(config, defaults)?;
    let original = config.get("original_max_position_embeddings")?.unwrap_or(4096);
    let mut decoder = DecoderConfig {
        ropes: rope(config, &decoder, 10_000.0, |shape| RopeShape {
            partial: true,
            original: Some(original),
            long_only: true,
            ..shape
        })?,
        projections: Projections::Fused,
        ..decoder
    };
    let window = config.window("sliding_window", 0)?.filter(|&window| window > 0);
    let layers = decoder.layers.len();
    set_windows(&mut decoder, &vec![window; layers]);
    Ok(decoder)
}
