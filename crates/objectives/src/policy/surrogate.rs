//! What stands in for the return of each token: the forms of the policy loss.
//!
//! With the ratio `r` and the advantage `A`, each form gives the loss of one token:
//!
//! ```text
//! Clip     max(-A r, -A clip(r, 1 - epsilon, 1 + epsilon_high))     arXiv 1707.06347, equation 7
//! Cispo    -sg(clip(r)) A log pi                                    arXiv 2506.13585 (MiniMax-M1)
//! Sapo     -A sigmoid(tau (r - 1)) 4 / tau                          arXiv 2511.20347
//! Gmpo     -A exp(mean_t clip(log r))                               arXiv 2507.20673
//! Gpg      -A log pi                                                arXiv 2504.02546
//! Vespo    -sg(e^lambda w^k e^(-lambda w)) A log pi                 arXiv 2602.10693
//! ClipCov  as Clip, 0 for chosen tokens                             arXiv 2505.22617
//! KlCov    -A r, and + ppo_kl_coef |log r| for chosen tokens        arXiv 2505.22617
//! ```

use std::ops::Bound;

use super::bounds::{Bounds, not_negative};
use super::kl::absolute;
use super::ratio::{Inputs, Level, Terms};
use crate::{ObjectiveError, check};

/// The form of the policy loss; see the head of this file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Surrogate {
    /// PPO's clipped ratio, which GRPO, DAPO, Dr.GRPO, RLOO and GSPO share.
    Clip {
        /// Over what the ratio is taken.
        importance_sampling_level: Level,
        /// How far below 1 the ratio may go.
        epsilon: f64,
        /// How far above 1; `epsilon` where `None`.
        epsilon_high: Option<f64>,
        /// The most the unclipped ratio counts (INTELLECT-2, arXiv 2505.07291; TRL's `delta`).
        delta: Option<f64>,
        /// Dual clip (Ye et al., arXiv 1912.09729): the most that `-A` is multiplied with
        /// where `A < 0`; above 1 (verl's `clip_ratio_c`). Above `1 + epsilon_high` it is `delta`.
        clip_ratio_c: Option<f64>,
    },
    /// The clipped ratio as a constant weight of the log-prob.
    Cispo {
        /// Over what the ratio is taken.
        importance_sampling_level: Level,
        /// The least ratio; none in TRL, `1 - clip_ratio_low` in verl.
        ratio_min: Option<f64>,
        /// The greatest ratio itself: TRL's `epsilon_high`, `1 + clip_ratio_high` in verl.
        epsilon_high: f64,
    },
    /// A soft gate in place of a clip.
    Sapo {
        /// Over what the ratio is taken.
        importance_sampling_level: Level,
        /// Temperature where the advantage is positive; verl's `tau_pos`.
        sapo_temperature_pos: f64,
        /// Temperature elsewhere; verl's `tau_neg`.
        sapo_temperature_neg: f64,
    },
    /// The geometric mean of clipped ratios; belongs with
    /// [`Aggregation::SeqMeanTokenMean`](super::Aggregation::SeqMeanTokenMean).
    /// Corrections are factors of the whole, so a token of factor 0 still has part in the mean.
    Gmpo {
        /// How far below 0 the log-ratio may go.
        epsilon: f64,
        /// How far above 0; `epsilon` where `None`.
        epsilon_high: Option<f64>,
    },
    /// The policy gradient with nothing around it.
    Gpg,
    /// A smooth weight of the completion's ratio `w`.
    Vespo {
        /// Power where the advantage is not negative.
        vespo_k_pos: f64,
        /// Decay where the advantage is not negative.
        vespo_lambda_pos: f64,
        /// Power where the advantage is negative.
        vespo_k_neg: f64,
        /// Decay where the advantage is negative.
        vespo_lambda_neg: f64,
    },
    /// PPO's clip, and nothing for some tokens of high covariance
    /// ([`clip_cov_candidates`](super::clip_cov_candidates)).
    ClipCov {
        /// How far below 1 the ratio may go.
        epsilon: f64,
        /// How far above 1; `epsilon` where `None`.
        epsilon_high: Option<f64>,
    },
    /// No clip, and a penalty for the tokens of highest covariance
    /// ([`kl_cov_tokens`](super::kl_cov_tokens)).
    KlCov {
        /// Weight of the penalty.
        ppo_kl_coef: f64,
    },
}

/// The range of a ratio around 1.
fn around_one(epsilon: f64, epsilon_high: Option<f64>) -> Result<Bounds, ObjectiveError> {
    not_negative("epsilon", epsilon)?;
    let high = epsilon_high.unwrap_or(epsilon);
    not_negative("epsilon_high", high)?;
    check::within("epsilon", epsilon, ..=1.0, "at most 1, as ratios are positive")?;
    Ok(Bounds { low: 1.0 - epsilon, high: 1.0 + high })
}

