//! What completions are worth by the ways that compare them or their tokens without a value head, under verl's names.

use savi_engine::Engine;
use savi_objectives::policy::{
    self, RewardKl, RewardTable, Rloo, Singleton, Trajectory, kl_in_reward, reinforce_plus_plus,
    reinforce_plus_plus_baseline, rloo,
};
use serde::{Deserialize, Serialize};

use super::Session;
use super::control::Control;
use super::grpo::GroupRelative;
use super::pass::Pass;
use super::rollout::{Group, Rollout, TokenEstimates};
use crate::TrainError;
use crate::steps::in_parts;

/// How rewards become advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvEstimator {
    /// The distance from the group's mean, by a deviation (`scale_rewards`).
    #[default]
    Grpo,
    /// The distance from the mean of the others of the group (Ahmadian et al., arXiv 2402.14740).
    Rloo,
    /// Returns of the tokens, whitened over the generation (Hu et al., arXiv 2501.03262).
    ReinforcePlusPlus,
    /// The distance from the group's mean, whitened over the tokens of the generation.
    ReinforcePlusPlusBaseline,
}

/// The tokens of a rollout, flat.
struct Tokens {
    weights: Vec<f64>,
    /// The completion of each.
    segments: Vec<u32>,
    completions: usize,
}

impl Tokens {
    fn of(rollout: &Rollout) -> Self {
        let completions = || rollout.groups.iter().flat_map(|group| &group.completions);
        Self {
            weights: rollout.groups.iter().flat_map(Group::weights).collect(),
            segments: (0..)
                .zip(completions())
                .flat_map(|(at, completion): (u32, _)| vec![at; completion.token_ids.len()])
                .collect(),
            completions: completions().count(),
        }
    }

    /// Sums over completions.
    fn sums(&self, values: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.completions];
        for ((value, weight), segment) in values.iter().zip(&self.weights).zip(&self.segments) {
            sums[*segment as usize] += value * weight;
        }
        sums
    }
}

