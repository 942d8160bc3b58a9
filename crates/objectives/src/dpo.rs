//! Direct preference optimisation with the sigmoid loss.
//!
//! Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), equation 7:
//!
//! ```text
//! reward(y) = beta * (log pi(y|x) - log pi_ref(y|x))
//! h         = reward(chosen) - reward(rejected) + margin
//! loss      = -(1 - eps) * log sigmoid(h) - eps * log sigmoid(-h)  [ + rpo_alpha * NLL(chosen) ]
//! ```
//!
//! `eps` is the label smoothing of conservative DPO (Mitchell, "A note on DPO with noisy
//! preferences"); 0 is the paper's loss. `margin` shifts the logit of a pair by what another judge
//! thinks of it (our reading of VideoSAVi's CLIP-adjusted DPO); 0 is the paper's loss. The last term
//! keeps the chosen answers likely (Pang et al., arXiv 2404.19733; TRL's `rpo_alpha`, in newer
//! releases the loss types `sigmoid` and `sft` with weights 1 and `rpo_alpha`): it is the mean over
//! the step's chosen tokens. Logged rewards leave the margin out, as they are about the policy.

use candle_core::{DType, Tensor};

use crate::{ObjectiveError, check, nll};

/// Settings of the loss, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// How strongly the policy is kept near the reference; positive.
    pub beta: f64,
    /// Share of the labels taken to be wrong, from 0 to below 0.5.
    pub label_smoothing: f64,
    /// Weight of the chosen answers' negative log-likelihood; 0 leaves it out.
    pub rpo_alpha: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0, rpo_alpha: 0.0 }
    }
}

/// Sequence log-probs of a micro-batch of pairs; every tensor is `[pairs]`.
#[derive(Debug, Clone, Copy)]
pub struct PairLogps<'a> {
    /// Chosen continuations under the policy.
    pub chosen: &'a Tensor,
    /// Rejected continuations under the policy.
    pub rejected: &'a Tensor,
    /// Chosen continuations under the reference; no gradient flows there.
    pub reference_chosen: &'a Tensor,
    /// Rejected continuations under the reference; no gradient flows there.
    pub reference_rejected: &'a Tensor,
    /// Added to the logit of each pair.
    pub margins: Option<&'a Tensor>,
}

/// Token log-probs of the chosen continuations, for the `rpo_alpha` term; both are `[tokens]`.
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
    /// Weight of the chosen tokens; only read where `rpo_alpha` is not 0.
    pub chosen_tokens: f64,
}

/// Loss of a micro-batch and what is logged beside it.
#[derive(Debug, Clone)]
pub struct DpoOutput {
    /// This micro-batch's share of the step's loss, a scalar to differentiate.
    pub loss: Tensor,
    /// Sigmoid loss of each pair, `[pairs]`, without the `rpo_alpha` term.
    pub pair_losses: Tensor,
    /// Sums to be merged over the step and then read.
    pub metrics: PreferenceMetrics,
}

