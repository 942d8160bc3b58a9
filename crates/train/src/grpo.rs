//! Group-relative policy optimisation (Shao et al., "DeepSeekMath", arXiv 2402.03300): completions of the policy
//! as it is are judged, compared with the others of their prompt, and made more or less likely.
//!
//! The weights that train are those that sample. A group is one packed tree: its prompt is computed once, in
//! sampling and in learning. Rewards come in through [`Reward`].

mod config;
mod rollout;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use savi_engine::Engine;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::policy::{
    Advantages, CompletionTokens, PolicyMetrics, PolicyTokens, Totals, policy_loss,
};
use savi_schema::{FinishReason, Message, Reward};
use serde::{Deserialize, Serialize};

pub use self::config::{GrpoConfig, RatioLevel, Scale};
use self::rollout::{Group, Rollout};
use crate::sft::{Order, take_finished};
use crate::steps::{StepOutput, Training, in_parts, part_size};
use crate::{Packed, TrainError, TrainIo, TrainSummary, adapter};

/// A prompt to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyPrompt {
    /// Unique among the prompts.
    pub id: String,
    /// The conversation up to the answer.
    pub messages: Vec<Message>,
}

/// What goes from step to step.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Carried {
    rollout: Option<Rollout>,
}

/// Trains the engine's model on what `rewards`, each under its name, say of its completions. With an adapter the
/// folder gets `adapter/` and the engine holds the merged weights afterwards; else the caller saves the model.
pub fn grpo(
    engine: &mut Engine,
    prompts: &[PolicyPrompt],
    rewards: &[(String, &dyn Reward)],
    config: &GrpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if prompts.is_empty() {
        return Err(TrainError::Nothing("prompts"));
    }
    if rewards.is_empty() {
        return Err(TrainError::Nothing("rewards"));
    }
    if !config.reward_weights.is_empty() && config.reward_weights.len() != rewards.len() {
        let value = format!("{:?}", config.reward_weights);
        let reason = "there has to be one for each reward";
        return Err(TrainError::Setting { key: "reward_weights", value, reason });
    }
    let of_step = config.optim.step_records() / config.num_generations;
    let records = prompts.len() * config.num_generations * config.num_iterations as usize;
    let total = config.optim.total_steps(records);
    if take_finished(engine, io)? {
        return Ok(TrainSummary { steps: total });
    }
    let lora = config.adapter();
    match &lora {
        Some(lora) => adapter::attach(engine, lora, config.optim.seed)?,
        None => engine
            .model()
            .params()
            .set_trains(|name| engine.model().in_decoder(name) && !engine.model().is_idle(name)),
    }
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
    let mut order = Order::new(prompts.len(), of_step, config.optim.seed);
    let training = Training {
        label: "grpo",
        config: &config.optim,
        weights: &weights,
        total,
        records: Some(records),
        io,
        device: &device,
    };
    // What several steps learn from goes with the checkpoints between them: the weights that drew it are gone.
    let mut carried = Carried::default();
    let summary = training.run(&mut carried, |step, carried| {
        let (generation, iteration) = (step / config.num_iterations, step % config.num_iterations);
        let rollout = match carried.rollout.take() {
            Some(rollout) if rollout.generation == generation => rollout,
            _ if iteration == 0 => {
                engine.weights_changed()?;
                let chosen = order.of_step(generation);
                Rollout::draw(engine, prompts, &chosen, generation, rewards, config)?
            }
            _ => {
                let reason = format!("its completions of generation {generation} are missing");
                return Err(TrainError::Checkpoint { path: io.dir.to_owned(), reason });
            }
        };
        let mut output = learn(engine, prompts, &rollout, config, step, &device)?;
        for weight in &weights {
            // Where all completions were cut off nothing is learnt, and moments decay.
            let value = weight.tensor(true);
            if output.grads.get(&value).is_none() {
                output.grads.insert(&value, value.zeros_like()?);
            }
        }
        carried.rollout = (iteration + 1 < config.num_iterations).then_some(rollout);
        Ok(output)
    })?;
    adapter::finish(engine, lora.as_ref(), io.dir)?;
    Ok(summary)
}

/// The gradients of one step.
fn learn(
    engine: &Engine,
    prompts: &[PolicyPrompt],
    rollout: &Rollout,
    config: &GrpoConfig,
    step: u64,
    device: &Device,
) -> Result<StepOutput, TrainError> {
    let groups = &rollout.groups;
    let size = (config.optim.per_device_train_batch_size / config.num_generations).max(1);
    let lengths = groups.iter().flat_map(|group| {
        group.completions.iter().zip(&group.counts).map(|(c, counts)| (c.token_ids.len(), *counts))
    });
    let totals = Totals {
        tokens: lengths.clone().map(|(len, counts)| if counts { len as f64 } else { 0.0 }).sum(),
        completions: lengths.count() as f64,
        micro_batches: groups.len().div_ceil(part_size(device, size)) as f64,
    };
    let mut output = StepOutput {
        grads: GradStore::default(),
        loss: 0.0,
        tokens: 0,
        figures: figures(groups),
        ids: groups.iter().map(|group| prompts[group.prompt].id.clone()).collect(),
    };
    if totals.tokens == 0.0 {
        return Ok(output);
    }
    let parts = in_parts(device, groups, size, |part| {
        learn_part(engine, prompts, part, &totals, config, step)
    })?;
    let mut metrics: Option<PolicyMetrics> = None;
    let (mut apart, mut most) = (0.0, 0f64);
    for part in parts {
        output.loss += part.loss;
        output.tokens += part.tokens;
        output.grads.extend(part.grads)?;
        apart += part.apart.0;
        most = most.max(part.apart.1);
        match (&mut metrics, part.metrics) {
            (Some(sum), Some(more)) => sum.merge(&more),
            (none, more) => *none = none.take().or(more),
        }
    }
    output.figures.extend(metrics.map(|metrics| metrics.named()).unwrap_or_default());
    if step.is_multiple_of(config.num_iterations) {
        output.figures.push(("sampling/sampling_logp_difference/mean", apart / totals.tokens));
        output.figures.push(("sampling/sampling_logp_difference/max", most));
    }
    Ok(output)
}

