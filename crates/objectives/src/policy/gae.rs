//! Advantages from rewards of tokens: generalised advantage estimation, and REINFORCE++'s returns.
//!
//! Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
//! (arXiv 1506.02438), equations 11 and 16:
//!
//! ```text
//! delta_t = r_t + gamma * V_{t+1} - V_t        A_t = delta_t + gamma * lam * A_{t+1}
//! return_t = A_t + V_t
//! ```
//!
//! Tokens whose weight is 0 (a tool's answer inside of a completion) are stepped over: the token
//! before them sees the value and the advantage of the one after them, as in verl. Whitening comes
//! after, by [`whiten`], and leaves the returns alone.

use super::bounds::{
    finite, fraction, length, numbers, segments as check_segments, zeros_and_ones,
};
use super::statistics::whiten;
use crate::ObjectiveError;

/// Settings of the estimation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gae {
    /// Discount from a token to the one before it.
    pub gamma: f64,
    /// Weight of longer looks ahead: 0 is one step, 1 is all of the returns.
    pub lam: f64,
}

/// Tokens of a step's completions, flat; those of one completion in their order.
#[derive(Debug, Clone, Copy)]
pub struct Trajectory<'a> {
    /// Reward of each token.
    pub rewards: &'a [f64],
    /// 1 for tokens that count.
    pub weights: &'a [f64],
    /// The completion of each token.
    pub segments: &'a [u32],
}

/// What is estimated for each token; 0 where its weight is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    /// How much better the token was than expected.
    pub advantages: Vec<f64>,
    /// What the value of the state before the token should have been.
    pub returns: Vec<f64>,
}

impl Trajectory<'_> {
    fn check(&self, completions: usize) -> Result<(), ObjectiveError> {
        numbers("weights", self.weights, self.rewards.len())?;
        numbers("rewards", self.rewards, self.rewards.len())?;
        zeros_and_ones(self.weights)?;
        length("segments", self.segments.len(), self.rewards.len())?;
        check_segments(self.segments, completions)
    }
}

/// Generalised advantage estimation; see the head of this file.
///
/// `values[t]` is the value of the state *before* token `t`. `last_values` holds the value of the
/// state after the last token of each completion: 0 for one that ended, and the value function's
/// estimate for one that was cut off, whose future is not nothing.
pub fn gae(
    trajectory: &Trajectory<'_>,
    values: &[f64],
    last_values: &[f64],
    settings: &Gae,
) -> Result<Estimates, ObjectiveError> {
    trajectory.check(last_values.len())?;
    numbers("values", values, trajectory.rewards.len())?;
    last_values.iter().try_for_each(|v| finite("last_values", *v))?;
    fraction("gamma", settings.gamma)?;
    fraction("lam", settings.lam)?;
    let mut ahead: Vec<(f64, f64)> = last_values.iter().map(|v| (*v, 0.0)).collect();
    let mut advantages = vec![0.0; values.len()];
    let mut returns = vec![0.0; values.len()];
    for t in (0..values.len()).rev() {
        if trajectory.weights[t] == 0.0 {
            continue;
        }
        let (next_value, next_advantage) = &mut ahead[trajectory.segments[t] as usize];
        let delta = trajectory.rewards[t] + settings.gamma * *next_value - values[t];
        *next_advantage = delta + settings.gamma * settings.lam * *next_advantage;
        *next_value = values[t];
        advantages[t] = *next_advantage;
        returns[t] = *next_advantage + values[t];
    }
    Ok(Estimates { advantages, returns })
}

/// REINFORCE++ (Hu et al., arXiv 2501.03262): discounted returns of the tokens' rewards
/// (the KL penalty among them), whitened over all tokens of the step.
pub fn reinforce_plus_plus(
    trajectory: &Trajectory<'_>,
    completions: usize,
    gamma: f64,
) -> Result<Estimates, ObjectiveError> {
    // With no value function and all of the future, the estimate is the return.
    let zeros = vec![0.0; trajectory.rewards.len()];
    let settings = Gae { gamma, lam: 1.0 };
    let returns = gae(trajectory, &zeros, &vec![0.0; completions], &settings)?.returns;
    Ok(Estimates { advantages: whiten(&returns, trajectory.weights, true)?, returns })
}
