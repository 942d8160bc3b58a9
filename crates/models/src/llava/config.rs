//! Configs of LLaVA-OneVision and LLaVA-NeXT-Video.

use serde_json::Value;

use super::anyres::Anyres;
use crate::ModelError;
use crate::decoder::{Activation, DecoderConfig};
use crate::families::{activation, decoder_config};
use crate::reader::Reader;
use crate::tower::{CLIP, SIGLIP, TowerConfig};

/// Which of the families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Onevision,
    NextVideo,
}

/// How LLaVA-NeXT-Video makes fewer tokens of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolMode {
    Average,
    Max,
    /// A convolution that is learned.
    Conv,
}

/// What becomes of a clip's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClipPooling {
    /// After the projector to half the side, rounded up; one newline token ends the clip.
    Half,
    /// Before the projector, by squares of this side; what does not fill one is left out.
    Squares { mode: PoolMode, stride: usize },
}

/// A LLaVA: tower, projector and language model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LlavaConfig {
    pub(crate) family: Family,
    pub(crate) text: DecoderConfig,
    pub(crate) tower: TowerConfig,
    pub(crate) image_token: u32,
    pub(crate) video_token: u32,
    /// After how many of the tower's blocks its states are taken, side by side.
    pub(crate) layers: Vec<usize>,
    /// Of the projector, and whether it has biases.
    pub(crate) activation: Activation,
    pub(crate) bias: bool,
    pub(crate) anyres: Anyres,
    pub(crate) pooling: ClipPooling,
}

/// Sides that pictures may be scaled to.
const LONGEST_SIDE: u32 = 16_384;

impl LlavaConfig {
    /// Reads a config and refuses by name what is not supported.
    pub(crate) fn parse(value: &Value) -> Result<Self, ModelError> {
        let value = with_sizes(value);
        let config = Reader::new(&value)?;
        let name: String = config.require("model_type")?;
        let family = match name.as_str() {
            "llava_onevision" => Family::Onevision,
            "llava_next_video" => Family::NextVideo,
            other => {
                let known = "llava_onevision, llava_next_video";
                return Err(config.unsupported("model_type", other, known));
            }
        };
        let next = family == Family::NextVideo;
        config.never("quantization_config")?;
        config.only("is_encoder_decoder", false)?;
        config.only("use_image_newline_parameter", true)?;
        // The label of tokens that a loss passes over.
        config.ignore(&["ignore_index"]);
        let part = |key: &str| {
            config.object(key)?.ok_or_else(|| ModelError::Malformed {
                path: "config.json".into(),
                reason: format!("{key} is missing"),
            })
        };
        let usual = if next { "llama" } else { "qwen2" };
        let mut text = decoder_config(part("text_config")?, Some(usual))?;
        text.tied |= config.get("tie_word_embeddings")?.unwrap_or(false);
        let usual = if next { CLIP } else { SIGLIP };
        let tower = TowerConfig::read(part("vision_config")?, usual)?;
        let token = |name: &str, usual: u32| {
            let index: Option<u32> = config.get(&format!("{name}_index"))?;
            let id: Option<u32> = config.get(&format!("{name}_id"))?;
            Ok::<_, ModelError>(index.or(id).unwrap_or(usual))
        };
        let (image, video) = if next { (32_001, 32_000) } else { (151_646, 151_647) };
        // A class token is dropped by "default" and nothing else is; transformers fails where the rest
        // does not fill the square.
        let strategy = if tower.class_token { "default" } else { "full" };
        let given: Option<String> = config.get("vision_feature_select_strategy")?;
        let given = given.unwrap_or_else(|| (if next { "default" } else { "full" }).to_owned());
        if given != strategy {
            let supported = format!("{strategy:?} with such a tower");
            return Err(config.unsupported("vision_feature_select_strategy", given, supported));
        }
        let layers = layers(&config, tower.num_hidden_layers, if next { -2 } else { -1 })?;
        let parsed = Self {
            family,
            image_token: token("image_token", image)?,
            video_token: token("video_token", video)?,
            activation: activation(&config, "projector_hidden_act", "gelu")?,
            bias: config.get("multimodal_projector_bias")?.unwrap_or(true),
            anyres: Anyres {
                pinpoints: pinpoints(&config, family)?,
                side: tower.side(),
                tile: tower.image_size as u32,
                most_tiles: if next { None } else { Some(most_tiles(&config)?) },
            },
            pooling: if next { squares(&config, &tower, layers.len())? } else { ClipPooling::Half },
            layers,
            text,
            tower,
        };
        // How many tokens are usual; what is computed has them from the sizes.
        config.ignore(if next { &["image_seq_length", "video_seq_length"] } else { &[] });
        config.finish()?;
        Ok(parsed)
    }

