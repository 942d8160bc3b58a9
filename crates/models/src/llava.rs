//! LLaVA-OneVision: SigLIP frames, a two-layer projector, pooling to half the side, one newline
//! token after the clip, and a Qwen2 decoder.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor, bail};
use savi_nn::attention::KvNode;
use savi_nn::layers::{Linear, Mode};
use savi_nn::{Forest, Init, Params, Weight, Weights};
use savi_schema::{Resampling, RgbImage, resample};
use serde_json::Value;

use crate::qwen2::Qwen2;
use crate::siglip::Siglip;
use crate::{LlavaOnevisionConfig, ModelError};

/// Frames as flattened, normalised patches `[frames * patches, 3 * patch * patch]`.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// The patches.
    pub patches: Tensor,
    /// Number of frames.
    pub frames: usize,
}

/// A video-language model.
#[derive(Debug)]
pub struct VideoLanguageModel {
    config: LlavaOnevisionConfig,
    raw: Value,
    params: Params,
    tower: Siglip,
    linear_1: Arc<Linear>,
    linear_2: Arc<Linear>,
    newline: Arc<Weight>,
    decoder: Qwen2,
}

impl VideoLanguageModel {
    /// Builds the model that `config` (a Hugging Face `config.json`) describes.
    pub fn new(
        config: &Value,
        source: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let raw = config.clone();
        let config = LlavaOnevisionConfig::parse(config)?;
        let params = Params::new(source, dtype, device);
        let (vision, width) = (&config.vision_config, config.text_config.hidden_size);
        let tower = Siglip::new(&params, "vision_tower.vision_model.", vision)?;
        let linear_1 =
            params.linear("multi_modal_projector.linear_1", vision.hidden_size, width, true)?;
        let linear_2 = params.linear("multi_modal_projector.linear_2", width, width, true)?;
        let newline = params.get("image_newline", &[width], Init::Normal(0.02))?;
        let decoder = Qwen2::new(&params, "language_model.", &config.text_config, config.tied())?;
        Ok(Self { config, raw, params, tower, linear_1, linear_2, newline, decoder })
    }

    /// The parsed config.
    pub fn config(&self) -> &LlavaOnevisionConfig {
        &self.config
    }

