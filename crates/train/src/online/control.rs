//! Coefficients that follow what is measured: settings of their controllers, and where they stand.

use savi_objectives::policy::{EntropyController, KlController};
use serde::{Deserialize, Serialize};

use super::GrpoConfig;
use crate::TrainError;

/// How the weight of rewards changes over a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlphaType {
    /// It stays.
    #[default]
    Constant,
    /// It goes up to its peak, down after it, or both, in straight lines.
    Linear,
}

/// What all rewards but the first are multiplied by, under the names of the self-aligned reward's authors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlphaScheduler {
    /// Whether it moves.
    pub r#type: AlphaType,
    /// The share of the training after which it is 1.
    pub peak_pos: f64,
    /// What it is farthest from there.
    pub bottom: f64,
    /// Whether it goes up before.
    pub increase: bool,
    /// Whether it goes down after.
    pub decrease: bool,
}

impl Default for AlphaScheduler {
    fn default() -> Self {
        Self {
            r#type: AlphaType::Constant,
            peak_pos: 0.5,
            bottom: 0.0,
            increase: false,
            decrease: false,
        }
    }
}

impl AlphaScheduler {
    /// Refuses what cannot be carried out.
    pub fn validate(&self) -> Result<(), TrainError> {
        for (key, value) in
            [("alpha_scheduler.peak_pos", self.peak_pos), ("alpha_scheduler.bottom", self.bottom)]
        {
            if !(0.0..=1.0).contains(&value) {
                let (value, reason) = (value.to_string(), "from 0 to 1");
                return Err(TrainError::Setting { key, value, reason });
            }
        }
        Ok(())
    }

    /// The multiplier after this share of the training.
    pub fn factor(&self, progress: f64) -> f64 {
        let rise = match self.r#type {
            AlphaType::Constant => 1.0,
            AlphaType::Linear if progress < self.peak_pos && self.increase => {
                progress / self.peak_pos
            }
            AlphaType::Linear if progress > self.peak_pos && self.decrease => {
                (1.0 - progress) / (1.0 - self.peak_pos)
            }
            AlphaType::Linear => 1.0,
        };
        self.bottom + (1.0 - self.bottom) * rise
    }
}

/// Whether the coefficient of the KL penalty moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlCtrlType {
    /// It stays as it is.
    #[default]
    Fixed,
    /// It follows the measured divergence (Ziegler et al., arXiv 1909.08593, section 2.2).
    Adaptive,
}

/// What becomes of the coefficient of a KL penalty in rewards, under verl's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KlCtrl {
    /// Whether it moves.
    pub r#type: KlCtrlType,
    /// The divergence to hold: the mean over completions of each one's mean over its tokens.
    pub target_kl: f64,
    /// Over how many completions the coefficient follows.
    pub horizon: f64,
}

impl Default for KlCtrl {
    fn default() -> Self {
        Self { r#type: KlCtrlType::Fixed, target_kl: 0.1, horizon: 10_000.0 }
    }
}

impl KlCtrl {
    /// Refuses what cannot be carried out.
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        for (key, value) in
            [("kl_ctrl.target_kl", self.target_kl), ("kl_ctrl.horizon", self.horizon)]
        {
            if !(value.is_finite() && value > 0.0) {
                let (value, reason) = (value.to_string(), "a number above 0");
                return Err(TrainError::Setting { key, value, reason });
            }
        }
        Ok(())
    }

    /// The controller, where it stands; it begins at `kl_coef`.
    fn controller(&self, kl_coef: f64, control: &Control) -> KlController {
        match self.r#type {
            KlCtrlType::Fixed => KlController::Fixed { kl_coef },
            KlCtrlType::Adaptive => KlController::Adaptive {
                kl_coef: control.kl_coef.unwrap_or(kl_coef),
                target_kl: self.target_kl,
                horizon: self.horizon,
            },
        }
    }

    /// The coefficient to use now.
    pub(super) fn coefficient(&self, kl_coef: f64, control: &Control) -> f64 {
        self.controller(kl_coef, control).coefficient()
    }

    /// Takes note of the divergence of a generation's completions.
    pub(super) fn note(
        &self,
        kl_coef: f64,
        control: &mut Control,
        current_kl: f64,
        completions: usize,
    ) -> Result<(), TrainError> {
        if self.r#type == KlCtrlType::Adaptive {
            let mut controller = self.controller(kl_coef, control);
            controller.update(current_kl, completions as f64)?;
            control.kl_coef = Some(controller.coefficient());
        }
        Ok(())
    }
}

