//! Losses that judge each answer by its own reward `r = beta * log pi/pi_ref`.
//!
//! - `nca_pair`: `-log s(r_c) - (log s(-r_c) + log s(-r_r)) / 2` (Chen et al., "Noise Contrastive
//!   Alignment", arXiv 2402.05369).
//! - `bco_pair`: `-log s(r_c - delta) - log s(-(r_r - delta))` (Jung et al., "Binary Classifier
//!   Optimization", arXiv 2404.04656), `delta` the running mean of rewards; TRL leaves it
//!   out of `bco_pair`, which is `bco_delta = 0`.
//! - `apo_zero`: `1 - s(r_c) + s(r_r)` (D'Oosterlinck et al., "Anchored Preference Optimization", arXiv
//!   2408.06266, equation 7).
//! - `apo_down`: `s(r_c) + 1 - s(r_c - r_r)` (the same, equation 8).

use candle_core::{Result, Tensor};

use super::terms::Terms;
use crate::stable::{sigmoid, softplus};

pub(crate) fn nca_pair(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.rewards()?;
    let noise = ((softplus(&chosen)? + softplus(&rejected)?)? * 0.5)?;
    softplus(&chosen.neg()?)? + noise
}

pub(crate) fn bco_pair(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.rewards()?;
    let delta = terms.settings.bco_delta;
    softplus(&(delta - chosen)?)? + softplus(&(rejected - delta)?)?
}

pub(crate) fn apo_zero(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.rewards()?;
    sigmoid(&chosen.neg()?)? + sigmoid(&rejected)?
}

pub(crate) fn apo_down(terms: &Terms<'_>) -> Result<Tensor> {
    let (chosen, rejected) = terms.rewards()?;
    let apart = sigmoid(&(rejected - &chosen)?)?;
    sigmoid(&chosen)? + apart
}