impl GroupRelative<'_> {
    /// Gives every completion, or every token, its advantage.
    pub(super) fn give_credit(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
        control: &mut Control,
    ) -> Result<(), TrainError> {
        let config = self.config;
        let groups: Vec<&Group> = rollout.groups.iter().collect();
        let values = Rollout::rewards(&groups);
        let of: Vec<u32> = (0..groups.len() as u32)
            .flat_map(|group| vec![group; config.num_generations])
            .collect();
        let weights = session.weights(&groups);
        let table = RewardTable { values: &values, weights: &weights, groups: &of };
        let mut totals = table.totals()?;
        if !matches!(config.adv_estimator, AdvEstimator::Grpo | AdvEstimator::Rloo) {
            // What no reward has judged teaches nothing, nor is it part of what is whitened.
            let counted = rollout.groups.iter_mut().flat_map(|group| &mut group.counts);
            counted.zip(&totals).for_each(|(counts, total)| *counts &= total.is_some());
        }
        let tokens = Tokens::of(rollout);
        let paid = match config.use_kl_in_reward {
            true => Some(self.pay(engine, session, rollout, &tokens, control)?),
            false => None,
        };
        if let Some(paid) = &paid {
            for (total, paid) in totals.iter_mut().zip(tokens.sums(paid)) {
                *total = total.map(|total| total + paid);
            }
        }
        let advantages = match config.adv_estimator {
            AdvEstimator::Grpo if paid.is_none() => policy::grpo(&table, &config.advantages())?,
            AdvEstimator::Grpo => {
                let table = RewardTable { values: &totals, weights: &[1.0], groups: &of };
                policy::grpo(&table, &config.advantages())?
            }
            AdvEstimator::Rloo => {
                let normalize_advantages = config.normalize_advantages;
                rloo(&totals, &of, &Rloo { normalize_advantages, singleton: Singleton::Zero })?
            }
            AdvEstimator::ReinforcePlusPlusBaseline => whitened(&totals, &of, &tokens)?,
            AdvEstimator::ReinforcePlusPlus => {
                return give_tokens(rollout, self.returns(&totals, &tokens, paid)?);
            }
        };
        let count = config.num_generations;
        for (group, advantages) in rollout.groups.iter_mut().zip(advantages.chunks(count)) {
            group.advantages = advantages.to_vec();
        }
        Ok(())
    }

    /// What each token pays for its divergence from the reference, below or at 0 in the mean.
    fn pay(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        rollout: &mut Rollout,
        tokens: &Tokens,
        control: &mut Control,
    ) -> Result<Vec<f64>, TrainError> {
        let config = self.config;
        let groups: Vec<&Group> = rollout.groups.iter().collect();
        let size = (config.optim.per_device_train_batch_size / config.num_generations).max(1);
        let reference = in_parts(engine.model().params(), &groups, size, |part| {
            let pass = Pass::pack(engine, session, part)?;
            Ok(pass.reference(engine, session)?.to_vec1::<f32>()?)
        })?;
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<f64>>();
        let reference = wide(reference.concat());
        let old = wide(groups.iter().flat_map(|group| group.old_logps.iter().copied()).collect());
        let coefficient = config.kl_ctrl.coefficient(config.beta, control);
        let RewardKl { rewards, current_kl } = kl_in_reward(
            &vec![0.0; old.len()],
            &old,
            &reference,
            (&tokens.weights, &tokens.segments, tokens.completions),
            config.kl_estimator.estimator(),
            coefficient,
        )?;
        config.kl_ctrl.note(config.beta, control, current_kl, tokens.completions)?;
        let counted = tokens.weights.iter().sum::<f64>().max(1.0);
        let estimate = |(old, reference): (&f64, &f64)| {
            config.kl_estimator.estimator().estimate(*old, *reference)
        };
        let kl = old.iter().zip(&reference).map(estimate).zip(&tokens.weights);
        let kl = kl.map(|(kl, weight)| kl * weight).sum::<f64>() / counted;
        rollout.figures.push(("kl".to_owned(), kl));
        rollout.figures.push(("actor/reward_kl_penalty_coeff".to_owned(), coefficient));
        Ok(rewards)
    }

    /// REINFORCE++: rewards stand at the last tokens, beside what tokens pay.
    fn returns(
        &self,
        totals: &[Option<f64>],
        tokens: &Tokens,
        paid: Option<Vec<f64>>,
    ) -> Result<Vec<f64>, TrainError> {
        let mut rewards = paid.unwrap_or_else(|| vec![0.0; tokens.weights.len()]);
        // The penalty is part of the totals already: what is left of them stands at the end.
        for (completion, paid) in tokens.sums(&rewards).into_iter().enumerate() {
            let last = tokens.segments.iter().rposition(|&segment| segment as usize == completion);
            if let (Some(last), Some(total)) = (last, totals[completion]) {
                rewards[last] += total - paid;
            }
        }
        if tokens.weights.iter().sum::<f64>() <= 1.0 {
            return Ok(vec![0.0; rewards.len()]);
        }
        let (weights, segments) = (tokens.weights.as_slice(), tokens.segments.as_slice());
        let trajectory = Trajectory { rewards: &rewards, weights, segments };
        Ok(reinforce_plus_plus(&trajectory, tokens.completions, self.config.gamma)?.advantages)
    }
}

/// REINFORCE++ with a baseline, of the completions that were judged.
fn whitened(
    totals: &[Option<f64>],
    groups: &[u32],
    tokens: &Tokens,
) -> Result<Vec<f64>, TrainError> {
    let judged: Vec<usize> = (0..totals.len()).filter(|&at| totals[at].is_some()).collect();
    let rewards: Vec<f64> = totals.iter().copied().flatten().collect();
    let groups: Vec<u32> = judged.iter().map(|&at| groups[at]).collect();
    let counts = tokens.sums(&vec![1.0; tokens.weights.len()]);
    let counts: Vec<f64> = judged.iter().map(|&at| counts[at]).collect();
    let mut advantages = vec![0.0; totals.len()];
    if counts.iter().sum::<f64>() > 1.0 {
        let known = reinforce_plus_plus_baseline(&rewards, &groups, &counts)?;
        judged.iter().zip(known).for_each(|(&at, advantage)| advantages[at] = advantage);
    }
    Ok(advantages)
}

/// Gives every token its own advantage.
fn give_tokens(rollout: &mut Rollout, advantages: Vec<f64>) -> Result<(), TrainError> {
    let mut advantages = advantages.into_iter().map(|advantage| advantage as f32);
    for group in &mut rollout.groups {
        let advantages = advantages.by_ref().take(group.tokens()).collect();
        group.estimates = Some(TokenEstimates { advantages, ..TokenEstimates::default() });
    }
    Ok(())
}
