//! Proximal policy optimisation (Schulman et al., arXiv 1707.06347) of language models (Ziegler et al., arXiv
//! 1909.08593), with the details that TRL's trainer has (Huang et al., arXiv 2403.17031).
//!
//! The reward of a completion stands at its last token, less `missing_eos_penalty` where it was cut off; every token
//! pays `kl_coef` times its estimated divergence from the reference. A value head says what each state is worth;
//! advantages are estimated from both and whitened over the generation. Policy and value learn in `num_ppo_epochs`
//! passes of `num_mini_batches` steps.
//!
//! Unlike TRL, whose value model is one of its own, the head stands on the policy's trunk; and the reward stands at the
//! last token itself, where TRL puts it one place further where there is room.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use savi_engine::Engine;
use savi_nn::Weight;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_objectives::policy::{
    Advantages, Gae, PolicyMetrics, PolicyTokens, RewardTable, Totals, Trajectory, ValueMetrics,
    ValueTokens, explained_variance, gae, kl_in_reward, policy_loss, value_loss, whiten,
};
use savi_schema::{FinishReason, PromptRecord};

use super::control::Control;
use super::figures::figures;
use super::pass::Pass;
use super::rollout::{Group, Rollout, TokenEstimates};
use super::value_head::ValueHead;
use super::{Objective, PpoConfig, Rewards, Session, Settings, check, train};
use crate::backward::Passed;
use crate::steps::{Figures, StepOutput, in_parts, part_size};
use crate::{TrainError, TrainIo, TrainSummary};

/// Trains the engine's model and a value head on what `rewards`, each under its name, say of its completions. With an
/// adapter the folder gets `adapter/` and the engine holds the merged weights afterwards; else the caller saves the
/// model.
pub fn ppo(
    engine: &mut Engine,
    prompts: &[PromptRecord],
    rewards: &Rewards<'_>,
    config: &PpoConfig,
    io: &TrainIo<'_>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    check(prompts, rewards, &config.reward_weights)?;
    let total = config.optim.total_steps(prompts.len() * config.num_ppo_epochs as usize);
    let objective = ActorCritic::new(engine, config)?;
    train(engine, &objective, prompts, rewards, config.settings(), total, io)
}

impl PpoConfig {
    pub(super) fn settings(&self) -> Settings<'_> {
        Settings {
            label: "ppo",
            optim: &self.optim,
            lora: self.adapter(),
            sampling: self.sampling(),
            sampler: None,
            reference: self.kl_coef != 0.0,
            num_generations: 1,
            filter: None,
            slices: self.num_mini_batches,
            passes: self.num_ppo_epochs,
            shuffles: true,
            masks_truncated: false,
            reward_weights: &self.reward_weights,
            alpha_scheduler: self.alpha_scheduler,
            log_completions: self.log_completions,
        }
    }
}

pub(super) struct ActorCritic<'a> {
    config: &'a PpoConfig,
    head: ValueHead,
}

/// What is told of a micro-batch.
struct Part {
    loss: f64,
    tokens: usize,
    policy: PolicyMetrics,
    value: ValueMetrics,
}

/// Numbers of the tokens of a part before anything is learnt.
struct Looked {
    values: Vec<f32>,
    reference: Vec<f32>,
}

