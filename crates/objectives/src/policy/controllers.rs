//! Coefficients that follow what is measured.

use super::bounds::{finite, not_negative};
use crate::{ObjectiveError, check};

/// The coefficient of a KL penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KlController {
    /// It stays as it is.
    Fixed {
        /// The coefficient.
        kl_coef: f64,
    },
    /// It follows the measured divergence (Ziegler et al., arXiv 1909.08593, section 2.2):
    /// `coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * steps / horizon`.
    Adaptive {
        /// The coefficient now.
        kl_coef: f64,
        /// The divergence to hold.
        target_kl: f64,
        /// Over how many samples the coefficient follows.
        horizon: f64,
    },
}

impl KlController {
    /// The coefficient to use now.
    pub fn coefficient(&self) -> f64 {
        match self {
            Self::Fixed { kl_coef } | Self::Adaptive { kl_coef, .. } => *kl_coef,
        }
    }

    /// Takes note of the divergence measured over `samples` completions.
    pub fn update(&mut self, current_kl: f64, samples: f64) -> Result<(), ObjectiveError> {
        not_negative("kl_coef", self.coefficient())?;
        let Self::Adaptive { kl_coef, target_kl, horizon } = self else { return Ok(()) };
        check::positive("target_kl", *target_kl)?;
        check::positive("horizon", *horizon)?;
        finite("current_kl", current_kl)?;
        not_negative("samples", samples)?;
        let error = (current_kl / *target_kl - 1.0).clamp(-0.2, 0.2);
        *kl_coef *= 1.0 + error * samples / *horizon;
        Ok(())
    }
}

/// The coefficient of the entropy bonus, moved so that the entropy stays up (Skywork-OR1, arXiv
/// 2505.22312; TRL's `use_adaptive_entropy`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyController {
    /// The coefficient now.
    pub entropy_coef: f64,
    /// The mean entropy of a token that is to be held.
    pub entropy_target: f64,
    /// By how much the coefficient moves in a step.
    pub entropy_coef_delta: f64,
    /// The least coefficient.
    pub entropy_coef_min: f64,
    /// The greatest coefficient.
    pub entropy_coef_max: f64,
    /// The mean entropy of the step before.
    pub last_entropy: f64,
}

impl EntropyController {
    /// The coefficient to use now: none while the entropy is above its target.
    pub fn coefficient(&self) -> f64 {
        if self.last_entropy <= self.entropy_target { self.entropy_coef } else { 0.0 }
    }

    /// Takes note of the mean entropy of a step's tokens.
    pub fn update(&mut self, entropy: f64) -> Result<(), ObjectiveError> {
        finite("entropy", entropy)?;
        not_negative("entropy_coef_delta", self.entropy_coef_delta)?;
        not_negative("entropy_coef_min", self.entropy_coef_min)?;
        if self.entropy_coef_max.is_nan() || self.entropy_coef_max < self.entropy_coef_min {
            let (name, expected) = ("entropy_coef_max", "at least entropy_coef_min");
            return Err(ObjectiveError::Setting { name, value: self.entropy_coef_max, expected });
        }
        let low = entropy <= self.entropy_target;
        let step = if low { self.entropy_coef_delta } else { -self.entropy_coef_delta };
        self.entropy_coef =
            (self.entropy_coef + step).clamp(self.entropy_coef_min, self.entropy_coef_max);
        self.last_entropy = entropy;
        Ok(())
    }
}
