//! Configs of Qwen2-VL and Qwen2.5-VL: with the decoder's keys at the top, as the checkpoints were
//! published, or in `text_config`, as transformers 5 writes them.

use serde_json::Value;

use crate::ModelError;
use crate::decoder::DecoderConfig;
use crate::families::{MOST_LAYERS, qwen_vl};
use crate::reader::Reader;

/// A Qwen2-VL or a Qwen2.5-VL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QwenVlConfig {
    /// The language model.
    pub(crate) text: DecoderConfig,
    /// The tower.
    pub(crate) vision: VitConfig,
    /// Token that stands for a visual token of a picture.
    pub(crate) image_token: u32,
    /// Token that stands for a visual token of a clip.
    pub(crate) video_token: u32,
    /// Positions that pass in a second of a clip (Qwen2.5-VL); without it a step in time is one.
    pub(crate) tokens_per_second: Option<usize>,
}

/// A tower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VitConfig {
    /// Layers.
    pub(crate) depth: usize,
    /// Width.
    pub(crate) width: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Width of the MLP.
    pub(crate) hidden: usize,
    /// Side of a patch in pixels.
    pub(crate) patch: usize,
    /// Frames that a patch reaches over.
    pub(crate) temporal: usize,
    /// Side, in patches, of the square that becomes one visual token.
    pub(crate) merge: usize,
    /// Width of a visual token.
    pub(crate) out: usize,
    /// Base of the rotary frequencies.
    pub(crate) theta: f64,
    /// What the blocks are made of.
    pub(crate) blocks: Blocks,
}

/// What a tower's blocks are made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Blocks {
    /// Qwen2-VL: layer norms, a plain MLP, attention within each step in time.
    Plain,
    /// Qwen2.5-VL: RMS norms, a gated MLP, attention within windows but in some layers.
    Windowed {
        /// Side of a window, in visual tokens.
        side: usize,
        /// Layers that attend within each step in time.
        full: Vec<usize>,
    },
}

impl QwenVlConfig {
    /// Reads a config and refuses by name what is not supported.
    pub(crate) fn parse(value: &Value) -> Result<Self, ModelError> {
        let config = Reader::new(value)?;
        let family: String = config.require("model_type")?;
        let newer = match family.as_str() {
            "qwen2_vl" => false,
            "qwen2_5_vl" => true,
            _ => return Err(config.unsupported("model_type", family, "qwen2_vl, qwen2_5_vl")),
        };
        // Where pictures stand is said by the chat template; some files repeat the tokens within.
        const MARKS: &[&str] = &["vision_start_token_id", "vision_end_token_id", "vision_token_id"];
        config.never("quantization_config")?;
        config.only("is_encoder_decoder", false)?;
        config.ignore(MARKS);
        let (image_token, video_token) = (
            config.get("image_token_id")?.unwrap_or(151_655),
            config.get("video_token_id")?.unwrap_or(151_656),
        );
        let tied: Option<bool> = config.get("tie_word_embeddings")?;
        let mut text = match config.object("text_config")? {
            None => qwen_vl(&config)?,
            Some(keys) => {
                keys.only("model_type", format!("{family}_text"))?;
                let text = qwen_vl(&keys)?;
                keys.ignore(MARKS);
                keys.ignore(&["image_token_id", "video_token_id"]);
                // Between the two layouts files had both.
                config.repeats(&keys);
                if text.layers.iter().all(|layer| layer.window.is_none()) {
                    config.ignore(&["sliding_window"]);
                }
                keys.finish()?;
                text
            }
        };
        text.tied |= tied.unwrap_or(false);
        let Some(vision) = config.object("vision_config")? else {
            return Err(ModelError::Malformed {
                path: "config.json".into(),
                reason: "vision_config is missing".to_owned(),
            });
        };
        let tokens_per_second =
            if newer { Some(vision.size("tokens_per_second", Some(4))?) } else { None };
        let vision = VitConfig::read(vision, &family, newer)?;
        if vision.out != text.hidden_size {
            let key = if newer { "out_hidden_size" } else { "hidden_size" };
            return Err(config.unsupported(
                &format!("vision_config.{key}"),
                vision.out,
                format!("{}, the width of the language model", text.hidden_size),
            ));
        }
        config.finish()?;
        Ok(Self { text, vision, image_token, video_token, tokens_per_second })
    }
}

