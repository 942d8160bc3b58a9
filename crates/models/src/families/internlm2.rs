//! InternLM2, the decoder of several InternVL models: queries, keys and values in one matrix by key
//! head, and names of its own.

use super::{Defaults, Parsed, rope, usual};
use crate::decoder::{Biases, DecoderConfig, Names, Projections};
use crate::reader::Reader;

const NAMES: Names = Names {
    embedding: "model.tok_embeddings",
    head: "output",
    qkv: "attention.wqkv",
    o: "attention.wo",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    input_norm: "attention_norm",
    attention_norm: "ffn_norm",
    ..Names::USUAL
};

pub(super) fn config(config: &Reader<'_>) -> Parsed {
    let defaults = Defaults { vocab_size: 103_168, ..Defaults::LLAMA };
    let decoder = usual(config, defaults)?;
    let bias = config.get("bias")?.unwrap_or(true);
    config.ignore(&["attn_implementation"]);
    Ok(DecoderConfig {
        ropes: rope(config, &decoder, 10_000.0, |shape| shape)?,
        bias: Biases { qkv: bias, out: bias, mlp: false },
        projections: Projections::Grouped,
        names: &NAMES,
        ..decoder
    })
}