/// Where coefficients stand that move, as checkpoints carry them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Control {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kl_coef: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entropy: Option<Entropy>,
}

/// The coefficient of the entropy bonus and the mean entropy of the step before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Entropy {
    coef: f64,
    last: f64,
}

impl GrpoConfig {
    /// Whether there is an entropy bonus, now or later.
    pub(super) fn has_entropy_bonus(&self) -> bool {
        self.entropy_coef != 0.0 || self.use_adaptive_entropy
    }

    fn entropy_controller(&self, control: &Control) -> EntropyController {
        let stands = control.entropy;
        EntropyController {
            entropy_coef: stands.map_or(self.entropy_coef, |entropy| entropy.coef),
            entropy_target: self.entropy_target,
            entropy_coef_delta: self.entropy_coef_delta,
            entropy_coef_min: self.entropy_coef_min,
            entropy_coef_max: self.entropy_coef_max,
            last_entropy: stands.map_or(f64::INFINITY, |entropy| entropy.last),
        }
    }

    /// The coefficient of the entropy in a step's loss.
    pub(super) fn entropy_coefficient(&self, control: &Control) -> f64 {
        match self.use_adaptive_entropy {
            true => self.entropy_controller(control).coefficient(),
            false => self.entropy_coef,
        }
    }

    /// Takes note of the mean entropy of a step's tokens; gives the coefficient as it stands then.
    pub(super) fn note_entropy(
        &self,
        control: &mut Control,
        entropy: f64,
    ) -> Result<f64, TrainError> {
        if !self.use_adaptive_entropy {
            return Ok(self.entropy_coef);
        }
        let mut controller = self.entropy_controller(control);
        controller.update(entropy)?;
        let coef = controller.entropy_coef;
        control.entropy = Some(Entropy { coef, last: entropy });
        Ok(coef)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: twice the target is held to a fifth above, half of it to a fifth below.
    #[test]
    fn the_coefficient_of_the_penalty_follows_the_divergence() {
        let ctrl = KlCtrl { r#type: KlCtrlType::Adaptive, target_kl: 0.1, horizon: 100.0 };
        let mut control = Control::default();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got}, {want}");
        close(ctrl.coefficient(0.05, &control), 0.05);
        ctrl.note(0.05, &mut control, 0.2, 50).unwrap();
        close(ctrl.coefficient(0.05, &control), 0.05 * 1.1);
        ctrl.note(0.05, &mut control, 0.05, 50).unwrap();
        close(ctrl.coefficient(0.05, &control), 0.05 * 1.1 * 0.9);
        let text = serde_json::to_string(&control).unwrap();
        assert_eq!(serde_json::from_str::<Control>(&text).unwrap(), control);
        let fixed = KlCtrl::default();
        fixed.note(0.05, &mut control, 9.0, 50).unwrap();
        close(fixed.coefficient(0.05, &control), 0.05);
    }

    /// By hand: nothing while the entropy is above its target, then more with every step below it.
    #[test]
    fn the_coefficient_of_the_entropy_holds_it_up() {
        let config = GrpoConfig {
            use_adaptive_entropy: true,
            entropy_target: 1.0,
            entropy_coef_delta: 0.1,
            ..GrpoConfig::default()
        };
        let mut control = Control::default();
        let mut seen = Vec::new();
        for entropy in [2.0, 0.9, 0.8, 1.5, 0.5] {
            seen.push(config.entropy_coefficient(&control));
            config.note_entropy(&mut control, entropy).unwrap();
        }
        // The step after 1.5 is without, the coefficient having moved down all the same.
        for (got, want) in seen.iter().zip([0.0, 0.0, 0.1, 0.2, 0.0]) {
            assert!((got - want).abs() < 1e-12, "{seen:?}");
        }
        assert!((config.entropy_coefficient(&control) - 0.2).abs() < 1e-12);
    }
}
