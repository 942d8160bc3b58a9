//! Training on what the policy writes itself: prompts are drawn, completed with the weights as they are, judged, and
//! learnt from for some steps. What is learnt is the objective's affair: [`grpo`](grpo::grpo) compares the completions
//! of a prompt with each other, [`ppo`](ppo::ppo) with what a value head expected.
//!
//! A *generation* is what is drawn at once. Its completions are learnt from in `passes` passes, each cut into
//! `slices` steps of the optimiser. The weights that train are those that sample. A group, the completions of one
//! prompt, is one packed tree: its prompt is computed once, in sampling and in learning. Rewards come in through
//! [`Reward`]. Completions may come from elsewhere; their log-probs are then computed by the trainer.
//!
//! The reference is the model without its adapter or, where all weights train, a copy of them as they were.

mod control;
mod credit;
mod figures;
mod filter;
mod grpo;
mod grpo_config;
mod log;
mod pass;
mod ppo;
mod ppo_config;
mod rollout;
mod value_head;

use std::sync::Arc;

use rand::seq::SliceRandom;
use savi_engine::Engine;
use savi_models::LoraConfig;
use savi_nn::Weight;
use savi_schema::{Generate, PromptRecord, Reward, Sampling};
use serde::{Deserialize, Serialize};

use self::control::Control;
pub use self::control::{AlphaScheduler, AlphaType, KlCtrl, KlCtrlType};
pub use self::credit::AdvEstimator;
pub use self::filter::FilterGroups;
pub use self::grpo::{grpo, grpo_sampled_by};
pub use self::grpo_config::{GrpoConfig, MultiObjective, RatioLevel, Scale};
use self::log::CompletionLog;
pub use self::ppo::ppo;
pub use self::ppo_config::{KlInReward, PpoConfig};
use self::rollout::{Group, Rollout};
use crate::backward::Backward;
use crate::sft::{Order, take_finished};
use crate::steps::{StepOutput, Training};
use crate::{OptimConfig, TrainError, TrainIo, TrainSummary, adapter};

/// Rewards under their names.
pub type Rewards<'a> = [(String, &'a (dyn Reward + Sync))];

/// What both objectives are told.
struct Settings<'a> {
    label: &'static str,
    optim: &'a OptimConfig,
    lora: Option<LoraConfig>,
    sampling: Sampling,
    /// What draws completions in place of the engine.
    sampler: Option<&'a (dyn Generate + Sync)>,
    /// Whether the reference is asked.
    reference: bool,
    num_generations: usize,
    /// Which groups are drawn again.
    filter: Option<&'a FilterGroups>,
    /// Steps that a pass over a generation's completions is cut into.
    slices: u64,
    /// Passes over them.
    passes: u64,
    /// Whether each pass takes the groups in an order of its own.
    shuffles: bool,
    /// Whether completions that were cut off teach nothing.
    masks_truncated: bool,
    /// How much each reward counts; empty: all the same.
    reward_weights: &'a [f64],
    /// How that changes over the training.
    alpha_scheduler: Option<AlphaScheduler>,
    log_completions: bool,
}

/// What stays the same from step to step.
struct Session<'a> {
    prompts: &'a [PromptRecord],
    rewards: &'a Rewards<'a>,
    /// How much each reward counts at most.
    reward_weights: Vec<f64>,
    settings: Settings<'a>,
    /// How all that trains is learnt, and with whom.
    backward: Backward<'a>,
}

/// What completions are worth, and what is learnt from that.
trait Objective {
    /// Weights that train beside the policy's.
    fn weights(&self) -> Vec<Arc<Weight>>;

    /// Says what each completion of a fresh rollout, or each of its tokens, is worth.
    fn credit(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
        control: &mut Control,
    ) -> Result<(), TrainError>;

    /// The gradients of one step on these groups, of which each rank learns its share.
    fn learn(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        groups: &[&Group],
        step: u64,
        control: &mut Control,
    ) -> Result<StepOutput, TrainError>;
}

/// What goes from step to step.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Carried {
    rollout: Option<Rollout>,
    /// How often completions were drawn, where groups are filtered.
    #[serde(default)]
    batches: u64,
    #[serde(default)]
    control: Control,
}

impl Session<'_> {
    /// How much each reward counts for these groups, which were drawn at once.
    fn weights(&self, groups: &[&Group]) -> Vec<f64> {
        let factor = groups.first().map_or(1.0, |group| group.factor);
        let scaled = |(at, weight): (usize, &f64)| if at == 0 { *weight } else { weight * factor };
        self.reward_weights.iter().enumerate().map(scaled).collect()
    }
}

impl Settings<'_> {
    /// Steps that learn from one generation.
    fn steps(&self) -> u64 {
        self.slices * self.passes
    }

    /// The groups of a step, by their places in its generation.
    fn places(&self, groups: usize, step: u64) -> Vec<usize> {
        let (generation, within) = (step / self.steps(), step % self.steps());
        let (pass, slice) = (within / self.slices, (within % self.slices) as usize);
        let mut places: Vec<usize> = (0..groups).collect();
        if self.shuffles {
            let names = ["mini-batches", &generation.to_string(), &pass.to_string()];
            places.shuffle(&mut savi_nn::rng::stream(self.optim.seed, &names));
        }
        let size = groups / self.slices as usize;
        places.into_iter().skip(slice * size).take(size).collect()
    }
}

