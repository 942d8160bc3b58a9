//! Batched decoding: rows of one or many prefixes advance together, a token a step each.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use savi_models::Model;
use savi_nn::Forest;
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;
use savi_nn::ops::log_normaliser;
use savi_schema::{Completion, FinishReason, Sampling};

use crate::EngineError;
use crate::sample::draw;
use crate::text::TextModel;

/// One continuation that is being decoded.
#[derive(Debug)]
pub(crate) struct Row {
    node: KvNode,
    sampling: Sampling,
    rng: ChaCha8Rng,
    ids: Vec<u32>,
    logps: Vec<f32>,
    finish: Option<FinishReason>,
    text: String,
}

impl Row {
    /// A row that continues `parent`, whose last logits are `logits`.
    pub(crate) fn new(
        model: &Model,
        text: &TextModel,
        parent: Arc<KvNode>,
        logits: &[f32],
        sampling: &Sampling,
        rng: ChaCha8Rng,
    ) -> std::result::Result<Self, EngineError> {
        let room = sampling.max_tokens.min(32);
        let mut row = Self {
            node: model.cache_node(Some(parent), room),
            sampling: sampling.clone(),
            rng,
            ids: Vec::new(),
            logps: Vec::new(),
            finish: (sampling.max_tokens == 0).then_some(FinishReason::Length),
            text: String::new(),
        };
        if row.finish.is_none() {
            row.take(logits.to_vec(), text)?;
        }
        Ok(row)
    }

    fn take(
        &mut self,
        mut logits: Vec<f32>,
        text: &TextModel,
    ) -> std::result::Result<(), EngineError> {
        let (max, log_sum) = log_normaliser(&logits);
        // The stand-in for visual tokens is no word: it is never drawn.
        for &token in text.placeholders() {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let token = draw(&logits, &self.sampling, &mut self.rng);
        self.ids.push(token);
        self.logps.push(logits[token as usize] - max - log_sum);
        if text.ends(token) {
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
        let mut forest = Forest::new();
        let mut last = Vec::with_capacity(active.len());
        for (_, row) in &active {
            forest.push(row.node.after(), 1);
            last.extend(row.ids.last().copied());
        }
        let embeds = model.embed(&last, &[], Mode::INFER)?;
        let mut nodes: Vec<&mut KvNode> = active.iter_mut().map(|(_, row)| &mut row.node).collect();
        let hidden = model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut nodes)?;
        let logits = host_logits(model, &hidden)?;
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
