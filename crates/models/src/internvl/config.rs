//! Configs of InternVL models, in the layout of transformers (`internvl`) and in that of the model's
//! authors (`internvl_chat`, as of InternVL 1.5).

use serde_json::Value;

use super::tiles::Tiling;
use crate::ModelError;
use crate::decoder::{Activation, DecoderConfig};
use crate::families::{activation, decoder_config};
use crate::intern_vit::{InternVitConfig, Layout};
use crate::reader::Reader;

/// An InternVL: tower, projector and language model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InternVlConfig {
    pub(crate) text: DecoderConfig,
    pub(super) tower: InternVitConfig,
    /// The token that stands for a visual token, where the config names it.
    pub(super) placeholder: Option<u32>,
    /// Of so many rows and columns of patches one visual token is made.
    pub(super) shrink: usize,
    /// Whether visual tokens go down columns instead of along rows (`ps_version` v1).
    pub(super) by_columns: bool,
    /// Blocks of the tower that are run.
    pub(super) blocks: usize,
    /// Whether the norm after the tower's last block is taken, too.
    pub(super) last_norm: bool,
    /// Of the projector.
    pub(super) activation: Activation,
    /// Into which tiles pictures are cut, where the config says it.
    pub(super) tiling: Option<Tiling>,
}

impl InternVlConfig {
    /// Reads a config of either layout.
    pub(crate) fn parse(value: &Value) -> Result<Self, ModelError> {
        let config = Reader::new(value)?;
        config.never("quantization_config")?;
        config.only("is_encoder_decoder", false)?;
        let parsed = match config.get::<String>("model_type")?.as_deref() {
            Some("internvl_chat") => Self::original(&config)?,
            _ => Self::transformers(&config)?,
        };
        config.finish()?;
        Ok(parsed)
    }

    fn transformers(config: &Reader<'_>) -> Result<Self, ModelError> {
        config.only("model_type", "internvl".to_owned())?;
        config.only("vision_feature_select_strategy", "default".to_owned())?;
        let mut text = decoder_config(part(config, "text_config")?, Some("qwen2"))?;
        text.tied = config.get("tie_word_embeddings")?.unwrap_or(true);
        let tower = InternVitConfig::transformers(part(config, "vision_config")?)?;
        let (blocks, last) = selected(config, "vision_feature_layer", &tower)?;
        let parsed = Self {
            placeholder: Some(config.get("image_token_id")?.unwrap_or(151_667)),
            shrink: shrink(config, &tower)?,
            by_columns: false,
            blocks,
            last_norm: last && tower.last_norm,
            activation: activation(config, "projector_hidden_act", "gelu")?,
            tiling: None,
            text,
            tower,
        };
        config.only("image_seq_length", parsed.tokens_of_tile())?;
        Ok(parsed)
    }

    fn original(config: &Reader<'_>) -> Result<Self, ModelError> {
        for adapter in ["use_backbone_lora", "use_llm_lora"] {
            config.only(adapter, 0)?;
        }
        config.only("pad2square", false)?;
        config.never("image_fold")?;
        // The conversation's wording is the chat template's.
        config.ignore(&["template", "system_message"]);
        let mut text = decoder_config(part(config, "llm_config")?, None)?;
        config.only("hidden_size", text.hidden_size)?;
        if let Some(tied) = config.get("tie_word_embeddings")? {
            text.tied = tied;
        }
        let tower = InternVitConfig::original(part(config, "vision_config")?)?;
        config.only("force_image_size", tower.image_size)?;
        let (blocks, _) = selected(config, "select_layer", &tower)?;
        let version: Option<String> = config.get("ps_version")?;
        let by_columns = match version.as_deref() {
            None | Some("v1") => true,
            Some("v2") => false,
            Some(other) => return Err(config.unsupported("ps_version", other, "v1, v2")),
        };
        let usual =
            Tiling { fewest: 1, most: 6, whole: config.get("use_thumbnail")?.unwrap_or(false) };
        let tiling = Tiling::read(config, ["min_dynamic_patch", "max_dynamic_patch"], usual)?;
        let tiled = config.get("dynamic_image_size")?.unwrap_or(false);
        Ok(Self {
            placeholder: None,
            shrink: shrink(config, &tower)?,
            by_columns,
            blocks,
            last_norm: false,
            activation: Activation::Gelu,
            tiling: Some(if tiled { tiling } else { Tiling::ONE }),
            text,
            tower,
        })
    }

