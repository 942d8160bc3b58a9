//! A model of any family: a decoder, and for most video-language models what sees for it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor, bail};
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Params, Weights};
use savi_schema::RgbImage;
use serde_json::Value;

use crate::decoder::{Decoder, DecoderConfig};
use crate::families::decoder_config;
use crate::files::close;
use crate::llava::LlavaOnevision;
use crate::reader::Reader;
use crate::{LlavaOnevisionConfig, ModelError};

/// Frames as flattened, normalised patches `[frames * patches, 3 * patch * patch]`.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// The patches.
    pub patches: Tensor,
    /// Number of frames.
    pub frames: usize,
}

/// What turns clips into tokens of a decoder's width.
pub(crate) trait Vision: Debug + Send + Sync {
    /// The token that stands for one visual token of a clip.
    fn placeholder(&self) -> u32;

    /// Placeholder tokens that a clip of `frames` frames takes.
    fn video_tokens(&self, frames: usize) -> usize;

    /// Scales frames and normalises them.
    fn pixels(&self, frames: &[RgbImage], params: &Params) -> Result<Pixels, ModelError>;

    /// Cuts normalised frames `[frames, 3, height, width]` into flattened patches.
    fn patches(&self, images: &Tensor, params: &Params) -> TensorResult<Pixels>;

    /// Visual tokens `[video_tokens, width]` of each clip. Clips of one call share one pass; a clip's
    /// tokens do not depend on the others.
    fn encode(&self, clips: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>>;
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
    /// Builds the model that `config` (a Hugging Face `config.json`) describes.
    pub fn new(
        config: &Value,
        source: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let params = Params::new(source, dtype, device);
        let family = config.get("model_type").and_then(Value::as_str);
        let (vision, decoder): (Option<Box<dyn Vision>>, Decoder) = match family {
            Some("llava_onevision") => {
                let (vision, decoder) = LlavaOnevision::new(config, &params)?;
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
            Some("llava_onevision") => Ok(LlavaOnevisionConfig::parse(config)?.text_config),
            _ => decoder_config(Reader::new(config)?, None),
        }
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

    /// The token that stands for one visual token of a clip; none where the model reads words alone.
    pub fn placeholder(&self) -> Option<u32> {
        self.vision.as_ref().map(|vision| vision.placeholder())
    }

    fn vision(&self) -> TensorResult<&dyn Vision> {
        match &self.vision {
            Some(vision) => Ok(&**vision),
            None => bail!("this model reads text alone, not clips"),
        }
    }

    /// Placeholder tokens that a clip of `frames` frames takes.
    pub fn video_tokens(&self, frames: usize) -> TensorResult<usize> {
        Ok(self.vision()?.video_tokens(frames))
    }

    /// Scales frames to the size that the model looks at and normalises them.
    pub fn pixels(&self, frames: &[RgbImage]) -> Result<Pixels, ModelError> {
        self.vision()?.pixels(frames, &self.params)
    }

    /// Cuts normalised frames `[frames, 3, height, width]` into flattened patches.
    pub fn patches(&self, images: &Tensor) -> TensorResult<Pixels> {
        self.vision()?.patches(images, &self.params)
    }

    /// Visual tokens `[video_tokens, width]` of each clip. Clips of one call share one pass through
    /// the tower; a clip's tokens do not depend on the others.
    pub fn encode(&self, clips: &[Pixels], mode: Mode) -> TensorResult<Vec<Tensor>> {
        self.vision()?.encode(clips, mode)
    }

    /// Embeddings `[ids, width]`; each run of video placeholders takes the next clip's tokens.
    pub fn embed(&self, ids: &[u32], clips: &[Tensor], mode: Mode) -> TensorResult<Tensor> {
        let text = self.decoder.embed(ids, mode)?;
        let Some(placeholder) = self.placeholder() else {
            if clips.is_empty() {
                return Ok(text);
            }
            bail!("this model reads text alone, not clips");
        };
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
        KvNode::new(parent, self.config().layers.len(), capacity, self.params.device())
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
