//! Weights of tokens that follow from what happened to their completions.

use super::bounds::{
    fraction, length, not_negative, numbers, segments as check_segments, zeros_and_ones,
};
use crate::ObjectiveError;

/// Takes every token of a completion that was cut off out of the loss (DAPO's overlong filtering,
/// arXiv 2503.14476 section 3.4; TRL's `mask_truncated_completions`).
pub fn mask_truncated(
    weights: &[f64],
    segments: &[u32],
    truncated: &[bool],
) -> Result<Vec<f64>, ObjectiveError> {
    length("segments", segments.len(), weights.len())?;
    check_segments(segments, truncated.len())?;
    let kept = |(w, s): (&f64, &u32)| match truncated.get(*s as usize) {
        Some(true) => 0.0,
        _ => *w,
    };
    Ok(weights.iter().zip(segments).map(kept).collect())
}

/// 1 for the tokens whose entropy is in the upper `top_entropy_quantile` of those that count, else
/// 0 (Wang et al., arXiv 2506.01939; TRL's `top_entropy_quantile`). Goes into
/// [`PolicyTokens::corrections`](super::PolicyTokens::corrections).
pub fn high_entropy_mask(
    entropies: &[f64],
    weights: &[f64],
    top_entropy_quantile: f64,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("entropies", entropies, weights.len())?;
    zeros_and_ones(weights)?;
    fraction("top_entropy_quantile", top_entropy_quantile)?;
    let mut sorted: Vec<f64> =
        entropies.iter().zip(weights).filter(|(_, w)| **w > 0.0).map(|(e, _)| *e).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return Ok(vec![0.0; weights.len()]) };
    // The quantile between two neighbours lies on the line between them.
    let at = (1.0 - top_entropy_quantile) * last as f64;
    let below = (at.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    let threshold = low + (high - low) * (at - below as f64);
    let chosen = |(e, w): (&f64, &f64)| f64::from(*w > 0.0 && *e >= threshold);
    Ok(entropies.iter().zip(weights).map(chosen).collect())
}

/// 0 for the tokens of completions with a negative advantage that have drifted from the policy that
/// sampled them: whose mean of `log pi_old - log pi` is above the threshold (DeepSeek-V3.2, arXiv
/// 2512.02556; TRL's `off_policy_mask_threshold`). Goes into
/// [`PolicyTokens::corrections`](super::PolicyTokens::corrections). `advantages` holds one number
/// for each completion.
pub fn off_policy_mask(
    logps: &[f64],
    old_logps: &[f64],
    weights: &[f64],
    segments: &[u32],
    advantages: &[f64],
    off_policy_mask_threshold: f64,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("logps", logps, weights.len())?;
    numbers("old_logps", old_logps, weights.len())?;
    length("segments", segments.len(), weights.len())?;
    zeros_and_ones(weights)?;
    check_segments(segments, advantages.len())?;
    not_negative("off_policy_mask_threshold", off_policy_mask_threshold)?;
    let mut sums = vec![(0.0, 0.0); advantages.len()];
    for (i, segment) in segments.iter().enumerate() {
        let (drift, count) = &mut sums[*segment as usize];
        *drift += (old_logps[i] - logps[i]) * weights[i];
        *count += weights[i];
    }
    let kept = |segment: &u32| {
        let (drift, count) = sums[*segment as usize];
        let near = drift / f64::max(count, 1.0) <= off_policy_mask_threshold;
        f64::from(near || advantages[*segment as usize] >= 0.0)
    };
    Ok(segments.iter().map(kept).collect())
}
