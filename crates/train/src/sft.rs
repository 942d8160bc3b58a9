//! Supervised fine-tuning on packed conversations.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use savi_engine::Engine;
use savi_models::{Pixels, Visual};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::nll;
use savi_schema::{Demonstration, Example, RgbImage};

mod plan;

use self::plan::Planned;
use crate::steps::{StepOutput, in_parts, run};
use crate::{Packed, SftConfig, TrainError, TrainIo, TrainSummary, adapter, checkpoint};

/// An example with frames of its own, for data that never was a file.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The conversations; their clips are given by `clips`, in order.
    pub example: Example,
    /// Frames of each clip.
    pub clips: Vec<Vec<RgbImage>>,
    /// A name for the kind of each conversation. Metrics tell the loss of every kind, as the mean
    /// over its tokens.
    pub kinds: Vec<&'static str>,
}

/// [`sft_demonstrations`] on examples.
pub fn sft(
    engine: &mut Engine,
    examples: &[Example],
    config: &SftConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    let all: Vec<Demonstration> = examples.iter().cloned().map(Demonstration::from).collect();
    sft_demonstrations(engine, &all, config, io)
}

/// Fine-tunes the engine's model on `demonstrations`. With an adapter (`lora_r` above 0) the folder gets
/// `adapter/` and the engine holds the merged weights afterwards; else the caller saves the model.
pub fn sft_demonstrations(
    engine: &mut Engine,
    demonstrations: &[Demonstration],
    config: &SftConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if demonstrations.is_empty() {
        return Err(TrainError::Nothing("examples"));
    }
    let planned = plan::plan(engine, demonstrations, config)?;
    let total = config.optim.total_steps(planned.len());
    if take_finished(engine, io)? {
        return Ok(TrainSummary { steps: total });
    }
    let mut order = Order::new(planned.len(), config.optim.step_records(), config.optim.seed);
    train(engine, config, io, total, |engine, step| {
        order
            .of_step(step)
            .into_iter()
            .map(|i| {
                let planned = planned[i].clone();
                let clips = planned.tree.shown().map(|shown| engine.clip(shown));
                let clips = clips.collect::<Result<Vec<_>, _>>()?;
                Ok(Work { planned, clips: Clips::Encoded(clips), kinds: Vec::new() })
            })
            .collect()
    })
}

/// Trains on samples that `source` makes for each step (its number, and the config's batch size,
/// which it may exceed where samples are small), vision tower included where its weights train. The caller saves the model.
pub fn sft_stream(
    engine: &mut Engine,
    config: &SftConfig,
    io: &TrainIo<'_>,
    mut source: impl FnMut(u64, usize) -> Result<Vec<Sample>, TrainError>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if config.optim.max_steps == 0 {
        return Err(TrainError::Setting {
            key: "max_steps",
            value: "0".to_owned(),
            reason: "a stream has no epochs: name the number of steps",
        });
    }
    let records = config.optim.step_records();
    train(engine, config, io, config.optim.max_steps, |engine, step| {
        source(step, records)?
            .into_par_iter()
            .map(|sample| {
                let Example { id, conversations, .. } = &sample.example;
                let planned = Planned::plain(plan::branches(engine, id, conversations)?);
                let pixels = sample
                    .clips
                    .iter()
                    .map(|frames| engine.model().pixels(&Visual::frames(frames.clone())))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Work { planned, clips: Clips::Pixels(pixels), kinds: sample.kinds })
            })
            .collect()
    })
}

/// One record to learn from.
struct Work {
    planned: Planned,
    clips: Clips,
    kinds: Vec<&'static str>,
}

/// A tree's clips: already encoded by a frozen tower, or to be encoded in the pass.
enum Clips {
    Encoded(Vec<Tensor>),
    Pixels(Vec<Pixels>),
}

