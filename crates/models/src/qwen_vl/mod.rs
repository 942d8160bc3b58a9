//! Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025): a tower that takes pictures and clips at
//! their own size, and a Qwen2 decoder whose positions have three axes.

mod config;
mod processor;
mod vit;

use candle_core::{Result as TensorResult, Tensor};
use savi_nn::Params;
use savi_nn::layers::Mode;
use savi_schema::MediaPolicy;
use serde_json::Value;

pub(crate) use config::QwenVlConfig;
use processor::QwenProcessor;
use vit::QwenVit;

use crate::ModelError;
use crate::decoder::Decoder;
use crate::files::close;
use crate::model::{Vision, moved};
use crate::processing::Processors;
use crate::visual::{Mark, Pixels, Plan, TokenGrid, Visual, VisualKind};

/// Starts of names as transformers 5 has them in memory, and of those that are published.
pub(crate) const RENAMES: &[(&str, &str)] =
    &[("model.language_model.", "model."), ("model.visual.", "visual.")];

/// Frames a second of a clip of which nothing is known, as transformers has it.
const UNKNOWN_RATE: f64 = 24.0;
/// Positions beyond this are no positions: steps in time stay far from where numbers end.
const LAST: f64 = (1u32 << 30) as f64;

/// Starts of names here, and of the modules of transformers 5.
const MODULES: &[(&str, &str)] =
    &[("model.", "model.language_model."), ("visual.", "model.visual.")];

/// What sees in a Qwen2-VL or a Qwen2.5-VL.
#[derive(Debug)]
pub(crate) struct QwenVl {
    config: QwenVlConfig,
    processor: QwenProcessor,
    tower: QwenVit,
}

impl QwenVl {
    /// The parts of the model that `config` describes.
    pub(crate) fn new(
        config: &Value,
        processors: &Processors,
        params: &Params,
    ) -> Result<(Self, Decoder), ModelError> {
        let config = QwenVlConfig::parse(config)?;
        let processor = QwenProcessor::new(processors, &config.vision)?;
        let tower = QwenVit::new(params, "visual.", &config.vision)?;
        let decoder = Decoder::new(params, "", &config.text)?;
        close(params, |name| decoder.repeats_head(name))?;
        Ok((Self { config, processor, tower }, decoder))
    }

    fn token(&self, kind: VisualKind) -> u32 {
        match kind {
            VisualKind::Image => self.config.image_token,
            VisualKind::Video => self.config.video_token,
        }
    }

    /// How far apart steps in time are. Qwen2.5-VL counts seconds, in single precision as the reference
    /// does.
    fn interval(&self, visual: &Visual) -> f64 {
        match (visual.kind, self.config.tokens_per_second) {
            (VisualKind::Video, Some(rate)) => {
                let seconds =
                    self.config.vision.temporal as f64 / visual.rate().unwrap_or(UNKNOWN_RATE);
                f64::from(rate as f32 * seconds as f32)
            }
            _ => 1.0,
        }
    }
}

impl Vision for QwenVl {
    fn module_name(&self, name: &str) -> String {
        moved(name, MODULES)
    }

    fn mark(&self, kind: VisualKind) -> Mark {
        Mark::Token(self.token(kind))
    }

    fn placeholders(&self) -> Vec<u32> {
        vec![self.config.image_token, self.config.video_token]
    }

    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        let [frames, rows, columns] = self.processor.grid(visual)?;
        let merge = self.config.vision.merge;
        let (rows, columns) = (rows / merge, columns / merge);
        let interval = self.interval(visual);
        if frames as f64 * interval > LAST {
            return Err(ModelError::Unsupported {
                key: "seconds of a clip".to_owned(),
                value: format!("{frames} steps of {interval} positions"),
                supported: format!("at most {LAST} positions"),
            });
        }
        let grid = Some(TokenGrid { frames, rows, columns, interval });
        Ok(Plan { grid, ..Plan::tokens(self.token(visual.kind), frames * rows * columns) })
    }

    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        self.processor.pixels(visual)
    }

    fn encode(&self, pixels: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        if pixels.is_empty() {
            return Ok(Vec::new());
        }
        let patches: Vec<&Tensor> = pixels.iter().map(|of| &of.patches).collect();
        let grids: Vec<[usize; 3]> = pixels.iter().flat_map(|of| of.grids.clone()).collect();
        let all = self.tower.forward(&Tensor::cat(&patches, 0)?, &grids, mode)?;
        let square = self.config.vision.merge.pow(2);
        let mut start = 0;
        pixels
            .iter()
            .map(|of| {
                let count = of.patches.dim(0)? / square;
                start += count;
                all.narrow(0, start - count, count)
            })
            .collect()
    }

    fn policy(&self) -> Option<MediaPolicy> {
        Some(self.processor.policy())
    }
}
