//! Preference optimisation, from DPO (Rafailov et al. 2023) to its relatives that `savi-objectives`
//! computes: a pair is one packed tree, the reference is the same model with the adapter off, or, where all
//! weights train, as it was before; what it says of pairs can be computed in advance. With `sync_ref_model` that copy
//! follows the weights every few steps (TR-DPO, Gorbatovski et al., arXiv 2404.09656).
//!
//! A step's pairs go through the model in parts. Losses that match pairs by rank need the log-probs of
//! the whole step before the first gradient: where a step has several parts, all of them are computed
//! once without gradients and the policy's once more, so that memory is that of one part and the loss
//! that of the step however it is cut.

mod part;
mod reference;

use std::borrow::Cow;
use std::cell::Cell;

use savi_engine::Engine;
use savi_models::LoraConfig;
use savi_nn::Params;
use savi_objectives::{PreferenceLoss, PreferenceMetrics, RewardBaseline, Totals};
use savi_schema::Pair;
use serde::{Deserialize, Serialize};

use self::part::{Place, Step, Whole};
use crate::adapter;
use crate::backward::Backward;
use crate::length::{Fit, Limit, cut_branches, longest};
use crate::sft::{Order, take_finished};
use crate::steps::{
    Hooks, StepOutput, Training, finished_steps, in_batches, in_parts, part_size, shared_batches,
};
use crate::{DpoConfig, TrainError, TrainIo, TrainSummary, Tree};

/// Trains on `pairs`. With an adapter (`lora_r` above 0) the folder gets `adapter/`, and the engine holds the
/// merged weights afterwards, so the next round starts there; without one the caller saves the model.
pub fn dpo(
    engine: &mut Engine,
    pairs: &[Pair],
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    dpo_evaluated(engine, pairs, &[], config, io)
}

/// [`dpo`] that looks at the pairs of `held_out` when `eval_strategy` says so.
pub fn dpo_evaluated(
    engine: &mut Engine,
    pairs: &[Pair],
    held_out: &[Pair],
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    train(engine, None, (pairs, held_out), config, io)
}

/// [`dpo`] against another model than the engine's own weights (the one that all rounds began with, say), with the same
/// tokenizer. What it says of the pairs is computed once, before the first step. With `mixture_ratio` below 1 the
/// reference is the mixture of it and the engine's own weights.
pub fn dpo_against(
    engine: &mut Engine,
    reference: &Engine,
    pairs: &[Pair],
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    train(engine, Some(reference), (pairs, &[]), config, io)
}

