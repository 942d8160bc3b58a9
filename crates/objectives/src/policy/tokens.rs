//! What a policy loss is given, and sums over completions.

use candle_core::{DType, Tensor};

use super::bounds::{segments as check_segments, zeros_and_ones};
use crate::{ObjectiveError, check};

/// Where the tokens of a micro-batch belong.
#[derive(Debug, Clone, Copy)]
pub struct CompletionTokens<'a> {
    /// The completion of each token, `[tokens]` of `u32` below `completions`.
    pub segments: &'a Tensor,
    /// How many completions the micro-batch has.
    pub completions: usize,
    /// 1 for tokens that count and 0 for others, `[tokens]`.
    pub weights: &'a Tensor,
}

/// Advantages; no gradient flows there.
#[derive(Debug, Clone, Copy)]
pub enum Advantages<'a> {
    /// One for each completion, `[completions]`.
    Completion(&'a Tensor),
    /// One for each token, `[tokens]`.
    Token(&'a Tensor),
}

/// Tokens of a micro-batch's completions; every tensor is `[tokens]`.
#[derive(Debug, Clone, Copy)]
pub struct PolicyTokens<'a> {
    /// Where they belong.
    pub layout: CompletionTokens<'a>,
    /// Log-probs under the policy, the path of the gradient.
    pub logps: &'a Tensor,
    /// Log-probs under the policy that sampled them; `None` where it is the policy as it is.
    pub old_logps: Option<&'a Tensor>,
    /// Log-probs under the reference; needed by `beta`.
    pub reference_logps: Option<&'a Tensor>,
    /// How good they were.
    pub advantages: Advantages<'a>,
    /// Factors of the tokens' losses, but not of their KL term: corrections for a sampler that is
    /// not quite the old policy, [`off_policy_mask`](super::off_policy_mask),
    /// [`high_entropy_mask`](super::high_entropy_mask).
    pub corrections: Option<&'a Tensor>,
    /// Entropies of the policy at the tokens; needed by `entropy_coef`.
    pub entropies: Option<&'a Tensor>,
    /// 1 for the tokens that Clip-Cov drops or KL-Cov penalises; needed by these two.
    pub chosen: Option<&'a Tensor>,
}

/// Checked segments and weights, here and on the host.
pub(crate) struct Layout {
    segments: Tensor,
    inside: Tensor,
    counts: Tensor,
    pub(crate) completions: usize,
    pub(crate) host_segments: Vec<u32>,
    pub(crate) host_weights: Vec<f64>,
    pub(crate) host_counts: Vec<f64>,
    pub(crate) tokens: f64,
}

impl Layout {
    /// Checks the layout of tokens that have a number each in `like`.
    pub(crate) fn new(
        layout: &CompletionTokens<'_>,
        what: &'static str,
        like: &Tensor,
    ) -> Result<Self, ObjectiveError> {
        let len = check::logps(what, like)?;
        check::positive("tokens", len as f64)?;
        check::shape("segments", layout.segments, &[len])?;
        check::shape("weights", layout.weights, &[len])?;
        if layout.segments.dtype() != DType::U32 {
            let got = layout.segments.dtype();
            return Err(ObjectiveError::DType { what: "segments", expected: "u32", got });
        }
        let host_segments = layout.segments.to_vec1::<u32>()?;
        check_segments(&host_segments, layout.completions)?;
        let host_weights = host(layout.weights)?;
        zeros_and_ones(&host_weights)?;
        let mut host_counts = vec![0.0; layout.completions];
        for (segment, weight) in host_segments.iter().zip(&host_weights) {
            host_counts[*segment as usize] += weight;
        }
        let device = like.device();
        // A completion without tokens sums to 0; what that is divided by does not matter.
        let counts: Vec<f64> = host_counts.iter().map(|c| c.max(1.0)).collect();
        Ok(Self {
            segments: layout.segments.clone(),
            inside: layout.weights.detach().gt(0.0)?,
            counts: Tensor::new(counts, device)?.to_dtype(like.dtype())?,
            completions: layout.completions,
            host_segments,
            tokens: host_weights.iter().sum(),
            host_weights,
            host_counts,
        })
    }

    /// Zeros where the weight is 0, whatever stands there.
    pub(crate) fn masked(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        self.inside.where_cond(tokens, &tokens.zeros_like()?)
    }

    /// Sums over the tokens of each completion, `[completions]`.
    pub(crate) fn sums(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let zeros = Tensor::zeros(self.completions, tokens.dtype(), tokens.device())?;
        zeros.index_add(&self.segments, &self.masked(tokens)?, 0)
    }

    /// Means over the tokens of each completion, `[completions]`; 0 where it has none.
    pub(crate) fn means(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        self.sums(tokens)? / &self.counts
    }

    /// Gives every token what its completion has, `[tokens]`.
    pub(crate) fn spread(&self, completions: &Tensor) -> candle_core::Result<Tensor> {
        completions.index_select(&self.segments, 0)
    }

    /// A tensor beside the log-probs: of their shape, in their type, without gradient, 0 where the
    /// weight is 0.
    pub(crate) fn beside(
        &self,
        what: &'static str,
        tensor: &Tensor,
        like: &Tensor,
    ) -> Result<Tensor, ObjectiveError> {
        check::shape(what, tensor, like.dims())?;
        Ok(self.masked(&tensor.detach().to_dtype(like.dtype())?)?)
    }

    /// The sum over the tokens that count of a host vector.
    pub(crate) fn host_sum(&self, values: &[f64]) -> f64 {
        let inside = values.iter().zip(&self.host_weights).filter(|(_, w)| **w > 0.0);
        inside.map(|(v, _)| v).sum()
    }
}

/// A vector of any float type on the host.
pub(crate) fn host(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.detach().to_dtype(DType::F64)?.to_vec1()
}