/// Computes this micro-batch's share of the step's DPO loss, see the head of this file.
///
/// `tokens` is needed where `settings.rpo_alpha` is not 0 and ignored otherwise.
pub fn dpo(
    logps: &PairLogps<'_>,
    tokens: Option<&ChosenTokens<'_>>,
    totals: &Totals,
    settings: &Dpo,
) -> Result<DpoOutput, ObjectiveError> {
    let pairs = check::logps("chosen", logps.chosen)?;
    for (what, tensor) in [
        ("rejected", Some(logps.rejected)),
        ("reference_chosen", Some(logps.reference_chosen)),
        ("reference_rejected", Some(logps.reference_rejected)),
        ("margins", logps.margins),
    ] {
        let Some(tensor) = tensor else { continue };
        check::shape(what, tensor, &[pairs])?;
        check::logps(what, tensor)?;
    }
    check::positive("pairs", pairs as f64)?;
    check::positive("totals.pairs", totals.pairs)?;
    check::positive("beta", settings.beta)?;
    let smoothing = settings.label_smoothing;
    if !(0.0..0.5).contains(&smoothing) {
        let (name, expected) = ("label_smoothing", "at least 0 and below 0.5");
        return Err(ObjectiveError::Setting { name, value: smoothing, expected });
    }

    let reward =
        |policy: &Tensor, reference: &Tensor| (policy - reference.detach())? * settings.beta;
    let rewards_chosen = reward(logps.chosen, logps.reference_chosen)?;
    let rewards_rejected = reward(logps.rejected, logps.reference_rejected)?;
    let mut logit = (&rewards_chosen - &rewards_rejected)?;
    if let Some(margins) = logps.margins {
        logit = (logit + margins.detach())?;
    }
    let mut pair_losses = softplus(&logit.neg()?)?;
    if smoothing > 0.0 {
        pair_losses = ((pair_losses * (1.0 - smoothing))? + (softplus(&logit)? * smoothing)?)?;
    }
    let mut loss = (pair_losses.sum_all()? * (1.0 / totals.pairs))?;

    let mut metrics =
        PreferenceMetrics::new(&rewards_chosen, &rewards_rejected, logps.chosen, logps.rejected)?;
    if settings.rpo_alpha != 0.0 {
        let Some(tokens) = tokens else {
            let (name, expected) = ("rpo_alpha", "0 where no chosen tokens are given");
            return Err(ObjectiveError::Setting { name, value: settings.rpo_alpha, expected });
        };
        let nll = nll(tokens.logps, tokens.weights, totals.chosen_tokens)?;
        metrics.nll = Some(nll.to_dtype(DType::F64)?.to_scalar()?);
        loss = (loss + (nll * settings.rpo_alpha)?)?;
    }
    Ok(DpoOutput { loss, pair_losses, metrics })
}

/// `log(1 + exp(x))`, which is `-log sigmoid(-x)`, for any finite `x`.
///
/// The maximum is taken out as a constant. Written with `relu` and `abs` instead, the gradient at 0
/// would come out as 0 rather than 1/2, and 0 is exactly where every run starts.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    let max = x.detach().relu()?;
    (&max + (max.neg()?.exp()? + (x - &max)?.exp()?)?.log()?)?.reshape(x.shape())
}

/// Figures about a step's pairs under TRL's names, held as sums so that micro-batches can be merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreferenceMetrics {
    pairs: f64,
    rewards_chosen: f64,
    rewards_rejected: f64,
    accuracies: f64,
    logps_chosen: f64,
    logps_rejected: f64,
    nll: Option<f64>,
}

impl PreferenceMetrics {
    fn new(
        rewards_chosen: &Tensor,
        rewards_rejected: &Tensor,
        logps_chosen: &Tensor,
        logps_rejected: &Tensor,
    ) -> candle_core::Result<Self> {
        let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
        let (chosen, rejected) = (values(rewards_chosen)?, values(rewards_rejected)?);
        Ok(Self {
            pairs: chosen.len() as f64,
            accuracies: chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count() as f64,
            rewards_chosen: chosen.iter().sum(),
            rewards_rejected: rejected.iter().sum(),
            logps_chosen: values(logps_chosen)?.iter().sum(),
            logps_rejected: values(logps_rejected)?.iter().sum(),
            nll: None,
        })
    }

    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.rewards_chosen += other.rewards_chosen;
        self.rewards_rejected += other.rewards_rejected;
        self.accuracies += other.accuracies;
        self.logps_chosen += other.logps_chosen;
        self.logps_rejected += other.logps_rejected;
        if let Some(more) = other.nll {
            *self.nll.get_or_insert(0.0) += more;
        }
    }

    /// The figures by TRL's names, means over the pairs; `nll_loss` only where it is part of the
    /// loss. A pair counts as accurate when its chosen reward is the greater one.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: f64| sum / self.pairs;
        let mut rows = vec![
            ("rewards/chosen", mean(self.rewards_chosen)),
            ("rewards/rejected", mean(self.rewards_rejected)),
            ("rewards/margins", mean(self.rewards_chosen - self.rewards_rejected)),
            ("rewards/accuracies", mean(self.accuracies)),
            ("logps/chosen", mean(self.logps_chosen)),
            ("logps/rejected", mean(self.logps_rejected)),
        ];
        rows.extend(self.nll.map(|nll| ("nll_loss", nll)));
        rows
    }
}

#[cfg(test)]
mod tests;
