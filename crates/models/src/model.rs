//! A model of any family: a decoder, and for most video-language models what sees for it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor, bail};
use savi_nn::attention::{KvNode, KvPrefix};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Params, Weights};
use savi_schema::MediaPolicy;
use serde_json::Value;

use crate::ModelError;
use crate::decoder::{Decoder, DecoderConfig};
use crate::families::decoder_config;
use crate::files::{close, renamed};
use crate::internvl::{self, InternVl, InternVlConfig};
use crate::llava::{self, Llava, LlavaConfig};
use crate::processing::Processors;
use crate::qwen_vl::{self, QwenVl, QwenVlConfig};
use crate::reader::Reader;
use crate::smolvlm::{SmolVlm, SmolVlmConfig};
use crate::visual::{Coordinates, Mark, Pixels, Plan, Visual, VisualKind};

/// What turns pictures and clips into tokens of a decoder's width.
pub(crate) trait Vision: Debug + Send + Sync {
    /// How the chat template shows one, before its plan takes that place.
    fn mark(&self, kind: VisualKind) -> Mark;

    /// The tokens that stand for visual tokens.
    fn placeholders(&self) -> Vec<u32>;

    /// The plan of a clip of so many frames, where their number says it all.
    fn plan_of_count(&self, _frames: usize) -> Option<Plan> {
        None
    }

    /// What stands in the prompt.
    fn plan(&self, visual: &Visual) -> Result<Plan, ModelError>;

    /// Scales, cuts and normalises, as the family's processor does; f32 on the CPU.
    fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError>;

    /// Visual tokens `[plan.len(), width]` of each. Those of one call share passes; one's tokens do not
    /// depend on the others.
    fn encode(&self, pixels: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>>;

    /// The chat template of conversations with clips, where it is not the files' own.
    fn clip_template(&self) -> Option<&'static str> {
        None
    }

    /// Whether a weight of the checkpoint has no part in what is made of clips.
    fn is_idle(&self, _name: &str) -> bool {
        false
    }

    /// How the family looks at clips, where its files say so.
    fn policy(&self) -> Option<MediaPolicy> {
        None
    }