/// Trains the engine's model. With an adapter the folder gets `adapter/` and the engine holds the merged weights
/// afterwards; else the caller saves the model.
fn train(
    engine: &mut Engine,
    objective: &impl Objective,
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    settings: Settings<'_>,
    total: u64,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    let (optim, lora) = (settings.optim, settings.lora.clone());
    if take_finished(engine, io)? {
        return Ok(TrainSummary { steps: total });
    }
    let of_generation = optim.step_records() / settings.num_generations * settings.slices as usize;
    let (model, params) = (engine.model(), engine.model().params());
    params.forget_reference()?;
    match &lora {
        Some(lora) => adapter::attach(engine, lora, optim.seed)?,
        None => {
            params.set_trains(|name| model.in_decoder(name) && !model.is_idle(name));
            if settings.reference {
                params.keep_reference()?;
            }
        }
    }
    let mut weights = engine.model().params().trainable();
    weights.extend(objective.weights());
    let device = engine.model().params().device().clone();
    let mut order =
        Order::new(prompts.len(), of_generation, optim.seed).by(optim.train_sampling_strategy);
    let training = Training {
        label: settings.label,
        config: optim,
        weights: &weights,
        total,
        records: Some(prompts.len()),
        io,
        device: &device,
        reference: None,
    };
    let equal = vec![1.0; rewards.len()];
    let reward_weights =
        if settings.reward_weights.is_empty() { equal } else { settings.reward_weights.to_vec() };
    let mut log = CompletionLog::new(io.dir, settings.log_completions && io.ranks.is_first());
    let backward = Backward::new(io.ranks, &weights);
    let session = Session { prompts, rewards, reward_weights, settings, backward };
    let steps = session.settings.steps();
    // What several steps learn from goes with the checkpoints between them: the weights that drew it are gone.
    let mut carried = Carried::default();
    let summary = training.run(&mut carried, |step, carried| {
        log.resume_at(step)?;
        let (generation, within) = (step / steps, step % steps);
        // What is carried changes when the step is made: one that is stopped is made again.
        let (mut batches, mut control) = (carried.batches, carried.control.clone());
        let mut drawn = None;
        let rollout = match &carried.rollout {
            Some(rollout) if rollout.generation == generation => rollout,
            _ if within == 0 => {
                engine.decoder_changed();
                let mut rollout = match session.settings.filter {
                    Some(filter) => filter.draw(engine, &session, &mut order, &mut batches)?,
                    None => {
                        Rollout::draw(engine, &session, &order.of_step(generation), generation)?
                    }
                };
                rollout.generation = generation;
                if let Some(scheduler) = session.settings.alpha_scheduler {
                    let factor = scheduler.factor(step as f64 / total as f64);
                    rollout.groups.iter_mut().for_each(|group| group.factor = factor);
                }
                objective.credit(engine, &session, &mut rollout, &mut control)?;
                log.write(step + 1, &session, &rollout)?;
                &*drawn.insert(rollout)
            }
            _ => {
                let reason = format!("its completions of generation {generation} are missing");
                return Err(TrainError::Checkpoint { path: io.dir.to_owned(), reason });
            }
        };
        let places = session.settings.places(rollout.groups.len(), step);
        let groups: Vec<&Group> = places.iter().map(|&place| &rollout.groups[place]).collect();
        let mut output = objective.learn(engine, &session, &groups, step, &mut control)?;
        let noted = rollout.figures.iter().map(|(name, value)| (name.clone().into(), *value));
        output.figures.extend(noted);
        for weight in &weights {
            // Where all completions were cut off nothing is learnt, and moments decay.
            let value = weight.tensor(true);
            if output.grads.get(&value).is_none() {
                output.grads.insert(&value, value.zeros_like()?);
            }
        }
        let rollout = drawn.or_else(|| carried.rollout.take()).filter(|_| within + 1 < steps);
        *carried = Carried { rollout, batches, control };
        Ok(output)
    })?;
    engine.model().params().forget_reference()?;
    adapter::finish(engine, lora.as_ref(), io)?;
    Ok(summary)
}

/// Refuses what no objective can learn from.
fn check(
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    reward_weights: &[f64],
) -> Result<(), TrainError> {
    if prompts.is_empty() {
        return Err(TrainError::Nothing("prompts"));
    }
    if rewards.is_empty() {
        return Err(TrainError::Nothing("rewards"));
    }
    if !reward_weights.is_empty() && reward_weights.len() != rewards.len() {
        let value = format!("{reward_weights:?}");
        let reason = "there has to be one for each reward";
        return Err(TrainError::Setting { key: "reward_weights", value, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
