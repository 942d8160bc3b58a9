//! Direct preference optimisation (Rafailov et al. 2023) of an adapter: a pair is one packed tree,
//! the reference is the same model with the adapter off.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use savi_engine::Engine;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::{ChosenTokens, PairLogps, SideLogps, Totals, preference, sequence_logps};
use savi_schema::Pair;

use crate::adapter;
use crate::sft::{Order, take_finished};
use crate::steps::{StepOutput, in_parts, run};
use crate::{DpoConfig, Packed, TrainError, TrainIo, TrainSummary, Tree, checkpoint};

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
    let mut order = Order::new(pairs.len(), config.optim.step_records(), config.optim.seed);
    adapter::attach(engine, &config.adapter(), config.optim.seed)?;
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
    let summary = run("dpo", &config.optim, &weights, total, io, &device, |step| {
        let chosen = &order.of_step(step);
        let lengths = |tree: &Tree| tree.branches[0].ids.len() - tree.branches[0].targets;
        let totals = Totals {
            pairs: chosen.len() as f64,
            chosen_tokens: chosen.iter().map(|&i| lengths(&trees[i])).sum::<usize>() as f64,
        };
        let mut grads = GradStore::default();
        let (mut loss, mut tokens, mut metrics) = (0.0, 0, None);
        let size = config.optim.per_device_train_batch_size;
        let parts = in_parts(&device, chosen, size, |part| {
            step_part(engine, pairs, &trees, part, &totals, config, step)
        })?;
        for output in parts {
            loss += output.0;
            tokens += output.1;
            grads.extend(output.2)?;
            metrics = Some(match metrics {
                None => output.3,
                Some(mut sum) => {
                    savi_objectives::PreferenceMetrics::merge(&mut sum, &output.3);
                    sum
                }
            });
        }
        let figures = metrics.map(|m| m.named()).unwrap_or_default();
        let ids = chosen.iter().map(|&i| pairs[i].id.clone()).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    adapter::save_and_merge(engine, &config.adapter(), io.dir)?;
    checkpoint::clear(io.dir)?;
    Ok(summary)
}

type Part = (f64, usize, GradStore, savi_objectives::PreferenceMetrics);

fn step_part(
    engine: &Engine,
    pairs: &[Pair],
    trees: &[Tree],
    part: &[usize],
    totals: &Totals,
    config: &DpoConfig,
    step: u64,
) -> Result<Part, TrainError> {
    let mut packed = Packed::new(part.iter().map(|&i| &trees[i]));
    if config.lora.lora_dropout > 0.0 {
        packed = packed.with_dropout(config.optim.seed, step)?;
    }
    let tape = Tape::new(config.optim.gradient_checkpointing);
    let clips =
        packed.clips.iter().map(|shown| engine.clip(shown)).collect::<Result<Vec<_>, _>>()?;
    let policy = packed.logps_on(engine, &clips, Mode::TRAIN, &tape)?.to_dtype(DType::F32)?;
    let reference = packed.logps(engine, &clips, Mode::REFERENCE)?.to_dtype(DType::F32)?;
    let device = policy.device();
    let segments = Tensor::from_slice(&packed.branch_of, packed.branch_of.len(), device)?;
    let sides = |logps: &Tensor| -> Result<(Tensor, Tensor), TrainError> {
        // Branches alternate: chosen, rejected.
        let sums = sequence_logps(logps, &segments, packed.branches)?.reshape((part.len(), 2))?;
        Ok((sums.narrow(1, 0, 1)?.flatten_all()?, sums.narrow(1, 1, 1)?.flatten_all()?))
    };
    let ((chosen, rejected), (reference_chosen, reference_rejected)) =
        (sides(&policy)?, sides(&reference)?);
    let margins: Vec<f32> = part.iter().map(|&i| pairs[i].margin as f32).collect();
    let margins = Tensor::from_slice(&margins, margins.len(), device)?;
    let is_chosen: Vec<f32> =
        packed.branch_of.iter().map(|b| if b % 2 == 0 { 1.0 } else { 0.0 }).collect();
    let is_chosen = Tensor::from_slice(&is_chosen, is_chosen.len(), device)?;
    let output = preference(
        &PairLogps {
            margins: Some(&margins),
            ..PairLogps::new(
                SideLogps::new(&chosen, &reference_chosen),
                SideLogps::new(&rejected, &reference_rejected),
            )
        },
        Some(&ChosenTokens { logps: &policy, weights: &is_chosen }),
        totals,
        &config.preference(),
    )?;
    let loss = f64::from(output.loss.to_scalar::<f32>()?);
    Ok((loss, packed.ids.len(), tape.backward(&output.loss)?, output.metrics))
}