/// What a micro-batch gives.
struct Part {
    loss: f64,
    tokens: usize,
    grads: GradStore,
    metrics: Option<PolicyMetrics>,
    /// Sum and maximum of how far the trainer's log-probs are from the sampler's.
    apart: (f64, f64),
}

fn learn_part(
    engine: &Engine,
    prompts: &[PolicyPrompt],
    part: &[Group],
    totals: &Totals,
    config: &GrpoConfig,
    step: u64,
) -> Result<Part, TrainError> {
    let trees = part
        .iter()
        .map(|group| {
            let prompt = &prompts[group.prompt];
            group.tree(engine, &prompt.id, &prompt.messages)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut packed = Packed::new(&trees);
    if config.lora.lora_dropout > 0.0 {
        packed = packed.with_dropout(config.optim.seed, step)?;
    }
    let completions = part.iter().flat_map(|group| &group.completions);
    let sampled: Vec<f32> = completions.flat_map(|c| c.logps.iter().copied()).collect();
    let counts: Vec<bool> = part.iter().flat_map(|group| group.counts.iter().copied()).collect();
    let weights: Vec<f32> =
        packed.branch_of.iter().map(|&b| f32::from(u8::from(counts[b as usize]))).collect();
    let advantages: Vec<f32> =
        part.iter().flat_map(|group| group.advantages.iter().map(|&a| a as f32)).collect();
    if !weights.contains(&1.0) {
        let (grads, apart) = (GradStore::default(), (0.0, 0.0));
        return Ok(Part { loss: 0.0, tokens: 0, grads, metrics: None, apart });
    }
    let tape = Tape::new(config.optim.gradient_checkpointing);
    let clips =
        packed.clips.iter().map(|shown| engine.clip(shown)).collect::<Result<Vec<_>, _>>()?;
    let logps = packed.logps_on(engine, &clips, Mode::TRAIN, &tape)?.to_dtype(DType::F32)?;
    let reference = match config.beta {
        0.0 => None,
        _ => Some(packed.logps(engine, &clips, Mode::REFERENCE)?.to_dtype(DType::F32)?),
    };
    let device = logps.device();
    let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), device);
    let segments = Tensor::from_slice(&packed.branch_of, packed.branch_of.len(), device)?;
    let (old, weights_of) = (vector(&sampled)?, vector(&weights)?);
    let advantages = vector(&advantages)?;
    let output = policy_loss(
        &PolicyTokens {
            layout: CompletionTokens {
                segments: &segments,
                completions: packed.branches,
                weights: &weights_of,
            },
            logps: &logps,
            // The first step learns from what it has drawn itself.
            old_logps: (config.num_iterations > 1).then_some(&old),
            reference_logps: reference.as_ref(),
            advantages: Advantages::Completion(&advantages),
            corrections: None,
            entropies: None,
            chosen: None,
        },
        totals,
        &config.loss()?,
    )?;
    let own = logps.detach().to_vec1::<f32>()?;
    let apart = own.iter().zip(&sampled).zip(&weights).filter(|(_, weight)| **weight > 0.0);
    let apart = apart.fold((0.0, 0f64), |(sum, most), ((own, sampled), _)| {
        let apart = f64::from((own - sampled).abs());
        (sum + apart, most.max(apart))
    });
    let loss = f64::from(output.loss.to_scalar::<f32>()?);
    let grads = tape.backward(&output.loss)?;
    Ok(Part { loss, tokens: packed.ids.len(), grads, metrics: Some(output.metrics), apart })
}

/// What is logged of completions and rewards, under TRL's names.
fn figures(groups: &[Group]) -> Vec<(&'static str, f64)> {
    let completions: Vec<_> = groups.iter().flat_map(|group| &group.completions).collect();
    let count = completions.len().max(1) as f64;
    let lengths = || completions.iter().map(|c| c.token_ids.len() as f64);
    let cut = completions.iter().filter(|c| c.finish_reason == FinishReason::Length).count();
    let sum_of = |rewards: &Vec<Option<f64>>| rewards.iter().flatten().sum::<f64>();
    let (mut mean, mut deviation, mut equal) = (0.0, 0.0, 0.0);
    for group in groups {
        let sums: Vec<f64> = group.rewards.iter().map(sum_of).collect();
        let own = sums.iter().sum::<f64>() / sums.len() as f64;
        let squares: f64 = sums.iter().map(|sum| (sum - own) * (sum - own)).sum();
        let own_deviation = (squares / (sums.len() as f64 - 1.0)).sqrt();
        mean += own / groups.len() as f64;
        deviation += own_deviation / groups.len() as f64;
        equal += if own_deviation == 0.0 { 1.0 / groups.len() as f64 } else { 0.0 };
    }
    vec![
        ("reward", mean),
        ("reward_std", deviation),
        ("frac_reward_zero_std", equal),
        ("completions/mean_length", lengths().sum::<f64>() / count),
        ("completions/min_length", lengths().fold(f64::INFINITY, f64::min)),
        ("completions/max_length", lengths().fold(0.0, f64::max)),
        ("completions/clipped_ratio", cut as f64 / count),
    ]
}
