//! Losses that read no reference.
//!
//! With `a` the average log-probability of an answer's tokens and `l` their sum:
//!
//! - `simpo`: `-log sigmoid(beta (a_c - a_r) - gamma)` (Meng et al., arXiv 2405.14734, equation 6).
//! - `orpo`: `NLL(chosen) - beta log sigmoid(log odds_c - log odds_r)` with
//!   `log odds = a - log(1 - exp(a))` (Hong et al., arXiv 2403.07691, equations 6 and 7; `beta` is its
//!   lambda). Over which tokens the likelihood runs is the caller's choice: TRL takes the prompt's too.
//! - `cpo`: `-log sigmoid(beta (l_c - l_r)) + cpo_alpha NLL(chosen)` (Xu et al., arXiv 2401.08417).
//!
//! The likelihood terms are added by the caller, over the tokens of the whole step. `simpo` and `cpo`
//! take label smoothing, as in TRL.

use candle_core::{Result, Tensor};

use super::logistic::smoothed;
use super::terms::Terms;
use crate::stable::{log_one_minus_exp, softplus};

pub(crate) fn simpo(terms: &Terms<'_>) -> Result<Tensor> {
    let logit = (terms.logit(&terms.average_logps()?)? - terms.settings.simpo_gamma)?;
    smoothed(&logit, terms.settings.label_smoothing)
}

pub(crate) fn orpo(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.average_logps()?;
    let log_odds = |a: Tensor| &a - log_one_minus_exp(&a)?;
    let ratio = (log_odds(chosen)? - log_odds(rejected)?)?;
    softplus(&ratio.neg()?)? * terms.settings.beta
}

pub(crate) fn cpo(terms: &Terms<'_>) -> Result<Tensor> {
    let sums = (terms.logps.chosen.policy.clone(), terms.logps.rejected.policy.clone());
    smoothed(&terms.logit(&sums)?, terms.settings.label_smoothing)
}