impl Objective for ActorCritic<'_> {
    fn weights(&self) -> Vec<Arc<Weight>> {
        vec![self.head.weight().clone()]
    }

    fn credit(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
        control: &mut Control,
    ) -> Result<(), TrainError> {
        let config = self.config;
        let looked = self.look(engine, session, &rollout.groups)?;
        let scores = scores(session, &rollout.groups)?;
        for (group, score) in rollout.groups.iter_mut().zip(&scores) {
            // What no reward has judged teaches nothing.
            group.counts = vec![score.is_some()];
        }
        let weights: Vec<f64> = rollout.groups.iter().flat_map(Group::weights).collect();
        let segments: Vec<u32> = (0..)
            .zip(&rollout.groups)
            .flat_map(|(at, group): (u32, _)| vec![at; group.tokens()])
            .collect();
        let completions = rollout.groups.len();
        let wide = |numbers: &[f32]| numbers.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let old: Vec<f32> =
            rollout.groups.iter().flat_map(|group| group.old_logps.iter().copied()).collect();
        let kl_coef = config.kl_ctrl.coefficient(config.kl_coef, control);
        let paid = kl_in_reward(
            &vec![0.0; weights.len()],
            &wide(&old),
            &wide(&looked.reference),
            (&weights, &segments, completions),
            config.kl_estimator.estimator(),
            kl_coef,
        )?;
        config.kl_ctrl.note(config.kl_coef, control, paid.current_kl, completions)?;
        if config.kl_coef != 0.0 {
            rollout.figures.push(("actor/reward_kl_penalty_coeff".to_owned(), kl_coef));
        }
        let mut rewards = paid.rewards;
        let mut end = 0;
        for (group, score) in rollout.groups.iter().zip(&scores) {
            end += group.tokens();
            if let (Some(score), Some(last)) = (score, end.checked_sub(1)) {
                let cut = group.completions.iter().any(|c| c.finish_reason == FinishReason::Length);
                let penalty = config.missing_eos_penalty.filter(|_| cut).unwrap_or(0.0);
                rewards[last] += score - penalty;
            }
        }
        let counted = weights.iter().sum::<f64>();
        if config.whiten_rewards && counted > 1.0 {
            rewards = whiten(&rewards, &weights, false)?;
        }
        let values = wide(&looked.values);
        let trajectory = Trajectory { rewards: &rewards, weights: &weights, segments: &segments };
        let settings = Gae { gamma: config.gamma, lam: config.lam };
        // As in TRL, nothing comes after a completion that was cut off; the penalty speaks of it.
        let estimates = gae(&trajectory, &values, &vec![0.0; completions], &settings)?;
        let advantages = match counted > 1.0 {
            true => whiten(&estimates.advantages, &weights, true)?,
            false => estimates.advantages,
        };
        let mut at = 0;
        for group in &mut rollout.groups {
            let range = at..at + group.tokens();
            at = range.end;
            let narrow = |all: &[f64]| all[range.clone()].iter().map(|&x| x as f32).collect();
            group.estimates = Some(TokenEstimates {
                values: looked.values[range.clone()].to_vec(),
                advantages: narrow(&advantages),
                returns: narrow(&estimates.returns),
                reference_logps: looked.reference[range.clone()].to_vec(),
                kl_coef,
            });
        }
        Ok(())
    }

    fn learn(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        groups: &[&Group],
        step: u64,
        _: &mut Control,
    ) -> Result<StepOutput, TrainError> {
        let (params, optim) = (engine.model().params(), &self.config.optim);
        let counted: Vec<&Group> =
            groups.iter().copied().filter(|group| group.counts.contains(&true)).collect();
        let ranks = session.backward.ranks();
        let size = optim.per_device_train_batch_size.div_ceil(ranks.size());
        let parts_of =
            |rank| ranks.share_of(rank, counted.len()).len().div_ceil(part_size(params, size));
        let own = &counted[ranks.share(counted.len())];
        let totals = Totals {
            tokens: counted.iter().flat_map(|group| group.weights()).sum(),
            completions: counted.len() as f64,
            micro_batches: (0..ranks.size()).map(parts_of).sum::<usize>() as f64,
        };
        let mut output = StepOutput {
            grads: GradStore::default(),
            loss: 0.0,
            tokens: 0,
            figures: figures(session, groups)?,
            ids: own.iter().map(|group| session.prompts[group.prompt].id.clone()).collect(),
        };
        output.figures.extend(self.objective(session, groups)?);
        if totals.tokens == 0.0 {
            return Ok(output);
        }
        let (grads, parts) = session.backward.learn(params, optim, (own, size), |part, tape| {
            self.learn_part(engine, session, part, &totals, (step, tape))
        })?;
        output.grads = grads;
        for part in &parts {
            output.loss += part.loss;
            output.tokens += part.tokens;
        }
        let policies = parts.iter().map(|part| part.policy.numbers());
        let values = parts.iter().map(|part| part.value.numbers());
        let policies = ranks.rows(policies, PolicyMetrics::from_numbers)?;
        let values = ranks.rows(values, ValueMetrics::from_numbers)?;
        let mut sums: Option<(PolicyMetrics, ValueMetrics)> = None;
        for part in policies.into_iter().zip(values) {
            match &mut sums {
                Some((policy, value)) => {
                    policy.merge(&part.0);
                    value.merge(&part.1);
                }
                none => *none = Some(part),
            }
        }
        let (policy, value) = sums.unwrap_or_default();
        let named = policy.named().into_iter().map(|(name, figure)| match name {
            "clip_ratio/region_mean" => ("policy/clipfrac_avg", figure),
            "entropy" => ("policy/entropy_avg", figure),
            name => (name, figure),
        });
        let named = named.filter(|(name, _)| !name.starts_with("clip_ratio")).chain(value.named());
        let (coefficient, [loss]) = (self.config.vf_coef, ranks.totals([output.loss])?);
        for (name, figure) in named {
            if name == "loss/value_avg" {
                let policy = loss - coefficient * figure;
                output.figures.push(("loss/policy_avg".into(), policy));
            }
            output.figures.push((name.into(), figure));
        }
        Ok(output)
    }
}

