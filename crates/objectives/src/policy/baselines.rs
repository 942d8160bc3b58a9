//! Further baselines that rewards are measured against, by verl's names.

use std::collections::HashMap;

use super::bounds::{length, not_negative, numbers};
use super::gae::{Estimates, Gae, Trajectory, gae};
use super::statistics::deviation;
use crate::ObjectiveError;

/// OPO's advantages (Hao et al., arXiv 2505.23585): each reward less the mean of its group's, in
/// which a completion counts as often as it has tokens. A group of one keeps its reward, as in
/// verl.
pub fn opo(
    rewards: &[f64],
    groups: &[u32],
    token_counts: &[f64],
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("rewards", rewards, groups.len())?;
    numbers("token_counts", token_counts, groups.len())?;
    token_counts.iter().try_for_each(|n| not_negative("token_counts", *n))?;
    // (weighted sum, tokens, completions)
    let mut sums: HashMap<u32, (f64, f64, usize)> = HashMap::new();
    for (i, group) in groups.iter().enumerate() {
        let sum = sums.entry(*group).or_default();
        sum.0 += rewards[i] * token_counts[i];
        sum.1 += token_counts[i];
        sum.2 += 1;
    }
    let baseline = |group: &u32| match sums.get(group) {
        Some((sum, tokens, n)) if *n > 1 && *tokens > 0.0 => sum / tokens,
        _ => 0.0,
    };
    Ok(rewards.iter().zip(groups).map(|(r, g)| r - baseline(g)).collect())
}

/// Advantages for pass@k (arXiv 2503.19595; verl's `grpo_passk`): only the best completion of a
/// group has one, the distance to the second best, by the group's deviation plus `epsilon` where
/// one is given. Of equal ones the first is the best, and has 0. Every group has at least two.
pub fn grpo_passk(
    rewards: &[f64],
    groups: &[u32],
    norm_adv_by_std: Option<f64>,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("rewards", rewards, groups.len())?;
    norm_adv_by_std.map_or(Ok(()), |epsilon| not_negative("epsilon", epsilon))?;
    let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
    for (i, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(i);
    }
    let mut advantages = vec![0.0; rewards.len()];
    for at in members.values_mut() {
        // The sort keeps the order of equal ones.
        at.sort_by(|a, b| rewards[*b].total_cmp(&rewards[*a]));
        let [best, second, ..] = at[..] else {
            let (name, expected) = ("groups", "at least two completions in each for pass@k");
            return Err(ObjectiveError::Setting { name, value: at.len() as f64, expected });
        };
        let scale = match norm_adv_by_std {
            Some(epsilon) => deviation(at.iter().map(|i| rewards[*i])).unwrap_or(0.0) + epsilon,
            None => 1.0,
        };
        let ahead = rewards[best] - rewards[second];
        advantages[best] = if ahead == 0.0 { 0.0 } else { ahead / scale };
    }
    Ok(advantages)
}

/// ReMax (Li et al., arXiv 2310.10505): the sum of the rewards from a token on, less the reward of
/// the prompt's greedy completion (`reward_baselines`, one for each completion).
pub fn remax(
    trajectory: &Trajectory<'_>,
    reward_baselines: &[f64],
) -> Result<Estimates, ObjectiveError> {
    let completions = reward_baselines.len();
    numbers("reward_baselines", reward_baselines, completions)?;
    length("segments", trajectory.segments.len(), trajectory.rewards.len())?;
    let zeros = vec![0.0; trajectory.rewards.len()];
    let settings = Gae { gamma: 1.0, lam: 1.0 };
    let returns = gae(trajectory, &zeros, &vec![0.0; completions], &settings)?.returns;
    let less = |(i, r): (usize, &f64)| {
        r - reward_baselines[trajectory.segments[i] as usize] * trajectory.weights[i]
    };
    Ok(Estimates { advantages: returns.iter().enumerate().map(less).collect(), returns })
}
