//! LLaVA-OneVision (Li et al. 2024) and LLaVA-NeXT-Video (Zhang et al. 2024): the tower of SigLIP or CLIP,
//! a two-layer projector and a decoder of any text family. Clips have fewer tokens a frame; pictures are
//! shown whole and in tiles.

mod anyres;
mod config;
mod files;
mod pool;

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor, bail};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::linear;
use savi_nn::{Init, Params, Weight};
use savi_schema::{MediaPolicy, RgbImage};
use serde_json::Value;

use self::anyres::{Layout, square};
use self::config::{ClipPooling, Family};
use self::files::Looks;
use crate::ModelError;
use crate::decoder::Decoder;
use crate::files::close;
use crate::look::Look;
use crate::model::{Vision, behind, moved};
use crate::processing::{Processors, Size, scaled};
use crate::tower::Tower;
use crate::visual::{Mark, Pixels, Plan, Visual, VisualKind};

pub(crate) use self::config::LlavaConfig;

/// Starts of names in files of transformers 5, and of those that are published.
pub(crate) const RENAMES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.vision_resampler.", "vision_resampler."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
];

/// Starts of names here, and of the modules of transformers 5.
const MODULES: &[(&str, &str)] = &[
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_resampler.", "model.vision_resampler."),
    ("image_newline", "model.image_newline"),
];

/// What sees in a LLaVA.
#[derive(Debug)]
pub(crate) struct Llava {
    config: LlavaConfig,
    looks: Looks,
    tower: Tower,
    linear_1: Arc<Linear>,
    linear_2: Arc<Linear>,
    newline: Arc<Weight>,
    /// Of a pooling that is learned: its matrix and bias.
    convolution: Option<[Arc<Weight>; 2]>,
}

impl Llava {
    /// The parts of the model that `config` describes.
    pub(crate) fn new(
        config: &Value,
        processors: &Processors,
        params: &Params,
    ) -> Result<(Self, Decoder), ModelError> {
        let config = LlavaConfig::parse(config)?;
        let looks = Looks::read(processors, &config)?;
        let (tower_width, width) = (config.tower.hidden_size, config.text.hidden_size);
        let tower = Tower::new(params, "vision_tower.vision_model.", &config.tower)?;
        let inputs = tower_width * config.layers.len();
        let projector = "multi_modal_projector.linear";
        let linear_1 = params.linear(&format!("{projector}_1"), inputs, width, config.bias)?;
        let linear_2 = params.linear(&format!("{projector}_2"), width, width, config.bias)?;
        let newline = params.get("image_newline", &[width], Init::Normal(0.02))?;
        let convolution = match config.pooling {
            ClipPooling::Squares { mode: config::PoolMode::Conv, stride } => {
                let kernel = [tower_width, tower_width, stride, stride];
                let size = 1.0 / (tower_width as f64).sqrt() / stride as f64;
                let name = "vision_resampler.pool";
                let init = Init::Normal(size);
                Some([
                    params.get_patch_matrix(&format!("{name}.weight"), kernel, init)?,
                    params.get(&format!("{name}.bias"), &[tower_width], Init::Constant(0.0))?,
                ])
            }
            _ => None,
        };
        let decoder = Decoder::new(params, "language_model.", &config.text)?;
        close(params, |name| {
            decoder.repeats_head(name) || name.starts_with("vision_tower.vision_model.head.")
        })?;
        let parts = Self { config, looks, tower, linear_1, linear_2, newline, convolution };
        Ok((parts, decoder))
    }

    /// Whether a picture is cut into tiles. A LLaVA-OneVision is shown several pictures whole, and each
    /// in the middle of a square.
    fn splits(&self, visual: &Visual) -> bool {
        self.config.family == Family::NextVideo || visual.pictures <= 1
    }

    /// Tokens of a clip of so many frames.
    fn clip_tokens(&self, frames: usize) -> usize {
        let newline = usize::from(self.config.pooling == ClipPooling::Half);
        frames * self.config.pooled_side().pow(2) + newline
    }