impl<'a> ActorCritic<'a> {
    /// The config with a fresh head on the engine's model.
    pub(super) fn new(engine: &Engine, config: &'a PpoConfig) -> Result<Self, TrainError> {
        let model = engine.model();
        let (width, device) = (model.config().hidden_size, model.params().device());
        Ok(Self { config, head: ValueHead::new(width, config.optim.seed, device)? })
    }

    /// Values and the reference's log-probs of all tokens, each rank having looked at its share.
    fn look(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        groups: &[Group],
    ) -> Result<Looked, TrainError> {
        let (params, optim) = (engine.model().params(), &self.config.optim);
        let ranks = session.backward.ranks();
        let own: Vec<&Group> = groups[ranks.share(groups.len())].iter().collect();
        let size = optim.per_device_train_batch_size.div_ceil(ranks.size());
        let parts = in_parts(params, &own, size, |part| {
            let pass = Pass::pack(engine, session, part)?;
            let states = pass.states(engine, Mode::INFER, &Tape::default())?;
            let values = self.head.values(&states, false)?.to_vec1::<f32>()?;
            let reference = match self.config.kl_coef {
                // Nothing is paid, and nobody is asked.
                0.0 => pass.old_logps.to_vec1::<f32>()?,
                _ => pass.reference(engine, session)?.to_vec1::<f32>()?,
            };
            Ok(Looked { values, reference })
        })?;
        let all = |of: fn(&Looked) -> &Vec<f32>| -> Result<Vec<f32>, TrainError> {
            let own: Vec<f64> = parts.iter().flat_map(of).map(|&x| f64::from(x)).collect();
            Ok(ranks.numbers(&own)?.into_iter().flatten().map(|x| x as f32).collect())
        };
        Ok(Looked { values: all(|part| &part.values)?, reference: all(|part| &part.reference)? })
    }

