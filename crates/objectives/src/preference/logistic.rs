//! Losses that are a function of one logit, DPO first.
//!
//! Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), equation 7:
//!
//! ```text
//! reward(y) = beta * (log pi(y|x) - log pi_ref(y|x))
//! h         = reward(chosen) - reward(rejected) + margin
//! sigmoid   = -(1 - eps) log sigmoid(h) - eps log sigmoid(-h)
//! ```
//!
//! `eps` is `label_smoothing`, 0 in the paper; above 0 it is conservative DPO (Mitchell, "A note on
//! DPO with noisy preferences", equation 3; TRL 1.16 reads no smoothing in `sigmoid`).
//! `margin` shifts the logit of a pair by what another judge thinks of it (our reading of VideoSAVi's
//! CLIP-adjusted DPO); 0 is the paper's loss. The others:
//!
//! - `sigmoid_norm`: the same on averages over tokens (Lambert et al., Tulu 3, arXiv 2411.15124).
//! - `robust`: `(-(1 - eps) log sigmoid(h) + eps log sigmoid(-h)) / (1 - 2 eps)`, unbiased where a
//!   share `eps` of the labels is flipped (Chowdhury et al., arXiv 2403.00409).
//! - `hinge`: `max(0, 1 - h)` (SLiC, Zhao et al., arXiv 2305.10425; normalised as in RSO, Liu et al.,
//!   arXiv 2309.06657).
//! - `discopop`: `(1 - m) * -log sigmoid(h) + m * exp(-h)` with `m = sigmoid(h / tau)` (Lu et al.,
//!   arXiv 2406.08414, equation 5).
//! - `exo_pair`: `KL(q || p)` with `q = [sigmoid(h), sigmoid(-h)]`, `p = [1 - eps, eps]` (Ji et al.,
//!   arXiv 2402.00856, equation 16).
//! - `dno`: `-s log sigmoid(h) - (1 - s) log sigmoid(-h)` with `s = sigmoid(scale * (r_1 - r_2))`,
//!   `r` the win rates (Rosset et al., "Direct Nash Optimization", arXiv 2404.03715, algorithm 1);
//!   `beta` is the paper's `eta`. A scale above 1 keeps the target policy where `beta` is scaled by it
//!   too. `mixture_ratio` below 1 is the regularised form of the appendix.

use candle_core::{Result, Tensor};

use super::terms::Terms;
use crate::stable::{log_sigmoid, sigmoid, softplus};

/// `-(1 - eps) log sigmoid(h) - eps log sigmoid(-h)`.
pub(crate) fn smoothed(logit: &Tensor, eps: f64) -> Result<Tensor> {
    let loss = softplus(&logit.neg()?)?;
    if eps == 0.0 {
        return Ok(loss);
    }
    (loss * (1.0 - eps))? + (softplus(logit)? * eps)?
}

pub(crate) fn dpo(terms: &Terms<'_>) -> Result<Tensor> {
    smoothed(&terms.logit(&terms.scores()?)?, terms.settings.label_smoothing)
}

pub(crate) fn sigmoid_norm(terms: &Terms<'_>) -> Result<Tensor> {
    smoothed(&terms.logit(&terms.averages(&terms.scores()?)?)?, 0.0)
}

pub(crate) fn robust(terms: &Terms<'_>) -> Result<Tensor> {
    let (logit, eps) = (terms.logit(&terms.scores()?)?, terms.settings.label_smoothing);
    let (clean, flipped) = (softplus(&logit.neg()?)?, softplus(&logit)?);
    ((clean * (1.0 - eps))? - (flipped * eps)?)? * (1.0 / (1.0 - 2.0 * eps))
}

pub(crate) fn hinge(terms: &Terms<'_>) -> Result<Tensor> {
    (1.0 - terms.logit(&terms.scores()?)?)?.relu()
}

pub(crate) fn discopop(terms: &Terms<'_>) -> Result<Tensor> {
    let logit = terms.logit(&terms.scores()?)?;
    let modulation = (&logit * (1.0 / terms.settings.discopop_tau))?;
    let logistic = (softplus(&logit.neg()?)? * sigmoid(&modulation.neg()?)?)?;
    // m * exp(-h) in one exponential: with tau at most 1 its exponent is never above 0, while
    // exp(-h) alone overflows where its weight vanishes.
    logistic + (log_sigmoid(&modulation)? - logit)?.exp()?
}

pub(crate) fn exo_pair(terms: &Terms<'_>) -> Result<Tensor> {
    let (logit, eps) = (terms.logit(&terms.scores()?)?, terms.settings.label_smoothing);
    let half = |log_q: Tensor, p: f64| log_q.exp()? * (log_q - p.ln())?;
    half(log_sigmoid(&logit)?, 1.0 - eps)? + half(log_sigmoid(&logit.neg()?)?, eps)?
}

pub(crate) fn dno(terms: &Terms<'_>) -> Result<Tensor> {
    let logit = terms.logit(&terms.ratios()?)?;
    let (chosen, rejected) = terms.win_rates()?;
    let target = sigmoid(&((chosen - rejected)? * terms.settings.dno_scale)?)?;
    let other = (1.0 - &target)?;
    (target * softplus(&logit.neg()?)?)? + (other * softplus(&logit)?)?
}