fn train(
    engine: &mut Engine,
    config: &SftConfig,
    io: &TrainIo<'_>,
    total: u64,
    mut batch: impl FnMut(&Engine, u64) -> Result<Vec<Work>, TrainError>,
) -> Result<TrainSummary, TrainError> {
    let lora = config.adapter();
    match &lora {
        Some(lora) => adapter::attach(engine, lora, config.optim.seed)?,
        None => engine.model().params().set_trains(|name| {
            let model = engine.model();
            !(model.is_idle(name) || config.freeze_vision_tower && model.in_tower(name))
        }),
    }
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
    let exponent = config.length_exponent;
    let summary = run("sft", &config.optim, &weights, total, io, &device, |step| {
        let trees = batch(engine, step)?;
        let size = trees.len().div_ceil(config.optim.gradient_accumulation_steps.max(1));
        let total_weight: f64 = trees.iter().map(|work| weight(&work.planned, exponent)).sum();
        let parts = in_parts(&device, &trees, size, |part| {
            let mut packed = packed(part);
            if config.lora.lora_dropout > 0.0 {
                packed = packed.with_dropout(config.optim.seed, step)?;
            }
            let tape = Tape::new(config.optim.gradient_checkpointing);
            let clips = encode(engine, part)?;
            let logps = packed.logps_on(engine, &clips, Mode::TRAIN, &tape)?;
            let logps = logps.to_dtype(DType::F32)?;
            let weights = token_weights(part, &packed, exponent);
            let weights = Tensor::from_slice(&weights, weights.len(), logps.device())?;
            let share = nll(&logps, &weights, total_weight)?;
            let loss = f64::from(share.to_scalar::<f32>()?);
            let kinds = kind_losses(part, &packed, &logps)?;
            Ok((loss, packed.ids.len(), kinds, tape.backward(&share)?))
        })?;
        let mut grads = GradStore::default();
        let (mut loss, mut tokens) = (0.0, 0);
        let mut kinds: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
        for (part_loss, part_tokens, part_kinds, part_grads) in parts {
            loss += part_loss;
            tokens += part_tokens;
            for (kind, (sum, count)) in part_kinds {
                let entry = kinds.entry(kind).or_default();
                *entry = (entry.0 + sum, entry.1 + count);
            }
            grads.extend(part_grads)?;
        }
        let figures =
            kinds.into_iter().map(|(kind, (sum, count))| (kind.into(), sum / count)).collect();
        let ids = trees.iter().map(|work| work.planned.tree.id.clone()).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    adapter::finish(engine, lora.as_ref(), io.dir)?;
    Ok(summary)
}

/// Takes up the result of a finished training, if the folder holds one.
pub(crate) fn take_finished(engine: &mut Engine, io: &TrainIo<'_>) -> Result<bool, TrainError> {
    let adapter = io.dir.join("adapter");
    if !adapter.join("adapter_model.safetensors").exists() {
        return Ok(false);
    }
    engine.merge_adapter(&adapter)?;
    checkpoint::clear(io.dir)?;
    Ok(true)
}

/// Which records each step takes: all of them in a fresh order, again and again.
pub(crate) struct Order {
    records: usize,
    of_step: usize,
    seed: u64,
    /// The order of an epoch, kept while steps stay in it.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// `of_step` of `records` records in each step; both at least 1.
    pub(crate) fn new(records: usize, of_step: usize, seed: u64) -> Self {
        Self { records, of_step, seed, epoch: None }
    }

    /// The places of a step's records.
    pub(crate) fn of_step(&mut self, step: u64) -> Vec<usize> {
        let first = step * self.of_step as u64;
        (first..first + self.of_step as u64).map(|at| self.at(at)).collect()
    }

    fn at(&mut self, at: u64) -> usize {
        let (epoch, place) = (at / self.records as u64, at % self.records as u64);
        let (records, seed) = (self.records, self.seed);
        let order = match self.epoch.take() {
            Some((number, order)) if number == epoch => order,
            _ => {
                let mut order: Vec<usize> = (0..records).collect();
                order.shuffle(&mut savi_nn::rng::stream(seed, &["order", &epoch.to_string()]));
                order
            }
        };
        let record = order[place as usize];
        self.epoch = Some((epoch, order));
        record
    }
}

/// The trees of a part in one pass, with the tokens that each wants to be learnt as targets.
fn packed(part: &[Work]) -> Packed {
    let mut packed = Packed::new(part.iter().map(|work| &work.planned.tree));
    if part.iter().all(|work| work.planned.learnt.is_none()) {
        return packed;
    }
    let (mut start, mut branch, mut known) = (0, 0, 0);
    let (mut rows, mut targets, mut branch_of) = (Vec::new(), Vec::new(), Vec::new());
    for Work { planned: Planned { tree, learnt, .. }, .. } in part {
        let branches = tree.branches.iter();
        let own: usize = branches.clone().map(|b| b.ids.len() - b.targets).sum();
        match learnt {
            Some(learnt) => {
                let places = learnt.iter().enumerate().filter(|(_, learnt)| **learnt);
                for (at, _) in places {
                    rows.push((start + at - 1) as u32);
                    targets.push(packed.ids[start + at]);
                    branch_of.push(branch);
                }
            }
            None => {
                rows.extend(&packed.rows[known..known + own]);
                targets.extend(&packed.targets[known..known + own]);
                branch_of.extend(&packed.branch_of[known..known + own]);
            }
        }
        known += own;
        branch += branches.len() as u32;
        start += tree.root.ids.len() + branches.map(|b| b.ids.len()).sum::<usize>();
    }
    (packed.rows, packed.targets, packed.branch_of) = (rows, targets, branch_of);
    packed
}

/// Sum and number of the targets' losses by kind of conversation, where kinds are named.
fn kind_losses(
    part: &[Work],
    packed: &Packed,
    logps: &Tensor,
) -> Result<BTreeMap<&'static str, (f64, f64)>, TrainError> {
    let mut losses = BTreeMap::new();
    if part.iter().any(|work| work.kinds.len() != work.planned.tree.branches.len()) {
        return Ok(losses);
    }
    let kinds: Vec<&'static str> = part.iter().flat_map(|work| work.kinds.clone()).collect();
    for (&branch, logp) in packed.branch_of.iter().zip(logps.detach().to_vec1::<f32>()?) {
        let (sum, count) = losses.entry(kinds[branch as usize]).or_insert((0.0, 0.0));
        *sum -= f64::from(logp);
        *count += 1.0;
    }
    Ok(losses)
}

/// The weights of a record's targets together.
fn weight(planned: &Planned, exponent: f64) -> f64 {
    let each = |n: f64| if n > 0.0 { n * f64::from(n.powf(-exponent) as f32) } else { 0.0 };
    let sum: f64 = planned.lengths().into_iter().map(|n| each(n as f64)).sum();
    sum * planned.weight
}

fn token_weights(part: &[Work], packed: &Packed, exponent: f64) -> Vec<f32> {
    let of_branches: Vec<f64> = part
        .iter()
        .flat_map(|work| vec![work.planned.weight; work.planned.tree.branches.len()])
        .collect();
    let lengths = packed.lengths();
    let weight = |&branch: &u32| {
        let length = lengths[branch as usize] as f64;
        (f64::from(length.powf(-exponent) as f32) * of_branches[branch as usize]) as f32
    };
    packed.branch_of.iter().map(weight).collect()
}

fn encode(engine: &Engine, part: &[Work]) -> Result<Vec<Tensor>, TrainError> {
    let mut pixels = Vec::new();
    for work in part {
        if let Clips::Pixels(p) = &work.clips {
            pixels.extend(p.iter().cloned());
        }
    }
    let mut fresh =
        if pixels.is_empty() { Vec::new() } else { engine.model().encode(&pixels, Mode::TRAIN)? }
            .into_iter();
    let mut all = Vec::new();
    for work in part {
        match &work.clips {
            Clips::Encoded(tokens) => all.extend(tokens.iter().cloned()),
            Clips::Pixels(p) => all.extend(fresh.by_ref().take(p.len())),
        }
    }
    Ok(all)
}
