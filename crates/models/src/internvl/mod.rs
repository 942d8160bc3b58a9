//! InternVL 1.5 to 3: tiles seen by InternViT, squares of patches put into one token each, a projector
//! with a norm, and a decoder of any family (Chen et al. 2024, "How Far Are We to GPT-4V?", section 3;
//! "Expanding Performance Boundaries...", section 2; Zhu et al. 2025, "InternVL3"). Both layouts of
//! checkpoints: transformers' (`internvl`) and the authors' (`internvl_chat`).

mod config;
mod tiles;

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};
use savi_nn::Params;
use savi_nn::layers::{Linear, Mode};
use savi_schema::MediaPolicy;
use serde_json::Value;

pub(crate) use config::InternVlConfig;
use tiles::Preparation;

use crate::ModelError;
use crate::decoder::Decoder;
use crate::files::close;
use crate::intern_vit::{InternVit, Layout};
use crate::model::{Vision, behind, moved};
use crate::processing::Processors;
use crate::visual::{Mark, Piece, Pixels, Plan, Visual, VisualKind};
use crate::vit::Norm;

/// Starts of names in memory of transformers 5, and of those in files.
pub(crate) const RENAMES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.vision_tower.", "vision_tower."),
];

/// Words around the tokens of a picture or a frame.
const START: &str = "<img>";
const END: &str = "</img>";
/// The token that stands for a visual token, where no config has its number.
const CONTEXT: &str = "<IMG_CONTEXT>";
/// Added to the variance in the projector's norm, by both references' default.
const NORM_EPS: f64 = 1e-5;

/// Starts of names here, and of the modules of transformers 5. The original's own code calls its
/// modules as its files do.
const MODULES: &[(&str, &str)] = &[
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.", "model.vision_tower."),
];

/// What sees in an InternVL.
#[derive(Debug)]
pub(crate) struct InternVl {
    config: InternVlConfig,
    placeholder: u32,
    preparation: Preparation,
    tower: InternVit,
    norm: Norm,
    linear_1: Arc<Linear>,
    linear_2: Arc<Linear>,
}

impl InternVl {
    /// The parts of the model that `config` describes.
    pub(crate) fn new(
        config: &Value,
        processors: &Processors,
        params: &Params,
    ) -> Result<(Self, Decoder), ModelError> {
        let mut config = InternVlConfig::parse(config)?;
        let side = config.tower.image_size;
        let preparation = match config.tiling {
            Some(tiling) => Preparation::original(side, tiling),
            None => Preparation::transformers(processors, side, config.tokens_of_tile())?,
        };
        let named = config.placeholder.or_else(|| processors.tokens.get(CONTEXT).copied());
        let placeholder = named.ok_or_else(|| ModelError::Malformed {
            path: "tokenizer.json".into(),
            reason: format!("has no special token {CONTEXT}, which stands for pictures"),
        })?;
        let (tower, [norm, linear_1, linear_2]) = match config.layout() {
            Layout::Transformers => (
                "vision_tower.",
                ["layer_norm", "linear_1", "linear_2"]
                    .map(|part| format!("multi_modal_projector.{part}")),
            ),
            Layout::Original => ("vision_model.", ["mlp1.0", "mlp1.1", "mlp1.3"].map(String::from)),
        };
        // Published files hold a head of their own beside a config that is silent, and is taken to tie
        // it; transformers then does not.
        if config.layout() == Layout::Transformers && params.has("language_model.lm_head.weight") {
            config.text.tied = false;
        }
        let tower = InternVit::new(params, tower, &config.tower)?;
        let (seen, width) =
            (config.tower.hidden_size * config.shrink.pow(2), config.text.hidden_size);
        let norm = Norm::new(params, &norm, seen, NORM_EPS)?;
        let linear_1 = params.linear(&linear_1, seen, width, true)?;
        let linear_2 = params.linear(&linear_2, width, width, true)?;
        let decoder = Decoder::new(params, "language_model.", &config.text)?;
        close(params, |name| decoder.repeats_head(name))?;
        Ok((Self { config, placeholder, preparation, tower, norm, linear_1, linear_2 }, decoder))
    }

