//! Group-relative policy optimisation (Shao et al., "DeepSeekMath", arXiv 2402.03300) and its kin: a completion is
//! worth what its rewards are above those of the others of its prompt. What it is worth by other ways is in
//! [`credit`](super::credit).

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use savi_engine::Engine;
use savi_nn::Weight;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::policy::{
    Advantages, PolicyLoss, PolicyMetrics, PolicyTokens, Totals, policy_loss,
};
use savi_schema::{Generate, PromptRecord};

use super::control::Control;
use super::figures::figures;
use super::pass::Pass;
use super::rollout::{Group, Rollout};
use super::{GrpoConfig, Objective, Rewards, Session, Settings, check, train};
use crate::backward::Passed;
use crate::steps::{StepOutput, part_size};
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
    run(engine, prompts, rewards, config, config.settings(), io)
}

/// [`grpo`] on completions that `sampler` gives in place of the engine, with the tokens of this model. Their log-probs
/// are computed by the trainer, with the weights as they are when they come.
pub fn grpo_sampled_by(
    sampler: &(dyn Generate + Sync),
    engine: &mut Engine,
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    config: &GrpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    let settings = Settings { sampler: Some(sampler), ..config.settings() };
    run(engine, prompts, rewards, config, settings, io)
}

fn run(
    engine: &mut Engine,
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    config: &GrpoConfig,
    settings: Settings<'_>,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    check(prompts, rewards, &config.reward_weights)?;
    config.check_rewards(rewards.iter().map(|(name, _)| name))?;
    let records = prompts.len() * config.num_generations * config.num_iterations as usize;
    let total = config.optim.total_steps(records);
    train(engine, &GroupRelative { config }, prompts, rewards, settings, total, io)
}

impl GrpoConfig {
    pub(super) fn settings(&self) -> Settings<'_> {
        Settings {
            label: "grpo",
            optim: &self.optim,
            lora: self.adapter(),
            sampling: self.sampling(),
            sampler: None,
            reference: self.beta != 0.0,
            num_generations: self.num_generations,
            filter: self.filter_groups.as_ref(),
            slices: self.slices(),
            passes: self.num_iterations,
            shuffles: false,
            masks_truncated: self.mask_truncated_completions,
            reward_weights: &self.reward_weights,
            alpha_scheduler: self.alpha_scheduler,
            log_completions: self.log_completions,
        }
    }
}

pub(super) struct GroupRelative<'a> {
    pub(super) config: &'a GrpoConfig,
}

