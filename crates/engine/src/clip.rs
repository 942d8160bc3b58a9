//! CLIP (Radford et al. 2021) as a frozen judge of pictures against texts.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig, ClipModel, div_l2_norm};
use savi_models::read_directory;
use savi_schema::{Embed, GenerateError, Resampling, RgbImage, resample};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use crate::EngineError;

/// Pictures in one pass.
const BATCH: usize = 16;

/// A CLIP model from a Hugging Face directory: `config.json`, safetensors, `tokenizer.json`,
/// `preprocessor_config.json`. It runs in f32 on the CPU.
pub struct ClipEmbedder {
    model: ClipModel,
    tokenizer: Tokenizer,
    look: Preprocessor,
    fingerprint: String,
}

impl std::fmt::Debug for ClipEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClipEmbedder").field("fingerprint", &self.fingerprint).finish()
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    text_config: Text,
    #[serde(default)]
    vision_config: Vision,
    #[serde(default = "projection")]
    projection_dim: usize,
}

fn projection() -> usize {
    512
}

// What a config leaves out has the defaults of transformers' `CLIPTextConfig` and
// `CLIPVisionConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Text {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Vision {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

#[derive(Deserialize)]
struct Preprocessor {
    size: Size,
    crop_size: Size,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

/// Old files give one number, newer ones name it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Number(u32),
    ShortestEdge { shortest_edge: u32 },
    Square { height: u32, width: u32 },
}

impl Size {
    fn side(&self) -> u32 {
        match self {
            Self::Number(side) | Self::ShortestEdge { shortest_edge: side } => *side,
            Self::Square { height, width } => *height.min(width),
        }
    }
}

