//! How far a policy is from its reference, estimated from the tokens it sampled.
//!
//! Schulman, "Approximating KL Divergence" (2020), with `d = log pi - log pi_ref`:
//!
//! ```text
//! k1 = d        abs = |d|        k2 = d^2 / 2        k3 = exp(-d) + d - 1
//! ```
//!
//! The gradients of k1 and k3 in a loss are not in the mean those of the divergence, that of k2 is;
//! *straight-through* takes the value of one and the gradient of k2 (verl's suffix `+`).

use candle_core::Tensor;

use super::bounds::{Bounds, length, numbers, segments as check_segments, zeros_and_ones};
use crate::ObjectiveError;

/// An estimator of the divergence of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KlEstimator {
    /// `d`; verl's `kl` or `k1`.
    K1,
    /// `|d|`; verl's `abs`.
    Abs,
    /// `d^2 / 2`; verl's `mse` or `k2`.
    K2,
    /// `exp(-d) + d - 1`, never negative; verl's `low_var_kl` or `k3`.
    K3 {
        /// What `d` is clamped to first.
        log_ratio: Bounds,
        /// What the estimate is clamped to.
        value: Bounds,
    },
}

impl KlEstimator {
    /// k3 as TRL has it, without clamps.
    pub const K3_TRL: Self = Self::K3 { log_ratio: Bounds::WIDE, value: Bounds::NONE };
    /// k3 as verl has it: `d` within 20, the estimate within 10.
    pub const K3_VERL: Self =
        Self::K3 { log_ratio: Bounds::VERL, value: Bounds { low: -10.0, high: 10.0 } };

    /// The estimate of one token.
    pub fn estimate(self, logp: f64, reference_logp: f64) -> f64 {
        let d = logp - reference_logp;
        match self {
            Self::K1 => d,
            Self::Abs => d.abs(),
            Self::K2 => 0.5 * d * d,
            Self::K3 { log_ratio, value } => {
                let d = log_ratio.clamp_number(d);
                value.clamp_number((-d).exp_m1() + d)
            }
        }
    }

    fn check(self) -> Result<(), ObjectiveError> {
        let Self::K3 { log_ratio, value } = self else { return Ok(()) };
        log_ratio.check("kl.log_ratio", true)?;
        // The exponential is of the negative.
        Bounds { low: -log_ratio.high, high: -log_ratio.low }.check("kl.log_ratio", true)?;
        value.check("kl.value", false)
    }
}

/// The KL term of a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kl {
    /// Its value.
    pub estimator: KlEstimator,
    /// Whether its gradient is that of k2.
    pub straight_through: bool,
}

impl Kl {
    /// The term by verl's `kl_loss_type` or `kl_penalty`: `k1`, `abs`, `k2`, `k3` or `kl`, `mse`,
    /// `low_var_kl`, and any of them with a `+` for straight-through.
    pub fn named(name: &str) -> Result<Self, ObjectiveError> {
        let (base, straight_through) = match name.strip_suffix('+') {
            Some(base) => (base, true),
            None => (name, false),
        };
        let estimator = match base {
            "kl" | "k1" => KlEstimator::K1,
            "abs" => KlEstimator::Abs,
            "mse" | "k2" => KlEstimator::K2,
            "low_var_kl" | "k3" => KlEstimator::K3_VERL,
            _ => {
                return Err(ObjectiveError::Unknown {
                    what: "kl_loss_type",
                    value: name.to_string(),
                    known: "k1, abs, k2 or k3, with or without a +".to_string(),
                });
            }
        };
        Ok(Self { estimator, straight_through })
    }

    /// The estimate of every token, `[tokens]`, to differentiate by `logps`; the reference is a
    /// constant already.
    pub(crate) fn tokens(
        self,
        logps: &Tensor,
        reference: &Tensor,
    ) -> Result<Tensor, ObjectiveError> {
        self.estimator.check()?;
        let d = (logps - reference)?;
        let k2 = || d.sqr()? * 0.5;
        let value = match self.estimator {
            KlEstimator::K1 => d.clone(),
            KlEstimator::Abs => absolute(&d)?,
            KlEstimator::K2 => k2()?,
            KlEstimator::K3 { log_ratio, value } => {
                let d = log_ratio.clamp(&d)?;
                value.clamp(&((d.neg()?.exp()? + &d)? - 1.0)?)?
            }
        };
        if !self.straight_through {
            return Ok(value);
        }
        let k2 = k2()?;
        Ok(((&k2 - k2.detach())? + value.detach())?)
    }
}

/// `|x|`, whose gradient at 0 is 0.
pub(crate) fn absolute(x: &Tensor) -> candle_core::Result<Tensor> {
    x * x.detach().sign()?
}

/// Rewards after a KL penalty, and the divergence itself.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardKl {
    /// Rewards of the tokens, less `coefficient` times the estimate.
    pub rewards: Vec<f64>,
    /// The mean over completions of each one's mean over its tokens: what verl's adaptive
    /// controller is told. Completions without tokens are left out.
    pub current_kl: f64,
}

/// Puts a KL penalty into the tokens' rewards (Ziegler et al., arXiv 1909.08593, equation 2), with
/// the log-probs of the policy that sampled them. Nothing is taken where the weight is 0.
pub fn kl_in_reward(
    rewards: &[f64],
    old_logps: &[f64],
    reference_logps: &[f64],
    (weights, segments, completions): (&[f64], &[u32], usize),
    estimator: KlEstimator,
    coefficient: f64,
) -> Result<RewardKl, ObjectiveError> {
    numbers("rewards", rewards, weights.len())?;
    numbers("old_logps", old_logps, weights.len())?;
    numbers("reference_logps", reference_logps, weights.len())?;
    super::bounds::not_negative("kl_coef", coefficient)?;
    length("segments", segments.len(), weights.len())?;
    zeros_and_ones(weights)?;
    check_segments(segments, completions)?;
    estimator.check()?;
    let mut sums = vec![(0.0, 0.0); completions];
    let mut out = rewards.to_vec();
    for (i, reward) in out.iter_mut().enumerate() {
        if weights[i] > 0.0 {
            let kl = estimator.estimate(old_logps[i], reference_logps[i]);
            *reward -= coefficient * kl;
            let (sum, count) = &mut sums[segments[i] as usize];
            *sum += kl;
            *count += 1.0;
        }
    }
    let means = sums.iter().filter(|(_, count)| *count > 0.0).map(|(sum, count)| sum / count);
    let current_kl = super::statistics::mean(means).unwrap_or(0.0);
    Ok(RewardKl { rewards: out, current_kl })
}

/// The sum over each completion of k1, which TRL's RLOO subtracts `beta` times from its reward.
pub fn completion_kl(
    old_logps: &[f64],
    reference_logps: &[f64],
    weights: &[f64],
    segments: &[u32],
    completions: usize,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("old_logps", old_logps, weights.len())?;
    numbers("reference_logps", reference_logps, weights.len())?;
    length("segments", segments.len(), weights.len())?;
    zeros_and_ones(weights)?;
    check_segments(segments, completions)?;
    let mut sums = vec![0.0; completions];
    for (i, segment) in segments.iter().enumerate() {
        sums[*segment as usize] += (old_logps[i] - reference_logps[i]) * weights[i];
    }
    Ok(sums)
}
