//! Gemma 2 and the text model of Gemma 3: scaled embeddings, norms around every block, windows in
//! most layers.

use super::{Defaults, Parsed, rope, set_windows, usual, windows};
use crate::ModelError;
use crate::decoder::{Biases, DecoderConfig};
use crate::reader::Reader;
use crate::rope::{Rope, RopeShape};

const DEFAULTS: Defaults = Defaults {
    vocab_size: 256_000,
    max_position_embeddings: 8192,
    kv_heads: Some(4),
    head_dim: Some(256),
    tied: true,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    ..Defaults::LLAMA
};

/// Gemma 2: capped scores and logits, a window in every second layer.
pub(super) fn gemma2(config: &Reader<'_>) -> Parsed {
    let mut decoder = gemma(config, DEFAULTS)?;
    decoder.ropes = rope(config, &decoder, 10_000.0, |shape| shape)?;
    let cap = |key: &str, default: f64| config.or_null(key, default);
    decoder.attention_softcap = cap("attn_logit_softcapping", 50.0)?;
    decoder.logit_softcap = cap("final_logit_softcapping", 30.0)?;
    let window = Some(window(config)?);
    let windows = windows(config, decoder.layers.len(), window, |layer| layer % 2 == 0)?;
    set_windows(&mut decoder, &windows);
    // An older name of the activation, which the newer one goes before.
    config.ignore(&["hidden_act"]);
    Ok(decoder)
}

/// Gemma 3: normalised queries and keys, other rotations in windowed layers.
pub(super) fn gemma3(config: &Reader<'_>) -> Parsed {
    let defaults = Defaults { vocab_size: 262_208, max_position_embeddings: 131_072, ..DEFAULTS };
    let mut decoder = gemma(config, defaults)?;
    decoder.head_norm = true;
    // transformers has this key and does not use it.
    config.never("attn_logit_softcapping")?;
    decoder.logit_softcap = config.positive("final_logit_softcapping")?;
    let window = Some(window(config)?);
    let pattern = config.size("sliding_window_pattern", Some(6))?;
    let windows =
        windows(config, decoder.layers.len(), window, |layer| (layer + 1) % pattern != 0)?;
    set_windows(&mut decoder, &windows);
    decoder.ropes = ropes(config, &decoder)?;
    for layer in &mut decoder.layers {
        layer.rope = usize::from(layer.window.is_some());
    }
    Ok(decoder)
}

fn gemma(config: &Reader<'_>, defaults: Defaults) -> Parsed {
    let decoder = usual(config, defaults)?;
    config.only("use_bidirectional_attention", false)?;
    let bias = config.get("attention_bias")?.unwrap_or(false);
    let scalar = config.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(DecoderConfig {
        norm_offset: 1.0,
        sandwich: true,
        bias: Biases { qkv: bias, out: bias, mlp: false },
        embed_scale: Some((decoder.hidden_size as f64).sqrt()),
        attention_scale: 1.0 / scalar.sqrt(),
        ..decoder
    })
}

/// The size of the window, which these families cannot do without.
fn window(config: &Reader<'_>) -> Result<usize, ModelError> {
    let window = config.window("sliding_window", 4096)?;
    window.ok_or_else(|| config.unsupported("sliding_window", "null", "a size"))
}

/// The ropes of full and of windowed layers: by kind of layer in `rope_parameters`, or one in
/// `rope_scaling` for full layers and `rope_local_base_freq` for the others.
fn ropes(config: &Reader<'_>, decoder: &DecoderConfig) -> Result<Vec<Rope>, ModelError> {
    let global = config.positive("rope_theta")?.unwrap_or(1_000_000.0);
    let local = config.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    let shape = RopeShape::of(decoder, global);
    let parameters = config.object("rope_parameters")?;
    let scaling = config.object("rope_scaling")?;
    let (full, windowed) = match &parameters {
        None => (None, None),
        Some(parameters) => {
            (parameters.object("full_attention")?, parameters.object("sliding_attention")?)
        }
    };
    if let Some(parameters) = parameters {
        parameters.finish()?;
    }
    if full.is_some() && scaling.is_some() {
        return Err(config.unsupported("rope_scaling", "set", "null beside rope_parameters"));
    }
    Ok(vec![
        Rope::of(full.or(scaling), global, None, shape)?,
        Rope::of(windowed, local, None, shape)?,
    ])
}
