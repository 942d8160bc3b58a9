//! Settings of preference losses, under TRL's names where TRL has them.

use candle_core::DType;

use super::{Divergence, PairLogps, PreferenceLoss};
use crate::{ObjectiveError, check};

/// Which losses, how they are weighed, and what they can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    /// The losses that are added up.
    pub loss_type: Vec<PreferenceLoss>,
    /// A weight for each of them; empty means 1 for all.
    pub loss_weights: Vec<f64>,
    /// How strongly the policy is kept near the reference; IPO's tau, DNO's and INPO's eta, ORPO's
    /// lambda.
    pub beta: f64,
    /// Share of the labels taken to be wrong, from 0 to below 0.5.
    pub label_smoothing: f64,
    /// Weight of the chosen answers' negative log-likelihood beside the losses; 0 leaves it out.
    pub rpo_alpha: f64,
    /// Distance between policy and reference.
    pub f_divergence_type: Divergence,
    /// Alpha of `alpha_divergence`, from 0 to 1.
    pub f_alpha_divergence_coef: f64,
    /// Takes the reference to think all continuations equally likely, and reads none.
    pub reference_free: bool,
    /// Weighs pairs by how likely the policy is to write them (WPO, arXiv 2406.11827).
    pub use_weighting: bool,
    /// Temperature of `discopop`'s blend, above 0 and at most 1.
    pub discopop_tau: f64,
    /// Difference of rewards that `simpo` aims at.
    pub simpo_gamma: f64,
    /// Weight of the likelihood in `cpo`.
    pub cpo_alpha: f64,
    /// What `bco_pair` takes from every reward ([`RewardBaseline`](crate::RewardBaseline)).
    pub bco_delta: f64,
    /// Share of the reference in the geometric mixture of it and the previous policy, from 0 to 1:
    /// `tau / eta` of INPO and of DNO's regularised form. 1 leaves the previous policy out.
    pub mixture_ratio: f64,
    /// What `dno` multiplies win rates with before it compares them.
    pub dno_scale: f64,
}

impl Default for Preference {
    fn default() -> Self {
        Self {
            loss_type: vec![PreferenceLoss::Sigmoid],
            loss_weights: Vec::new(),
            beta: 0.1,
            label_smoothing: 0.0,
            rpo_alpha: 0.0,
            f_divergence_type: Divergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            reference_free: false,
            use_weighting: false,
            discopop_tau: 0.05,
            simpo_gamma: 0.5,
            cpo_alpha: 1.0,
            bco_delta: 0.0,
            mixture_ratio: 1.0,
            dno_scale: 1.0,
        }
    }
}

impl Preference {
    /// One loss, otherwise the defaults.
    pub fn of(loss: PreferenceLoss) -> Self {
        Self { loss_type: vec![loss], ..Self::default() }
    }

