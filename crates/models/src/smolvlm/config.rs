//! Configs of SmolVLM2 (`smolvlm`) and of the first SmolVLM and Idefics3 (`idefics3`), which are one model.

use serde_json::Value;

use crate::ModelError;
use crate::decoder::{DecoderConfig, Names};
use crate::families::decoder_config;
use crate::reader::Reader;
use crate::tower::{IDEFICS3, TowerConfig};

/// Names of the language model's weights in checkpoints.
const NAMES: Names = Names {
    embedding: "model.text_model.embed_tokens",
    layers: "model.text_model.layers",
    norm: "model.text_model.norm",
    ..Names::USUAL
};

/// Sizes that published files leave out of `text_config`: those of transformers' Llama.
const TEXT: [(&str, usize); 4] = [
    ("hidden_size", 4096),
    ("intermediate_size", 11_008),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
];

/// Tower, connector and language model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SmolVlmConfig {
    pub(crate) text: DecoderConfig,
    pub(crate) tower: TowerConfig,
    /// Token that stands for one visual token.
    pub(crate) image_token: u32,
    /// Patches along each side of what becomes one visual token.
    pub(crate) scale: usize,
    /// Whether the family has a way to show clips.
    pub(crate) clips: bool,
}

impl SmolVlmConfig {
    /// Reads a config and refuses by name what is not supported.
    pub(crate) fn parse(value: &Value) -> Result<Self, ModelError> {
        let mut value = value.clone();
        if let Some(text) = value.get_mut("text_config").and_then(Value::as_object_mut) {
            for (key, usual) in TEXT {
                text.entry(key).or_insert_with(|| usual.into());
            }
        }
        let config = Reader::new(&value)?;
        let family: String = config.require("model_type")?;
        config.never("quantization_config")?;
        config.only("is_encoder_decoder", false)?;
        // Left over from training; the size of the vocabulary is the language model's own.
        config.ignore(&["transformers.js_config", "use_reentrant_checkpointing", "vocab_size"]);
        let part = |key: &str| {
            config.object(key)?.ok_or_else(|| ModelError::Malformed {
                path: "config.json".into(),
                reason: format!("{key} is missing"),
            })
        };
        let tied = config.get("tie_word_embeddings")?.unwrap_or(false);
        let parsed = Self {
            text: DecoderConfig { tied, names: &NAMES, ..text(part("text_config")?, tied)? },
            tower: TowerConfig::read(part("vision_config")?, IDEFICS3)?,
            image_token: config.get("image_token_id")?.unwrap_or(128_257),
            scale: config.size("scale_factor", Some(2))?,
            clips: family == "smolvlm",
        };
        config.finish()?;
        Ok(parsed)
    }
}

fn text(config: Reader<'_>, tied: bool) -> Result<DecoderConfig, ModelError> {
    config.only("model_type", "llama".to_owned())?;
    // What a checkpoint of these would compute is not what its class in transformers does.
    config.only("qk_layer_norms", false)?;
    config.only("rope_interleaved", false)?;
    config.only("use_resampler", false)?;
    // The word above is the one that counts; transformers writes false here in any case.
    if config.get("tie_word_embeddings")?.unwrap_or(false) && !tied {
        return Err(config.unsupported(
            "tie_word_embeddings",
            true,
            "as the key of this name beside text_config",
        ));
    }
    // Left over from training: of a resampler that is not there, and of the connector, whose factor is
    // scale_factor.
    config.ignore(&[
        "is_llama_config",
        "neftune_noise_alpha",
        "perceiver_config",
        "pixel_shuffle_factor",
        "transformers.js_config",
    ]);
    decoder_config(config, Some("llama"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Keys of SmolVLM2-500M and 2.2B, the latter without heads.
    fn published() -> Value {
        json!({
            "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": 49190,
            "model_type": "smolvlm", "pad_token_id": 128_002, "scale_factor": 4,
            "text_config": {
                "_flash_attn_2_enabled": true, "architectures": ["VLlama3ForCausalLM"],
                "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
                "is_llama_config": true, "max_position_embeddings": 8192, "model_type": "llama",
                "neftune_noise_alpha": 0.0, "num_hidden_layers": 24, "pad_token_id": 2,
                "perceiver_config": {"model_type": "vllama3", "resampler_depth": 6},
                "pixel_shuffle_factor": 4, "qk_layer_norms": false, "rms_norm_eps": 1e-5,
                "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100_000,
                "tie_word_embeddings": false, "torch_dtype": "bfloat16",
                "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
                "use_cache": true, "use_resampler": false, "vocab_size": 49280
            },
            "tie_word_embeddings": false, "torch_dtype": "float32",
            "transformers_version": "4.47.1", "use_cache": false,
            "use_reentrant_checkpointing": false,
            "vision_config": {
                "hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512},
                "model_type": "smolvlm_vision", "num_attention_heads": 12, "patch_size": 16,
                "size": {"longest_edge": 2048}, "tie_word_embeddings": false,
                "use_base_siglip": false
            },
            "vocab_size": 49280
        })
    }

    #[test]
    fn published_files_are_read() {
        let config = SmolVlmConfig::parse(&published()).unwrap();
        assert_eq!((config.text.num_attention_heads, config.text.num_key_value_heads), (32, 32));
        assert_eq!((config.tower.intermediate_size, config.tower.num_hidden_layers), (3072, 12));
        assert_eq!((config.tower.side(), config.scale, config.image_token), (32, 4, 49190));
        assert!(config.clips && !config.text.tied);
        let mut tied = published();
        tied["tie_word_embeddings"] = json!(true);
        assert!(SmolVlmConfig::parse(&tied).unwrap().text.tied);
        let mut first = published();
        first["model_type"] = json!("idefics3");
        assert!(!SmolVlmConfig::parse(&first).unwrap().clips);
    }

    #[test]
    fn unsupported_values_are_refused_by_name() {
        for (pointer, key, value) in [
            ("/text_config", "qk_layer_norms", json!(true)),
            ("/text_config", "use_resampler", json!(true)),
            ("/text_config", "rope_interleaved", json!(true)),
            ("/text_config", "tie_word_embeddings", json!(true)),
            ("/text_config", "model_type", json!("mamba")),
            ("/vision_config", "model_type", json!("clip")),
            ("/vision_config", "hidden_act", json!("tanh")),
            ("", "scale_factor", json!(0)),
            ("", "use_resampler", json!(false)),
        ] {
            let mut bad = published();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = SmolVlmConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
