//! The text families: how each one's `config.json` shapes the [`Decoder`](crate::decoder::Decoder).
//!
//! A family is one file with one function, and one line in [`decoder_config`]. Absent keys have the
//! values that transformers gives them.

mod gemma;
mod internlm2;
mod llama;
mod mistral;
mod phi3;
mod qwen;

use crate::ModelError;
use crate::decoder::{Activation, Biases, DecoderConfig, LayerConfig, Names, Projections};
use crate::reader::Reader;
use crate::rope::{Rope, RopeShape};

/// More layers are refused before anything is set aside for them.
pub(crate) const MOST_LAYERS: usize = 10_000;

/// What a family's function gives.
type Parsed = Result<DecoderConfig, ModelError>;
/// A family's function.
type Family = fn(&Reader<'_>) -> Parsed;

/// The families by their `model_type`.
const FAMILIES: &[(&str, Family)] = &[
    ("llama", llama::config),
    ("mistral", mistral::config),
    ("qwen2", qwen::qwen2),
    ("qwen3", qwen::qwen3),
    ("phi3", phi3::config),
    ("gemma2", gemma::gemma2),
    ("gemma3_text", gemma::gemma3),
    ("internlm2", internlm2::config),
];

/// The decoder that a text model's config describes. `usual` is the family of a config that names
/// none.
pub(crate) fn decoder_config(config: Reader<'_>, usual: Option<&str>) -> Parsed {
    let named: Option<String> = config.get("model_type")?;
    let Some(name) = named.as_deref().or(usual) else {
        return Err(config.unsupported("model_type", "nothing", "a model's family"));
    };
    let Some((_, read)) = FAMILIES.iter().find(|(family, _)| *family == name) else {
        let known: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
        return Err(config.unsupported("model_type", name, known.join(", ")));
    };
    let parsed = common(&config, *read)?;
    config.finish()?;
    Ok(parsed)
}

/// Refuses what no decoder here does, and reads the rest.
fn common(config: &Reader<'_>, read: Family) -> Parsed {
    config.never("quantization_config")?;
    config.only("is_encoder_decoder", false)?;
    config.only("add_cross_attention", false)?;
    config.only("attention_dropout", 0.0)?;
    config.ignore(&["is_decoder"]);
    read(config)
}

/// The decoder of a Qwen2-VL or Qwen2.5-VL. Its keys stand among others in older files, so it is left to
/// the caller to refuse those that nobody has read.
pub(crate) fn qwen_vl(config: &Reader<'_>) -> Parsed {
    common(config, qwen::qwen2_vl)
}

/// What a family has where its config is silent.
struct Defaults {
    vocab_size: usize,
    max_position_embeddings: usize,
    /// As many as query heads where there is no number.
    kv_heads: Option<usize>,
    /// The width over the heads where there is no number.
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    tied: bool,
    /// Key and value of the activation.
    activation: (&'static str, &'static str),
}

impl Defaults {
    const LLAMA: Self = Self {
        vocab_size: 32_000,
        max_position_embeddings: 2048,
        kv_heads: None,
        head_dim: None,
        rms_norm_eps: 1e-6,
        tied: false,
        activation: ("hidden_act", "silu"),
    };
}

/// What all families read alike: a decoder in the manner of Llama, without biases and windows. Its
/// rope is read apart, by [`rope`] or the family's own way.
fn usual(config: &Reader<'_>, defaults: Defaults) -> Parsed {
    let hidden_size = config.size("hidden_size", None)?;
    let heads = config.size("num_attention_heads", None)?;
    let kv_heads = config.size("num_key_value_heads", Some(defaults.kv_heads.unwrap_or(heads)))?;
    if heads % kv_heads != 0 {
        let supported = format!("divisors of {heads}");
        return Err(config.unsupported("num_key_value_heads", kv_heads, supported));
    }
    let default = defaults.head_dim.unwrap_or(hidden_size / heads);
    let head_dim = config.size("head_dim", Some(default))?;
    if head_dim == 0 {
        return Err(config.unsupported("num_attention_heads", heads, "at most hidden_size"));
    }
    let layers = config.size("num_hidden_layers", None)?;
    if layers > MOST_LAYERS {
        return Err(config.unsupported(
            "num_hidden_layers",
            layers,
            format!("at most {MOST_LAYERS}"),
        ));
    }
    let (key, name) = defaults.activation;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: config.size("intermediate_size", None)?,
        vocab_size: config.size("vocab_size", Some(defaults.vocab_size))?,
        max_position_embeddings: config
            .size("max_position_embeddings", Some(defaults.max_position_embeddings))?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        layers: vec![LayerConfig { window: None, rope: 0 }; layers],
        ropes: Vec::new(),
        rms_norm_eps: config.positive("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
        norm_offset: 0.0,
        activation: activation(config, key, name)?,
        bias: Biases::default(),
        head_norm: false,
        sandwich: false,
        projections: Projections::Separate,
        tied: config.get("tie_word_embeddings")?.unwrap_or(defaults.tied),
        embed_scale: None,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_softcap: None,
        logit_softcap: None,
        names: &Names::USUAL,
    })
}