    /// Figures of what was drawn, under the names of TRL's PPO: means over completions.
    fn objective(&self, session: &Session<'_>, groups: &[&Group]) -> Result<Figures, TrainError> {
        let count = groups.len().max(1) as f64;
        let (mut kl, mut paid, mut ended) = (0.0, 0.0, 0.0);
        let (mut values, mut returns, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let Some(estimates) = &group.estimates else { continue };
            for (&old, &reference) in group.old_logps.iter().zip(&estimates.reference_logps) {
                let (old, reference) = (f64::from(old), f64::from(reference));
                kl += old - reference;
                let estimate = self.config.kl_estimator.estimator().estimate(old, reference);
                paid -= estimates.kl_coef * estimate;
            }
            let stopped = |c: &&savi_schema::Completion| c.finish_reason == FinishReason::Stop;
            ended += group.completions.iter().filter(stopped).count() as f64;
            values.extend(estimates.values.iter().map(|&x| f64::from(x)));
            returns.extend(estimates.returns.iter().map(|&x| f64::from(x)));
            weights.extend(group.weights());
        }
        let scores: Vec<f64> =
            scores(session, groups.iter().copied())?.into_iter().flatten().collect();
        let score = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let mut figures: Figures = vec![
            ("objective/scores".into(), score),
            ("objective/non_score_reward".into(), paid / count),
            ("objective/rlhf_reward".into(), score + paid / count),
            ("val/num_eos_tokens".into(), ended),
        ];
        if self.config.kl_coef != 0.0 {
            figures.push(("objective/kl".into(), kl / count));
        }
        if weights.iter().sum::<f64>() > 1.0 {
            let explained = explained_variance(&values, &returns, &weights)?;
            figures.push(("critic/vf_explained_var".into(), explained));
        }
        Ok(figures)
    }

    fn learn_part<'t>(
        &self,
        engine: &'t Engine,
        session: &Session<'_>,
        part: &[&Group],
        totals: &Totals,
        (step, tape): (u64, Tape<'t>),
    ) -> Result<Passed<'t, Part>, TrainError> {
        let config = self.config;
        let pass = Pass::pack(engine, session, part)?.with_dropout(session, step)?;
        let states = pass.states(engine, Mode::TRAIN, &tape)?;
        let logps = pass.logps(engine, session, &states, Mode::TRAIN)?;
        let values = self.head.values(&states, true)?;
        let device = logps.device();
        let estimates = || part.iter().filter_map(|group| group.estimates.as_ref());
        let vector = |of: fn(&TokenEstimates) -> &Vec<f32>| {
            let all: Vec<f32> = estimates().flat_map(|group| of(group).iter().copied()).collect();
            Tensor::from_vec(all, logps.dims(), device)
        };
        let advantages = vector(|group| &group.advantages)?;
        let (old_values, returns) =
            (vector(|group| &group.values)?, vector(|group| &group.returns)?);
        let logged = (step + 1).is_multiple_of(config.optim.logging_steps);
        let entropies = match (config.entropy_coef != 0.0, logged) {
            (true, _) => Some(pass.entropies(engine, session, &states, Mode::TRAIN, &tape)?),
            (false, true) => Some(pass.entropies(engine, session, &states, Mode::INFER, &tape)?),
            (false, false) => None,
        };
        let policy = policy_loss(
            &PolicyTokens {
                layout: pass.layout(),
                logps: &logps,
                old_logps: Some(&pass.old_logps),
                reference_logps: None,
                advantages: Advantages::Token(&advantages),
                corrections: None,
                entropies: entropies.as_ref(),
                chosen: None,
            },
            totals,
            &config.policy_loss()?,
        )?;
        let value = value_loss(
            &ValueTokens {
                layout: pass.layout(),
                values: &values,
                old_values: Some(&old_values),
                returns: &returns,
            },
            totals,
            &config.value_loss(),
        )?;
        let loss = (policy.loss + value.loss)?;
        let told = Part {
            loss: f64::from(loss.to_scalar::<f32>()?),
            tokens: pass.packed.ids.len(),
            policy: policy.metrics,
            value: value.metrics,
        };
        Ok(Passed { loss: Some((loss, tape)), told })
    }
}

/// The weighted sum of each completion's rewards; `None` where no reward has judged it.
fn scores<'a>(
    session: &Session<'_>,
    groups: impl IntoIterator<Item = &'a Group>,
) -> Result<Vec<Option<f64>>, TrainError> {
    let groups: Vec<&Group> = groups.into_iter().collect();
    let values = Rollout::rewards(&groups);
    let of: Vec<u32> = (0..groups.len() as u32).collect();
    let weights = session.weights(&groups);
    let table = RewardTable { values: &values, weights: &weights, groups: &of };
    Ok(table.totals()?)
}