impl VitConfig {
    fn read(config: Reader<'_>, family: &str, newer: bool) -> Result<Self, ModelError> {
        let name = format!("{family}_vision");
        // Older files name the whole family.
        match config.get::<String>("model_type")? {
            Some(own) if own != name && own != family => {
                return Err(config.unsupported("model_type", own, name));
            }
            _ => {}
        }
        config.only("is_encoder_decoder", false)?;
        config.only("hidden_act", if newer { "silu" } else { "quick_gelu" }.to_owned())?;
        config.only("in_channels", 3)?;
        config.only("in_chans", 3)?;
        let at_most = |key: &str, usual: usize, most: usize| {
            let size = config.size(key, Some(usual))?;
            if size > most {
                return Err(config.unsupported(key, size, format!("at most {most}")));
            }
            Ok(size)
        };
        let depth = at_most("depth", 32, MOST_LAYERS)?;
        let patch = at_most("patch_size", 14, 1024)?;
        config.only("spatial_patch_size", patch)?;
        let temporal = at_most("temporal_patch_size", 2, 64)?;
        let merge = at_most("spatial_merge_size", 2, 64)?;
        let width = if newer { "hidden_size" } else { "embed_dim" };
        let width = at_most(width, if newer { 3584 } else { 1280 }, 1 << 20)?;
        let heads = config.size("num_heads", Some(16))?;
        // Rows and columns turn a half of a head's pairs each.
        if !width.is_multiple_of(heads) || !(width / heads).is_multiple_of(4) {
            let supported = format!("divisors of {width} into heads of a multiple of 4");
            return Err(config.unsupported("num_heads", heads, supported));
        }
        let (hidden, out, blocks) = if newer {
            let hidden = config.size("intermediate_size", Some(3420))?;
            let out = config.size("out_hidden_size", Some(3584))?;
            let window = config.size("window_size", Some(112))?;
            let side = window / merge / patch;
            if side == 0 {
                let supported = format!("at least {}", merge * patch);
                return Err(config.unsupported("window_size", window, supported));
            }
            let full = config.get("fullatt_block_indexes")?;
            let full = full.unwrap_or_else(|| vec![7, 15, 23, 31]);
            (hidden, out, Blocks::Windowed { side, full })
        } else {
            let ratio = config.positive("mlp_ratio")?.unwrap_or(4.0);
            let hidden = (width as f64 * ratio) as usize;
            if hidden == 0 || ratio > 1024.0 {
                return Err(config.unsupported("mlp_ratio", ratio, "at least 1, at most 1024"));
            }
            (hidden, config.size("hidden_size", Some(3584))?, Blocks::Plain)
        };
        let mut theta = 10_000.0;
        if let Some(rope) = config.object("rope_parameters")? {
            rope.only("rope_type", "axial".to_owned())?;
            theta = rope.positive("rope_theta")?.unwrap_or(theta);
            rope.finish()?;
        }
        config.finish()?;
        Ok(Self { depth, width, heads, hidden, patch, temporal, merge, out, theta, blocks })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A Qwen2.5-VL-3B as it was published.
    fn published() -> Value {
        let text = r#"{
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
            "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
            "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 11008,
            "max_position_embeddings": 128000, "max_window_layers": 70,
            "model_type": "qwen2_5_vl", "num_attention_heads": 16, "num_hidden_layers": 36,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "use_cache": true, "use_sliding_window": false, "vocab_size": 151936,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {
                "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420,
                "num_heads": 16, "in_chans": 3, "out_hidden_size": 2048, "patch_size": 14,
                "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
                "temporal_patch_size": 2
            }
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_layouts_of_a_config_say_the_same() {
        let flat = QwenVlConfig::parse(&published()).unwrap();
        assert_eq!((flat.vision.width / flat.vision.heads, flat.vision.hidden), (80, 3420));
        assert_eq!(flat.tokens_per_second, Some(2));
        let full = vec![7, 15, 23, 31];
        assert_eq!(flat.vision.blocks, Blocks::Windowed { side: 4, full });
        assert!(flat.text.tied && flat.text.bias.qkv && flat.text.ropes[0].has_axes());

        // Both at once, as between the two layouts.
        let mut both = published();
        let mut text = published();
        text.as_object_mut().unwrap().remove("vision_config");
        text["model_type"] = json!("qwen2_5_vl_text");
        text["sliding_window"] = json!(null);
        text["image_token_id"] = json!(null);
        both["text_config"] = text;
        both["vision_config"]["model_type"] = json!("qwen2_5_vl");
        assert_eq!(QwenVlConfig::parse(&both).unwrap(), flat);

        let mut apart = both.clone();
        apart["hidden_size"] = json!(1024);
        let error = QwenVlConfig::parse(&apart).unwrap_err().to_string();
        assert!(error.contains("config.json: hidden_size = 1024"), "{error}");

        let top = ["model_type", "text_config", "vision_config", "tie_word_embeddings"];
        both.as_object_mut().unwrap().retain(|key, _| top.contains(&key.as_str()));
        assert_eq!(QwenVlConfig::parse(&both).unwrap(), flat);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (pointer, key, value, named) in [
            ("", "model_type", json!("qwen3_vl"), "model_type = qwen3_vl"),
            ("", "quantization_config", json!({"bits": 4}), "quantization_config"),
            ("", "head_dim", json!(64), "num_attention_heads = 16"),
            ("/rope_scaling", "mrope_section", json!([16, 24, 25]), "rope_scaling.mrope_section"),
            ("/rope_scaling", "type", json!("dynamic"), "rope_scaling.rope_type = dynamic"),
            ("/vision_config", "out_hidden_size", json!(99), "vision_config.out_hidden_size = 99"),
            ("/vision_config", "in_chans", json!(4), "vision_config.in_chans = 4"),
            ("/vision_config", "hidden_act", json!("gelu"), "vision_config.hidden_act"),
            ("/vision_config", "num_heads", json!(7), "vision_config.num_heads = 7"),
            ("/vision_config", "window_size", json!(27), "vision_config.window_size = 27"),
            ("/vision_config", "spatial_patch_size", json!(16), "vision_config.spatial_patch"),
            ("/vision_config", "embed_dim", json!(16), "vision_config.embed_dim = 16"),
            ("/vision_config", "model_type", json!("qwen2_vl"), "vision_config.model_type"),
            (
                "/vision_config",
                "rope_parameters",
                json!({"rope_type": "default"}),
                "vision_config.rope_parameters.rope_type",
            ),
        ] {
            let mut bad = published();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = QwenVlConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error} does not name {named}");
        }
    }
}