/// The one rope of all layers.
fn rope(
    config: &Reader<'_>,
    decoder: &DecoderConfig,
    theta: f64,
    more: impl FnOnce(RopeShape) -> RopeShape,
) -> Result<Vec<Rope>, ModelError> {
    let shape = RopeShape::of(decoder, theta);
    Ok(vec![Rope::read(config, more(shape))?])
}

/// The activation of an MLP by its name in transformers.
pub(crate) fn activation(
    config: &Reader<'_>,
    key: &str,
    default: &str,
) -> Result<Activation, ModelError> {
    let name: Option<String> = config.get(key)?;
    match name.as_deref().unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "quick_gelu" => Ok(Activation::QuickGelu),
        other => {
            let known = "silu, gelu, gelu_pytorch_tanh, gelu_new, relu, quick_gelu";
            Err(config.unsupported(key, other, known))
        }
    }
}

/// Which layers are windowed, by `layer_types`, or by `default` where the config has none.
fn windows(
    config: &Reader<'_>,
    layers: usize,
    window: Option<usize>,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let types: Option<Vec<String>> = config.get("layer_types")?;
    let Some(types) = types else {
        return Ok((0..layers).map(|i| window.filter(|_| default(i))).collect());
    };
    if types.len() != layers {
        let supported = format!("{layers} entries, one a layer");
        return Err(config.unsupported("layer_types", types.len(), supported));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" => match window {
                Some(window) => Ok(Some(window)),
                None => {
                    Err(config.unsupported("sliding_window", "null", "a size, as layer_types asks"))
                }
            },
            other => {
                Err(config.unsupported("layer_types", other, "full_attention, sliding_attention"))
            }
        })
        .collect()
}

