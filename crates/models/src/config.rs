//! Configs of vision towers and of models that have one, in Hugging Face's layout.

use serde_json::Value;

use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::families::decoder_config;
use crate::reader::Reader;

/// The vision tower of a LLaVA-OneVision (SigLIP).
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Added to the variance in norms.
    pub layer_norm_eps: f64,
}

impl SiglipConfig {
    fn read(config: Reader<'_>) -> Result<Self, ModelError> {
        config.only("model_type", "siglip_vision_model".to_owned())?;
        config.only("hidden_act", "gelu_pytorch_tanh".to_owned())?;
        config.only("attention_dropout", 0.0)?;
        config.only("num_channels", 3)?;
        // The pooling head is no part of what a language model is given.
        config.ignore(&["vision_use_head"]);
        let tower = Self {
            hidden_size: config.size("hidden_size", Some(768))?,
            intermediate_size: config.size("intermediate_size", Some(3072))?,
            num_hidden_layers: config.size("num_hidden_layers", Some(12))?,
            num_attention_heads: config.size("num_attention_heads", Some(12))?,
            image_size: config.size("image_size", Some(224))?,
            patch_size: config.size("patch_size", Some(16))?,
            layer_norm_eps: config.positive("layer_norm_eps")?.unwrap_or(1e-6),
        };
        if !tower.hidden_size.is_multiple_of(tower.num_attention_heads) {
            let supported = format!("divisors of {}", tower.hidden_size);
            let heads = tower.num_attention_heads;
            return Err(config.unsupported("num_attention_heads", heads, supported));
        }
        if tower.side() == 0 {
            let supported = format!("at most {}", tower.image_size);
            return Err(config.unsupported("patch_size", tower.patch_size, supported));
        }
        config.finish()?;
        Ok(tower)
    }

    /// Patches along one side.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A LLaVA-OneVision: tower, projector and language model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlavaOnevisionConfig {
    /// The language model.
    pub text_config: DecoderConfig,
    /// The tower.
    pub vision_config: SiglipConfig,
    /// Token that stands for one visual token of a clip.
    pub video_token_index: u32,
}

impl LlavaOnevisionConfig {
    /// Reads a config and refuses by name what is not supported.
    pub fn parse(value: &Value) -> Result<Self, ModelError> {
        let config = Reader::new(value)?;
        config.only("model_type", "llava_onevision".to_owned())?;
        config.never("quantization_config")?;
        config.only("projector_hidden_act", "gelu".to_owned())?;
        config.only("vision_feature_layer", -1)?;
        config.only("vision_feature_select_strategy", "full".to_owned())?;
        config.only("multimodal_projector_bias", true)?;
        config.only("is_encoder_decoder", false)?;
        // Of still pictures.
        config.ignore(&[
            "image_grid_pinpoints",
            "image_token_id",
            "image_token_index",
            "vision_aspect_ratio",
        ]);
        let part = |key: &str| {
            config.object(key)?.ok_or_else(|| ModelError::Malformed {
                path: "config.json".into(),
                reason: format!("{key} is missing"),
            })
        };
        let mut text_config = decoder_config(part("text_config")?, Some("qwen2"))?;
        if let Some(tied) = config.get("tie_word_embeddings")? {
            text_config.tied = tied;
        }
        let index: Option<u32> = config.get("video_token_index")?;
        let parsed = Self {
            text_config,
            vision_config: SiglipConfig::read(part("vision_config")?)?,
            video_token_index: match (index, config.get("video_token_id")?) {
                (Some(index), _) | (None, Some(index)) => index,
                (None, None) => 151_647,
            },
        };
        config.finish()?;
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_values_are_refused_by_name() {
        let base = serde_json::json!({
            "text_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 9,
                "max_position_embeddings": 8, "rms_norm_eps": 1e-6},
            "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
            "video_token_index": 3
        });
        assert!(LlavaOnevisionConfig::parse(&base).is_ok());
        for (pointer, key, value) in [
            ("/text_config", "rope_scaling", serde_json::json!({"type": "spiral"})),
            ("/text_config", "quantization_config", serde_json::json!({"bits": 4})),
            ("/text_config", "attention_sinks", serde_json::json!(4)),
            ("/vision_config", "hidden_act", serde_json::json!("relu")),
            ("", "vision_feature_layer", serde_json::json!(-2)),
            ("/text_config", "head_dim", serde_json::json!(0)),
            ("/text_config", "head_dim", serde_json::json!(3)),
            ("/text_config", "num_key_value_heads", serde_json::json!(3)),
            ("/vision_config", "patch_size", serde_json::json!(17)),
            ("/vision_config", "num_attention_heads", serde_json::json!(3)),
        ] {
            let mut bad = base.clone();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = LlavaOnevisionConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