    /// The name that transformers gives the module which is called `name` here.
    fn module_name(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// A name whose start moves by the first pair that fits.
pub(crate) fn moved(name: &str, starts: &[(&str, &str)]) -> String {
    let pair = starts.iter().find_map(|(from, to)| Some((name.strip_prefix(from)?, to)));
    pair.map_or_else(|| name.to_owned(), |(rest, to)| format!("{to}{rest}"))
}

/// A model.
#[derive(Debug)]
pub struct Model {
    raw: Value,
    params: Params,
    vision: Option<Box<dyn Vision>>,
    decoder: Decoder,
}

impl Model {
    /// Builds the model that `config` (a Hugging Face `config.json`) describes. `processors` say how it
    /// is shown pictures; what they leave out is the family's own.
    pub fn new(
        config: &Value,
        processors: &Processors,
        source: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let family = config.get("model_type").and_then(Value::as_str);
        let source = match family {
            Some("llava_onevision" | "llava_next_video") => renamed(source, llava::RENAMES),
            Some("qwen2_vl" | "qwen2_5_vl") => renamed(source, qwen_vl::RENAMES),
            Some("internvl") => renamed(source, internvl::RENAMES),
            _ => source,
        };
        let params = Params::new(source, dtype, device);
        let (vision, decoder): (Option<Box<dyn Vision>>, Decoder) = match family {
            Some("llava_onevision" | "llava_next_video") => {
                let (vision, decoder) = Llava::new(config, processors, &params)?;
                (Some(Box::new(vision)), decoder)
            }
            Some("qwen2_vl" | "qwen2_5_vl") => {
                let (vision, decoder) = QwenVl::new(config, processors, &params)?;
                (Some(Box::new(vision)), decoder)
            }
            Some("smolvlm" | "idefics3") => {
                let (vision, decoder) = SmolVlm::new(config, processors, &params)?;
                (Some(Box::new(vision)), decoder)
            }
            Some("internvl" | "internvl_chat") => {
                let (vision, decoder) = InternVl::new(config, processors, &params)?;
                (Some(Box::new(vision)), decoder)
            }
            _ => {
                let config = decoder_config(Reader::new(config)?, None)?;
                let decoder = Decoder::new(&params, "", &config)?;
                close(&params, |name| decoder.repeats_head(name))?;
                (None, decoder)
            }
        };
        Ok(Self { raw: config.clone(), params, vision, decoder })
    }

    /// The shape of the decoder of the model that `config` describes.
    pub fn decoder_config(config: &Value) -> Result<DecoderConfig, ModelError> {
        match config.get("model_type").and_then(Value::as_str) {
            Some("llava_onevision" | "llava_next_video") => Ok(LlavaConfig::parse(config)?.text),
            Some("qwen2_vl" | "qwen2_5_vl") => Ok(QwenVlConfig::parse(config)?.text),
            Some("smolvlm" | "idefics3") => Ok(SmolVlmConfig::parse(config)?.text),
            Some("internvl" | "internvl_chat") => Ok(InternVlConfig::parse(config)?.text),
            _ => decoder_config(Reader::new(config)?, None),
        }
    }

    /// Whether tokens are rotated otherwise in sequences of `to` tokens than in those of `from`: what was
    /// cached for the one cannot be gone on from in the other.
    pub fn rotates_anew(&self, from: usize, to: usize) -> bool {
        self.config().ropes.iter().any(|rope| rope.regime(from) != rope.regime(to))
    }

    /// The decoder's shape.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// `config.json` as it was read.
    pub fn raw_config(&self) -> &Value {
        &self.raw
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The name that transformers gives the module, or the weight, which is called `name` here: files of
    /// adapters use it.
    pub fn module_name(&self, name: &str) -> String {
        match &self.vision {
            Some(vision) => vision.module_name(name),
            None => name.to_owned(),
        }
    }

    /// Whether the weight or layer of this name belongs to the decoder, not to what sees.
    pub fn in_decoder(&self, name: &str) -> bool {
        self.decoder.owns(name)
    }

    /// Whether a weight belongs to the tower, and not to what connects it with the decoder.
    pub fn in_tower(&self, name: &str) -> bool {
        let towers = ["vision_tower.", "vision_model.", "model.vision_model.", "visual."];
        towers.iter().any(|tower| name.starts_with(tower)) && !name.starts_with("visual.merger.")
    }

    /// Whether nothing that the model says of clips depends on this weight, so that it gets no gradient.
    pub fn is_idle(&self, name: &str) -> bool {
        self.vision.as_ref().is_some_and(|vision| vision.is_idle(name))
    }

    /// The tokens that stand for visual tokens; none where the model reads words alone.
    pub fn placeholders(&self) -> Vec<u32> {
        self.vision.as_ref().map_or_else(Vec::new, |vision| vision.placeholders())
    }

    /// How a chat template shows a picture or a clip; none where the model reads words alone.
    pub fn mark(&self, kind: VisualKind) -> Option<Mark> {
        self.vision.as_ref().map(|vision| vision.mark(kind))
    }

    /// The chat template of conversations with clips, where it is not the one of the model's files.
    pub fn clip_template(&self) -> Option<&'static str> {
        self.vision.as_ref().and_then(|vision| vision.clip_template())
    }

    /// How the model's own files want clips to be looked at.
    pub fn policy(&self) -> Option<MediaPolicy> {
        self.vision.as_ref().and_then(|vision| vision.policy())
    }

    fn vision(&self) -> Result<&dyn Vision, ModelError> {
        self.vision.as_deref().ok_or(ModelError::Blind)
    }

    /// What stands in a prompt for a clip of so many frames, where their number says it all.
    pub fn plan_of_count(&self, frames: usize) -> Option<Plan> {
        self.vision.as_ref().and_then(|vision| vision.plan_of_count(frames))
    }

    /// What stands in a prompt for a picture or a clip.
    pub fn plan(&self, visual: &Visual) -> Result<Plan, ModelError> {
        self.vision()?.plan(visual)
    }

    /// What the tower is given of a picture or a clip; f32 on the CPU.
    pub fn pixels(&self, visual: &Visual) -> Result<Pixels, ModelError> {
        if visual.frames.iter().any(|frame| frame.width == 0 || frame.height == 0)
            || visual.frames.is_empty()
        {
            return Err(ModelError::Unsupported {
                key: "frames".to_owned(),
                value: "none, or one without pixels".to_owned(),
                supported: "at least one of at least one pixel".to_owned(),
            });
        }
        self.vision()?.pixels(visual)
    }

    /// Visual tokens `[plan.len(), width]` of each picture or clip. Those of one call share passes
    /// through the tower; one's tokens do not depend on the others.
    pub fn encode(&self, pixels: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        let (dtype, device) = (self.params.dtype(), self.params.device());
        let placed: Vec<Pixels> = pixels
            .iter()
            .map(|of| {
                let patches = of.patches.to_dtype(dtype)?.to_device(device)?;
                Ok(Pixels { patches, ..of.clone() })
            })
            .collect::<TensorResult<_>>()?;
        match self.vision() {
            Ok(vision) => vision.encode(&placed, mode),
            Err(error) => bail!("{error}"),
        }
    }

    /// Positions on three axes of a prompt whose pictures and clips have these plans, in the order of
    /// their placeholders, and where what follows goes on; none where the model's positions have one
    /// axis. Words go on one by one; a picture's tokens lie on its grid, and what follows it goes on
    /// after its longer side (transformers 5, `get_rope_index`; the models' authors went on after the
    /// largest position on any axis, which is later only for clips longer than they are wide).
    pub fn coordinates(
        &self,
        ids: &[u32],
        plans: &[&Plan],
    ) -> Result<Option<Coordinates>, ModelError> {
        if !self.config().ropes.iter().any(|rope| rope.has_axes()) {
            return Ok(None);
        }
        let placeholders = self.placeholders();
        let mut grids = plans.iter();
        let mut all: Vec<[u32; 3]> = Vec::with_capacity(ids.len());
        let mut next = 0u32;
        while all.len() < ids.len() {
            if !placeholders.contains(&ids[all.len()]) {
                all.push([next; 3]);
                next += 1;
                continue;
            }
            let plan = grids.next().filter(|plan| plan.len() <= ids.len() - all.len());
            let Some((grid, 1)) = plan.and_then(|plan| Some((plan.grid?, plan.pieces.len())))
            else {
                return Err(ModelError::Unsupported {
                    key: "placeholders of the prompt".to_owned(),
                    value: "more than its pictures and clips have".to_owned(),
                    supported: "one run for each".to_owned(),
                });
            };
            for frame in 0..grid.frames {
                // In single precision, as the reference: it decides what is rounded down.
                let time = (frame as f32 * grid.interval as f32) as u32;
                for row in 0..grid.rows as u32 {
                    let columns = 0..grid.columns as u32;
                    all.extend(columns.map(|column| [next + time, next + row, next + column]));
                }
            }
            next += grid.rows.max(grid.columns) as u32;
        }
        Ok(Some((all, next)))
    }

    /// Embeddings `[ids, width]`; the placeholders take the visual tokens of `visuals` one after the
    /// other.
    pub fn embed(&self, ids: &[u32], visuals: &[Tensor], mode: Mode) -> TensorResult<Tensor> {
        let text = self.decoder.embed(ids, mode)?;
        let placeholders = self.placeholders();
        let count = visuals.iter().map(|tokens| tokens.dim(0)).sum::<TensorResult<usize>>()?;
        let places = ids.iter().filter(|id| placeholders.contains(id)).count();
        if places != count {
            bail!("{places} placeholders in the tokens for {count} visual tokens");
        }
        if count == 0 {
            return Ok(text);
        }
        let visual = Tensor::cat(visuals, 0)?.to_dtype(text.dtype())?;
        let mut pieces: Vec<Tensor> = Vec::new();
        let (mut at, mut taken) = (0, 0);
        while at < ids.len() {
            let seen = placeholders.contains(&ids[at]);
            let run = ids[at..].iter().take_while(|id| placeholders.contains(id) == seen).count();
            if seen {
                pieces.push(visual.narrow(0, taken, run)?);
                taken += run;
            } else {
                pieces.push(text.narrow(0, at, run)?);
            }
            at += run;
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

    /// The states of [`hidden`](Self::hidden) of `tokens`, which are places in the pass, `[tokens, width]`. Blocks of the
    /// decoder are segments of `tape`, which makes the backward pass.
    pub fn hidden_on<'a>(
        &'a self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        tape: &Tape<'a>,
        tokens: &[u32],
    ) -> TensorResult<Tensor> {
        self.decoder.forward_on(embeds, forest, mode, tape, tokens)
    }

    /// What every block of the decoder gives in a whole pass, `[tokens, width]` each, before the
    /// final norm; each block is a segment of `tape`.
    pub fn block_states<'a>(
        &'a self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        tape: &Tape<'a>,
    ) -> TensorResult<Vec<Tensor>> {
        self.decoder.blocks(embeds, forest, mode, tape)
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
        for (index, row) in rows.iter_mut().enumerate() {
            row.commit(forest, index);
        }
        Ok(hidden)
    }

    /// An empty cache node after `parent`, with room for about `capacity` tokens.
    pub fn cache_node(&self, parent: Option<KvPrefix>, capacity: usize) -> KvNode {
        KvNode::new(parent, self.config().layers.len(), capacity, self.params.device())
    }

    /// Logits `[rows, vocab]` in the compute type.
    pub fn logits(&self, hidden: &Tensor, mode: Mode) -> TensorResult<Tensor> {
        self.decoder.logits(hidden, mode)
    }

    /// Log-probability of `targets[i]` after row i, `[rows]`.
    pub fn logps(&self, hidden: &Tensor, targets: &[u32], mode: Mode) -> TensorResult<Tensor> {
        self.decoder.logps(hidden, targets, 1.0, mode)
    }

    /// [`logps`](Self::logps) of logits divided by `temperature`: under the distribution that is sampled from.
    pub fn logps_at(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        temperature: f64,
        mode: Mode,
    ) -> TensorResult<Tensor> {
        self.decoder.logps(hidden, targets, temperature, mode)
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

/// Whether a name is that of a block of a tower behind its first `blocks`.
pub(crate) fn behind(name: &str, blocks: usize) -> bool {
    let rest = [".layers.", ".layer."].iter().find_map(|part| name.split_once(part));
    let number = rest.and_then(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok());
    number.is_some_and(|number| number >= blocks)
}
