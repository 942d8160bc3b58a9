//! PPO's value loss.
//!
//! ```text
//! 0.5 * max((V - R)^2, (clip(V, V_old - cliprange_value, V_old + cliprange_value) - R)^2)
//! ```
//!
//! The clip is that of OpenAI's baselines, which the paper (Schulman et al., arXiv 1707.06347,
//! equation 9) does not have; see Huang et al., arXiv 2403.17031, detail 9.

use candle_core::Tensor;

use super::aggregate::{Aggregation, Totals};
use super::bounds::not_negative;
use super::tokens::{CompletionTokens, Layout, host};
use crate::{ObjectiveError, check};

/// Settings of the value loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValueLoss {
    /// How far a value may go from the old one: 0.5 in verl, 0.2 in TRL; `None` for no clip.
    pub cliprange_value: Option<f64>,
    /// Weight of the loss: 1 in verl, which has an optimiser of its own for it, 0.1 in TRL.
    pub vf_coef: f64,
    /// The loss of a step.
    pub aggregation: Aggregation,
}

/// Values of a micro-batch's tokens; every tensor is `[tokens]`.
#[derive(Debug, Clone, Copy)]
pub struct ValueTokens<'a> {
    /// Where they belong.
    pub layout: CompletionTokens<'a>,
    /// Values of the states before the tokens, the path of the gradient.
    pub values: &'a Tensor,
    /// The values that the advantages were estimated with; needed by `cliprange_value`.
    pub old_values: Option<&'a Tensor>,
    /// What the values should be, as [`gae`](super::gae()) has it.
    pub returns: &'a Tensor,
}

/// Loss of a micro-batch and what is logged beside it.
#[derive(Debug, Clone)]
pub struct ValueOutput {
    /// This micro-batch's share of the step's loss, a scalar to differentiate.
    pub loss: Tensor,
    /// Sums to be merged over the step and then read.
    pub metrics: ValueMetrics,
}

/// Figures about a step's values, held as sums so that micro-batches can be merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValueMetrics {
    tokens: f64,
    losses: f64,
    clipped: f64,
    values: f64,
}

impl ValueMetrics {
    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.losses += other.losses;
        self.clipped += other.clipped;
        self.values += other.values;
    }

    /// The sums as plain numbers, for another process to [read](Self::from_numbers).
    pub fn numbers(&self) -> Vec<f64> {
        vec![self.tokens, self.losses, self.clipped, self.values]
    }

    /// What [`numbers`](Self::numbers) gave; `None` where that is something else.
    pub fn from_numbers(numbers: &[f64]) -> Option<Self> {
        let &[tokens, losses, clipped, values] = numbers else { return None };
        Some(Self { tokens, losses, clipped, values })
    }

    /// The figures by the names of TRL's PPO and of verl, means over tokens: the loss without
    /// `vf_coef`, the share of tokens where the clipped error is the greater one, the value.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: f64| sum / self.tokens.max(1.0);
        vec![
            ("loss/value_avg", mean(self.losses)),
            ("val/clipfrac_avg", mean(self.clipped)),
            ("critic/values/mean", mean(self.values)),
        ]
    }
}

/// Computes this micro-batch's share of the step's value loss; see the head of this file.
pub fn value_loss(
    tokens: &ValueTokens<'_>,
    totals: &Totals,
    settings: &ValueLoss,
) -> Result<ValueOutput, ObjectiveError> {
    let layout = Layout::new(&tokens.layout, "values", tokens.values)?;
    not_negative("vf_coef", settings.vf_coef)?;
    let values = layout.masked(tokens.values)?;
    let returns = layout.beside("returns", tokens.returns, &values)?;
    let mut errors = (&values - &returns)?.sqr()?;
    let mut metrics = ValueMetrics {
        tokens: layout.tokens,
        values: layout.host_sum(&host(&values)?),
        ..ValueMetrics::default()
    };
    if let Some(range) = settings.cliprange_value {
        check::positive("cliprange_value", range)?;
        let Some(old) = tokens.old_values else {
            return Err(ObjectiveError::Missing { what: "old_values", by: "cliprange_value" });
        };
        let old = layout.beside("old_values", old, &values)?;
        // Within the range the clipped value is the value itself, to the last bit.
        let (low, high) = ((&old - range)?, (&old + range)?);
        let clipped = values.ge(&low)?.where_cond(&values, &low)?;
        let clipped = clipped.le(&high)?.where_cond(&clipped, &high)?;
        let clipped = (clipped - &returns)?.sqr()?;
        let held = host(&clipped)?.into_iter().zip(host(&errors)?).map(|(c, e)| f64::from(c > e));
        metrics.clipped = layout.host_sum(&held.collect::<Vec<_>>());
        errors = errors.maximum(&clipped)?;
    }
    let losses = (errors * 0.5)?;
    metrics.losses = layout.host_sum(&host(&losses)?);
    let loss = (settings.aggregation.of(&losses, &layout, totals)? * settings.vf_coef)?;
    Ok(ValueOutput { loss, metrics })
}
