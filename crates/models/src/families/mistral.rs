//! Mistral: a Llama whose layers all look back over a window.

use super::{Defaults, Parsed, rope, set_windows, usual};
use crate::reader::Reader;

/// The window of a config without `sliding_window`; null is none.
const WINDOW: usize = 4096;

pub(super) fn config(config: &Reader<'_>) -> Parsed {
    let defaults =
        Defaults { max_position_embeddings: 131_072, kv_heads: Some(8), ..Defaults::LLAMA };
    let mut decoder = usual(config, defaults)?;
    decoder.ropes = rope(config, &decoder, 10_000.0, |shape| shape)?;
    let window = config.window("sliding_window", WINDOW)?;
    let layers = decoder.layers.len();
    set_windows(&mut decoder, &vec![window; layers]);
    Ok(decoder)
}