    /// Whose names the weights have.
    pub(super) fn layout(&self) -> Layout {
        self.tower.layout
    }

    /// Visual tokens of one tile.
    pub(super) fn tokens_of_tile(&self) -> usize {
        (self.tower.side() / self.shrink).pow(2)
    }
}

fn part<'a>(config: &Reader<'a>, key: &str) -> Result<Reader<'a>, ModelError> {
    config.object(key)?.ok_or_else(|| ModelError::Malformed {
        path: "config.json".into(),
        reason: format!("{key} is missing"),
    })
}

/// The blocks that are run where this hidden state is taken (0 is what goes into the first block,
/// negative numbers count from the end), and whether it is the whole tower's output.
fn selected(
    config: &Reader<'_>,
    key: &str,
    tower: &InternVitConfig,
) -> Result<(usize, bool), ModelError> {
    let layer: i64 = config.get(key)?.unwrap_or(-1);
    let layers = tower.num_hidden_layers as i64;
    if !(-layers - 1..=layers).contains(&layer) {
        let supported = format!("{} to {layers}", -layers - 1);
        return Err(config.unsupported(key, layer, supported));
    }
    let blocks = if layer < 0 { layers + 1 + layer } else { layer };
    Ok((blocks as usize, layer == -1))
}

/// How many rows and columns of patches become one token.
fn shrink(config: &Reader<'_>, tower: &InternVitConfig) -> Result<usize, ModelError> {
    let ratio = config.positive("downsample_ratio")?.unwrap_or(0.5);
    let Some(shrink) = [1, 2, 4].into_iter().find(|&n| 1.0 / n as f64 == ratio) else {
        return Err(config.unsupported("downsample_ratio", ratio, "1, 0.5, 0.25"));
    };
    let side = tower.side();
    if !side.is_multiple_of(shrink) {
        let supported = format!("those that divide a tile's side of {side} patches");
        return Err(config.unsupported("downsample_ratio", ratio, supported));
    }
    Ok(shrink)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The kinds of keys that published files hold, older ones with all defaults of generation, newer
    /// ones with settings of experts that there are not.
    const PUBLISHED: &str = r#"{
    "_commit_hash": null, "architectures": ["InternVLChatModel"], "auto_map": {"AutoConfig": "x"},
    "downsample_ratio": 0.5, "dynamic_image_size": true, "force_image_size": 448,
    "hidden_size": 2048, "image_fold": null, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
    "model_type": "internvl_chat", "output_attentions": false, "pad2square": false,
    "ps_version": "v2", "select_layer": -1, "system_message": null, "template": "internvl2_5",
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": null,
    "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": true,
    "llm_config": {
        "_name_or_path": "x", "add_cross_attention": false, "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "eager", "bad_words_ids": null, "bias": false, "bos_token_id": 1,
        "chunk_size_feed_forward": 0, "diversity_penalty": 0.0, "do_sample": false,
        "early_stopping": false, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2048, "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02, "intermediate_size": 8192, "is_decoder": false,
        "is_encoder_decoder": false, "label2id": {"LABEL_0": 0}, "length_penalty": 1.0,
        "max_length": 20, "max_position_embeddings": 32768, "min_length": 0,
        "model_type": "internlm2", "no_repeat_ngram_size": 0, "num_attention_heads": 16,
        "num_beam_groups": 1, "num_beams": 1, "num_hidden_layers": 24,
        "num_key_value_heads": 8, "num_return_sequences": 1, "output_hidden_states": false,
        "output_scores": false, "pad_token_id": 2, "pretraining_tp": 1, "pruned_heads": {},
        "remove_invalid_values": false, "repetition_penalty": 1.0, "return_dict": true,
        "return_dict_in_generate": false, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "rope_theta": 1000000,
        "temperature": 1.0, "tf_legacy_loss": false, "tie_encoder_decoder": false,
        "tie_word_embeddings": false, "top_k": 50, "top_p": 1.0, "torchscript": false,
        "typical_p": 1.0, "use_bfloat16": true, "use_cache": true, "vocab_size": 92553
    },
    "vision_config": {
        "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "capacity_factor": 1.2,
        "drop_path_rate": 0.1, "dropout": 0.0, "eval_capacity_factor": 1.4,
        "hidden_act": "gelu", "hidden_size": 1024, "image_size": 448,
        "initializer_factor": 0.1, "initializer_range": 1e-10, "intermediate_size": 4096,
        "laux_allreduce": "all_nodes", "layer_norm_eps": 1e-6, "model_type": "intern_vit_6b",
        "moe_coeff_ratio": 0.5, "moe_intermediate_size": 768, "moe_output_scale": 4.0,
        "noisy_gate_policy": "RSample_before", "norm_type": "layer_norm",
        "num_attention_heads": 16, "num_channels": 3, "num_experts": 8,
        "num_hidden_layers": 24, "num_routed_experts": 4, "num_shared_experts": 4,
        "patch_size": 14, "qk_normalization": false, "qkv_bias": true,
        "shared_expert_intermediate_size": 3072, "use_flash_attn": true, "use_moe": false,
        "use_residual": true, "use_rts": false, "use_weighted_residual": false
    }
}"#;

    fn published() -> Value {
        serde_json::from_str(PUBLISHED).unwrap()
    }

    #[test]
    fn published_configs_are_read() {
        let config = InternVlConfig::parse(&published()).unwrap();
        assert_eq!((config.tokens_of_tile(), config.blocks, config.by_columns), (256, 24, false));
        assert_eq!(config.tiling, Some(Tiling { fewest: 1, most: 12, whole: true }));
        assert_eq!(config.text.vocab_size, 92_553);
        let sparse = json!({"model_type": "internvl", "vision_config": {}, "text_config": {
            "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2}});
        let config = InternVlConfig::parse(&sparse).unwrap();
        assert_eq!((config.tokens_of_tile(), config.placeholder), (256, Some(151_667)));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (pointer, key, value) in [
            ("", "downsample_ratio", json!(0.3)),
            ("", "force_image_size", json!(224)),
            ("", "ps_version", json!("v3")),
            ("", "select_layer", json!(-26)),
            ("", "use_llm_lora", json!(16)),
            ("", "max_dynamic_patch", json!(1u64 << 40)),
            ("", "pad2square", json!(true)),
            ("/vision_config", "use_moe", json!(true)),
            ("/vision_config", "image_size", json!([448, 224])),
            ("/vision_config", "image_size", json!(0)),
            ("/vision_config", "patch_size", json!(449)),
            ("/vision_config", "num_attention_heads", json!(5)),
            ("/vision_config", "num_hidden_layers", json!(1u64 << 30)),
            ("/vision_config", "norm_type", json!("batch_norm")),
            ("/vision_config", "tomorrow", json!(1)),
            ("/llm_config", "pruned_heads", json!({"0": [1]})),
        ] {
            let mut bad = published();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = InternVlConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        // A tile of 33 patches a side has no halves.
        let mut odd = published();
        odd["vision_config"]["image_size"] = json!(462);
        odd["force_image_size"] = json!(462);
        let error = InternVlConfig::parse(&odd).unwrap_err().to_string();
        assert!(error.contains("downsample_ratio = 0.5"), "{error}");
    }
}
