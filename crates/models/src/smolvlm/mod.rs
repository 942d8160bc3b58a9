//! SmolVLM (Marafioti et al. 2025) and Idefics3 (Laurençon et al. 2024): tiles of a picture through
//! SigLIP, squares of patches folded into one token each (pixel shuffle), one matrix, a Llama.

mod config;
mod pictures;
mod words;

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor, bail};
use savi_nn::Params;
use savi_nn::layers::{Linear, Mode};
use savi_schema::MediaPolicy;
use serde_json::Value;

use self::pictures::{Preparation, Settings};
use crate::ModelError;
use crate::decoder::Decoder;
use crate::files::close;
use crate::model::Vision;
use crate::processing::Processors;
use crate::tower::Tower;
use crate::visual::{Mark, Pixels, Plan, Visual, VisualKind};

pub(crate) use self::config::SmolVlmConfig;

/// What sees in a SmolVLM.
#[derive(Debug)]
pub(crate) struct SmolVlm {
    config: SmolVlmConfig,
    settings: Settings,
    tower: Tower,
    projection: Arc<Linear>,
}

impl SmolVlm {
    /// The parts of the model that `config` describes.
    pub(crate) fn new(
        config: &Value,
        processors: &Processors,
        params: &Params,
    ) -> Result<(Self, Decoder), ModelError> {
        let config = SmolVlmConfig::parse(config)?;
        let tile = u32::try_from(config.tower.image_size).unwrap_or(u32::MAX);
        let settings = Settings::read(processors, tile, config.clips)?;
        for preparation in [Some(&settings.image), settings.video.as_ref()].into_iter().flatten() {
            let tokens = tokens_of(&config, preparation)?;
            if let Some(said) = settings.tokens.filter(|&said| said != tokens) {
                return Err(ModelError::Unsupported {
                    key: "processor_config.json: image_seq_len".to_owned(),
                    value: said.to_string(),
                    supported: format!("{tokens}, which is what the model makes of a tile"),
                });
            }
        }
        let tower = Tower::new(params, "model.vision_model.", &config.tower)?;
        let inputs = config.tower.hidden_size * config.scale * config.scale;
        let projection = params.linear(
            "model.connector.modality_projection.proj",
            inputs,
            config.text.hidden_size,
            false,
        )?;
        let decoder = Decoder::new(params, "", &config.text)?;
        close(params, |name| decoder.repeats_head(name))?;
        Ok((Self { config, settings, tower, projection }, decoder))
    }

    fn preparation(&self, kind: VisualKind) -> Result<&Preparation, ModelError> {
        let prepared = match kind {
            VisualKind::Image => Some(&self.settings.image),
            VisualKind::Video => self.settings.video.as_ref(),
        };
        prepared.ok_or_else(|| ModelError::Unsupported {
            key: "config.json: model_type".to_owned(),
            value: "idefics3 with a clip".to_owned(),
            supported: "idefics3 with pictures, smolvlm with both".to_owned(),
        })
    }

    /// Squares of `scale` by `scale` patches side by side, row by row: `[tiles, rows, columns, width]`
    /// flattened, to `[tokens, scale * scale * width]`.
    fn fold(&self, features: &Tensor, (rows, columns): (usize, usize)) -> TensorResult<Tensor> {
        let (patches, width) = features.dims2()?;
        let (scale, tiles) = (self.config.scale, patches / (rows * columns));
        features
            .reshape(vec![tiles, rows / scale, scale, columns / scale, scale, width])?
            .permute(vec![0, 1, 3, 2, 4, 5])?
            .reshape((patches / (scale * scale), scale * scale * width))
    }
}

/// Visual tokens of a tile.
fn tokens_of(config: &SmolVlmConfig, preparation: &Preparation) -> Result<usize, ModelError> {
    let side = preparation.tile as usize / config.tower.patch_size;
    if side == 0 || !side.is_multiple_of(config.scale) {
        return Err(ModelError::Unsupported {
            key: "config.json: scale_factor".to_owned(),
            value: config.scale.to_string(),
            supported: format!("divisors of the {side} patches along the side of a tile"),
        });
    }
    Ok((side / config.scale).pow(2))
}

impl Vision for SmolVlm {
    fn mark(&self, kind: VisualKind) -> Mark {
        match kind {
            VisualKind::Image => Mark::Token(self.config.image_token),
            VisualKind::Video => Mark::Word(words::VIDEO.to_owned()),
        }
    }

    fn placeholders(&self) -> Vec<u32> {
        vec![self.config.image_token]
    }

    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        let preparation = self.preparation(visual.kind)?;
        let (id, count) = (self.config.image_token, tokens_of(&self.config, preparation)?);
        let pieces = match visual.kind {
            VisualKind::Image => {
                let layout = preparation.layout(visual.size());
                words::picture(layout.rows, layout.columns, id, count)
            }
            VisualKind::Video => {
                let duration = visual.metadata.as_ref().map(|metadata| metadata.duration);
                words::clip(visual.frames.len(), &visual.times, duration, id, count)
            }
        };
        Ok(Plan { pieces, grid: None })
    }

    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        let tiles = self.preparation(visual.kind)?.tiles(&visual.frames)?;
        Ok(Pixels::cut(visual.kind, &tiles, self.config.tower.patch_size, visual.size())?)
    }

    fn encode(&self, visuals: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let mut tokens = Vec::with_capacity(visuals.len());
        // Tiles of one size share a pass.
        for same in visuals.chunk_by(|a, b| a.grids.first() == b.grids.first()) {
            let Some(&[_, rows, columns]) = same.first().and_then(|first| first.grids.first())
            else {
                bail!("a picture without tiles");
            };
            let patches: Vec<&Tensor> = same.iter().map(|visual| &visual.patches).collect();
            let patches = Tensor::cat(&patches, 0)?;
            let features = self.tower.forward_scaled(&patches, (rows, columns), mode)?;
            let folded = self.fold(&features, (rows, columns))?;
            let projected = self.projection.forward(&folded, mode)?;
            let per_tile = rows * columns / self.config.scale.pow(2);
            let mut start = 0;
            for visual in same {
                let count = visual.grids.len() * per_tile;
                tokens.push(projected.narrow(0, start, count)?);
                start += count;
            }
        }
        Ok(tokens)
    }

    fn policy(&self) -> Option<MediaPolicy> {
        self.settings.policy.clone()
    }

    fn clip_template(&self) -> Option<&'static str> {
        self.config.clips.then_some(words::CLIP_TEMPLATE)
    }
}