    /// Tokens along one side of a frame of a clip.
    pub(crate) fn pooled_side(&self) -> usize {
        match self.pooling {
            ClipPooling::Half => self.tower.side().div_ceil(2),
            ClipPooling::Squares { stride, .. } => self.tower.side() / stride,
        }
    }
}

/// Sizes of text families where a config is silent, as transformers has them: published files of LLaVA leave
/// out those of Vicuna 7B.
const SIZES: &[(&str, [u32; 4])] = &[
    ("llama", [4096, 11_008, 32, 32]),
    ("mistral", [4096, 14_336, 32, 32]),
    ("qwen2", [4096, 22_016, 32, 32]),
];

/// The config with all sizes of its text model.
fn with_sizes(value: &Value) -> Value {
    let mut value = value.clone();
    let next = value.get("model_type").is_some_and(|name| name == "llava_next_video");
    let usual = if next { "llama" } else { "qwen2" };
    let Some(text) = value.get_mut("text_config").and_then(Value::as_object_mut) else {
        return value;
    };
    let name = text.get("model_type").and_then(Value::as_str).unwrap_or(usual);
    let Some((_, sizes)) = SIZES.iter().find(|(family, _)| *family == name) else { return value };
    let keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    for (key, size) in keys.iter().zip(sizes) {
        text.entry(*key).or_insert((*size).into());
    }
    value
}

/// `vision_feature_layer`: a state of the tower by number, from the end where it is negative, or several.
fn layers(config: &Reader<'_>, blocks: usize, usual: i64) -> Result<Vec<usize>, ModelError> {
    let key = "vision_feature_layer";
    let given: Vec<i64> = match config.get::<Value>(key)? {
        None => vec![usual],
        Some(Value::Array(_)) => config.require(key)?,
        Some(_) => vec![config.require(key)?],
    };
    let states = blocks as i64 + 1;
    let place = |&layer: &i64| {
        let at = if layer < 0 { layer.saturating_add(states) } else { layer };
        usize::try_from(at).ok().filter(|at| *at <= blocks)
    };
    match given.iter().map(place).collect::<Option<Vec<_>>>() {
        Some(layers) if (1..=64).contains(&layers.len()) => Ok(layers),
        _ => {
            let supported = format!("at least one of {} to {blocks}", -states);
            Err(config.unsupported(key, format!("{given:?}"), supported))
        }
    }
}

