//! Supervised fine-tuning on packed conversations.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use savi_engine::Engine;
use savi_models::{LoraConfig, Pixels, Visual};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::nll;
use savi_schema::{Demonstration, Example, RgbImage};

use crate::backward::{Backward, Passed};
use crate::steps::{
    Figures, Hooks, StepOutput, Training, finished_steps, in_batches, shared_batches,
};
use crate::{Packed, Ranks, SftConfig, TrainError, TrainIo, TrainSummary, adapter, checkpoint};

mod order;
mod plan;

pub(crate) use self::order::Order;
use self::plan::Planned;

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
    sft_evaluated(engine, examples, &[], config, io)
}

/// [`sft`] that looks at the examples of `held_out`, as [`sft_demonstrations`] does.
pub fn sft_evaluated(
    engine: &mut Engine,
    examples: &[Example],
    held_out: &[Example],
    config: &SftConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    let demonstrations = |examples: &[Example]| -> Vec<Demonstration> {
        examples.iter().cloned().map(Demonstration::from).collect()
    };
    let (examples, held_out) = (demonstrations(examples), demonstrations(held_out));
    sft_demonstrations(engine, &examples, &held_out, config, io)
}

/// Fine-tunes the engine's model on `demonstrations`. With an adapter (`lora_r` above 0) the folder gets
/// `adapter/` and the engine holds the merged weights afterwards; else the caller saves the model.
/// Looks at `held_out` when `eval_strategy` says so: `eval_loss` is the mean over all their targets, weighted as
/// in training.
pub fn sft_demonstrations(
    engine: &mut Engine,
    demonstrations: &[Demonstration],
    held_out: &[Demonstration],
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
        return Ok(TrainSummary { steps: finished_steps(io.dir, total)? });
    }
    let held_out = match held_out {
        [] => Vec::new(),
        held_out => plan::plan(engine, held_out, config)?,
    };
    let mut order = Order::new(planned.len(), config.optim.step_records(), config.optim.seed)
        .by(config.optim.train_sampling_strategy);
    let course = Course { total, records: Some(planned.len()), held_out: &held_out };
    train(engine, config, io, &course, |engine, step| {
        let places = order.of_step(step);
        let own = places[io.ranks.share(places.len())].iter();
        own.map(|&i| Work::encoded(engine, &planned[i])).collect()
    })
}

