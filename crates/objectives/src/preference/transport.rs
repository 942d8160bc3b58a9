//! Losses that match pairs by rank.
//!
//! Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport" (arXiv
//! 2406.05882): one sample of numbers should stochastically dominate another, so
//! both are sorted and compared number by number,
//!
//! ```text
//! aot           of log pi(c) - log pi(r)   against log ref(c) - log ref(r)
//! aot_unpaired  of log pi(c) - log ref(c)  against log pi(r) - log ref(r)
//! loss          = mean_k of smoothed(beta * (upper_(k) - lower_(k)), label_smoothing)
//! ```
//!
//! The sample is the whole step, so the sum over micro-batches is this loss only if each of them knows
//! the others' numbers: [`StepLogps`](super::StepLogps). TRL sorts each micro-batch by itself, where
//! the loss depends on how a step is cut, and with one pair is plain DPO.
//!
//! In `aot_unpaired` both numbers of a term have a gradient and may belong to different micro-batches.
//! Each is differentiated where it is at home, with the other one as a constant; a term's value is
//! counted half on either side.

use candle_core::{DType, Tensor};

use super::logistic::smoothed;
use super::terms::Terms;
use crate::{ObjectiveError, Totals, check};

pub(crate) fn aot(terms: &Terms<'_>, totals: &Totals) -> Result<Tensor, ObjectiveError> {
    let step = Step::new(terms, totals)?;
    let policy = difference(&step.chosen, &step.rejected);
    let reference = difference(&step.reference_chosen, &step.reference_rejected);
    let (partners, _) = matched(&policy, &reference);
    let policy = (terms.logps.chosen.policy - terms.logps.rejected.policy)?;
    let apart = (&policy - step.own(&partners, &policy)?)?;
    Ok(of_difference(terms, &apart)?)
}

pub(crate) fn aot_unpaired(terms: &Terms<'_>, totals: &Totals) -> Result<Tensor, ObjectiveError> {
    let step = Step::new(terms, totals)?;
    let (of_chosen, of_rejected) = matched(
        &difference(&step.chosen, &step.reference_chosen),
        &difference(&step.rejected, &step.reference_rejected),
    );
    let (chosen, rejected) = terms.ratios()?;
    let chosen_side = of_difference(terms, &(&chosen - step.own(&of_chosen, &chosen)?)?)?;
    let rejected_side = of_difference(terms, &(step.own(&of_rejected, &rejected)? - &rejected)?)?;
    let both = (chosen_side + rejected_side)?;
    // Half the value with the whole gradient.
    Ok((&both - (both.detach() * 0.5)?)?)
}

fn of_difference(terms: &Terms<'_>, apart: &Tensor) -> candle_core::Result<Tensor> {
    smoothed(&(apart * terms.settings.beta)?, terms.settings.label_smoothing)
}

/// The whole step as plain numbers.
struct Step {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    reference_chosen: Vec<f64>,
    reference_rejected: Vec<f64>,
    start: usize,
}

impl Step {
    /// What is given for the step, or the micro-batch where that is all of it.
    fn new(terms: &Terms<'_>, totals: &Totals) -> Result<Self, ObjectiveError> {
        let pairs = terms.logps.chosen.policy.elem_count();
        let Some(given) = &terms.logps.step else {
            let expected = "the number of pairs given, where `step` is not";
            check::within("totals.pairs", totals.pairs, pairs as f64..=pairs as f64, expected)?;
            let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
            let anchors = terms.anchors()?;
            return Ok(Self {
                chosen: values(terms.logps.chosen.policy)?,
                rejected: values(terms.logps.rejected.policy)?,
                reference_chosen: values(&anchors.0)?,
                reference_rejected: values(&anchors.1)?,
                start: 0,
            });
        };
        let whole = given.chosen.len();
        let expected = "the number of the step's pairs";
        check::within("totals.pairs", totals.pairs, whole as f64..=whole as f64, expected)?;
        for (what, values) in [
            ("step.rejected", given.rejected),
            ("step.reference_chosen", given.reference_chosen),
            ("step.reference_rejected", given.reference_rejected),
        ] {
            if values.len() != whole {
                let (expected, got) = (vec![whole], vec![values.len()]);
                return Err(ObjectiveError::Shape { what, expected, got });
            }
        }
        let last = whole.saturating_sub(pairs) as f64;
        let expected = "such that the micro-batch ends within the step";
        check::within("step.start", given.start as f64, ..=last, expected)?;
        let reference = |values: &[f64]| match terms.settings.reference_free {
            true => vec![0.0; whole],
            false => values.to_vec(),
        };
        Ok(Self {
            chosen: given.chosen.to_vec(),
            rejected: given.rejected.to_vec(),
            reference_chosen: reference(given.reference_chosen),
            reference_rejected: reference(given.reference_rejected),
            start: given.start,
        })
    }

    /// The micro-batch's part of numbers about the step, as a tensor like `like`.
    fn own(&self, numbers: &[f64], like: &Tensor) -> candle_core::Result<Tensor> {
        let own: Vec<f64> =
            numbers.iter().skip(self.start).take(like.elem_count()).copied().collect();
        Tensor::from_vec(own, like.shape(), like.device())?.to_dtype(like.dtype())
    }
}

fn difference(of: &[f64], from: &[f64]) -> Vec<f64> {
    of.iter().zip(from).map(|(a, b)| a - b).collect()
}

/// For each number of either sample the one of the other sample that has its rank.
fn matched(upper: &[f64], lower: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let order = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        order
    };
    let (mut of_upper, mut of_lower) = (vec![0.0; upper.len()], vec![0.0; lower.len()]);
    for (u, l) in order(upper).into_iter().zip(order(lower)) {
        of_upper[u] = lower[l];
        of_lower[l] = upper[u];
    }
    (of_upper, of_lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_matched() {
        let (of_upper, of_lower) = matched(&[3.0, 1.0, 2.0], &[10.0, 30.0, 20.0]);
        assert_eq!(of_upper, [30.0, 10.0, 20.0]);
        assert_eq!(of_lower, [1.0, 3.0, 2.0]);
    }
}