    /// The pictures that the tower is shown of one.
    fn views(&self, visual: &Visual, image: &RgbImage) -> Result<Vec<RgbImage>, ModelError> {
        let look = &self.looks.image;
        if !self.splits(visual) {
            let colour = look.normalise.mean.map(|mean| (f64::from(mean) * 255.0) as u8);
            return Ok(vec![look.prepare(&square(image, colour))?]);
        }
        let (width, height) = match look.size {
            Size::Exact { width, height } => (width, height),
            Size::Shortest(edge) | Size::Longest(edge) => (edge, edge),
        };
        let mut views = scaled(std::slice::from_ref(image), (width, height), look.filter)?;
        views.extend(self.config.anyres.cut(image, look.filter)?);
        views.iter().map(|view| look.prepare(view)).collect()
    }

    /// Refuses what the tower has no positions for.
    fn fitting(&self, look: &Look, views: &[RgbImage]) -> Result<(), ModelError> {
        let side = self.config.anyres.tile;
        match views.iter().find(|view| (view.width, view.height) != (side, side)) {
            None => Ok(()),
            Some(view) => Err(ModelError::Unsupported {
                key: format!("size of a picture after scaling ({:?})", look.size),
                value: format!("{}x{}", view.width, view.height),
                supported: format!("{side}x{side}"),
            }),
        }
    }

    fn project(&self, features: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        let projected = self.config.activation.forward(&self.linear_1.forward(features, mode)?)?;
        self.linear_2.forward(&projected, mode)
    }

    /// Tokens of `frames` frames of clips, frame by frame.
    fn frames(&self, features: &Tensor, frames: usize, mode: Mode) -> TensorResult<Tensor> {
        let side = self.config.tower.side();
        let (mode_of_pooling, stride) = match self.config.pooling {
            ClipPooling::Half => {
                let (from, to) = ([side; 2], [self.config.pooled_side(); 2]);
                let place = |frame: usize, y: usize, x: usize| (frame * side + y) * side + x;
                return pool::bilinear(&self.project(features, mode)?, frames, from, to, place);
            }
            ClipPooling::Squares { mode, stride } => (mode, stride),
        };
        let convolve = |x: &Tensor| match &self.convolution {
            Some([weight, bias]) => {
                linear(x, &weight.value(mode)?)?.broadcast_add(&bias.value(mode)?)
            }
            None => bail!("pooling has no convolution"),
        };
        let pooled = pool::pool(features, frames, side, stride, mode_of_pooling, convolve)?;
        self.project(&pooled, mode)
    }

    /// The tokens of a picture, those of the whole first: `tokens` of all it was shown as, one after the
    /// other.
    fn picture(&self, tokens: &Tensor, layout: Option<Layout>, mode: Mode) -> TensorResult<Tensor> {
        let newline = self.newline.value(mode)?.unsqueeze(0)?;
        let Some(layout) = layout else { return Tensor::cat(&[tokens, &newline], 0) };
        let (side, per_tile) = (self.config.anyres.side, self.config.anyres.per_tile());
        let whole = tokens.narrow(0, 0, per_tile)?;
        let [rows, columns] = layout.scaled;
        if rows == 0 {
            return Ok(whole);
        }
        let place = |_: usize, y: usize, x: usize| {
            let (y, x) = (y + layout.skipped[0], x + layout.skipped[1]);
            let tile = 1 + y / side * layout.tiles[1] + x / side;
            tile * per_tile + y % side * side + x % side
        };
        let width = tokens.dim(1)?;
        let newlines = newline.unsqueeze(0)?.broadcast_as((rows, 1, width))?.contiguous()?;
        let lines = if columns == 0 {
            newlines
        } else {
            let shown = if layout.scaled == layout.grid {
                let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x)));
                let index: Vec<u32> = places.map(|(y, x)| place(0, y, x) as u32).collect();
                let index = Tensor::from_vec(index, rows * columns, tokens.device())?;
                tokens.index_select(&index, 0)?
            } else {
                pool::bilinear(tokens, 1, layout.grid, layout.scaled, place)?
            };
            Tensor::cat(&[&shown.reshape((rows, columns, width))?, &newlines], 1)?
        };
        Tensor::cat(&[&whole, &lines.reshape((rows * (columns + 1), width))?], 0)
    }
}