/// `image_grid_pinpoints`: heights and widths that a picture may be scaled to.
fn pinpoints(config: &Reader<'_>, family: Family) -> Result<Vec<[u32; 2]>, ModelError> {
    let key = "image_grid_pinpoints";
    let Some(given) = config.get::<Vec<[u32; 2]>>(key)? else {
        return Ok(match family {
            Family::NextVideo => {
                vec![[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
            }
            Family::Onevision => {
                let sides = (1..=6).map(|n| 384 * n);
                sides.clone().flat_map(|h| sides.clone().map(move |w| [h, w])).collect()
            }
        });
    };
    let fits = |side: &u32| (1..=LONGEST_SIDE).contains(side);
    if given.is_empty() || !given.iter().flatten().all(fits) {
        let supported = format!("heights and widths of 1 to {LONGEST_SIDE}");
        return Err(config.unsupported(key, format!("{given:?}"), supported));
    }
    Ok(given)
}

/// `vision_aspect_ratio`: a picture has at most so many tiles' tokens, or little more.
fn most_tiles(config: &Reader<'_>) -> Result<usize, ModelError> {
    let key = "vision_aspect_ratio";
    let given: Option<String> = config.get(key)?;
    let given = given.unwrap_or_else(|| "anyres_max_9".to_owned());
    match given.strip_prefix("anyres_max_").and_then(|n| n.parse().ok()) {
        Some(most) if (1..=10_000).contains(&most) => Ok(most),
        _ => Err(config.unsupported(key, given, "anyres_max_1 to anyres_max_10000")),
    }
}

fn squares(
    config: &Reader<'_>,
    tower: &TowerConfig,
    layers: usize,
) -> Result<ClipPooling, ModelError> {
    let key = "spatial_pool_mode";
    let given: Option<String> = config.get(key)?;
    let mode = match given.as_deref().unwrap_or("average") {
        "average" => PoolMode::Average,
        "max" => PoolMode::Max,
        "conv" if layers > 1 => {
            return Err(config.unsupported(key, "conv", "average, max of several layers"));
        }
        "conv" => PoolMode::Conv,
        other => return Err(config.unsupported(key, other, "average, max, conv")),
    };
    let stride = config.size("spatial_pool_stride", Some(2))?;
    if stride > tower.side() {
        let supported = format!("at most {}, the patches of a side", tower.side());
        return Err(config.unsupported("spatial_pool_stride", stride, supported));
    }
    config.only("spatial_pool_out_channels", tower.hidden_size)?;
    Ok(ClipPooling::Squares { mode, stride })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unsupported_values_are_refused_by_name() {
        let base = json!({
            "model_type": "llava_onevision",
            "text_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 9,
                "max_position_embeddings": 8, "rms_norm_eps": 1e-6},
            "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
            "video_token_index": 3
        });
        assert!(LlavaConfig::parse(&base).is_ok());
        let mut next = base.clone();
        next["model_type"] = json!("llava_next_video");
        let parsed = LlavaConfig::parse(&next).unwrap();
        assert!(parsed.tower.class_token && parsed.layers == [0]);
        for (start, pointer, key, value) in [
            (&base, "/text_config", "rope_scaling", json!({"type": "spiral"})),
            (&base, "/text_config", "quantization_config", json!({"bits": 4})),
            (&base, "/text_config", "attention_sinks", json!(4)),
            (&base, "/text_config", "head_dim", json!(0)),
            (&base, "/text_config", "head_dim", json!(3)),
            (&base, "/text_config", "num_key_value_heads", json!(3)),
            (&base, "/vision_config", "hidden_act", json!("tanh")),
            (&base, "/vision_config", "patch_size", json!(17)),
            (&base, "/vision_config", "num_attention_heads", json!(3)),
            (&base, "/vision_config", "num_hidden_layers", json!(20_000)),
            (&base, "/vision_config", "model_type", json!("resnet")),
            (&base, "", "vision_feature_layer", json!(-3)),
            (&base, "", "vision_feature_layer", json!([])),
            (&base, "", "vision_feature_select_strategy", json!("default")),
            (&base, "", "vision_aspect_ratio", json!("square")),
            (&base, "", "image_grid_pinpoints", json!([[16, 0]])),
            (&next, "", "vision_feature_select_strategy", json!("full")),
            (&next, "", "vision_aspect_ratio", json!("anyres_max_9")),
            (&next, "", "spatial_pool_mode", json!("median")),
            (&next, "", "spatial_pool_stride", json!(3)),
            (&next, "", "spatial_pool_out_channels", json!(9)),
        ] {
            let mut bad = start.clone();
            bad.pointer_mut(pointer).unwrap()[key] = value;
            let error = LlavaConfig::parse(&bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