    /// The losses with their weights.
    pub(crate) fn weighted(&self) -> impl Iterator<Item = (PreferenceLoss, f64)> + '_ {
        let weights = self.loss_weights.iter().copied().chain(std::iter::repeat(1.0));
        self.loss_type.iter().copied().zip(weights)
    }

    /// Weight of the chosen answers' likelihood, over all terms that hold it.
    pub(crate) fn nll_weight(&self) -> f64 {
        let own = |(loss, weight)| match loss {
            PreferenceLoss::Sft | PreferenceLoss::Orpo => weight,
            PreferenceLoss::Cpo => weight * self.cpo_alpha,
            _ => 0.0,
        };
        self.rpo_alpha + self.weighted().map(own).sum::<f64>()
    }

    /// Refuses what is out of its range and what does not go together, by name.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        check::within("loss_type", self.loss_type.len() as f64, 1.0.., "at least one loss")?;
        let (losses, weights) = (self.loss_type.len(), self.loss_weights.len());
        if weights != 0 && weights != losses {
            let (expected, got) = (vec![losses], vec![weights]);
            return Err(ObjectiveError::Shape { what: "loss_weights", expected, got });
        }
        for &weight in &self.loss_weights {
            check::within("loss_weights", weight, 0.0.., "numbers from 0 up")?;
        }
        check::positive("beta", self.beta)?;
        let smoothing = self.label_smoothing;
        check::within("label_smoothing", smoothing, 0.0..0.5, "at least 0 and below 0.5")?;
        check::within("rpo_alpha", self.rpo_alpha, 0.0.., "a number from 0 up")?;
        let alpha = self.f_alpha_divergence_coef;
        check::within("f_alpha_divergence_coef", alpha, 0.0..=1.0, "from 0 to 1")?;
        let tau = self.discopop_tau;
        check::within("discopop_tau", tau, f64::MIN_POSITIVE..=1.0, "above 0 and at most 1")?;
        check::within("simpo_gamma", self.simpo_gamma, 0.0.., "a number from 0 up")?;
        check::within("cpo_alpha", self.cpo_alpha, 0.0.., "a number from 0 up")?;
        check::within("bco_delta", self.bco_delta, .., "a finite number")?;
        check::within("mixture_ratio", self.mixture_ratio, 0.0..=1.0, "from 0 to 1")?;
        check::positive("dno_scale", self.dno_scale)?;

        if smoothing > 0.0 && !self.loss_type.iter().any(|loss| loss.takes_label_smoothing()) {
            return Err(conflict("label_smoothing", self.loss_type[0].name()));
        }
        for loss in &self.loss_type {
            if *loss == PreferenceLoss::ExoPair && smoothing == 0.0 {
                let (name, expected) = ("label_smoothing", "above 0 with exo_pair (usually 1e-3)");
                return Err(ObjectiveError::Setting { name, value: smoothing, expected });
            }
            if self.f_divergence_type != Divergence::ReverseKl && !loss.takes_divergence() {
                return Err(conflict(self.f_divergence_type.name(), loss.name()));
            }
            if self.use_weighting && loss.sorts() {
                return Err(conflict("use_weighting", loss.name()));
            }
            if self.reference_free && *loss == PreferenceLoss::Inpo {
                return Err(conflict("reference_free", loss.name()));
            }
        }
        Ok(())
    }

    /// Refuses inputs that lack what the losses read, or hold what they would pass over.
    pub(crate) fn check_inputs(&self, logps: &PairLogps<'_>) -> Result<(), ObjectiveError> {
        let sides = [&logps.chosen, &logps.rejected];
        let need = |missing: bool, what, by| match missing {
            true => Err(ObjectiveError::Missing { what, by }),
            false => Ok(()),
        };
        let lacks_previous = sides.iter().any(|side| side.previous.is_none());
        for loss in &self.loss_type {
            let by = loss.name();
            if loss.reads_reference() && !self.reference_free {
                let mixed = self.mixture_ratio < 1.0 || *loss == PreferenceLoss::Inpo;
                need(sides.iter().any(|side| side.reference.is_none()), "reference", by)?;
                need(mixed && lacks_previous, "previous", by)?;
            }
            if loss.reads_lengths() {
                need(sides.iter().any(|side| side.lengths.is_none()), "lengths", by)?;
            }
            if loss.reads_win_rates() {
                need(sides.iter().any(|side| side.win_rates.is_none()), "win_rates", by)?;
                for rates in sides.iter().filter_map(|side| side.win_rates) {
                    for rate in rates.to_dtype(DType::F64)?.to_vec1::<f64>()? {
                        check::within("win_rates", rate, 0.0..=1.0, "from 0 to 1")?;
                    }
                }
            }
            if logps.margins.is_some() && !loss.takes_margins() && *loss != PreferenceLoss::Sft {
                return Err(conflict("margins", by));
            }
        }
        let lacks_weights = sides.iter().any(|side| side.weights.is_none());
        need(self.use_weighting && lacks_weights, "weights", "use_weighting")
    }
}

fn conflict(what: &'static str, with: &'static str) -> ObjectiveError {
    ObjectiveError::Conflict { what, with }
}
