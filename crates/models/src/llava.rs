//! LLaVA-OneVision: SigLIP frames, a two-layer projector, pooling to half the side, one newline
//! token after the clip, and a Qwen2 decoder.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor, bail};
use savi_nn::layers::{Linear, Mode};
use savi_nn::{Init, Params, Weight};
use savi_schema::Resampling;
use serde_json::Value;

use crate::decoder::Decoder;
use crate::files::close;
use crate::model::Vision;
use crate::processing::{Normalise, Processors, scaled};
use crate::siglip::Siglip;
use crate::visual::{Mark, Pixels, Plan, Visual, VisualKind};
use crate::{LlavaOnevisionConfig, ModelError};

/// Starts of names in files of transformers 5, and of those that are published.
pub(crate) const RENAMES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.vision_tower.", "vision_tower."),
];

/// What sees in a LLaVA-OneVision.
#[derive(Debug)]
pub(crate) struct LlavaOnevision {
    config: LlavaOnevisionConfig,
    tower: Siglip,
    linear_1: Arc<Linear>,
    linear_2: Arc<Linear>,
    newline: Arc<Weight>,
}

impl LlavaOnevision {
    /// The parts of the model that `config` describes.
    pub(crate) fn new(
        config: &Value,
        _processors: &Processors,
        params: &Params,
    ) -> Result<(Self, Decoder), ModelError> {
        let config = LlavaOnevisionConfig::parse(config)?;
        let (vision, width) = (&config.vision_config, config.text_config.hidden_size);
        let tower = Siglip::new(params, "vision_tower.vision_model.", vision)?;
        let linear_1 =
            params.linear("multi_modal_projector.linear_1", vision.hidden_size, width, true)?;
        let linear_2 = params.linear("multi_modal_projector.linear_2", width, width, true)?;
        let newline = params.get("image_newline", &[width], Init::Normal(0.02))?;
        let decoder = Decoder::new(params, "language_model.", &config.text_config)?;
        close(params, |name| {
            decoder.repeats_head(name) || name.starts_with("vision_tower.vision_model.head.")
        })?;
        Ok((Self { config, tower, linear_1, linear_2, newline }, decoder))
    }

    /// Tokens along one side of a frame after pooling.
    fn pooled_side(&self) -> usize {
        self.config.vision_config.side().div_ceil(2)
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
}

impl Vision for LlavaOnevision {
    fn mark(&self, kind: VisualKind) -> Mark {
        match kind {
            // Still pictures are not taken: no tokenizer has this token.
            VisualKind::Image => Mark::Token(u32::MAX),
            VisualKind::Video => Mark::Token(self.config.video_token_index),
        }
    }

    fn placeholders(&self) -> Vec<u32> {
        vec![self.config.video_token_index]
    }

    fn plan_of_count(&self, frames: usize) -> Option<Plan> {
        let count = frames * self.pooled_side().pow(2) + 1;
        Some(Plan::tokens(self.config.video_token_index, count))
    }

    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        let count = visual.frames.len() * self.pooled_side().pow(2) + 1;
        Ok(Plan::tokens(self.config.video_token_index, count))
    }

    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        let side = self.config.vision_config.image_size as u32;
        let frames = scaled(&visual.frames, (side, side), Resampling::Bicubic)?;
        let images = Normalise::HALF.tensor(&frames)?;
        let patch = self.config.vision_config.patch_size;
        Ok(Pixels::cut(visual.kind, &images, patch, visual.size())?)
    }

    fn encode(&self, clips: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let patches: Vec<&Tensor> = clips.iter().map(|c| &c.patches).collect();
        let features = self.tower.forward(&Tensor::cat(&patches, 0)?, mode)?;
        let projected = self.linear_1.forward(&features, mode)?.gelu_erf()?;
        let projected = self.linear_2.forward(&projected, mode)?;
        let frames = clips.iter().map(|c| c.grids.len()).sum();
        let pooled = self.pool(&projected, frames)?;
        let newline = self.newline.tensor(mode.train).unsqueeze(0)?;
        let per_frame = self.pooled_side().pow(2);
        let mut start = 0;
        clips
            .iter()
            .map(|clip| {
                let tokens = pooled.narrow(0, start, clip.grids.len() * per_frame)?;
                start += clip.grids.len() * per_frame;
                Tensor::cat(&[&tokens, &newline], 0)
            })
            .collect()
    }
}
