//! Corrections for a sampler that is not quite the old policy, such as one of lower precision.
//!
//! Truncated importance sampling (Yao et al., "Your Efficient RL Framework Secretly Brings You
//! Off-Policy RL Training", 2025) multiplies a token's loss by `min(pi_old / pi_sampler, max)`;
//! masked importance sampling (Liu et al., "When Speed Kills Stability", 2025) leaves it out where
//! the ratio is outside of its range.

use super::bounds::{Bounds, length, numbers, segments as check_segments, zeros_and_ones};
use crate::ObjectiveError;

/// What happens to ratios outside of their range, and what a ratio is of (TRL's
/// `vllm_importance_sampling_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SamplerCorrection {
    /// Tokens' ratios, clamped.
    TokenTruncate,
    /// Tokens' ratios, 0 outside.
    TokenMask,
    /// The ratio of the whole completion at each of its tokens, clamped.
    SequenceTruncate,
    /// The ratio of the whole completion at each of its tokens, 0 outside.
    SequenceMask,
}

/// Factors for [`PolicyTokens::corrections`](super::PolicyTokens::corrections): `pi_old /
/// pi_sampler` within `range` (TRL's `vllm_importance_sampling_clip_min` and `_max`, 3 by default;
/// verl's `rollout_is_threshold`, 2). Where the weight is 0 the sampler did not choose, and the
/// token has no part in its completion's ratio.
pub fn sampler_corrections(
    old_logps: &[f64],
    sampler_logps: &[f64],
    (weights, segments, completions): (&[f64], &[u32], usize),
    mode: SamplerCorrection,
    range: Bounds,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("old_logps", old_logps, weights.len())?;
    numbers("sampler_logps", sampler_logps, weights.len())?;
    zeros_and_ones(weights)?;
    length("segments", segments.len(), weights.len())?;
    check_segments(segments, completions)?;
    range.check("importance_sampling_clip_min", false)?;
    let mut logs: Vec<f64> =
        (0..weights.len()).map(|i| (old_logps[i] - sampler_logps[i]) * weights[i]).collect();
    let (whole, mask) = match mode {
        SamplerCorrection::TokenTruncate => (false, false),
        SamplerCorrection::TokenMask => (false, true),
        SamplerCorrection::SequenceTruncate => (true, false),
        SamplerCorrection::SequenceMask => (true, true),
    };
    if whole {
        let mut sums = vec![0.0; completions];
        for (log, segment) in logs.iter().zip(segments) {
            sums[*segment as usize] += log;
        }
        logs = segments.iter().map(|segment| sums[*segment as usize]).collect();
    }
    let factor = |log: &f64| {
        // Finite in f32, too; a range ends long before.
        let ratio = Bounds::WIDE.clamp_number(*log).exp();
        let within = range.clamp_number(ratio);
        if mask && within != ratio { 0.0 } else { within }
    };
    Ok(logs.iter().map(factor).collect())
}
