//! Losses that are squares: the log-ratio has a number to be.
//!
//! With `d = log pi/pi_ref (chosen) - log pi/pi_ref (rejected)`:
//!
//! - `ipo_sum`: `(d - 1 / (2 beta))^2` (Azar et al., arXiv 2310.12036, equation 17; `beta` is its tau).
//! - `ipo`: the same on averages over tokens, which is TRL's form; its source says that the paper's
//!   authors confirmed it to be theirs.
//! - `inpo`: the same against the mixture `pi_ref^(tau/eta) pi_t^(1 - tau/eta)` (Zhang et al.,
//!   "Iterative Nash Policy Optimization", arXiv 2407.00617), with `beta = eta`,
//!   `mixture_ratio = tau/eta` and `pi_t` the previous policy.
//! - `sppo`: the mean over both answers of `(log pi/pi_t (y) - (P(y) - 1/2) / beta)^2`, `P` the win
//!   rates (Wu et al., arXiv 2405.00675, equation 4.7 with `eta = 1 / beta`, as its authors' code).
//! - `sppo_hard`: the sum over both answers with `P` 1 and 0, which is TRL's form.

use candle_core::{Result, Tensor};

use super::terms::{Sides, Terms};

pub(crate) fn ipo(terms: &Terms<'_>) -> Result<Tensor> {
    squared(terms, &terms.averages(&terms.scores()?)?)
}

pub(crate) fn ipo_sum(terms: &Terms<'_>) -> Result<Tensor> {
    squared(terms, &terms.scores()?)
}

fn squared(terms: &Terms<'_>, of: &Sides) -> Result<Tensor> {
    ((&of.0 - &of.1)? - 0.5 / terms.settings.beta)?.sqr()
}

pub(crate) fn sppo(terms: &Terms<'_>) -> Result<Tensor> {
    let (ratios, rates) = (terms.ratios()?, terms.win_rates()?);
    let error = |ratio: &Tensor, rate: Tensor| {
        (ratio - ((rate - 0.5)? * (1.0 / terms.settings.beta))?)?.sqr()
    };
    (error(&ratios.0, rates.0)? + error(&ratios.1, rates.1)?)? * 0.5
}

pub(crate) fn sppo_hard(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.ratios()?;
    let half = 0.5 / terms.settings.beta;
    (chosen - half)?.sqr()? + (rejected + half)?.sqr()?
}
