//! Which tokens Clip-Cov and KL-Cov choose.
//!
//! Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
//! (arXiv 2505.22617), section 4: the entropy falls where advantage and log-prob covary, so tokens
//! of high `(A - mean A) * (log pi - mean log pi)` are held back. The means are over the tokens of
//! the whole step (verl takes those of a micro-batch), and come in as an argument; so does, for
//! Clip-Cov, which of the candidates are drawn, since nothing here draws random numbers.

use super::bounds::{Bounds, fraction, length, numbers, zeros_and_ones};
use crate::ObjectiveError;

/// Means over tokens, held as sums so that micro-batches can be merged.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenMeans {
    tokens: f64,
    advantages: f64,
    logps: f64,
}

impl TokenMeans {
    /// The sums over a micro-batch's tokens whose weight is 1.
    pub fn new(advantages: &[f64], logps: &[f64], weights: &[f64]) -> Result<Self, ObjectiveError> {
        numbers("advantages", advantages, weights.len())?;
        numbers("logps", logps, weights.len())?;
        zeros_and_ones(weights)?;
        let sum = |values: &[f64]| values.iter().zip(weights).map(|(v, w)| v * w).sum();
        Ok(Self { tokens: weights.iter().sum(), advantages: sum(advantages), logps: sum(logps) })
    }

    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.advantages += other.advantages;
        self.logps += other.logps;
    }
}

/// What each token adds to the covariance of advantage and log-prob.
pub fn covariances(
    advantages: &[f64],
    logps: &[f64],
    means: &TokenMeans,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("advantages", advantages, logps.len())?;
    numbers("logps", logps, logps.len())?;
    let tokens = means.tokens.max(1.0);
    let (advantage, logp) = (means.advantages / tokens, means.logps / tokens);
    Ok(advantages.iter().zip(logps).map(|(a, l)| (a - advantage) * (l - logp)).collect())
}

/// How many tokens Clip-Cov drops of so many: `clip_cov_ratio` of them, one at least.
pub fn clip_cov_count(clip_cov_ratio: f64, tokens: usize) -> Result<usize, ObjectiveError> {
    fraction("clip_cov_ratio", clip_cov_ratio)?;
    Ok(((clip_cov_ratio * tokens as f64) as usize).max(1))
}

/// How many tokens KL-Cov penalises of so many: `kl_cov_ratio` of them, one at least where there
/// are any.
pub fn kl_cov_count(kl_cov_ratio: f64, tokens: usize) -> Result<usize, ObjectiveError> {
    fraction("kl_cov_ratio", kl_cov_ratio)?;
    Ok(((kl_cov_ratio * tokens as f64) as usize).max(1).min(tokens))
}

/// The tokens that Clip-Cov draws from: those whose covariance lies between the bounds (verl's
/// `clip_cov_lb` and `clip_cov_ub`, neither included) and that PPO's `clip` (the range of the
/// ratio, `1 - epsilon` to `1 + epsilon_high`) has not already left without gradient.
pub fn clip_cov_candidates(
    covariances: &[f64],
    advantages: &[f64],
    ratios: &[f64],
    weights: &[f64],
    clip: Bounds,
    between: Bounds,
) -> Result<Vec<usize>, ObjectiveError> {
    numbers("covariances", covariances, weights.len())?;
    numbers("advantages", advantages, weights.len())?;
    numbers("ratios", ratios, weights.len())?;
    zeros_and_ones(weights)?;
    clip.check("epsilon", false)?;
    between.check("clip_cov_lb", false)?;
    let candidate = |i: &usize| {
        let (covariance, advantage, ratio) = (covariances[*i], advantages[*i], ratios[*i]);
        let clipped = -advantage * clip.clamp_number(ratio) > -advantage * ratio;
        weights[*i] > 0.0 && !clipped && covariance > between.low && covariance < between.high
    };
    Ok((0..weights.len()).filter(candidate).collect())
}

/// The `count` tokens of greatest covariance, which KL-Cov penalises; of equal ones the first.
pub fn kl_cov_tokens(
    covariances: &[f64],
    weights: &[f64],
    count: usize,
) -> Result<Vec<usize>, ObjectiveError> {
    length("covariances", covariances.len(), weights.len())?;
    zeros_and_ones(weights)?;
    let mut tokens: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0.0).collect();
    tokens.sort_by(|a, b| covariances[*b].total_cmp(&covariances[*a]));
    tokens.truncate(count);
    tokens.sort_unstable();
    Ok(tokens)
}
