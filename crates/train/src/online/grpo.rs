//! Group-relative policy optimisation (Shao et al., "DeepSeekMath", arXiv 2402.03300) and its kin: a completion is
//! worth what its rewards are above those of the others of its prompt.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use savi_engine::Engine;
use savi_nn::Weight;
use savi_nn::layers::Mode;
use savi_nn::optim::add_gradients;
use savi_objectives::policy::{
    self, Advantages, PolicyMetrics, PolicyTokens, RewardTable, Totals, policy_loss,
};
use savi_schema::PromptRecord;

use super::figures::figures;
use super::pass::Pass;
use super::rollout::{Group, Rollout};
use super::{GrpoConfig, Objective, Rewards, Session, Settings, check, train};
use crate::steps::{StepOutput, in_parts, part_size};
use crate::{TrainError, TrainIo, TrainSummary};

/// Trains the engine's model on what `rewards`, each under its name, say of its completions. With an adapter the
/// folder gets `adapter/` and the engine holds the merged weights afterwards; else the caller saves the model.
pub fn grpo(
    engine: &mut Engine,
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    config: &GrpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    check(prompts, rewards, &config.reward_weights)?;
    let records = prompts.len() * config.num_generations * config.num_iterations as usize;
    let total = config.optim.total_steps(records);
    train(engine, &GroupRelative { config }, prompts, rewards, config.settings(), total, io)
}

impl GrpoConfig {
    pub(super) fn settings(&self) -> Settings<'_> {
        Settings {
            label: "grpo",
            optim: &self.optim,
            lora: self.adapter(),
            sampling: self.sampling(),
            num_generations: self.num_generations,
            slices: self.slices(),
            passes: self.num_iterations,
            shuffles: false,
            masks_truncated: self.mask_truncated_completions,
            reward_weights: &self.reward_weights,
            log_completions: self.log_completions,
        }
    }
}

pub(super) struct GroupRelative<'a> {
    pub(super) config: &'a GrpoConfig,
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

impl Objective for GroupRelative<'_> {
    fn weights(&self) -> Vec<Arc<Weight>> {
        Vec::new()
    }

    fn credit(
        &self,
        _: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
    ) -> Result<(), TrainError> {
        let count = self.config.num_generations;
        let groups: Vec<&Group> = rollout.groups.iter().collect();
        let values = Rollout::rewards(&groups);
        let of: Vec<u32> = (0..groups.len() as u32).flat_map(|g| vec![g; count]).collect();
        let table = RewardTable { values: &values, weights: &session.reward_weights, groups: &of };
        let advantages = policy::grpo(&table, &self.config.advantages())?;
        for (group, advantages) in rollout.groups.iter_mut().zip(advantages.chunks(count)) {
            group.advantages = advantages.to_vec();
        }
        Ok(())
    }

    fn learn(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        groups: &[&Group],
        step: u64,
    ) -> Result<StepOutput, TrainError> {
        let (params, optim) = (engine.model().params(), &self.config.optim);
        let size = (optim.per_device_train_batch_size / self.config.num_generations).max(1);
        let completions = || groups.iter().map(|group| group.completions.len() as f64);
        let totals = Totals {
            tokens: groups.iter().flat_map(|group| group.weights()).sum(),
            completions: completions().sum(),
            micro_batches: groups.len().div_ceil(part_size(params, size)) as f64,
        };
        let mut output = StepOutput {
            grads: GradStore::default(),
            loss: 0.0,
            tokens: 0,
            figures: figures(session, groups)?,
            ids: groups.iter().map(|group| session.prompts[group.prompt].id.clone()).collect(),
        };
        if totals.tokens == 0.0 {
            return Ok(output);
        }
        let parts = in_parts(params, groups, size, |part| {
            self.learn_part(engine, session, part, &totals, step)
        })?;
        let mut metrics: Option<PolicyMetrics> = None;
        let (mut apart, mut most) = (0.0, 0f64);
        for part in parts {
            output.loss += part.loss;
            output.tokens += part.tokens;
            add_gradients(&mut output.grads, part.grads)?;
            apart += part.apart.0;
            most = most.max(part.apart.1);
            match (&mut metrics, part.metrics) {
                (Some(sum), Some(more)) => sum.merge(&more),
                (none, more) => *none = none.take().or(more),
            }
        }
        let named = metrics.map(|metrics| metrics.named()).unwrap_or_default();
        output.figures.extend(named.into_iter().map(|(name, value)| (name.into(), value)));
        // At the first step of a generation the policy is the one that has drawn.
        let sampled = groups.iter().all(|group| group.old_are_sampled);
        if sampled && step.is_multiple_of(session.settings.steps()) {
            let mean = apart / totals.tokens;
            output.figures.push(("sampling/sampling_logp_difference/mean".into(), mean));
            output.figures.push(("sampling/sampling_logp_difference/max".into(), most));
        }
        Ok(output)
    }
}

impl GroupRelative<'_> {
    fn learn_part(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        part: &[&Group],
        totals: &Totals,
        step: u64,
    ) -> Result<Part, TrainError> {
        if !part.iter().any(|group| group.counts.contains(&true)) {
            let (grads, apart) = (GradStore::default(), (0.0, 0.0));
            return Ok(Part { loss: 0.0, tokens: 0, grads, metrics: None, apart });
        }
        let config = self.config;
        let pass = Pass::pack(engine, session, part)?.with_dropout(session, step)?;
        let tape = config.optim.tape();
        let states = pass.states(engine, Mode::TRAIN, &tape)?;
        let logps = pass.logps(engine, session, &states, Mode::TRAIN)?;
        let reference = match config.beta {
            0.0 => None,
            _ => Some(pass.reference(engine, session)?),
        };
        let advantages: Vec<f32> =
            part.iter().flat_map(|group| group.advantages.iter().map(|&a| a as f32)).collect();
        let advantages = Tensor::from_slice(&advantages, advantages.len(), logps.device())?;
        // A figure alone: it costs the head's product again, and is made where it is logged.
        let logged = (step + 1).is_multiple_of(config.optim.logging_steps);
        let entropies = match logged {
            true => Some(pass.entropies(engine, session, &states)?),
            false => None,
        };
        let output = policy_loss(
            &PolicyTokens {
                layout: pass.layout(),
                logps: &logps,
                // Where one step learns from what was drawn, the policy is the one that has drawn it.
                old_logps: (session.settings.steps() > 1).then_some(&pass.old_logps),
                reference_logps: reference.as_ref(),
                advantages: Advantages::Completion(&advantages),
                corrections: None,
                entropies: entropies.as_ref(),
                chosen: None,
            },
            totals,
            &config.loss()?,
        )?;
        Ok(Part {
            loss: f64::from(output.loss.to_scalar::<f32>()?),
            tokens: pass.packed.ids.len(),
            apart: pass.apart(&logps)?,
            grads: tape.backward(&output.loss)?,
            metrics: Some(output.metrics),
        })
    }
}
