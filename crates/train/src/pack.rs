//! Packed trees: a prompt once and its continuations as branches; batches without padding.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};
use rand::Rng;
use savi_engine::{Engine, Prompt, Shown};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Parent};
use savi_schema::Message;

use crate::TrainError;

/// Tokens after the shared start, with the part that carries loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Tokens, at least one before the targets.
    pub ids: Vec<u32>,
    /// The first target's index in `ids`; everything from there on is learnt.
    pub targets: usize,
}

/// One record as a tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Whose record it is.
    pub id: String,
    /// Tokens that all branches share, with the pictures and clips.
    pub root: Prompt,
    /// What follows it.
    pub branches: Vec<Branch>,
}

impl Tree {
    /// Packs conversations that share their start, each `(prompt, completion)`.
    pub fn new(
        engine: &Engine,
        id: &str,
        turns: &[(&[Message], &str)],
    ) -> Result<Self, TrainError> {
        let record = |reason: String| TrainError::Record { id: id.to_owned(), reason };
        let mut parts: Vec<(Prompt, Vec<u32>)> = Vec::with_capacity(turns.len());
        for (prompt, completion) in turns {
            let prompt = engine.prompt(prompt).map_err(|e| record(e.to_string()))?;
            let completion =
                engine.text().completion(completion).map_err(|e| record(e.to_string()))?;
            parts.push((prompt, completion));
        }
        let Some((first, _)) = parts.first() else {
            return Err(record("has no conversation".to_owned()));
        };
        if first.ids.is_empty() {
            return Err(record("has an empty prompt".to_owned()));
        }
        // The last token of every prompt stays in its branch: it predicts the first target.
        let mut shared = first.ids.len() - 1;
        for (prompt, _) in &parts {
            let common = first.ids.iter().zip(&prompt.ids).take_while(|(a, b)| a == b).count();
            shared = shared.min(common).min(prompt.ids.len() - 1);
        }
        for (prompt, _) in &parts {
            if prompt.visuals != first.visuals
                || prompt.visuals.iter().any(|visual| visual.range.end > shared)
            {
                return Err(record(
                    "its conversations must show the same clips before they part".to_owned(),
                ));
            }
        }
        Ok(Self {
            id: id.to_owned(),
            root: first.start(shared),
            branches: parts
                .iter()
                .map(|(prompt, completion)| Branch {
                    ids: [&prompt.ids[shared..], completion].concat(),
                    targets: prompt.ids.len() - shared,
                })
                .collect(),
        })
    }

    /// The pictures and clips in the order of their placeholders.
    pub fn shown(&self) -> impl Iterator<Item = &Shown> {
        self.root.visuals.iter().map(|visual| &visual.shown)
    }
}

/// Several trees in one pass.
#[derive(Debug)]
pub struct Packed {
    /// Whose records they are, one for each tree.
    pub records: Vec<String>,
    /// All tokens.
    pub ids: Vec<u32>,
    /// How they hang together.
    pub forest: Arc<Forest>,
    /// Rows whose next token is a target, and these targets.
    pub rows: Vec<u32>,
    /// The target after each of `rows`.
    pub targets: Vec<u32>,
    /// The branch of each target, counted over the whole batch.
    pub branch_of: Vec<u32>,
    /// Number of branches.
    pub branches: usize,
    /// The pictures and clips in the order of their placeholders.
    pub clips: Vec<Shown>,
}

impl Packed {
    /// Packs trees one after the other.
    pub fn new<'a>(trees: impl IntoIterator<Item = &'a Tree>) -> Self {
        let mut packed = Self {
            records: Vec::new(),
            ids: Vec::new(),
            forest: Arc::default(),
            rows: Vec::new(),
            targets: Vec::new(),
            branch_of: Vec::new(),
            branches: 0,
            clips: Vec::new(),
        };
        let mut forest = Forest::new();
        for tree in trees {
            packed.records.push(tree.id.clone());
            packed.clips.extend(tree.shown().cloned());
            let root = tree.root.root(&mut forest);
            packed.ids.extend(&tree.root.ids);
            for branch in &tree.branches {
                let start = packed.ids.len();
                forest.push(Parent::Segment(root), branch.ids.len());
                packed.ids.extend(&branch.ids);
                for (i, &target) in branch.ids.iter().enumerate().skip(branch.targets) {
                    packed.rows.push((start + i - 1) as u32);
                    packed.targets.push(target);
                    packed.branch_of.push(packed.branches as u32);
                }
                packed.branches += 1;
            }
        }
        packed.forest = Arc::new(forest);
        packed
    }

    /// Lets passes in training drop out: by seed, step and record, whatever the batch and the packing.
    pub fn with_dropout(mut self, seed: u64, step: u64) -> TensorResult<Self> {
        let step = step.to_string();
        let key = |id: &String| savi_nn::rng::stream(seed, &["dropout", &step, id]).random();
        let keys: Vec<u64> = self.records.iter().map(key).collect();
        self.forest = Arc::new(Arc::unwrap_or_clone(self.forest).with_noise(&self.ids, &keys)?);
        Ok(self)
    }

    /// Log-probability of every target, `[targets]`, given each clip's visual tokens.
    pub fn logps(&self, engine: &Engine, clips: &[Tensor], mode: Mode) -> TensorResult<Tensor> {
        self.logps_on(engine, clips, mode, &Tape::default())
    }

    /// [`logps`](Self::logps) with the decoder's layers as segments of `tape`, which makes the backward
    /// pass.
    pub fn logps_on<'a>(
        &self,
        engine: &'a Engine,
        clips: &[Tensor],
        mode: Mode,
        tape: &Tape<'a>,
    ) -> TensorResult<Tensor> {
        engine.model().logps(&self.states_on(engine, clips, mode, tape)?, &self.targets, mode)
    }

    /// The states that predict the targets, `[targets, width]`.
    pub(crate) fn states_on<'a>(
        &self,
        engine: &'a Engine,
        clips: &[Tensor],
        mode: Mode,
        tape: &Tape<'a>,
    ) -> TensorResult<Tensor> {
        let model = engine.model();
        let embeds = model.embed(&self.ids, clips, mode)?;
        model.hidden_on(&embeds, &self.forest, mode, tape, &self.rows)
    }

    /// Number of targets of each branch.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for &branch in &self.branch_of {
            *counts.entry(branch).or_default() += 1;
        }
        (0..self.branches as u32).map(|b| counts.get(&b).copied().unwrap_or(0)).collect()
    }
}
