//! Prompts that are computed whole: those of models that rotate tokens by the length of the sequence.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use savi_models::Model;
use savi_nn::Forest;
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;

use crate::pass::host_logits;
use crate::text::Prompt;

/// A prompt in the cache and the logits after its last token.
pub(crate) type Prefilled = (Arc<KvNode>, Vec<f32>);

/// A prompt that is computed whole, for models whose tokens are rotated by the length of the sequence.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) visuals: Vec<Tensor>,
}

impl Whole {
    /// The prompt and what was drawn after it, in a new node.
    pub(crate) fn fill(&self, model: &Model, drawn: &[u32]) -> Result<Prefilled> {
        let (embeds, forest, count) = self.pass(model, drawn)?;
        let mut node = model.cache_node(None, count);
        let rows: &mut [&mut KvNode] = &mut [&mut node];
        let hidden = model.hidden_cached(&embeds, &forest, Mode::INFER, rows)?;
        let logits = host_logits(model, &hidden.narrow(0, count - 1, 1)?)?;
        Ok((Arc::new(node), logits.into_iter().next().unwrap_or_default()))
    }

    /// Log-probabilities of a continuation.
    pub(crate) fn score(&self, model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let (embeds, forest, count) = self.pass(model, tokens)?;
        let hidden = model.hidden(&embeds, &forest, Mode::INFER)?;
        let before = hidden.narrow(0, count - tokens.len() - 1, tokens.len())?;
        model.logps(&before, tokens, Mode::INFER)?.to_dtype(DType::F32)?.to_vec1()
    }

    /// Embeddings of the prompt and of words after it as one segment, and their number.
    fn pass(&self, model: &Model, after: &[u32]) -> Result<(Tensor, Arc<Forest>, usize)> {
        let prompt = self.prompt.followed_by(after);
        let mut forest = Forest::new();
        prompt.root(&mut forest);
        let embeds = model.embed(&prompt.ids, &self.visuals, Mode::INFER)?;
        Ok((embeds, Arc::new(forest), prompt.ids.len()))
    }
}
