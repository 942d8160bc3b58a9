//! `config.json` as a GGUF file's metadata give it.

use serde_json::{Value, json};

use super::Gguf;

/// The architectures that are read.
const FAMILIES: [&str; 6] = ["llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"];

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a Gguf,
    family: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<Value> {
        self.file.metadata.get(&format!("{}.{key}", self.family)).cloned()
    }

    fn need(&self, key: &str) -> Result<Value, String> {
        self.get(key).ok_or_else(|| format!("has no {}.{key}", self.family))
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        let value = self.need(key)?;
        let number = value.as_f64().filter(|number| *number > 0.0);
        number.ok_or_else(|| format!("{}.{key} is {value}, not a positive number", self.family))
    }

    /// Divisors of rotary frequencies.
    fn divisors(&self, tensor: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = self.file.load(tensor).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let values = tensor.flatten_all().and_then(|tensor| tensor.to_vec1());
        values.map(Some).map_err(|e| e.to_string())
    }
}

/// `config.json` as the metadata give it.
pub(super) fn config(file: &Gguf, family: &str) -> Result<Value, String> {
    if !FAMILIES.contains(&family) {
        let supported = FAMILIES.join(", ");
        return Err(format!("is of the architecture {family:?} (supported: {supported})"));
    }
    let keys = Keys { file, family };
    let has = |name: &str| file.tensors.contains_key(name);
    let Some(embedding) = file.tensors.get("token_embd.weight") else {
        return Err("has no token_embd.weight".to_owned());
    };
    let heads = keys.need("attention.head_count")?;
    let context = keys.need("context_length")?;
    let theta = if family == "gemma3" { 1_000_000.0 } else { 10_000.0 };
    let class = match family {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "phi3" => "Phi3ForCausalLM",
        "gemma2" => "Gemma2ForCausalLM",
        _ => "Gemma3ForCausalLM",
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": if family == "gemma3" { "gemma3_text" } else { family },
        "hidden_size": keys.need("embedding_length")?,
        "intermediate_size": keys.need("feed_forward_length")?,
        "num_hidden_layers": keys.need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv").unwrap_or(heads),
        "rms_norm_eps": keys.need("attention.layer_norm_rms_epsilon")?,
        "max_position_embeddings": context,
        "vocab_size": embedding.shape.first(),
        "tie_word_embeddings": !has("output.weight"),
        "rope_theta": keys.get("rope.freq_base").unwrap_or(json!(theta)),
    });
    for key in ["bos_token_id", "eos_token_id"] {
        if let Some(id) = file.metadata.get(&format!("tokenizer.ggml.{key}")) {
            config[key] = id.clone();
        }
    }
    if let Some(dim) = keys.get("attention.key_length") {
        config["head_dim"] = dim;
    }
    if matches!(family, "llama" | "qwen3") {
        config["attention_bias"] = json!(has("blk.0.attn_q.bias"));
    }
    let original = keys.get("rope.scaling.original_context_length").unwrap_or(context);
    match family {
        "phi3" => return phi3(&keys, config, original),
        "gemma2" | "gemma3" => gemma(&keys, &mut config)?,
        _ => {}
    }
    if let Some(divisors) = keys.divisors("rope_freqs.weight")? {
        // Llama 3.1: the divisors of all frequencies, ready made.
        config["rope_scaling"] = json!({
            "rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
            "attention_factor": 1.0, "original_max_position_embeddings": original,
        });
    } else if let Some(kind) = keys.get("rope.scaling.type").filter(|kind| kind != "none") {
        config["rope_scaling"] = json!({
            "rope_type": kind, "factor": keys.need("rope.scaling.factor")?,
            "original_max_position_embeddings": original,
        });
    }
    Ok(config)
}

/// Phi-3: heads that are rotated in part, divisors for short and long texts, a window unless it is 0.
fn phi3(keys: &Keys<'_>, mut config: Value, original: Value) -> Result<Value, String> {
    let width = keys.number("embedding_length")? / keys.number("attention.head_count")?;
    if let Some(rotated) = keys.get("rope.dimension_count").and_then(|n| n.as_f64()) {
        config["partial_rotary_factor"] = json!(rotated / width);
    }
    let window = keys.get("attention.sliding_window").filter(|window| *window != 0);
    config["sliding_window"] = window.unwrap_or(Value::Null);
    config["original_max_position_embeddings"] = original;
    let short = keys.divisors("rope_factors_short.weight")?;
    let long = keys.divisors("rope_factors_long.weight")?;
    if let (Some(short), Some(long)) = (short, long) {
        config["rope_scaling"] = json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long,
            "attention_factor": keys.get("rope.scaling.attn_factor"),
        });
    }
    Ok(config)
}

/// Gemma 2 and 3: windows by a pattern, caps, and the scale of attention, which the file does not hold.
fn gemma(keys: &Keys<'_>, config: &mut Value) -> Result<(), String> {
    let layers = keys.number("block_count")?;
    let (width, heads) = (keys.number("embedding_length")?, keys.number("attention.head_count")?);
    let dim = keys.number("attention.key_length")?;
    // The models of 27 B, told by their layers, divide by the width's share of a head.
    let largest = layers == if keys.family == "gemma2" { 46.0 } else { 62.0 };
    config["query_pre_attn_scalar"] = json!(if largest { (width / heads).floor() } else { dim });
    config["sliding_window"] = keys.need("attention.sliding_window")?;
    let final_cap = keys.get("final_logit_softcapping").filter(|cap| *cap != 0.0);
    if keys.family == "gemma2" {
        config["attn_logit_softcapping"] = keys.need("attn_logit_softcapping")?;
        config["final_logit_softcapping"] = keys.need("final_logit_softcapping")?;
        return Ok(());
    }
    config["final_logit_softcapping"] = final_cap.unwrap_or(Value::Null);
    config["rope_local_base_freq"] = keys.get("rope.freq_base_swa").unwrap_or(json!(10_000.0));
    match keys.get("attention.sliding_window_pattern") {
        None => config["sliding_window_pattern"] = json!(6),
        Some(Value::Array(windowed)) => {
            let name = |on: &Value| match on.as_bool() {
                Some(true) => Ok("sliding_attention"),
                Some(false) => Ok("full_attention"),
                None => Err(format!("attention.sliding_window_pattern has {on} for a layer")),
            };
            let types: Result<Vec<_>, _> = windowed.iter().map(name).collect();
            config["layer_types"] = json!(types?);
        }
        Some(every) => config["sliding_window_pattern"] = every,
    }
    Ok(())
}