    /// `config.json` as it was read.
    pub fn raw_config(&self) -> &Value {
        &self.raw
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Tokens along one side of a frame after pooling.
    fn pooled_side(&self) -> usize {
        self.config.vision_config.side().div_ceil(2)
    }

    /// Placeholder tokens that a clip of `frames` frames takes.
    pub fn video_tokens(&self, frames: usize) -> usize {
        frames * self.pooled_side().pow(2) + 1
    }

    /// Scales frames to the tower's size and normalises them to [-1, 1].
    pub fn pixels(&self, frames: &[RgbImage]) -> Result<Pixels, ModelError> {
        let size = self.config.vision_config.image_size;
        let mut values = Vec::with_capacity(frames.len() * 3 * size * size);
        for frame in frames {
            let scaled = resample(frame, size as u32, size as u32, Resampling::Bicubic)?;
            for channel in 0..3 {
                values.extend(
                    scaled
                        .data
                        .iter()
                        .skip(channel)
                        .step_by(3)
                        .map(|&b| (f32::from(b) / 255.0 - 0.5) / 0.5),
                );
            }
        }
        let images = Tensor::from_vec(values, (frames.len(), 3, size, size), &Device::Cpu)?;
        Ok(self.patches(&images)?)
    }

    /// Cuts normalised frames `[frames, 3, size, size]` into flattened patches.
    pub fn patches(&self, images: &Tensor) -> TensorResult<Pixels> {
        let (frames, channels, height, _) = images.dims4()?;
        let patch = self.config.vision_config.patch_size;
        let side = self.config.vision_config.side();
        if channels != 3 || height != side * patch {
            bail!("frames {:?} do not fit a tower of {} pixels", images.dims(), side * patch);
        }
        let patches = images
            .reshape(vec![frames, 3, side, patch, side, patch])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((frames * side * side, 3 * patch * patch))?
            .to_dtype(self.params.dtype())?
            .to_device(self.params.device())?;
        Ok(Pixels { patches, frames })
    }

    /// Visual tokens `[video_tokens, width]` of each clip. Clips of one call share one pass through
    /// the tower; a clip's tokens do not depend on the others.
    pub fn encode(&self, clips: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let patches: Vec<&Tensor> = clips.iter().map(|c| &c.patches).collect();
        let features = self.tower.forward(&Tensor::cat(&patches, 0)?, mode)?;
        let projected = self.linear_1.forward(&features, mode)?.gelu_erf()?;
        let projected = self.linear_2.forward(&projected, mode)?;
        let frames = clips.iter().map(|c| c.frames).sum();
        let pooled = self.pool(&projected, frames)?;
        let newline = self.newline.tensor(mode.train).unsqueeze(0)?;
        let per_frame = self.pooled_side().pow(2);
        let mut start = 0;
        clips
            .iter()
            .map(|clip| {
                let tokens = pooled.narrow(0, start, clip.frames * per_frame)?;
                start += clip.frames * per_frame;
                Tensor::cat(&[&tokens, &newline], 0)
            })
            .collect()
    }

    /// Bilinear scaling of each frame's grid to half its side, rounded up (corners not aligned).
    fn pool(&self, features: &Tensor, frames: usize) -> TensorResult<Tensor> {
        let (side, out) = (self.config.vision_config.side(), self.pooled_side());
        let taps: Vec<[(usize, f32); 2]> = (0..out)
            .map(|i| {
                let at = ((i as f32 + 0.5) * (side as f32 / out as f32) - 0.5).max(0.0);
                let low = (at as usize).min(side - 1);
                let part = at - low as f32;
                [(low, 1.0 - part), ((low + 1).min(side - 1), part)]
            })
            .collect();
        let mut total: Option<Tensor> = None;
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut index = Vec::with_capacity(frames * out * out);
            let mut weight = Vec::with_capacity(frames * out * out);
            for frame in 0..frames {
                for y in &taps {
                    for x in &taps {
                        index.push((frame * side * side + y[a].0 * side + x[b].0) as u32);
                        weight.push(y[a].1 * x[b].1);
                    }
                }
            }
            let device = features.device();
            let rows = index.len();
            let index = Tensor::from_vec(index, rows, device)?;
            let weight = Tensor::from_vec(weight, (rows, 1), device)?.to_dtype(features.dtype())?;
            let part = features.index_select(&index, 0)?.broadcast_mul(&weight)?;
            total = Some(match total {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        match total {
            Some(total) => Ok(total),
            None => bail!("pooling has no taps"),
        }
    }

    /// Embeddings `[ids, width]`; each run of video placeholders takes the next clip's tokens.
    pub fn embed(&self, ids: &[u32], clips: &[Tensor], mode: Mode) -> TensorResult<Tensor> {
        let text = self.decoder.embed(ids, mode)?;
        let placeholder = self.config.video_token_index;
        let mut pieces: Vec<Tensor> = Vec::new();
        let (mut at, mut clips) = (0, clips.iter());
        while at < ids.len() {
            let is_clip = ids[at] == placeholder;
            let mut len =
                ids[at..].iter().take_while(|&&id| (id == placeholder) == is_clip).count();
            if is_clip {
                let Some(tokens) = clips.next() else {
                    bail!("there are more clips in the tokens than given");
                };
                if len < tokens.dim(0)? {
                    bail!("a clip of {} tokens has {len} placeholders", tokens.dim(0)?);
                }
                len = tokens.dim(0)?;
                pieces.push(tokens.clone());
            } else {
                pieces.push(text.narrow(0, at, len)?);
            }
            at += len;
        }
        if clips.next().is_some() {
            bail!("there are fewer clips in the tokens than given");
        }
        if pieces.len() == 1 { Ok(pieces.remove(0)) } else { Tensor::cat(&pieces, 0) }
    }

    /// Last hidden states `[tokens, width]` of a whole pass.
    pub fn hidden(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
    ) -> TensorResult<Tensor> {
        self.decoder.forward(embeds, forest, mode, None)
    }

    /// What every block of the decoder gives in a whole pass, `[tokens, width]` each, before the
    /// final norm.
    pub fn block_states(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
    ) -> TensorResult<Vec<Tensor>> {
        self.decoder.blocks(embeds, forest, mode)
    }

    /// The states of [`hidden`](Self::hidden) over cached rows, whose cache grows by the pass: segment i continues row i.
    pub fn hidden_cached(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        rows: &mut [&mut KvNode],
    ) -> TensorResult<Tensor> {
        let hidden = self.decoder.forward(embeds, forest, mode, Some(rows))?;
        for (row, segment) in rows.iter_mut().zip(forest.segments()) {
            row.commit(segment.range.len());
        }
        Ok(hidden)
    }

    /// An empty cache node after `parent`, with room for about `capacity` tokens.
    pub fn cache_node(&self, parent: Option<Arc<KvNode>>, capacity: usize) -> KvNode {
        KvNode::new(parent, self.decoder.layers(), capacity, self.params.device())
    }

    /// Logits `[rows, vocab]` in the compute type.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        self.decoder.logits(hidden, mode)
    }

    /// Log-probability of `targets[i]` after row i, `[rows]`.
    pub fn logps(&self, hidden: &Tensor, targets: &[u32], mode: Mode) -> TensorResult<Tensor> {
        self.decoder.logps(hidden, targets, mode)
    }

    /// All base weights by name, in the checkpoint's layout, as `dtype`.
    pub fn export(&self, dtype: DType) -> TensorResult<BTreeMap<String, Tensor>> {
        self.params
            .weights()
            .iter()
            .map(|w| {
                Ok((w.name().to_owned(), w.exported()?.to_dtype(dtype)?.to_device(&Device::Cpu)?))
            })
            .collect()
    }
}