fn train(
    engine: &mut Engine,
    other: Option<&Engine>,
    (pairs, held_out): (&[Pair], &[Pair]),
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if pairs.is_empty() {
        return Err(TrainError::Nothing("pairs"));
    }
    refuse_missing_reference(other, config)?;
    for pairs in [pairs, held_out] {
        config.check_margins(pairs)?;
        config.check_win_rates(pairs)?;
    }
    let (pairs, trees) = &grow(engine, pairs, config)?;
    let (held_out, held_out_trees) = &grow(engine, held_out, config)?;
    let (pairs, held_out) = (&**pairs, &**held_out);
    let total = config.optim.total_steps(pairs.len());
    if take_finished(engine, io)? {
        return Ok(TrainSummary { steps: finished_steps(io.dir, total)? });
    }
    let optim = &config.optim;
    let order = || {
        Order::new(pairs.len(), optim.step_records(), optim.seed).by(optim.train_sampling_strategy)
    };
    let lora = prepare(engine, config)?;
    let params = engine.model().params();
    let weights = params.trainable();
    let device = params.device().clone();
    let precomputed = match (other, config.reads_reference()) {
        (Some(other), true) => Some(reference::log_probs(other, pairs, trees, config, io)?),
        (None, true) if config.precompute_ref_log_probs => {
            Some(reference::log_probs(engine, pairs, trees, config, io)?)
        }
        _ => None,
    };
    let asks = precomputed.is_none() || !held_out.is_empty() || config.mixes();
    if lora.is_none() && config.reads_reference() && asks {
        params.keep_reference()?;
    }
    let records = Some(pairs.len());
    let training = Training {
        label: "dpo",
        config: optim,
        weights: &weights,
        total,
        records,
        io,
        device: &device,
        reference: config.sync_ref_model.then_some(params),
    };
    let sync = |carried: &Option<Carried>| match carried {
        Some(carried) => carried.sync(params, config),
        None => Ok(()),
    };
    let engine_now = &*engine;
    let precomputed = precomputed.as_deref();
    let step_of = |chosen: &[Place], mean: f64, step: u64| {
        let (totals, settings) = (totals(trees, chosen), config.preference(mean));
        Step { engine: engine_now, pairs, trees, config, settings, totals, step, precomputed }
    };
    let mut order_again = order();
    let mut alone = |step: u64, place: usize| {
        let records = order_again.of_step(step);
        let chosen = [(0, records[io.ranks.share(records.len())][place])];
        let passed = step_of(&chosen, 0.0, step).learn(&chosen, None, optim.tape())?;
        passed.alone(|outcome| outcome.loss)
    };
    let mut evaluate = |carried: &Option<Carried>| {
        sync(carried)?;
        let mean = carried.as_ref().map_or(0.0, |carried| carried.mean);
        let places: Vec<usize> = (0..held_out.len()).collect();
        let size = optim.per_device_eval_batch_size;
        let own = shared_batches(io.ranks, &places, size);
        let batches = in_batches(&device, own, size, |batch| {
            if io.interrupt.is_set() {
                return Err(TrainError::Interrupted);
            }
            let chosen: Vec<Place> = batch.iter().copied().enumerate().collect();
            let (trees, pairs) = (held_out_trees.as_slice(), held_out);
            let totals = totals(trees, &chosen);
            let settings = config.preference(mean);
            let at = Step {
                engine: engine_now,
                pairs,
                trees,
                config,
                settings,
                totals,
                step: 0,
                precomputed: None,
            };
            let (loss, metrics) = at.evaluate(&chosen)?;
            Ok((loss * chosen.len() as f64, metrics))
        });
        let (mut loss, mut sums) = (0.0, PreferenceMetrics::default());
        for (batch, metrics) in io.ranks.rows(io.ranks.agree(batches)?.iter().map(row), read)? {
            loss += batch / held_out.len() as f64;
            sums.merge(&metrics);
        }
        Ok([("loss", loss)].into_iter().chain(sums.named()).collect())
    };
    let hooks = Hooks {
        evaluate: (!held_out.is_empty()).then_some(&mut evaluate),
        alone: Some(&mut alone),
    };
    let mut order = order();
    let follows_mean = config.has(PreferenceLoss::BcoPair);
    let mut carried = (follows_mean || config.sync_ref_model).then(Carried::default);
    let backward = Backward::new(io.ranks, &weights);
    let summary = training.run_with(&mut carried, hooks, |step, carried| {
        sync(carried)?;
        let chosen: Vec<Place> = order.of_step(step).into_iter().enumerate().collect();
        let at = step_of(&chosen, carried.as_ref().map_or(0.0, |carried| carried.mean), step);
        let own = &chosen[io.ranks.share(chosen.len())];
        let size = optim.per_device_train_batch_size.div_ceil(io.ranks.size());
        let in_one = io.ranks.is_alone() && own.len() <= part_size(params, size);
        let whole: Option<Whole> = match config.sorts() && !in_one {
            true => {
                let own = in_parts(params, own, size, |part| at.look(part))?.concat();
                let all = io.ranks.numbers(own.as_flattened())?.concat();
                Some(all.as_chunks().0.to_vec().into())
            }
            false => None,
        };
        let (grads, parts) = backward
            .learn(params, optim, (own, size), |part, tape| at.learn(part, whole.as_ref(), tape))?;
        let (mut loss, mut tokens) = (0.0, 0);
        let mut sums = PreferenceMetrics::default();
        for part in &parts {
            loss += part.loss;
            tokens += part.tokens;
        }
        let figures = parts.iter().map(|part| part.metrics.numbers());
        for metrics in io.ranks.rows(figures, PreferenceMetrics::from_numbers)? {
            sums.merge(&metrics);
        }
        if let Some(carried) = carried {
            carried.steps = step + 1;
            if follows_mean {
                carried.follow(&sums);
            }
        }
        let ids = own.iter().map(|&(_, i)| pairs[i].id.clone()).collect();
        let figures = sums.named().into_iter().map(|(name, value)| (name.into(), value)).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    engine.model().params().forget_reference()?;
    adapter::finish(engine, lora.as_ref(), io)?;
    Ok(summary)
}

/// A mixture needs two models, and a reference that moves is no other model.
fn refuse_missing_reference(other: Option<&Engine>, config: &DpoConfig) -> Result<(), TrainError> {
    let (key, value, reason) = match other {
        None if config.mixes() && config.reads_reference() => (
            "mixture_ratio",
            config.mixture_ratio.to_string(),
            "mixes a reference with the weights that a round began with, and here these are the only reference",
        ),
        Some(_) if config.sync_ref_model => (
            "sync_ref_model",
            "true".to_owned(),
            "the reference is another model, which stays as it is",
        ),
        _ => return Ok(()),
    };
    Err(TrainError::Setting { key, value, reason })
}

/// A loss and the figures beside it as numbers, for other ranks to read.
fn row(&(loss, ref metrics): &(f64, PreferenceMetrics)) -> Vec<f64> {
    [&[loss], metrics.numbers().as_slice()].concat()
}

fn read(row: &[f64]) -> Option<(f64, PreferenceMetrics)> {
    let (&loss, metrics) = row.split_first()?;
    Some((loss, PreferenceMetrics::from_numbers(metrics)?))
}

/// Says which weights train: an adapter, which is given back, or the decoder's own.
pub(crate) fn prepare(
    engine: &Engine,
    config: &DpoConfig,
) -> Result<Option<LoraConfig>, TrainError> {
    let (model, lora) = (engine.model(), config.adapter());
    model.params().forget_reference()?;
    match &lora {
        Some(lora) => adapter::attach(engine, lora, config.optim.seed)?,
        None => model.params().set_trains(|name| model.in_decoder(name) && !model.is_idle(name)),
    }
    Ok(lora)
}

/// The trees of pairs, the prompt once, chosen and rejected answer after it, with their pairs: those that are not left
/// out for their length.
pub(crate) fn grow<'p>(
    engine: &Engine,
    pairs: &'p [Pair],
    config: &DpoConfig,
) -> Result<(Cow<'p, [Pair]>, Vec<Tree>), TrainError> {
    let mut limit = Limit::new(config.max_length, config.overlong);
    let (mut kept, mut trees) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
    for (place, pair) in pairs.iter().enumerate() {
        let turns =
            [(pair.prompt.as_slice(), pair.chosen.as_str()), (&pair.prompt, &pair.rejected)];
        let mut tree = Tree::new(engine, &pair.id, &turns)?;
        match limit.fit(&pair.id, longest(&tree))? {
            Fit::Whole => {}
            Fit::Dropped => continue,
            Fit::Cut(most) => cut_branches(&mut tree, most)
                .map_err(|reason| TrainError::Record { id: pair.id.clone(), reason })?,
        }
        kept.push(place);
        trees.push(tree);
    }
    limit.finish(trees.len())?;
    let pairs = match kept.len() == pairs.len() {
        true => Cow::Borrowed(pairs),
        false => kept.into_iter().map(|place| pairs[place].clone()).collect(),
    };
    Ok((pairs, trees))
}

fn totals(trees: &[Tree], chosen: &[Place]) -> Totals {
    let lengths = |tree: &Tree| tree.branches[0].ids.len() - tree.branches[0].targets;
    Totals {
        pairs: chosen.len() as f64,
        chosen_tokens: chosen.iter().map(|&(_, i)| lengths(&trees[i])).sum::<usize>() as f64,
    }
}

/// What goes from step to step, as checkpoints keep it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Carried {
    /// BCO's running mean of rewards, and how many it is of.
    mean: f64,
    count: f64,
    /// Steps that were made.
    #[serde(default)]
    steps: u64,
    /// After how many of them the reference moved last.
    #[serde(default)]
    synced: Cell<u64>,
}

impl Carried {
    fn follow(&mut self, step: &PreferenceMetrics) {
        let RewardBaseline { mean, count } =
            RewardBaseline { mean: self.mean, count: self.count }.after(step);
        (self.mean, self.count) = (mean, count);
    }

    /// Moves the reference, where that is due after the steps that were made and not yet done.
    fn sync(&self, params: &Params, config: &DpoConfig) -> Result<(), TrainError> {
        let due = config.sync_ref_model && self.steps.is_multiple_of(config.ref_model_sync_steps);
        if due && self.synced.replace(self.steps) != self.steps {
            params.mix_reference(config.ref_model_mixup_alpha)?;
        }
        Ok(())
    }
}