/// Gives the layers their windows.
fn set_windows(decoder: &mut DecoderConfig, windows: &[Option<usize>]) {
    for (layer, window) in decoder.layers.iter_mut().zip(windows) {
        layer.window = *window;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Value, json};

    use super::*;

    fn parse(config: &Value) -> Parsed {
        decoder_config(Reader::new(config)?, None)
    }

    fn cases() -> BTreeMap<String, Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/families/cases.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Other values that a key could have, of its own kind.
    fn others(value: &Value) -> Vec<Value> {
        match value {
            Value::Null => vec![json!(3)],
            Value::Bool(b) => vec![json!(!b)],
            Value::String(s) => vec![json!(format!("{s}x"))],
            Value::Number(n) if n.is_u64() => {
                let n = n.as_u64().unwrap();
                vec![json!(n + 1), json!(n * 2), json!(0)]
            }
            Value::Number(n) => vec![json!(n.as_f64().unwrap() * 1.5 + 0.25)],
            Value::Array(list) => vec![json!(list[1..])],
            Value::Object(_) => vec![json!("x")],
        }
    }

    /// Paths of all keys, those of objects within included.
    fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
        for (key, value) in value.as_object().unwrap() {
            let path = format!("{at}/{key}");
            all.push(path.clone());
            if value.is_object() {
                paths(value, &path, all);
            }
        }
    }

    /// Every key of every case, and every key that a family reads where it is absent: each change of
    /// it changes the decoder or is refused, in at least one case of the family.
    #[test]
    fn every_key_is_honoured_or_refused() {
        let optional = [
            ("attention_bias", json!(true)),
            ("attention_dropout", json!(0.1)),
            ("head_dim", json!(20)),
            ("hidden_act", json!("gelu")),
            ("hidden_activation", json!("gelu")),
            ("quantization_config", json!({"bits": 4})),
            ("rms_norm_eps", json!(0.5)),
            ("rope_theta", json!(77.0)),
            ("rope_parameters", json!({"rope_type": "linear", "factor": 7.0})),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 7.0})),
            ("partial_rotary_factor", json!(0.5)),
            ("is_encoder_decoder", json!(true)),
            ("sliding_window", json!(2)),
            ("tie_word_embeddings", json!(true)),
            ("tie_word_embeddings", json!(false)),
            ("use_bidirectional_attention", json!(true)),
            ("resid_pdrop", json!(0.1)),
            ("a_key_of_tomorrow", json!(1)),
        ];
        // By family: the paths and additions seen, and those that made a difference.
        let mut seen: BTreeMap<String, [BTreeSet<String>; 2]> = BTreeMap::new();
        for (case, config) in cases() {
            let base = parse(&config).unwrap_or_else(|e| panic!("{case}: {e}"));
            let family = config["model_type"].as_str().unwrap().to_owned();
            let [all, telling] = seen.entry(family).or_default();
            let mut keys = Vec::new();
            paths(&config, "", &mut keys);
            let mut try_one = |name: String, changed: &Value| {
                if parse(changed).is_ok_and(|parsed| parsed == base) {
                    all.insert(name);
                } else {
                    telling.insert(name);
                }
            };
            for path in keys {
                for other in others(config.pointer(&path).unwrap()) {
                    let mut changed = config.clone();
                    *changed.pointer_mut(&path).unwrap() = other;
                    let last = path.rsplit('/').next().unwrap();
                    if !matches!(last, "pad_token_id" | "bos_token_id" | "eos_token_id") {
                        try_one(path.clone(), &changed);
                    }
                }
            }
            for (key, value) in &optional {
                if config.get(*key).is_none() {
                    let mut changed = config.clone();
                    changed[*key] = value.clone();
                    try_one(format!("+{key}"), &changed);
                }
            }
        }
        for (family, [all, telling]) in seen {
            // Gemma 2 has an older name of its activation, and Qwen's window waits for
            // use_sliding_window; transformers passes over both, too.
            let idle = |key: &str| match key {
                "+hidden_act" => family == "gemma2",
                "+sliding_window" => family.starts_with("qwen"),
                _ => false,
            };
            let silent: Vec<_> = all.difference(&telling).filter(|key| !idle(key)).collect();
            assert!(silent.is_empty(), "{family} passes over {silent:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let llama = &cases()["llama-3"];
        for (path, value, named) in [
            ("/model_type", json!("mamba"), "model_type = mamba"),
            ("/rope_scaling/rope_type", json!("spiral"), "rope_scaling.rope_type = spiral"),
            ("/num_key_value_heads", json!(3), "num_key_value_heads = 3"),
            ("/hidden_size", json!("wide"), "hidden_size"),
            ("/num_hidden_layers", json!(0), "num_hidden_layers = 0"),
            ("/num_hidden_layers", json!(1u64 << 40), "num_hidden_layers = 1099511627776"),
            ("/num_hidden_layers", json!(20_000), "num_hidden_layers = 20000"),
            ("/rope_scaling/original_max_position_embeddings", json!(0), "embeddings = 0"),
            ("/head_dim", json!(7), "head_dim = 7"),
            ("/rope_scaling/factor", json!(-1.0), "rope_scaling.factor = -1"),
            ("/rms_norm_eps", json!(0), "rms_norm_eps = 0"),
        ] {
            let mut changed = llama.clone();
            *changed.pointer_mut(path).unwrap() = value;
            let error = parse(&changed).unwrap_err().to_string();
            assert!(error.contains(named), "{error} does not name {named}");
        }
        let mut partial = llama.clone();
        partial["partial_rotary_factor"] = json!(0.5);
        let error = parse(&partial).unwrap_err().to_string();
        assert!(error.contains("partial_rotary_factor = 0.5"), "{error}");
    }
}
