//! Batched decoding: rows of one or many prefixes advance together, a token a step each.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use savi_models::Model;
use savi_nn::Forest;
use savi_nn::attention::{KvNode, KvPrefix};
use savi_nn::layers::Mode;
use savi_nn::ops::log_normaliser;
use savi_schema::{Completion, FinishReason, Sampling};

use crate::EngineError;
use crate::sample::{Context, Drawn, draw};
use crate::text::{Prompt, TextModel};

/// A prompt in the cache and the logits after its last token.
pub(crate) type Prefilled = (Arc<KvNode>, Vec<f32>);

/// A prompt that is computed whole, for models whose tokens are rotated by the length of the sequence.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) prompt: Prompt,
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

/// One continuation that is being decoded.
#[derive(Debug)]
pub(crate) struct Row {
    node: KvNode,
    sampling: Sampling,
    rng: ChaCha8Rng,
    prompt: Arc<[u32]>,
    ids: Vec<u32>,
    logps: Vec<f32>,
    sampling_logps: Vec<f32>,
    finish: Option<FinishReason>,
    text: String,
    /// Its prompt, where the cache holds for one length only.
    whole: Option<Arc<Whole>>,
}

impl Row {
    /// A row that continues `parent`, whose last logits are `logits`.
    pub(crate) fn new(
        model: &Model,
        text: &TextModel,
        (parent, logits): (Arc<KvNode>, &[f32]),
        prompt: Arc<[u32]>,
        sampling: &Sampling,
        rng: ChaCha8Rng,
    ) -> std::result::Result<Self, EngineError> {
        let room = sampling.max_tokens.min(32);
        let mut row = Self {
            node: model.cache_node(Some(KvPrefix::whole(parent)), room),
            sampling: sampling.clone(),
            rng,
            prompt,
            ids: Vec::new(),
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            finish: (sampling.max_tokens == 0).then_some(FinishReason::Length),
            text: String::new(),
            whole: None,
        };
        if row.finish.is_none() {
            row.take(logits.to_vec(), text)?;
        }
        Ok(row)
    }

    /// The row, whose prompt is computed anew where the cache does not hold for a longer sequence.
    pub(crate) fn computed_whole(self, whole: Option<Arc<Whole>>) -> Self {
        Self { whole, ..self }
    }

    /// The logits after its last token, computed anew where what is cached does not hold for a sequence
    /// that is one longer; none where the row goes on from its cache.
    fn renew(&mut self, model: &Model) -> Result<Option<Vec<f32>>> {
        let tokens = self.node.total();
        let Some(whole) = self.whole.as_ref().filter(|_| model.rotates_anew(tokens, tokens + 1))
        else {
            return Ok(None);
        };
        let (node, logits) = whole.fill(model, &self.ids)?;
        self.node = model.cache_node(Some(KvPrefix::whole(node)), 32);
        Ok(Some(logits))
    }

    fn take(&mut self, logits: Vec<f32>, text: &TextModel) -> std::result::Result<(), EngineError> {
        let (max, log_sum) = log_normaliser(&logits);
        let context = Context {
            prompt: &self.prompt,
            generated: &self.ids,
            // The stand-ins for visual tokens are no words.
            banned: text.placeholders(),
            ends: text.ends(),
        };
        let Drawn { token, logp } = draw(logits.clone(), &self.sampling, context, &mut self.rng);
        let Some(logit) = logits.get(token as usize) else {
            let reason = format!("token {token} is outside the vocabulary of {}", logits.len());
            return Err(EngineError::Conversation(reason));
        };
        self.ids.push(token);
        self.logps.push(logit - max - log_sum);
        self.sampling_logps.push(logp);
        if text.ends().contains(&token) || self.sampling.stop_token_ids.contains(&token) {
            self.finish = Some(FinishReason::Stop);
        } else if self.ids.len() >= self.sampling.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
        if self.finish.is_some() || !self.sampling.stop.is_empty() {
            self.text = text.decode(&self.ids)?;
            let cut =
                self.sampling.stop.iter().filter_map(|stop| self.text.find(stop.as_str())).min();
            if let Some(cut) = cut {
                self.text.truncate(cut);
                self.finish = Some(FinishReason::Stop);
            }
        }
        Ok(())
    }

    fn finished(self) -> Completion {
        Completion {
            text: self.text,
            token_ids: self.ids,
            logps: self.logps,
            sampling_logps: self.sampling_logps,
            top_logps: Vec::new(),
            finish_reason: self.finish.unwrap_or(FinishReason::Length),
        }
    }
}

/// Advances all rows to their ends; completions in the order of the rows.
pub(crate) fn run(
    model: &Model,
    text: &TextModel,
    rows: Vec<Row>,
) -> std::result::Result<Vec<Completion>, EngineError> {
    let mut done: Vec<Option<Completion>> = rows.iter().map(|_| None).collect();
    let mut active: Vec<(usize, Row)> = Vec::new();
    for (i, row) in rows.into_iter().enumerate() {
        if row.finish.is_some() { done[i] = Some(row.finished()) } else { active.push((i, row)) }
    }
    while !active.is_empty() {
        let mut logits = Vec::with_capacity(active.len());
        for (_, row) in &mut active {
            logits.push(row.renew(model)?);
        }
        let mut forest = Forest::new();
        let (mut last, mut nodes) = (Vec::new(), Vec::<&mut KvNode>::new());
        for ((_, row), _) in active.iter_mut().zip(&logits).filter(|(_, logits)| logits.is_none()) {
            forest.push(row.node.after(), 1);
            last.extend(row.ids.last().copied());
            nodes.push(&mut row.node);
        }
        let stepped = if last.is_empty() {
            Vec::new()
        } else {
            let embeds = model.embed(&last, &[], Mode::INFER)?;
            let hidden =
                model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut nodes)?;
            host_logits(model, &hidden)?
        };
        let mut stepped = stepped.into_iter();
        let logits: Vec<Vec<f32>> =
            logits.into_iter().filter_map(|own| own.or_else(|| stepped.next())).collect();
        let mut next = Vec::with_capacity(active.len());
        active
            .par_iter_mut()
            .zip(logits)
            .try_for_each(|((_, row), logits)| row.take(logits, text))?;
        for (i, row) in active {
            if row.finish.is_some() { done[i] = Some(row.finished()) } else { next.push((i, row)) }
        }
        active = next;
    }
    Ok(done.into_iter().flatten().collect())
}

/// Logits of every row as f32 on this machine.
pub(crate) fn host_logits(model: &Model, hidden: &Tensor) -> Result<Vec<Vec<f32>>> {
    model.logits(hidden, Mode::INFER)?.to_dtype(DType::F32)?.to_vec2()
}