    /// The tokens of so many tiles, in their frame.
    fn framed(&self, label: &str, tiles: usize, end: &str) -> [Piece; 3] {
        let count = tiles * self.config.tokens_of_tile();
        [
            Piece::Words(format!("{label}{START}")),
            Piece::Tokens { id: self.placeholder, count },
            Piece::Words(format!("{END}{end}")),
        ]
    }

    fn clip(&self, frames: usize) -> Plan {
        let pieces = (1..=frames).flat_map(|frame| {
            let end = if frame == frames { "" } else { "\n" };
            self.framed(&format!("Frame{frame}: "), 1, end)
        });
        Plan { pieces: pieces.collect(), grid: None }
    }

    /// Squares of patches side by side in one token: `[tiles * tokens, width]` of `[tiles, patches, width]`.
    fn shrunk(&self, features: &Tensor) -> TensorResult<Tensor> {
        let (tiles, _, width) = features.dims3()?;
        let shrink = self.config.shrink;
        let rows = self.config.tower.side() / shrink;
        let order = if self.config.by_columns { [0, 3, 1, 2, 4, 5] } else { [0, 1, 3, 2, 4, 5] };
        features
            .reshape(vec![tiles, rows, shrink, rows, shrink, width])?
            .permute(order.to_vec())?
            .reshape((tiles * rows * rows, shrink * shrink * width))
    }
}

impl Vision for InternVl {
    /// Blocks behind the last one that is looked at.
    fn is_idle(&self, name: &str) -> bool {
        ["vision_tower.", "vision_model."].iter().any(|tower| name.starts_with(tower))
            && behind(name, self.config.blocks)
    }

    fn module_name(&self, name: &str) -> String {
        match self.config.layout() {
            Layout::Transformers => moved(name, MODULES),
            Layout::Original => name.to_owned(),
        }
    }

    fn mark(&self, kind: VisualKind) -> Mark {
        match (kind, self.config.layout()) {
            (VisualKind::Video, _) => Mark::Word("<video>".to_owned()),
            (VisualKind::Image, Layout::Transformers) => Mark::Token(self.placeholder),
            (VisualKind::Image, Layout::Original) => Mark::Word("<image>".to_owned()),
        }
    }

    fn placeholders(&self) -> Vec<u32> {
        vec![self.placeholder]
    }

    fn plan_of_count(&self, frames: usize) -> Option<Plan> {
        Some(self.clip(frames))
    }

    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        Ok(match visual.kind {
            VisualKind::Video => self.clip(visual.frames.len()),
            VisualKind::Image => {
                let tiles = self.preparation.tiles(visual.size());
                Plan { pieces: self.framed("", tiles, "").to_vec(), grid: None }
            }
        })
    }

    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        let images = match (visual.kind, visual.frames.as_slice()) {
            (VisualKind::Image, [image, ..]) => self.preparation.image(image)?,
            (_, frames) => self.preparation.clip(frames)?,
        };
        Ok(Pixels::cut(visual.kind, &images, self.config.tower.patch_size, visual.size())?)
    }

    fn encode(&self, visuals: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let patches: Vec<&Tensor> = visuals.iter().map(|of| &of.patches).collect();
        let patches = Tensor::cat(&patches, 0)?;
        let (blocks, last_norm) = (self.config.blocks, self.config.last_norm);
        let features = self.shrunk(&self.tower.forward(&patches, blocks, last_norm, mode)?)?;
        let y = self.linear_1.forward(&self.norm.forward(&features, mode)?, mode)?;
        let y = self.linear_2.forward(&self.config.activation.forward(&y)?, mode)?;
        let mut start = 0;
        let tokens = visuals.iter().map(|of| {
            let count = of.grids.len() * self.config.tokens_of_tile();
            start += count;
            y.narrow(0, start - count, count)
        });
        tokens.collect()
    }

    fn policy(&self) -> Option<MediaPolicy> {
        self.preparation.policy.clone()
    }
}
