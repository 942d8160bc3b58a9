//! Policy-gradient objectives: GRPO and its variants, RLOO, REINFORCE++ and PPO.
//!
//! Two halves. On the host, in `f64`: rewards become advantages ([`grpo`], [`rloo`],
//! [`reinforce_plus_plus`], [`gae()`]), groups are kept or dropped ([`dynamic_sampling`]),
//! coefficients are controlled. On tensors: the [`policy_loss`] over flat token log-probs and the
//! [`value_loss`]. Settings have the names of TRL or verl; where both have one, TRL's.
//!
//! Words: a *completion* is one sampled answer and a *group* the completions of one prompt; the
//! *old* policy sampled them; the *ratio* is `exp(log pi - log pi_old)`; a *weight* is 1 for a
//! token that counts and 0 for one that does not (of a tool, or of a completion that was cut off).

mod aggregate;
mod baselines;
mod bounds;
mod controllers;
mod corrections;
mod covariance;
mod filter;
mod gae;
mod groups;
mod kl;
mod loss;
mod masks;
mod metrics;
mod named;
mod ratio;
mod rewards;
mod statistics;
mod surrogate;
mod tokens;
mod value;

pub use aggregate::{Aggregation, Totals};
pub use baselines::{grpo_passk, opo, remax};
pub use bounds::Bounds;
pub use controllers::{EntropyController, KlController};
pub use corrections::{SamplerCorrection, sampler_corrections};
pub use covariance::{
    TokenMeans, clip_cov_candidates, clip_cov_count, covariances, kl_cov_count, kl_cov_tokens,
};
pub use filter::dynamic_sampling;
pub use gae::{Estimates, Gae, Trajectory, gae, reinforce_plus_plus};
pub use groups::{
    Grpo, MultiObjective, RewardTable, Rloo, ScaleRewards, Singleton, grpo,
    reinforce_plus_plus_baseline, rloo,
};
pub use kl::{Kl, KlEstimator, RewardKl, completion_kl, kl_in_reward};
pub use loss::{PolicyLoss, PolicyOutput, policy_loss};
pub use masks::{high_entropy_mask, mask_truncated, off_policy_mask};
pub use metrics::PolicyMetrics;
pub use ratio::Level;
pub use rewards::{Overlong, overlong_punishment, reward_figures};
pub use statistics::{explained_variance, whiten};
pub use surrogate::Surrogate;
pub use tokens::{Advantages, CompletionTokens, PolicyTokens};
pub use value::{ValueLoss, ValueMetrics, ValueOutput, ValueTokens, value_loss};

#[cfg(test)]
mod tests;
