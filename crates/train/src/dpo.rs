//! Preference optimisation of an adapter, from DPO (Rafailov et al. 2023) to its relatives that
//! `savi-objectives` computes: a pair is one packed tree, the reference is the same model with the
//! adapter off.
//!
//! A step's pairs go through the model in parts. Losses that match pairs by rank need the log-probs of
//! the whole step before the first gradient: where a step has several parts, all of them are computed
//! once without gradients and the policy's once more, so that memory is that of one part and the loss
//! that of the step however it is cut.

mod part;

use candle_core::backprop::GradStore;
use savi_engine::Engine;
use savi_objectives::{PreferenceLoss, PreferenceMetrics, RewardBaseline, Totals};
use savi_schema::Pair;
use serde::{Deserialize, Serialize};

use self::part::{Outcome, Place, Step, Whole};
use crate::adapter;
use crate::sft::{Order, take_finished};
use crate::steps::{StepOutput, Training, in_parts, part_size};
use crate::{DpoConfig, TrainError, TrainIo, TrainSummary, Tree, checkpoint};

/// Trains a fresh adapter on `pairs`. The folder gets `adapter/`; the engine holds the merged
/// weights afterwards, so the next round starts there.
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
    let mut order = Order::new(pairs.len(), optim.step_records(), optim.seed);
    adapter::attach(engine, &config.adapter(), optim.seed)?;
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
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
        let at = Step { engine, pairs, trees: &trees, config, settings, totals, step };
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
        let figures = sums.named().into_iter().map(|(name, value)| (name.into(), value)).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    adapter::save_and_merge(engine, &config.adapter(), io.dir)?;
    checkpoint::clear(io.dir)?;
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
