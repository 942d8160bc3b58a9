//! The prefix tree as methods use it: open a prompt, extend it, branch from it, score after it, go back.
//!
//! A [`Node`] says what was said up to it. Its keys and values lie in the engine's tree, shared by all nodes
//! that say the same; where they were dropped for want of room, or the weights have changed since, they are
//! computed again when they are needed. So forking a node is cloning a number, and rewinding one moves
//! nothing.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use savi_schema::{Completion, GenerateError, Request, Sampling, TokenScore};

use super::{Engine, Prepared};
use crate::batch::Job;
use crate::tree::{Filling, Place};
use crate::{EngineError, Prompt};

/// A place in the tree. Cloning it forks it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    prompt: Arc<Prompt>,
}

impl Node {
    /// What was said up to it.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// Tokens up to it.
    pub fn len(&self) -> usize {
        self.prompt.ids.len()
    }

    /// Never: a node has tokens.
    pub fn is_empty(&self) -> bool {
        self.prompt.ids.is_empty()
    }

    /// The node after the first `len` tokens. Words can be taken back one by one, a picture or a clip as a
    /// whole.
    pub fn rewind(&self, len: usize) -> Result<Self, EngineError> {
        let inside = |range: &std::ops::Range<usize>| range.start < len && len < range.end;
        let cut = self.prompt.visuals.iter().any(|visual| inside(&visual.range));
        if len == 0 || len > self.len() || cut {
            let reason = format!("cannot go back to token {len} of {}", self.len());
            return Err(EngineError::Conversation(reason));
        }
        Ok(Self { prompt: Arc::new(self.prompt.start(len)) })
    }
}

/// Completions to draw after a node.
#[derive(Debug, Clone)]
pub struct Branch {
    /// What they continue.
    pub node: Node,
    /// One completion is drawn for each.
    pub samplings: Vec<Sampling>,
    /// Random numbers depend on it, the seed and the completion's index.
    pub id: String,
    /// See `id`.
    pub seed: u64,
}

impl Engine {
    /// A prompt in the tree. One that was opened before costs nothing.
    pub fn open(&self, prompt: Prompt) -> Result<Node, EngineError> {
        self.check_prompt(&prompt)?;
        let limit = self.model.config().max_position_embeddings;
        if prompt.ids.is_empty() || prompt.ids.len() > limit {
            let reason = format!("{} tokens; this model takes 1 to {limit}", prompt.ids.len());
            return Err(EngineError::Conversation(reason));
        }
        let node = Node { prompt: Arc::new(prompt) };
        if !self.depends_on_length() {
            self.place(node.prompt.clone())?;
        }
        Ok(node)
    }

    /// The node after more words.
    pub fn extend(&self, node: &Node, words: &[u32]) -> Result<Node, EngineError> {
        self.open(node.prompt.followed_by(words))
    }

    /// Draws completions after nodes, all in one batch, in their order.
    pub fn branch(&self, branches: &[Branch]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let counts = branches.iter().map(|branch| branch.samplings.len());
        let jobs = branches.iter().enumerate().map(|(number, branch)| {
            let request = Request {
                id: branch.id.clone(),
                samplings: branch.samplings.clone(),
                seed: branch.seed,
                ..Request::default()
            };
            let fitting = self.fitting(request, branch.node.prompt.clone());
            let Prepared { request, prompt } = fitting.map_err(|error| (number, error))?;
            Ok(Job { number, request, prompt, streams: false })
        });
        self.complete(counts, jobs)
    }

    /// Log-probabilities of continuations after a node, in one pass.
    pub fn score_after(
        &self,
        node: &Node,
        continuations: Vec<Vec<u32>>,
    ) -> Result<Vec<TokenScore>, EngineError> {
        self.score_tokens(&node.prompt, continuations)
    }

    /// Natural log-probabilities of every token of the vocabulary after each node, as f32.
    pub fn next_logps(&self, nodes: &[Node]) -> Result<Vec<Vec<f32>>, EngineError> {
        let logits = if self.depends_on_length() {
            let whole = |node: &Node| -> Result<Vec<f32>, EngineError> {
                Ok(self.whole(&node.prompt)?.fill(&self.model, &[])?.1)
            };
            nodes.iter().map(whole).collect::<Result<Vec<_>, _>>()?
        } else {
            let places = self.places(nodes.iter().map(|node| node.prompt.clone()))?;
            let states: Vec<Tensor> = places.into_iter().filter_map(|place| place.hidden).collect();
            self.logits_of(&states)?
        };
        Ok(logits
            .into_iter()
            .map(|mut row| {
                let (max, log_sum) = savi_nn::ops::log_normaliser(&row);
                row.iter_mut().for_each(|logit| *logit = *logit - max - log_sum);
                row
            })
            .collect())
    }

    /// The last hidden state `[width]` after each node, as f32.
    pub fn last_states(&self, nodes: &[Node]) -> Result<Vec<Vec<f32>>, EngineError> {
        let places = self.places(nodes.iter().map(|node| node.prompt.clone()))?;
        let states = places.into_iter().filter_map(|place| place.hidden);
        states.map(|state| Ok(state.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)).collect()
    }

    /// The place of a prompt, computed where it is not.
    pub(crate) fn place(&self, prompt: Arc<Prompt>) -> Result<Place, EngineError> {
        let mut places = self.places(std::iter::once(prompt))?;
        places.pop().ok_or_else(|| EngineError::Conversation("there is no prompt".to_owned()))
    }

    /// The places of prompts, what they share computed once.
    pub(crate) fn places(
        &self,
        prompts: impl Iterator<Item = Arc<Prompt>>,
    ) -> Result<Vec<Place>, EngineError> {
        let mut fillings: Vec<Filling> = Vec::new();
        for prompt in prompts {
            let units = self.units(&prompt);
            let filling = Filling::new(&self.tree, prompt, units);
            self.count(|counts| {
                counts.prompt_tokens += filling.units.len() as u64;
                counts.cached_tokens += filling.cached as u64;
            });
            fillings.push(filling);
        }
        while fillings.iter().any(|filling| !filling.is_full()) {
            let mut all: Vec<&mut Filling> = fillings.iter_mut().collect();
            if let Err(broken) = self.pass(&mut [], &mut all)? {
                return Err(broken.error);
            }
        }
        Ok(fillings.into_iter().map(|filling| filling.place).collect())
    }
}
