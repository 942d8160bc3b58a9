//! The policy loss of a micro-batch.

use candle_core::Tensor;

use super::aggregate::{Aggregation, Totals};
use super::bounds::{Bounds, finite, not_negative};
use super::kl::Kl;
use super::metrics::PolicyMetrics;
use super::ratio::Inputs;
use super::surrogate::Surrogate;
use super::tokens::{Advantages, Layout, PolicyTokens};
use crate::{ObjectiveError, check};

/// Settings of the policy loss. [`PolicyLoss::of_loss_type`] has them by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLoss {
    /// The loss of one token.
    pub surrogate: Surrogate,
    /// What the log-ratio is clamped to before its exponential; beyond, there is no gradient.
    pub log_ratio_clamp: Bounds,
    /// The loss of a step.
    pub aggregation: Aggregation,
    /// Weight of the KL term in the loss (TRL's `beta`, verl's `kl_loss_coef`); 0 leaves it out.
    pub beta: f64,
    /// The KL term, aggregated like the loss.
    pub kl: Kl,
    /// Whether the KL term is multiplied by the ratio (DeepSeek-V3.2, arXiv 2512.02556), which
    /// makes its mean right for tokens of the old policy.
    pub use_bias_correction_kl: bool,
    /// Weight of the entropy, which is taken off the loss; 0 leaves it out.
    pub entropy_coef: f64,
    /// The mean of the entropy: over tokens in TRL, as the loss in verl.
    pub entropy_aggregation: Aggregation,
}

/// Loss of a micro-batch and what is logged beside it.
#[derive(Debug, Clone)]
pub struct PolicyOutput {
    /// This micro-batch's share of the step's loss, a scalar to differentiate.
    pub loss: Tensor,
    /// Loss of each token with its KL term, `[tokens]`, without gradient; 0 where the weight is 0.
    pub token_losses: Tensor,
    /// Sums to be merged over the step and then read.
    pub metrics: PolicyMetrics,
}

/// Computes this micro-batch's share of the step's policy loss:
///
/// ```text
/// aggregate(corrections * surrogate + beta * kl) - entropy_coef * aggregate(entropy)
/// ```
pub fn policy_loss(
    tokens: &PolicyTokens<'_>,
    totals: &Totals,
    settings: &PolicyLoss,
) -> Result<PolicyOutput, ObjectiveError> {
    let layout = Layout::new(&tokens.layout, "logps", tokens.logps)?;
    let like = tokens.logps;
    not_negative("beta", settings.beta)?;
    finite("entropy_coef", settings.entropy_coef)?;
    settings.log_ratio_clamp.check("log_ratio_clamp", true)?;

    let beside = |what, tensor: Option<&Tensor>| {
        tensor.map(|tensor| layout.beside(what, tensor, like)).transpose()
    };
    let logps = layout.masked(like)?;
    let old_logps = beside("old_logps", tokens.old_logps)?.unwrap_or_else(|| logps.detach());
    let advantages = match tokens.advantages {
        Advantages::Token(advantages) => layout.beside("advantages", advantages, like)?,
        Advantages::Completion(advantages) => {
            check::shape("advantages", advantages, &[layout.completions])?;
            let advantages = advantages.detach().to_dtype(like.dtype())?;
            layout.masked(&layout.spread(&advantages)?)?
        }
    };
    let chosen = beside("chosen", tokens.chosen)?;
    let inputs = Inputs {
        layout: &layout,
        logps: &logps,
        old_logps: &old_logps,
        advantages: &advantages,
        chosen: chosen.as_ref(),
        log_ratio_clamp: settings.log_ratio_clamp,
    };
    let terms = settings.surrogate.terms(&inputs)?;
    let mut losses = layout.masked(&terms.losses)?;
    if let Some(corrections) = beside("corrections", tokens.corrections)? {
        losses = (losses * corrections)?;
    }

    let mut metrics = PolicyMetrics::of(&layout, &inputs, &terms, settings, tokens)?;
    if settings.beta != 0.0 {
        let Some(reference) = beside("reference_logps", tokens.reference_logps)? else {
            return Err(ObjectiveError::Missing { what: "reference_logps", by: "beta" });
        };
        let mut kl = settings.kl.tokens(&logps, &reference)?;
        if settings.use_bias_correction_kl {
            let what = "use_bias_correction_kl";
            let ratio = terms.ratio.as_ref();
            let ratio =
                ratio.ok_or(ObjectiveError::Conflict { what, with: "a loss without ratio" })?;
            kl = (kl * ratio)?;
        }
        let kl = layout.masked(&kl)?;
        metrics.note_kl(&layout, &kl)?;
        losses = (losses + (kl * settings.beta)?)?;
    }
    let mut loss = settings.aggregation.of(&losses, &layout, totals)?;

    if let Some(entropies) = tokens.entropies {
        check::shape("entropies", entropies, like.dims())?;
        check::logps("entropies", entropies)?;
        let entropies = layout.masked(&entropies.to_dtype(like.dtype())?)?;
        metrics.note_entropy(&layout, &entropies)?;
        if settings.entropy_coef != 0.0 {
            let entropy = settings.entropy_aggregation.of(&entropies, &layout, totals)?;
            loss = (loss - (entropy * settings.entropy_coef)?)?;
        }
    } else if settings.entropy_coef != 0.0 {
        return Err(ObjectiveError::Missing { what: "entropies", by: "entropy_coef" });
    }
    Ok(PolicyOutput { loss, token_losses: losses.detach(), metrics })
}
