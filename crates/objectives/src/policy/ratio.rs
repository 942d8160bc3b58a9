//! The ratio of the policy to the one that sampled, over tokens or whole completions.

use candle_core::Tensor;

use super::bounds::Bounds;
use super::tokens::Layout;
use crate::ObjectiveError;

/// Over what the ratio is taken (TRL's `importance_sampling_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Each token has its own.
    Token,
    /// GSPO (Zheng et al., arXiv 2507.18071, equation 7): `exp` of the completion's mean log-ratio,
    /// the gradient flowing through the mean.
    Sequence,
    /// GSPO-token (its equation 14): the same number, the gradient flowing through each token's own
    /// log-prob, which is verl's `gspo`. With one advantage for a completion and
    /// [`Aggregation::SeqMeanTokenMean`](super::Aggregation::SeqMeanTokenMean) both are the same.
    SequenceToken,
    /// `exp` of the completion's summed log-ratio: TRL's RLOO.
    SequenceSum,
}

/// Losses of tokens and what they came from.
pub(crate) struct Terms {
    /// `[tokens]`.
    pub(crate) losses: Tensor,
    /// The ratio before any clip, `[tokens]`; none for forms without one.
    pub(crate) ratio: Option<Tensor>,
}

/// Checked tensors of a micro-batch, `[tokens]` each.
pub(crate) struct Inputs<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) logps: &'a Tensor,
    pub(crate) old_logps: &'a Tensor,
    pub(crate) advantages: &'a Tensor,
    pub(crate) chosen: Option<&'a Tensor>,
    pub(crate) log_ratio_clamp: Bounds,
}

impl Inputs<'_> {
    /// The clamped logarithm of the ratio, `[tokens]`.
    pub(crate) fn log_ratio(&self, level: Level) -> candle_core::Result<Tensor> {
        let layout = self.layout;
        let d = (self.logps - self.old_logps)?;
        let d = match level {
            Level::Token => d,
            Level::Sequence => layout.spread(&layout.means(&d)?)?,
            Level::SequenceToken => {
                let own = (self.logps - self.logps.detach())?;
                (own + layout.spread(&layout.means(&d.detach())?)?)?
            }
            Level::SequenceSum => layout.spread(&layout.sums(&d)?)?,
        };
        self.log_ratio_clamp.clamp(&d)
    }

    /// The ratio, `[tokens]`.
    pub(crate) fn ratio(&self, level: Level) -> candle_core::Result<Tensor> {
        self.log_ratio(level)?.exp()
    }

    /// PPO's loss of each token, given the ratio for its clipped and its unclipped half.
    pub(crate) fn clipped(
        &self,
        ratio: &Tensor,
        capped: &Tensor,
        clip: Bounds,
    ) -> candle_core::Result<Tensor> {
        let plain = (capped * self.advantages)?.neg()?;
        plain.maximum(&(clip.clamp(ratio)? * self.advantages)?.neg()?)
    }

    /// The tokens that were chosen, which `by` needs.
    pub(crate) fn chosen(&self, by: &'static str) -> Result<&Tensor, ObjectiveError> {
        self.chosen.ok_or(ObjectiveError::Missing { what: "chosen", by })
    }
}
