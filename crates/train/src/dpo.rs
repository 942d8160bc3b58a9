//! Preference optimisation, from DPO (Rafailov et al. 2023) to its relatives that `savi-objectives`
//! computes: a pair is one packed tree, the reference is the same model with the adapter off, or, where all
//! weights train, as it was before; what it says of pairs can be computed in advance.
//!
//! A step's pairs go through the model in parts. Losses that match pairs by rank need the log-probs of
//! the whole step before the first gradient: where a step has several parts, all of them are computed
//! once without gradients and the policy's once more, so that memory is that of one part and the loss
//! that of the step however it is cut.

mod part;
mod reference;

use candle_core::backprop::GradStore;
use savi_engine::Engine;
use savi_objectives::{PreferenceLoss, PreferenceMetrics, RewardBaseline, Totals};
use savi_schema::Pair;
use serde::{Deserialize, Serialize};

use self::part::{Outcome, Place, Step, Whole};
use crate::adapter;
use crate::sft::{Order, take_finished};
use crate::steps::{StepOutput, Training, in_parts, part_size};
use crate::{DpoConfig, TrainError, TrainIo, TrainSummary, Tree};

/// Trains on `pairs`. With an adapter (`lora_r` above 0) the folder gets `adapter/`, and the engine holds the
/// merged weights afterwards, so the next round starts there; without one the caller saves the model.
pub fn dpo(
    engine: &mut Engine,
    pairs: &[Pair],
    config: &DpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if pairs.is_empty() {
        return Err(TrainError::Nothing("pairs"));
    }
    config.check_margins(pairs)?;
    let total = config.optim.total_steps(pairs.len());
    if take_finished(engine, io)? {
        return Ok(TrainSummary { steps: total });
    }
    let trees = pairs
        .iter()
        .map(|pair| {
            let turns =
                [(pair.prompt.as_slice(), pair.chosen.as_str()), (&pair.prompt, &pair.rejected)];
            Tree::new(engine, &pair.id, &turns)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let optim = &config.optim;
    let mut order =
        Order::new(pairs.len(), optim.step_records(), optim.seed).by(optim.train_sampling_strategy);
    let lora = config.adapter();
    let (model, params) = (engine.model(), engine.model().params());
    params.forget_reference()?;
    match &lora {
        Some(lora) => adapter::attach(engine, lora, optim.seed)?,
        None => params.set_trains(|name| model.in_decoder(name) && !model.is_idle(name)),
    }
    let weights = params.trainable();
    let device = params.device().clone();
    let precomputed = match config.precompute_ref_log_probs && config.reads_reference() {
        true => Some(reference::log_probs(engine, pairs, &trees, config, io)?),
        false => None,
    };
    if lora.is_none() && precomputed.is_none() && config.reads_reference() {
        params.keep_reference()?;
    }
    let training =
        Training { label: "dpo", config: optim, weights: &weights, total, io, device: &device };
    let mut carried = config.has(PreferenceLoss::BcoPair).then(Baseline::default);
    let summary = training.run(&mut carried, |step, carried| {
        let chosen: Vec<Place> = order.of_step(step).into_iter().enumerate().collect();
        let lengths = |tree: &Tree| tree.branches[0].ids.len() - tree.branches[0].targets;
        let totals = Totals {
            pairs: chosen.len() as f64,
            chosen_tokens: chosen.iter().map(|&(_, i)| lengths(&trees[i])).sum::<usize>() as f64,
        };
        let settings = config.preference(carried.map_or(0.0, |baseline| baseline.mean));
        let precomputed = precomputed.as_deref();
        let at = Step { engine, pairs, trees: &trees, config, settings, totals, step, precomputed };
        let size = optim.per_device_train_batch_size;
        let whole: Option<Whole> = match config.sorts() && chosen.len() > part_size(&device, size) {
            true => Some(in_parts(&device, &chosen, size, |part| at.look(part))?.concat().into()),
            false => None,
        };
        let parts = in_parts(&device, &chosen, size, |part| at.learn(part, whole.as_ref()))?;
        let mut grads = GradStore::default();
        let (mut loss, mut tokens) = (0.0, 0);
        let mut sums = PreferenceMetrics::default();
        for Outcome { loss: part_loss, tokens: part_tokens, grads: part_grads, metrics } in parts {
            loss += part_loss;
            tokens += part_tokens;
            grads.extend(part_grads)?;
            sums.merge(&metrics);
        }
        if let Some(baseline) = carried {
            *baseline = baseline.after(&sums);
        }
        let ids = chosen.iter().map(|&(_, i)| pairs[i].id.clone()).collect();
        Ok(StepOutput { grads, loss, tokens, figures: sums.named(), ids })
    })?;
    engine.model().params().forget_reference()?;
    adapter::finish(engine, lora.as_ref(), io.dir)?;
    Ok(summary)
}

/// BCO's running mean of rewards, as checkpoints keep it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Baseline {
    mean: f64,
    count: f64,
}

impl Baseline {
    fn after(self, step: &PreferenceMetrics) -> Self {
        let Self { mean, count } = self;
        let RewardBaseline { mean, count } = RewardBaseline { mean, count }.after(step);
        Self { mean, count }
    }
}
