//! From losses of tokens to the loss of a step.

use candle_core::Tensor;

use super::tokens::Layout;
use crate::{ObjectiveError, check};

/// What the loss of a step is of the losses of its tokens. All but one are additive over
/// micro-batches, given the [`Totals`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregation {
    /// Sum over the step's tokens by their number: DAPO (Yu et al., arXiv 2503.14476, equation 8);
    /// verl's `token-mean`, TRL's `dapo`.
    TokenMean,
    /// The same within each micro-batch, and the mean of these: TRL's `bnpo`. How tokens are split
    /// into micro-batches changes the number; that is its definition.
    LocalTokenMean,
    /// Sum over the step's tokens: verl's `token-sum`.
    TokenSum,
    /// Mean over completions of the sum over tokens: verl's `seq-mean-token-sum`, TRL's
    /// `luspo` (arXiv 2602.05261).
    SeqMeanTokenSum,
    /// Mean over completions of the mean over tokens: GRPO as it was first (Shao et al., arXiv
    /// 2402.03300, equation 3); verl's `seq-mean-token-mean`, TRL's `grpo`.
    SeqMeanTokenMean,
    /// Mean over completions of the sum over tokens, by a constant: Dr.GRPO (Liu et al., arXiv
    /// 2503.20783) as TRL's `dr_grpo` (where the constant is `max_completion_length`) and today's
    /// verl's `seq-mean-token-sum-norm` have it.
    SeqMeanTokenSumNorm {
        /// The constant.
        loss_scale_factor: f64,
    },
    /// Sum over the step's tokens by a constant, whatever the number of completions: Dr.GRPO as
    /// earlier releases of verl (and with them the Self-Aligned Reward's) had it.
    TokenSumNorm {
        /// The constant.
        loss_scale_factor: f64,
    },
}

/// What the means of a step are taken over: all its micro-batches and ranks together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Totals {
    /// Tokens whose weight is 1.
    pub tokens: f64,
    /// Completions. TRL counts those without any token that counts, verl does not.
    pub completions: f64,
    /// Micro-batches; read by [`Aggregation::LocalTokenMean`] only.
    pub micro_batches: f64,
}

impl Aggregation {
    /// This micro-batch's share of the step's loss, a scalar.
    pub(crate) fn of(
        self,
        losses: &Tensor,
        layout: &Layout,
        totals: &Totals,
    ) -> Result<Tensor, ObjectiveError> {
        let by_scale = |scale: f64, more: f64| {
            check::positive("loss_scale_factor", scale)?;
            Ok::<f64, ObjectiveError>(scale * more)
        };
        let by_completions = || {
            check::positive("totals.completions", totals.completions)?;
            Ok::<f64, ObjectiveError>(totals.completions)
        };
        let divisor = match self {
            Self::TokenMean => {
                check::positive("totals.tokens", totals.tokens)?;
                totals.tokens
            }
            Self::LocalTokenMean => {
                check::positive("totals.micro_batches", totals.micro_batches)?;
                layout.tokens.max(1.0) * totals.micro_batches
            }
            Self::TokenSum => 1.0,
            Self::SeqMeanTokenSum => by_completions()?,
            Self::SeqMeanTokenMean => {
                let divisor = by_completions()?;
                return Ok((layout.means(losses)?.sum_all()? * (1.0 / divisor))?);
            }
            Self::SeqMeanTokenSumNorm { loss_scale_factor } => {
                by_scale(loss_scale_factor, by_completions()?)?
            }
            Self::TokenSumNorm { loss_scale_factor } => by_scale(loss_scale_factor, 1.0)?,
        };
        Ok((layout.masked(losses)?.sum_all()? * (1.0 / divisor))?)
    }
}
