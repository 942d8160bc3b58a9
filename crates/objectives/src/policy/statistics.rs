//! Means, deviations and whitening over the tokens that count.

use super::bounds::{numbers, zeros_and_ones};
use crate::ObjectiveError;

/// Added to a variance before its root is taken, by verl and by TRL's PPO.
const WHITEN_EPSILON: f64 = 1e-8;

/// Mean and unbiased variance of `values`, each counted `counts` times.
pub(crate) fn moments(values: &[f64], counts: &[f64]) -> (f64, f64) {
    let total: f64 = counts.iter().sum();
    let weighed = || values.iter().zip(counts).filter(|(_, c)| **c > 0.0);
    let mean = weighed().map(|(v, c)| v * c).sum::<f64>() / total;
    let squares: f64 = weighed().map(|(v, c)| (v - mean).powi(2) * c).sum();
    (mean, squares / (total - 1.0))
}

/// Mean of the values that are there; none where there are none.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Unbiased standard deviation; none where there are fewer than two values.
pub(crate) fn deviation(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    let ones = vec![1.0; values.len()];
    (values.len() > 1).then(|| moments(&values, &ones).1.max(0.0).sqrt())
}

/// Subtracts the mean of the values whose weight is 1 and divides by their unbiased deviation:
/// `(x - mean) / sqrt(var + 1e-8)`; the result is 0 where the weight is 0.
///
/// `shift_mean` false adds the mean again, which is how TRL whitens rewards. At least two values
/// have to count. Over several ranks the values have to be brought together first, as the mean is
/// that of the whole step.
pub fn whiten(
    values: &[f64],
    weights: &[f64],
    shift_mean: bool,
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("values", values, weights.len())?;
    zeros_and_ones(weights)?;
    whiten_counted(values, weights, shift_mean)
}

/// As [`whiten`], where the value of index `i` stands for `counts[i]` equal values.
pub(crate) fn whiten_counted(
    values: &[f64],
    counts: &[f64],
    shift_mean: bool,
) -> Result<Vec<f64>, ObjectiveError> {
    let total: f64 = counts.iter().sum();
    if total < 2.0 {
        let (name, expected) = ("weights", "at least two tokens to whiten over");
        return Err(ObjectiveError::Setting { name, value: total, expected });
    }
    let (mean, variance) = moments(values, counts);
    let scale = 1.0 / (variance + WHITEN_EPSILON).sqrt();
    let back = if shift_mean { 0.0 } else { mean };
    let whitened = |(v, c): (&f64, &f64)| if *c > 0.0 { (v - mean) * scale + back } else { 0.0 };
    Ok(values.iter().zip(counts).map(whitened).collect())
}

/// How much of the returns' variance the values explain, `1 - var(returns - values) / (var(returns)
/// + 1e-5)`, over the tokens whose weight is 1 (verl's `critic/vf_explained_var`).
pub fn explained_variance(
    values: &[f64],
    returns: &[f64],
    weights: &[f64],
) -> Result<f64, ObjectiveError> {
    numbers("values", values, weights.len())?;
    numbers("returns", returns, weights.len())?;
    zeros_and_ones(weights)?;
    let errors: Vec<f64> = returns.iter().zip(values).map(|(r, v)| r - v).collect();
    Ok(1.0 - moments(&errors, weights).1 / (moments(returns, weights).1 + 1e-5))
}