/// What is told of a micro-batch.
struct Part {
    loss: f64,
    tokens: usize,
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
        engine: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
        control: &mut Control,
    ) -> Result<(), TrainError> {
        self.give_credit(engine, session, rollout, control)
    }

    fn learn(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        groups: &[&Group],
        step: u64,
        control: &mut Control,
    ) -> Result<StepOutput, TrainError> {
        let (params, optim) = (engine.model().params(), &self.config.optim);
        let ranks = session.backward.ranks();
        let size = optim.per_device_train_batch_size / self.config.num_generations;
        let size = size.div_ceil(ranks.size()).max(1);
        let parts_of =
            |rank| ranks.share_of(rank, groups.len()).len().div_ceil(part_size(params, size));
        let own = &groups[ranks.share(groups.len())];
        let completions = || groups.iter().map(|group| group.completions.len() as f64);
        let totals = Totals {
            tokens: groups.iter().flat_map(|group| group.weights()).sum(),
            completions: completions().sum(),
            micro_batches: (0..ranks.size()).map(parts_of).sum::<usize>() as f64,
        };
        let mut output = StepOutput {
            grads: GradStore::default(),
            loss: 0.0,
            tokens: 0,
            figures: figures(session, groups)?,
            ids: own.iter().map(|group| session.prompts[group.prompt].id.clone()).collect(),
        };
        if totals.tokens == 0.0 {
            return Ok(output);
        }
        let entropy_coef = self.config.entropy_coefficient(control);
        let (grads, parts) = session.backward.learn(params, optim, (own, size), |part, tape| {
            self.learn_part(engine, session, part, &totals, (step, entropy_coef, tape))
        })?;
        output.grads = grads;
        let mut metrics: Option<PolicyMetrics> = None;
        let (mut apart, mut most) = (0.0, 0f64);
        for part in &parts {
            output.loss += part.loss;
            output.tokens += part.tokens;
            apart += part.apart.0;
            most = most.max(part.apart.1);
        }
        let own = parts.iter().filter_map(|part| Some(part.metrics.as_ref()?.numbers()));
        for part in ranks.rows(own, PolicyMetrics::from_numbers)? {
            match &mut metrics {
                Some(sum) => sum.merge(&part),
                none => *none = Some(part),
            }
        }
        let all = ranks.numbers(&[apart, most])?;
        let apart: f64 = all.iter().map(|rank| rank[0]).sum();
        let most = all.iter().map(|rank| rank[1]).fold(0.0, f64::max);
        let named = metrics.map(|metrics| metrics.named()).unwrap_or_default();
        if self.config.has_entropy_bonus()
            && let Some((_, entropy)) = named.iter().find(|(name, _)| *name == "entropy")
        {
            let coefficient = self.config.note_entropy(control, *entropy)?;
            output.figures.push(("entropy_coef".into(), coefficient));
        }
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
    fn learn_part<'t>(
        &self,
        engine: &'t Engine,
        session: &Session<'_>,
        part: &[&Group],
        totals: &Totals,
        (step, entropy_coef, tape): (u64, f64, Tape<'t>),
    ) -> Result<Passed<'t, Part>, TrainError> {
        if !part.iter().any(|group| group.counts.contains(&true)) {
            let told = Part { loss: 0.0, tokens: 0, metrics: None, apart: (0.0, 0.0) };
            return Ok(Passed { loss: None, told });
        }
        let config = self.config;
        let pass = Pass::pack(engine, session, part)?.with_dropout(session, step)?;
        let states = pass.states(engine, Mode::TRAIN, &tape)?;
        let logps = pass.logps(engine, session, &states, Mode::TRAIN)?;
        let loss = PolicyLoss { entropy_coef, ..config.loss()? };
        let reference = match loss.beta {
            0.0 => None,
            _ => Some(pass.reference(engine, session)?),
        };
        let of_tokens = part.iter().all(|group| group.estimates.is_some());
        let advantages: Vec<f32> = part
            .iter()
            .flat_map(|group| match &group.estimates {
                Some(estimates) => estimates.advantages.clone(),
                None => group.advantages.iter().map(|&advantage| advantage as f32).collect(),
            })
            .collect();
        let advantages = Tensor::from_slice(&advantages, advantages.len(), logps.device())?;
        // Most often a figure alone: it costs the head's product again, and is made where it is logged.
        let logged = (step + 1).is_multiple_of(config.optim.logging_steps);
        let entropies = match (entropy_coef != 0.0, logged || config.has_entropy_bonus()) {
            (true, _) => Some(pass.entropies(engine, session, &states, Mode::TRAIN, &tape)?),
            (false, true) => Some(pass.entropies(engine, session, &states, Mode::INFER, &tape)?),
            (false, false) => None,
        };
        let output = policy_loss(
            &PolicyTokens {
                layout: pass.layout(),
                logps: &logps,
                // Where one step learns from what was drawn, the policy is the one that has drawn it.
                old_logps: (session.settings.steps() > 1).then_some(&pass.old_logps),
                reference_logps: reference.as_ref(),
                advantages: match of_tokens {
                    true => Advantages::Token(&advantages),
                    false => Advantages::Completion(&advantages),
                },
                corrections: None,
                entropies: entropies.as_ref(),
                chosen: None,
            },
            totals,
            &loss,
        )?;
        let told = Part {
            loss: f64::from(output.loss.to_scalar::<f32>()?),
            tokens: pass.packed.ids.len(),
            apart: pass.apart(&logps)?,
            metrics: Some(output.metrics),
        };
        Ok(Passed { loss: Some((output.loss, tape)), told })
    }
}
