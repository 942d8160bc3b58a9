//! What is known of a micro-batch of pairs.

use candle_core::Tensor;

use crate::{ObjectiveError, check};

/// What is known of one side of the pairs; every tensor is `[pairs]`. Gradients flow to `policy`
/// alone.
#[derive(Debug, Clone, Copy)]
pub struct SideLogps<'a> {
    /// Sequence log-probs under the policy.
    pub policy: &'a Tensor,
    /// Sequence log-probs under the reference.
    pub reference: Option<&'a Tensor>,
    /// Sequence log-probs under the policy that the round began with, where the reference is a
    /// mixture (`mixture_ratio`).
    pub previous: Option<&'a Tensor>,
    /// Numbers of tokens, for losses on averages.
    pub lengths: Option<&'a Tensor>,
    /// WPO's weights ([`wpo_weights`](crate::wpo_weights)), for `use_weighting`.
    pub weights: Option<&'a Tensor>,
    /// Estimated rates, from 0 to 1, at which the continuation wins against the policy that the
    /// round began with.
    pub win_rates: Option<&'a Tensor>,
}

impl<'a> SideLogps<'a> {
    /// Log-probs under the policy and the reference, and nothing else.
    pub fn new(policy: &'a Tensor, reference: &'a Tensor) -> Self {
        Self { reference: Some(reference), ..Self::alone(policy) }
    }

    /// Log-probs under the policy, for losses without a reference.
    pub fn alone(policy: &'a Tensor) -> Self {
        let (reference, previous, lengths, weights, win_rates) = (None, None, None, None, None);
        Self { policy, reference, previous, lengths, weights, win_rates }
    }

    fn check(&self, names: [&'static str; 6], pairs: usize) -> Result<(), ObjectiveError> {
        let given = [
            Some(self.policy),
            self.reference,
            self.previous,
            self.lengths,
            self.weights,
            self.win_rates,
        ];
        for (name, tensor) in names.into_iter().zip(given) {
            let Some(tensor) = tensor else { continue };
            check::shape(name, tensor, &[pairs])?;
            check::logps(name, tensor)?;
        }
        Ok(())
    }
}

/// A micro-batch of pairs.
#[derive(Debug, Clone, Copy)]
pub struct PairLogps<'a> {
    /// The continuations to be preferred.
    pub chosen: SideLogps<'a>,
    /// The others.
    pub rejected: SideLogps<'a>,
    /// Added to the logit of each pair, `[pairs]`, by the losses that have one.
    pub margins: Option<&'a Tensor>,
    /// All pairs of the step, for `aot` and `aot_unpaired`; needed where there are more of them than
    /// in this micro-batch.
    pub step: Option<StepLogps<'a>>,
}

impl<'a> PairLogps<'a> {
    /// Two sides, no margins.
    pub fn new(chosen: SideLogps<'a>, rejected: SideLogps<'a>) -> Self {
        Self { chosen, rejected, margins: None, step: None }
    }

    /// Number of pairs; refuses tensors that do not fit.
    pub(crate) fn check(&self) -> Result<usize, ObjectiveError> {
        let pairs = check::logps("chosen", self.chosen.policy)?;
        check::positive("pairs", pairs as f64)?;
        self.chosen.check(
            [
                "chosen",
                "reference_chosen",
                "previous_chosen",
                "lengths_chosen",
                "weights_chosen",
                "win_rates_chosen",
            ],
            pairs,
        )?;
        self.rejected.check(
            [
                "rejected",
                "reference_rejected",
                "previous_rejected",
                "lengths_rejected",
                "weights_rejected",
                "win_rates_rejected",
            ],
            pairs,
        )?;
        if let Some(margins) = self.margins {
            check::shape("margins", margins, &[pairs])?;
            check::logps("margins", margins)?;
        }
        Ok(pairs)
    }
}

/// Sequence log-probs of all pairs of a step, in one order for all four.
///
/// Losses that sort need them: what a pair is matched with depends on every other pair. They are
/// plain numbers, from a pass without gradients over the whole step before its micro-batches.
#[derive(Debug, Clone, Copy)]
pub struct StepLogps<'a> {
    /// Chosen continuations under the policy.
    pub chosen: &'a [f64],
    /// Rejected continuations under the policy.
    pub rejected: &'a [f64],
    /// Chosen continuations under the reference.
    pub reference_chosen: &'a [f64],
    /// Rejected continuations under the reference.
    pub reference_rejected: &'a [f64],
    /// Which of them is the first pair of the micro-batch; the others follow it.
    pub start: usize,
}

/// Token log-probs of the chosen continuations, for the terms that hold their likelihood; both are
/// `[tokens]`.
#[derive(Debug, Clone, Copy)]
pub struct ChosenTokens<'a> {
    /// Log-probability of each token under the policy.
    pub logps: &'a Tensor,
    /// 1 for tokens that count.
    pub weights: &'a Tensor,
}

/// What the means of a step are taken over: all its micro-batches and ranks together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Totals {
    /// Pairs.
    pub pairs: f64,
    /// Weight of the chosen tokens; only read where their likelihood is part of the loss.
    pub chosen_tokens: f64,
}