impl Surrogate {
    /// Losses of the tokens.
    pub(crate) fn terms(&self, inputs: &Inputs<'_>) -> Result<Terms, ObjectiveError> {
        let advantages = inputs.advantages;
        let positive = advantages.gt(0.0)?;
        match *self {
            Self::Clip {
                importance_sampling_level: level,
                epsilon,
                epsilon_high,
                delta,
                clip_ratio_c,
            } => {
                let clip = around_one(epsilon, epsilon_high)?;
                let ratio = inputs.ratio(level)?;
                let mut capped = ratio.clone();
                if let Some(delta) = delta {
                    check::positive("delta", delta)?;
                    capped = Bounds { low: f64::NEG_INFINITY, high: delta }.clamp(&ratio)?;
                }
                let mut losses = inputs.clipped(&ratio, &capped, clip)?;
                if let Some(c) = clip_ratio_c {
                    let above_one = (Bound::Excluded(1.0), Bound::Unbounded);
                    check::within("clip_ratio_c", c, above_one, "a number above 1")?;
                    let most = losses.minimum(&(advantages * -c)?)?;
                    losses = advantages.lt(0.0)?.where_cond(&most, &losses)?;
                }
                Ok(Terms { losses, ratio: Some(ratio) })
            }
            Self::Cispo { importance_sampling_level: level, ratio_min, epsilon_high } => {
                check::positive("epsilon_high", epsilon_high)?;
                let low = ratio_min.unwrap_or(0.0);
                not_negative("ratio_min", low)?;
                let clip = Bounds { low, high: epsilon_high };
                clip.check("ratio_min", false)?;
                let ratio = inputs.ratio(level)?;
                let weight = (clip.clamp(&ratio.detach())? * advantages)?;
                Ok(Terms { losses: (weight * inputs.logps)?.neg()?, ratio: Some(ratio) })
            }
            Self::Sapo {
                importance_sampling_level: level,
                sapo_temperature_pos,
                sapo_temperature_neg,
            } => {
                check::positive("sapo_temperature_pos", sapo_temperature_pos)?;
                check::positive("sapo_temperature_neg", sapo_temperature_neg)?;
                let zeros = advantages.zeros_like()?;
                let (up, down) =
                    ((&zeros + sapo_temperature_pos)?, (zeros + sapo_temperature_neg)?);
                let tau = positive.where_cond(&up, &down)?;
                let ratio = inputs.ratio(level)?;
                // sigmoid(x) = (tanh(x / 2) + 1) / 2, finite for every x.
                let half = (((&ratio - 1.0)? * &tau)? * 0.5)?;
                let gate = (((half.tanh()? + 1.0)? * 2.0)? / tau)?;
                Ok(Terms { losses: (gate * advantages)?.neg()?, ratio: Some(ratio) })
            }
            Self::Gmpo { epsilon, epsilon_high } => {
                let clip = log_range(epsilon, epsilon_high)?;
                let d = inputs.log_ratio(Level::Token)?;
                let within = clip.clamp(&d)?;
                let clipped = positive.where_cond(&d.minimum(&within)?, &d.maximum(&within)?)?;
                let layout = inputs.layout;
                let ratio = layout.means(&clipped)?.exp()?;
                let losses = (ratio * layout.means(advantages)?)?.neg()?;
                Ok(Terms { losses: layout.spread(&losses)?, ratio: None })
            }
            Self::Gpg => Ok(Terms { losses: (advantages * inputs.logps)?.neg()?, ratio: None }),
            Self::Vespo { vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg } => {
                for (name, value) in [
                    ("vespo_k_pos", vespo_k_pos),
                    ("vespo_lambda_pos", vespo_lambda_pos),
                    ("vespo_k_neg", vespo_k_neg),
                    ("vespo_lambda_neg", vespo_lambda_neg),
                ] {
                    check::positive(name, value)?;
                }
                let d = Bounds::VERL.clamp(&(inputs.logps - inputs.old_logps)?.detach())?;
                let sums = inputs.layout.sums(&d)?;
                let log_w = Bounds { low: 1e-8f64.ln(), high: 20.0 }.clamp(&sums)?;
                let log_w = inputs.layout.spread(&log_w)?;
                let w = log_w.exp()?;
                let phi = |k: f64, lambda: f64| (((&log_w * k)? - (&w * lambda)?)? + lambda)?.exp();
                let phi = advantages.ge(0.0)?.where_cond(
                    &phi(vespo_k_pos, vespo_lambda_pos)?,
                    &phi(vespo_k_neg, vespo_lambda_neg)?,
                )?;
                let losses = ((phi * advantages)? * inputs.logps)?.neg()?;
                Ok(Terms { losses, ratio: None })
            }
            Self::ClipCov { epsilon, epsilon_high } => {
                let clip = around_one(epsilon, epsilon_high)?;
                let ratio = inputs.ratio(Level::Token)?;
                let kept = (inputs.chosen("Clip-Cov")?.neg()? + 1.0)?;
                let losses = (inputs.clipped(&ratio, &ratio, clip)? * kept)?;
                Ok(Terms { losses, ratio: Some(ratio) })
            }
            Self::KlCov { ppo_kl_coef } => {
                not_negative("ppo_kl_coef", ppo_kl_coef)?;
                let d = inputs.log_ratio(Level::Token)?;
                let ratio = d.exp()?;
                let penalty = (absolute(&d)? * inputs.chosen("KL-Cov")?)?;
                let losses = ((penalty * ppo_kl_coef)? - (&ratio * advantages)?)?;
                Ok(Terms { losses, ratio: Some(ratio) })
            }
        }
    }

    /// The range outside of which a ratio counts as clipped; for [`Self::Gmpo`] that of its
    /// logarithm.
    pub(crate) fn range(&self) -> Option<Bounds> {
        match *self {
            Self::Clip { epsilon, epsilon_high, .. } | Self::ClipCov { epsilon, epsilon_high } => {
                around_one(epsilon, epsilon_high).ok()
            }
            Self::Gmpo { epsilon, epsilon_high } => log_range(epsilon, epsilon_high).ok(),
            _ => None,
        }
    }
}

/// The range of a log-ratio around 0.
fn log_range(epsilon: f64, epsilon_high: Option<f64>) -> Result<Bounds, ObjectiveError> {
    not_negative("epsilon", epsilon)?;
    let high = epsilon_high.unwrap_or(epsilon);
    not_negative("epsilon_high", high)?;
    Ok(Bounds { low: -epsilon, high })
}
