//! Losses on pairs of continuations of which one is preferred.
//!
//! [`preference`] computes any weighted sum of the losses of [`PreferenceLoss`]; each family has a
//! file with papers and equations. Log-probs are sums over a continuation's tokens
//! ([`sequence_logps`](crate::sequence_logps)), possibly with weights for LD-DPO
//! ([`ld_weights`](crate::ld_weights)). Gradients flow to the policy's log-probs alone.
//!
//! Beside the losses stands the likelihood of the chosen answers: `rpo_alpha` (Pang et al., arXiv
//! 2404.19733), the loss `sft`, and the terms of `orpo` and `cpo` are all weights of the same mean
//! over the step's chosen tokens. With `use_weighting` a pair's losses are multiplied by both answers'
//! weights and the likelihood is left as it is; TRL multiplies its mean by the mean of the weights.

mod classifier;
mod divergence;
mod inputs;
mod kind;
mod logistic;
mod metrics;
mod reference_free;
mod regression;
mod settings;
mod terms;
mod transport;

use candle_core::{DType, Tensor};

pub use divergence::Divergence;
pub use inputs::{ChosenTokens, PairLogps, SideLogps, StepLogps, Totals};
pub use kind::PreferenceLoss;
pub(crate) use kind::by_name;
pub use metrics::{PreferenceMetrics, RewardBaseline};
pub use settings::Preference;

use crate::{ObjectiveError, check, nll};
use terms::Terms;

/// Loss of a micro-batch and what is logged beside it.
#[derive(Debug, Clone)]
pub struct PreferenceOutput {
    /// This micro-batch's share of the step's loss, a scalar to differentiate.
    pub loss: Tensor,
    /// Weighted sum of each pair's losses, `[pairs]`, without the likelihood of chosen tokens.
    pub pair_losses: Tensor,
    /// Sums to be merged over the step and then read.
    pub metrics: PreferenceMetrics,
}

/// Computes this micro-batch's share of the step's preference loss.
///
/// `tokens` is needed where the likelihood of the chosen answers is part of the loss and ignored
/// otherwise. Shares are additive: `totals` counts the whole step.
pub fn preference(
    logps: &PairLogps<'_>,
    tokens: Option<&ChosenTokens<'_>>,
    totals: &Totals,
    settings: &Preference,
) -> Result<PreferenceOutput, ObjectiveError> {
    logps.check()?;
    check::positive("totals.pairs", totals.pairs)?;
    settings.validate()?;
    settings.check_inputs(logps)?;

    let terms = Terms { logps, settings };
    let mut pair_losses = logps.chosen.policy.zeros_like()?;
    for (loss, weight) in settings.weighted() {
        if let Some(losses) = pair_loss(loss, &terms, totals)? {
            pair_losses = (pair_losses + (losses * weight)?)?;
        }
    }
    if let (true, Some(chosen), Some(rejected)) =
        (settings.use_weighting, logps.chosen.weights, logps.rejected.weights)
    {
        pair_losses = (pair_losses * (chosen.detach() * rejected.detach())?)?;
    }
    let mut loss = (pair_losses.sum_all()? * (1.0 / totals.pairs))?;

    let mut metrics = PreferenceMetrics::new(
        &terms.logged_rewards()?,
        logps.chosen.policy,
        logps.rejected.policy,
    )?;
    let nll_weight = settings.nll_weight();
    if nll_weight != 0.0 {
        let Some(tokens) = tokens else {
            let by = settings.loss_type.iter().find(|loss| loss.reads_chosen_tokens());
            let by = by.map_or("rpo_alpha", |loss| loss.name());
            return Err(ObjectiveError::Missing { what: "chosen tokens", by });
        };
        let nll = nll(tokens.logps, tokens.weights, totals.chosen_tokens)?;
        metrics = metrics.with_nll(nll.to_dtype(DType::F64)?.to_scalar()?);
        loss = (loss + (nll * nll_weight)?)?;
    }
    Ok(PreferenceOutput { loss, pair_losses, metrics })
}

/// Loss of each pair, `[pairs]`; `sft` is about tokens and has none.
fn pair_loss(
    loss: PreferenceLoss,
    terms: &Terms<'_>,
    totals: &Totals,
) -> Result<Option<Tensor>, ObjectiveError> {
    Ok(Some(match loss {
        PreferenceLoss::Sigmoid => logistic::dpo(terms)?,
        PreferenceLoss::SigmoidNorm => logistic::sigmoid_norm(terms)?,
        PreferenceLoss::Robust => logistic::robust(terms)?,
        PreferenceLoss::Hinge => logistic::hinge(terms)?,
        PreferenceLoss::Discopop => logistic::discopop(terms)?,
        PreferenceLoss::ExoPair => logistic::exo_pair(terms)?,
        PreferenceLoss::Dno => logistic::dno(terms)?,
        PreferenceLoss::Ipo => regression::ipo(terms)?,
        // INPO is the summed form against the mixture that the log-ratios already hold.
        PreferenceLoss::IpoSum | PreferenceLoss::Inpo => regression::ipo_sum(terms)?,
        PreferenceLoss::Sppo => regression::sppo(terms)?,
        PreferenceLoss::SppoHard => regression::sppo_hard(terms)?,
        PreferenceLoss::NcaPair => classifier::nca_pair(terms)?,
        PreferenceLoss::BcoPair => classifier::bco_pair(terms)?,
        PreferenceLoss::ApoZero => classifier::apo_zero(terms)?,
        PreferenceLoss::ApoDown => classifier::apo_down(terms)?,
        PreferenceLoss::Aot => transport::aot(terms, totals)?,
        PreferenceLoss::AotUnpaired => transport::aot_unpaired(terms, totals)?,
        PreferenceLoss::Simpo => reference_free::simpo(terms)?,
        PreferenceLoss::Orpo => reference_free::orpo(terms)?,
        PreferenceLoss::Cpo => reference_free::cpo(terms)?,
        PreferenceLoss::Sft => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
