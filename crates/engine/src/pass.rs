//! One pass through the decoder: the next token of rows that decode, and the next tokens of prompts on
//! their way into the tree, all at once.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use savi_models::Model;
use savi_nn::Forest;
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;

use crate::row::Row;
use crate::tree::{Filling, Piece, plan};
use crate::{Engine, EngineError, Prompt};

/// Rows whose logits are on this machine at a time.
const LOGITS: usize = 64;

/// A failure that only some prompts of a pass have a part in.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Which fillings.
    pub(crate) members: Vec<usize>,
    pub(crate) error: EngineError,
}

impl Engine {
    /// Lets every row see its last token, and takes up to the engine's chunk of tokens of the fillings
    /// into the tree; hidden states `[rows, width]` of the rows. A prompt whose pictures or clips cannot
    /// be read breaks the pass before anything is computed.
    pub(crate) fn pass(
        &self,
        rows: &mut [&mut Row],
        fillings: &mut [&mut Filling],
    ) -> Result<Result<Option<Tensor>, Broken>, EngineError> {
        let tree = self.tree();
        let pieces = plan(fillings.iter().map(|filling| &**filling), tree.shares(), self.chunk());
        let (mut forest, mut ids, mut visuals) = (Forest::new(), Vec::new(), Vec::new());
        for row in &mut *rows {
            forest.push(row.node.after(), 1);
            ids.extend(row.ids.last().copied());
        }
        let mut nodes = Vec::with_capacity(pieces.len());
        for Piece { members, range } in &pieces {
            let filling = &fillings[members[0]];
            let node = self.model().cache_node(filling.place.prefix.clone(), range.len());
            filling.prompt.go_on(&mut forest, node.after(), range.clone());
            nodes.push(node);
            ids.extend(&filling.prompt.ids[range.clone()]);
            match self.visuals(&filling.prompt, range.clone()) {
                Ok(seen) => visuals.extend(seen),
                Err(error) => return Ok(Err(Broken { members: members.clone(), error })),
            }
        }
        if ids.is_empty() {
            return Ok(Ok(None));
        }
        let embeds = self.model().embed(&ids, &visuals, Mode::INFER)?;
        let count = rows.len();
        let mut caches: Vec<&mut KvNode> = rows.iter_mut().map(|row| &mut row.node).collect();
        caches.extend(nodes.iter_mut());
        let hidden =
            self.model().hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut caches)?;
        self.count(|counts| {
            counts.decoded_tokens += count as u64;
            counts.computed_tokens += (ids.len() - count) as u64;
        });
        let mut at = count;
        for (Piece { members, range }, node) in pieces.into_iter().zip(nodes) {
            at += range.len();
            // A copy: a view would keep the states of the whole pass.
            let last = hidden.narrow(0, at - 1, 1)?.copy()?;
            let first = &fillings[members[0]];
            let units = &first.units[range];
            let place = tree.insert(&first.place, units, Arc::new(node), Some(last));
            for member in members {
                fillings[member].place = place.clone();
            }
        }
        Ok(Ok(if count == 0 { None } else { Some(hidden.narrow(0, 0, count)?) }))
    }

    /// Visual tokens of the placeholders among a prompt's tokens `range`.
    fn visuals(&self, prompt: &Prompt, range: Range<usize>) -> Result<Vec<Tensor>, EngineError> {
        let placeholders = self.text().placeholders();
        let count = |range: Range<usize>| {
            prompt.ids[range].iter().filter(|id| placeholders.contains(id)).count()
        };
        let mut seen = Vec::new();
        for visual in &prompt.visuals {
            let start = range.start.clamp(visual.range.start, visual.range.end);
            let end = range.end.clamp(start, visual.range.end);
            let (before, taken) = (count(visual.range.start..start), count(start..end));
            if taken > 0 {
                seen.push(self.clip(&visual.shown)?.narrow(0, before, taken)?);
            }
        }
        Ok(seen)
    }

    /// Logits after hidden states, as f32 on this machine.
    pub(crate) fn logits_of(&self, states: &[Tensor]) -> Result<Vec<Vec<f32>>, EngineError> {
        if states.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = Tensor::cat(states, 0)?;
        let rows = hidden.dim(0)?;
        let mut logits = Vec::with_capacity(rows);
        for start in (0..rows).step_by(LOGITS) {
            let part = hidden.narrow(0, start, LOGITS.min(rows - start))?;
            logits.extend(host_logits(self.model(), &part)?);
        }
        Ok(logits)
    }
}

/// Logits of every row as f32 on this machine.
pub(crate) fn host_logits(model: &Model, hidden: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
    model.logits(hidden, Mode::INFER)?.to_dtype(DType::F32)?.to_vec2()
}