impl ClipEmbedder {
    /// Reads a directory. Activations and norms that differ from OpenAI's models are refused.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let malformed = |file: &str, reason: String| EngineError::Malformed {
            file: dir.join(file).display().to_string(),
            reason,
        };
        let read = |name: &str| {
            let path: PathBuf = dir.join(name);
            std::fs::read(&path).map_err(|source| EngineError::Io { path, source })
        };
        let files = read_directory(dir)?;
        let config: Config = serde_json::from_value(files.config)
            .map_err(|error| malformed("config.json", error.to_string()))?;
        let (text, vision) = (&config.text_config, &config.vision_config);
        for (key, value) in [("text", &text.hidden_act), ("vision", &vision.hidden_act)] {
            if value != "quick_gelu" {
                let reason = format!("{key}_config.hidden_act: {value:?} is not supported");
                return Err(malformed("config.json", reason));
            }
        }
        for (key, value) in [("text", text.layer_norm_eps), ("vision", vision.layer_norm_eps)] {
            if value != 1e-5 {
                let reason = format!("{key}_config.layer_norm_eps: {value} is not supported");
                return Err(malformed("config.json", reason));
            }
        }
        let sizes = [
            ("text_config.num_attention_heads", text.num_attention_heads),
            ("text_config.max_position_embeddings", text.max_position_embeddings),
            ("vision_config.num_attention_heads", vision.num_attention_heads),
            ("vision_config.patch_size", vision.patch_size),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(malformed("config.json", format!("{key} must be at least 1")));
        }
        let settings = ClipConfig {
            text_config: ClipTextConfig {
                vocab_size: text.vocab_size,
                embed_dim: text.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: text.intermediate_size,
                max_position_embeddings: text.max_position_embeddings,
                pad_with: None,
                num_hidden_layers: text.num_hidden_layers,
                num_attention_heads: text.num_attention_heads,
                projection_dim: config.projection_dim,
            },
            vision_config: ClipVisionConfig {
                embed_dim: vision.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: vision.intermediate_size,
                num_hidden_layers: vision.num_hidden_layers,
                num_attention_heads: vision.num_attention_heads,
                projection_dim: config.projection_dim,
                num_channels: vision.num_channels,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            logit_scale_init_value: 2.6592,
            image_size: vision.image_size,
        };
        let look: Preprocessor = serde_json::from_slice(&read("preprocessor_config.json")?)
            .map_err(|error| malformed("preprocessor_config.json", error.to_string()))?;
        if look.crop_size.side() as usize != vision.image_size {
            let reason = "crop_size differs from the model's image_size".to_owned();
            return Err(malformed("preprocessor_config.json", reason));
        }
        if matches!(look.size, Size::Square { .. }) || look.size.side() < look.crop_size.side() {
            let reason = "size must give shortest_edge, at least that of crop_size".to_owned();
            return Err(malformed("preprocessor_config.json", reason));
        }
        let mut tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?)
            .map_err(|error| malformed("tokenizer.json", error.to_string()))?;
        let truncation =
            TruncationParams { max_length: text.max_position_embeddings, ..Default::default() };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| malformed("tokenizer.json", error.to_string()))?;
        tokenizer.with_padding(None);
        let tensors = files.tensors.load_all()?;
        let mut hash = blake3::Hasher::new();
        for name in files.tensors.names() {
            let values = tensors[name].to_dtype(DType::F32)?.flatten_all()?;
            hash.update(name.as_bytes());
            for value in values.to_vec1::<f32>()? {
                hash.update(&value.to_le_bytes());
            }
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Ok(Self {
            model: ClipModel::new(weights, &settings)?,
            tokenizer,
            look,
            fingerprint: format!("clip:{}", hash.finalize().to_hex()),
        })
    }

    /// Names the weights.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn text(&self, text: &str) -> Result<Vec<f32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|error| EngineError::Conversation(error.to_string()))?;
        let ids = Tensor::new(encoding.get_ids(), &Device::Cpu)?.unsqueeze(0)?;
        Ok(div_l2_norm(&self.model.get_text_features(&ids)?)?.squeeze(0)?.to_vec1()?)
    }

    /// `CLIPImageProcessor`: the shorter side to `size` (bicubic), the middle, scaled and
    /// normalised; `[3, crop, crop]`.
    fn pixels(&self, image: &RgbImage) -> Result<Tensor, EngineError> {
        let (short, crop) = (self.look.size.side(), self.look.crop_size.side());
        let least = image.width.min(image.height).max(1);
        // The longer side is cut, not rounded, as transformers does.
        let scaled = |side: u32| (u64::from(short) * u64::from(side) / u64::from(least)) as u32;
        let (width, height) = (scaled(image.width), scaled(image.height));
        let image = resample(image, width, height, Resampling::Bicubic)
            .map_err(|error| EngineError::Conversation(error.to_string()))?;
        let crop = crop.min(width).min(height);
        let (left, top) = ((width - crop) / 2, (height - crop) / 2);
        let side = crop as usize;
        let mut values = vec![0f32; 3 * side * side];
        for y in 0..side {
            for x in 0..side {
                let at = ((top as usize + y) * width as usize + left as usize + x) * 3;
                for channel in 0..3 {
                    let value = f32::from(image.data[at + channel]) / 255.0;
                    values[(channel * side + y) * side + x] =
                        (value - self.look.image_mean[channel]) / self.look.image_std[channel];
                }
            }
        }
        Ok(Tensor::from_vec(values, (3, side, side), &Device::Cpu)?)
    }

    fn images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, EngineError> {
        let pixels =
            images.iter().map(|image| self.pixels(image)).collect::<Result<Vec<_>, _>>()?;
        let features = self.model.get_image_features(&Tensor::stack(&pixels, 0)?)?;
        Ok(div_l2_norm(&features)?.to_vec2()?)
    }
}

impl Embed for ClipEmbedder {
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let text = |text: &String| self.text(text).map_err(|error| error.for_request("CLIP"));
        texts.iter().map(text).collect()
    }

    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let mut all = Vec::with_capacity(images.len());
        for chunk in images.chunks(BATCH) {
            all.extend(self.images(chunk).map_err(|error| error.for_request("CLIP"))?);
        }
        Ok(all)
    }
}