/// Trains on samples that `source` makes for each step (its number, and the config's batch size,
/// which it may exceed where samples are small; all of them on every rank), vision tower included where its weights train. The caller saves the model.
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
    let course = Course { total: config.optim.max_steps, records: None, held_out: &[] };
    train(engine, config, io, &course, |engine, step| {
        let samples = source(step, records)?;
        let own = io.ranks.share(samples.len());
        let own: Vec<Sample> = samples.into_iter().skip(own.start).take(own.len()).collect();
        own.into_par_iter()
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

/// The trees of what is learnt, overlong records treated as the config says.
pub(crate) fn trees(
    engine: &Engine,
    demonstrations: &[Demonstration],
    config: &SftConfig,
) -> Result<Vec<crate::Tree>, TrainError> {
    let planned = plan::plan(engine, demonstrations, config)?;
    Ok(planned.into_iter().map(|planned| planned.tree).collect())
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

impl Work {
    /// A record whose clips a frozen tower has seen.
    fn encoded(engine: &Engine, planned: &Planned) -> Result<Self, TrainError> {
        let clips = planned.tree.shown().map(|shown| engine.clip(shown));
        let clips = Clips::Encoded(clips.collect::<Result<Vec<_>, _>>()?);
        Ok(Self { planned: planned.clone(), clips, kinds: Vec::new() })
    }
}

/// How long training goes, over what, and what it is held against.
struct Course<'a> {
    total: u64,
    records: Option<usize>,
    held_out: &'a [Planned],
}

/// What is told of a part of a step.
struct Outcome {
    loss: f64,
    tokens: usize,
    kinds: BTreeMap<&'static str, (f64, f64)>,
}

/// Says which weights train: an adapter, which is given back, or the model's own.
pub(crate) fn prepare(
    engine: &Engine,
    config: &SftConfig,
) -> Result<Option<LoraConfig>, TrainError> {
    let lora = config.adapter();
    match &lora {
        Some(lora) => adapter::attach(engine, lora, config.optim.seed)?,
        None => engine.model().params().set_trains(|name| {
            let model = engine.model();
            !(model.is_idle(name) || config.freeze_vision_tower && model.in_tower(name))
        }),
    }
    Ok(lora)
}

fn train(
    engine: &mut Engine,
    config: &SftConfig,
    io: &TrainIo<'_>,
    course: &Course<'_>,
    batch: impl FnMut(&Engine, u64) -> Result<Vec<Work>, TrainError>,
) -> Result<TrainSummary, TrainError> {
    let lora = prepare(engine, config)?;
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
    let training = Training {
        label: "sft",
        config: &config.optim,
        weights: &weights,
        total: course.total,
        records: course.records,
        io,
        device: &device,
        reference: None,
    };
    let batch = RefCell::new(batch);
    let (engine_now, exponent) = (&*engine, config.length_exponent);
    let weight_of =
        |works: &[Work]| -> f64 { works.iter().map(|work| weight(&work.planned, exponent)).sum() };
    let mut alone = |step: u64, place: usize| {
        let works = (batch.borrow_mut())(engine_now, step)?;
        let work = works.get(place..=place).unwrap_or_default();
        let passed = learn(engine_now, config, work, step, weight_of(work), config.optim.tape())?;
        passed.alone(|outcome| outcome.loss)
    };
    let mut evaluate = |_: &()| {
        let size = config.optim.per_device_eval_batch_size;
        let own = shared_batches(io.ranks, course.held_out, size);
        let batches = in_batches(&device, own, size, |planned| {
            if io.interrupt.is_set() {
                return Err(TrainError::Interrupted);
            }
            look(engine_now, planned, exponent)
        });
        let own: Vec<f64> =
            io.ranks.agree(batches)?.into_iter().flat_map(<[f64; 2]>::from).collect();
        let all = io.ranks.numbers(&own)?.concat();
        let (batches, _) = all.as_chunks::<2>();
        let sums =
            batches.iter().fold((0.0, 0.0), |sums, batch| (sums.0 + batch[0], sums.1 + batch[1]));
        Ok(vec![("loss", sums.0 / sums.1)])
    };
    let backward = Backward::new(io.ranks, &weights);
    let hooks = Hooks {
        evaluate: (!course.held_out.is_empty()).then_some(&mut evaluate),
        alone: Some(&mut alone),
    };
    let summary = training.run_with(&mut (), hooks, |step, ()| {
        let works = (batch.borrow_mut())(engine_now, step)?;
        let size = works.len().div_ceil(config.optim.gradient_accumulation_steps.max(1));
        let [total_weight] = io.ranks.totals([weight_of(&works)])?;
        let (params, optim) = (engine_now.model().params(), &config.optim);
        let (grads, parts) = backward.learn(params, optim, (&works, size), |part, tape| {
            learn(engine_now, config, part, step, total_weight, tape)
        })?;
        let loss = parts.iter().map(|part| part.loss).sum();
        let tokens = parts.iter().map(|part| part.tokens).sum();
        let figures = of_kinds(io.ranks, &parts)?;
        let ids = works.iter().map(|work| work.planned.tree.id.clone()).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    adapter::finish(engine, lora.as_ref(), io)?;
    Ok(summary)
}

/// A part's share of a step's loss.
fn learn<'a>(
    engine: &'a Engine,
    config: &SftConfig,
    part: &[Work],
    step: u64,
    total_weight: f64,
    tape: Tape<'a>,
) -> Result<Passed<'a, Outcome>, TrainError> {
    let mut packed = packed(part);
    if config.lora.lora_dropout > 0.0 {
        packed = packed.with_dropout(config.optim.seed, step)?;
    }
    let clips = encode(engine, part)?;
    let logps = packed.logps_on(engine, &clips, Mode::TRAIN, &tape)?.to_dtype(DType::F32)?;
    let weights = token_weights(part, &packed, config.length_exponent);
    let weights = Tensor::from_slice(&weights, weights.len(), logps.device())?;
    let share = nll(&logps, &weights, total_weight)?;
    let loss = f64::from(share.to_scalar::<f32>()?);
    let kinds = kind_losses(part, &packed, &logps)?;
    let told = Outcome { loss, tokens: packed.ids.len(), kinds };
    Ok(Passed { loss: Some((share, tape)), told })
}

/// The mean loss of every kind of conversation, over all ranks' parts.
fn of_kinds(ranks: &Ranks, parts: &[Outcome]) -> Result<Figures, TrainError> {
    let own = || parts.iter().flat_map(|part| &part.kinds);
    let kinds = ranks.gather(own().map(|(kind, _)| (*kind).to_owned()).collect::<Vec<String>>())?;
    let own: Vec<f64> = own().flat_map(|(_, &sums)| <[f64; 2]>::from(sums)).collect();
    let numbers = ranks.numbers(&own)?.concat();
    let mut all: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (kind, [sum, count]) in kinds.concat().into_iter().zip(numbers.as_chunks().0) {
        let entry = all.entry(kind).or_default();
        *entry = (entry.0 + sum, entry.1 + count);
    }
    Ok(all.into_iter().map(|(kind, (sum, count))| (kind.into(), sum / count)).collect())
}

/// The weighted sum of held-out targets' losses, and their weights together.
fn look(engine: &Engine, planned: &[Planned], exponent: f64) -> Result<(f64, f64), TrainError> {
    let works = planned.iter().map(|planned| Work::encoded(engine, planned));
    let works = works.collect::<Result<Vec<_>, _>>()?;
    let packed = packed(&works);
    let logps = packed.logps(engine, &encode(engine, &works)?, Mode::INFER)?;
    let logps = logps.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let weighted = logps.iter().zip(token_weights(&works, &packed, exponent));
    let sum: f64 = weighted.map(|(logp, weight)| -f64::from(*logp) * f64::from(weight)).sum();
    Ok((sum, planned.iter().map(|planned| weight(planned, exponent)).sum()))
}

/// Takes up the result of a finished training, if the folder holds one.
pub(crate) fn take_finished(engine: &mut Engine, io: &TrainIo<'_>) -> Result<bool, TrainError> {
    let adapter = io.dir.join("adapter");
    if !adapter.join("adapter_model.safetensors").exists() {
        return Ok(false);
    }
    engine.merge_adapter(&adapter)?;
    if io.ranks.is_first() {
        checkpoint::clear(io.dir)?;
    }
    Ok(true)
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