impl Vision for Llava {
    /// Blocks behind the last one that is looked at, the tower's last norm; and the newline of pictures
    /// where clips have none.
    fn is_idle(&self, name: &str) -> bool {
        let Some(part) = name.strip_prefix("vision_tower.") else {
            return name == "image_newline" && self.config.family == Family::NextVideo;
        };
        let blocks = self.config.layers.iter().max().copied().unwrap_or(0);
        part.contains("post_layernorm.") || behind(part, blocks)
    }

    fn module_name(&self, name: &str) -> String {
        moved(name, MODULES)
    }

    fn mark(&self, kind: VisualKind) -> Mark {
        // Where both have one token, it stands for clips: pictures have none.
        let image = self.config.image_token;
        Mark::Token(match kind {
            VisualKind::Image if image == self.config.video_token => u32::MAX,
            VisualKind::Image => image,
            VisualKind::Video => self.config.video_token,
        })
    }

    fn placeholders(&self) -> Vec<u32> {
        let mut all = vec![self.config.image_token, self.config.video_token];
        all.dedup();
        all
    }

    fn plan_of_count(&self, frames: usize) -> Option<Plan> {
        Some(Plan::tokens(self.config.video_token, self.clip_tokens(frames)))
    }

    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        if visual.kind == VisualKind::Video {
            let count = self.clip_tokens(visual.frames.len());
            return Ok(Plan::tokens(self.config.video_token, count));
        }
        let tiles = if self.splits(visual) {
            self.config.anyres.layout(visual.size())?.tokens()
        } else {
            1
        };
        let count = self.config.anyres.per_tile() + tiles;
        Ok(Plan::tokens(self.config.image_token, count))
    }

    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        let (look, views) = match (visual.kind, visual.frames.as_slice()) {
            (VisualKind::Image, [image]) => (&self.looks.image, self.views(visual, image)?),
            (_, frames) => {
                let look = &self.looks.video;
                let prepared = frames.iter().map(|frame| look.prepare(frame));
                (look, prepared.collect::<Result<_, _>>()?)
            }
        };
        self.fitting(look, &views)?;
        let images = look.normalise.tensor(&views)?;
        let patch = self.config.tower.patch_size;
        Ok(Pixels::cut(visual.kind, &images, patch, visual.size())?)
    }

    fn encode(&self, visuals: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let patches: Vec<&Tensor> = visuals.iter().map(|visual| &visual.patches).collect();
        let all = self.tower.forward(&Tensor::cat(&patches, 0)?, &self.config.layers, mode)?;
        let per_view = self.config.anyres.per_tile();
        let per_frame = self.config.pooled_side().pow(2);
        let newline = self.newline.value(mode)?.unsqueeze(0)?;
        let mut out = Vec::with_capacity(visuals.len());
        let mut start = 0;
        // Neighbours of one kind share a pass.
        for run in visuals.chunk_by(|a, b| a.kind == b.kind) {
            let views: usize = run.iter().map(|visual| visual.grids.len()).sum();
            let features = all.narrow(0, start, views * per_view)?;
            start += views * per_view;
            let clips = run[0].kind == VisualKind::Video;
            let (tokens, per_view) = if clips {
                (self.frames(&features, views, mode)?, per_frame)
            } else {
                (self.project(&features, mode)?, per_view)
            };
            let mut at = 0;
            for visual in run {
                let own = tokens.narrow(0, at, visual.grids.len() * per_view)?;
                at += visual.grids.len() * per_view;
                out.push(if !clips {
                    let layout = match visual.grids.len() {
                        1 => None,
                        _ => Some(
                            self.config
                                .anyres
                                .layout(visual.size)
                                .map_err(candle_core::Error::wrap)?,
                        ),
                    };
                    self.picture(&own, layout, mode)?
                } else if self.config.pooling == ClipPooling::Half {
                    Tensor::cat(&[&own, &newline], 0)?
                } else {
                    own
                });
            }
        }
        Ok(out)
    }

    fn policy(&self) -> Option<MediaPolicy> {
        self.looks.policy.clone()
    }
}
