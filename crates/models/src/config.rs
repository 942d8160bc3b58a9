//! Configs of the supported families, in Hugging Face's layout.

use serde::Deserialize;
use serde_json::Value;

use crate::ModelError;

/// The language model of a LLaVA-OneVision (Qwen2).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Qwen2Config {
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head; hidden_size / num_attention_heads when absent.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Entries of the embedding.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Whether the embedding is also the head.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_parameters: Option<Value>,
    #[serde(default)]
    rope_scaling: Option<Value>,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    model_type: Option<String>,
}

impl Qwen2Config {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Base of the rotary angles.
    pub fn rope_theta(&self) -> f64 {
        let nested =
            self.rope_parameters.as_ref().and_then(|p| p.get("rope_theta")).and_then(Value::as_f64);
        nested.or(self.rope_theta).unwrap_or(10_000.0)
    }
}

/// The vision tower of a LLaVA-OneVision (SigLIP).
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    model_type: Option<String>,
}

fn layer_norm_eps() -> f64 {
    1e-6
}

impl SiglipConfig {
    /// Patches along one side.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A LLaVA-OneVision: tower, projector and language model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LlavaOnevisionConfig {
    /// The language model.
    pub text_config: Qwen2Config,
    /// The tower.
    pub vision_config: SiglipConfig,
    /// Token that stands for one visual token of a clip.
    #[serde(alias = "video_token_id")]
    pub video_token_index: u32,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    model_type: Option<String>,
    #[serde(default)]
    projector_hidden_act: Option<String>,
    #[serde(default)]
    vision_feature_layer: Option<i64>,
    #[serde(default)]
    vision_feature_select_strategy: Option<String>,
    #[serde(default)]
    multimodal_projector_bias: Option<bool>,
}

impl LlavaOnevisionConfig {
    /// Reads a config and refuses by name what is not supported.
    pub fn parse(value: &Value) -> Result<Self, ModelError> {
        let config: Self = serde_json::from_value(value.clone()).map_err(|error| {
            ModelError::Malformed { path: "config.json".into(), reason: error.to_string() }
        })?;
        let expect = |key: &str, value: Option<String>, supported: &str| match value {
            Some(value) if value != supported => Err(ModelError::Unsupported {
                key: key.to_owned(),
                value,
                supported: supported.to_owned(),
            }),
            _ => Ok(()),
        };
        let (text, vision) = (&config.text_config, &config.vision_config);
        expect("model_type", config.model_type.clone(), "llava_onevision")?;
        expect("text_config.model_type", text.model_type.clone(), "qwen2")?;
        expect("text_config.hidden_act", text.hidden_act.clone(), "silu")?;
        expect(
            "text_config.use_sliding_window",
            Some(text.use_sliding_window.to_string()),
            "false",
        )?;
        expect(
            "text_config.rope_scaling",
            text.rope_scaling.as_ref().map(Value::to_string),
            "null",
        )?;
        let rope_type =
            text.rope_parameters.as_ref().and_then(|p| p.get("rope_type")).and_then(Value::as_str);
        expect("text_config.rope_parameters.rope_type", rope_type.map(str::to_owned), "default")?;
        expect("vision_config.model_type", vision.model_type.clone(), "siglip_vision_model")?;
        expect("vision_config.hidden_act", vision.hidden_act.clone(), "gelu_pytorch_tanh")?;
        expect("projector_hidden_act", config.projector_hidden_act.clone(), "gelu")?;
        expect("vision_feature_layer", config.vision_feature_layer.map(|l| l.to_string()), "-1")?;
        expect(
            "vision_feature_select_strategy",
            config.vision_feature_select_strategy.clone(),
            "full",
        )?;
        expect(
            "multimodal_projector_bias",
            config.multimodal_projector_bias.map(|b| b.to_string()),
            "true",
        )?;
        for (key, value) in [
            ("text_config.num_attention_heads", text.num_attention_heads),
            ("text_config.num_key_value_heads", text.num_key_value_heads),
            ("vision_config.num_attention_heads", vision.num_attention_heads),
            ("vision_config.patch_size", vision.patch_size),
        ] {
            if value == 0 {
                return Err(ModelError::Unsupported {
                    key: key.to_owned(),
                    value: "0".to_owned(),
                    supported: "at least 1".to_owned(),
                });
            }
        }
        for (key, width, supported) in [
            ("text_config.head_dim", text.head_dim(), "even widths from 2 up"),
            (
                "vision_config.hidden_size / num_attention_heads",
                2 * (vision.hidden_size / vision.num_attention_heads),
                "at least 1",
            ),
            ("vision_config.image_size / patch_size", 2 * vision.side(), "at least 1"),
        ] {
            if width == 0 || width % 2 != 0 {
                return Err(ModelError::Unsupported {
                    key: key.to_owned(),
                    value: width.to_string(),
                    supported: supported.to_owned(),
                });
            }
        }
        if text.num_attention_heads % text.num_key_value_heads != 0 {
            return Err(ModelError::Unsupported {
                key: "text_config.num_key_value_heads".to_owned(),
                value: text.num_key_value_heads.to_string(),
                supported: format!("divisors of {}", text.num_attention_heads),
            });
        }
        Ok(config)
    }

    /// Whether the embedding is also the head.
    pub fn tied(&self) -> bool {
        self.tie_word_embeddings.unwrap_or(self.text_config.tie_word_embeddings)
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
            ("/text_config", "use_sliding_window", serde_json::json!(true)),
            ("/text_config", "rope_scaling", serde_json::json!({"type": "yarn"})),
            ("/vision_config", "hidden_act", serde_json::json!("relu")),
            ("", "vision_feature_layer", serde_json::json!(-2)),
            ("/text_config", "head_dim", serde_json::json!(0)),
            ("/text_config", "head_dim", serde_json::json!(3)),
            ("/vision_config", "patch_size", serde_json::json!(17)),
        ] {
            let mut bad = base.clone();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = LlavaOnevisionConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
