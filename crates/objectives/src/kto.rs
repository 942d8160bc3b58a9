//! Kahneman-Tversky optimisation: answers that are good or bad by themselves, not in pairs.
//!
//! Ethayarajh et al., "KTO" (arXiv 2402.01306), equation 7, with `r = log pi/pi_ref`:
//!
//! ```text
//! desirable    lambda_D (1 - sigmoid(beta (r - z)))
//! undesirable  lambda_U (1 - sigmoid(beta (z - r)))
//! ```
//!
//! `z` estimates the divergence between policy and reference, from answers to other prompts
//! ([`kto_kl`]); no gradient flows there. `apo_zero_unpaired` is the same with `z = 0`, the unpaired
//! form of APO-zero (D'Oosterlinck et al., arXiv 2408.06266, equation 7).

use std::str::FromStr;

use candle_core::{DType, Tensor};

use crate::preference::by_name;
use crate::stable::sigmoid;
use crate::{ObjectiveError, check};

/// What rewards are measured against, with TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KtoLoss {
    /// The estimated divergence from the reference.
    #[default]
    Kto,
    /// Zero.
    ApoZeroUnpaired,
}

impl KtoLoss {
    /// Every loss.
    pub const ALL: [Self; 2] = [Self::Kto, Self::ApoZeroUnpaired];

    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kto => "kto",
            Self::ApoZeroUnpaired => "apo_zero_unpaired",
        }
    }
}

impl FromStr for KtoLoss {
    type Err = ObjectiveError;

    fn from_str(name: &str) -> Result<Self, ObjectiveError> {
        by_name("loss_type", name, &Self::ALL, |loss| loss.name())
    }
}

/// Settings of the loss, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kto {
    /// What rewards are measured against.
    pub loss_type: KtoLoss,
    /// How strongly the policy is kept near the reference; positive.
    pub beta: f64,
    /// Weight of good answers; lambda_D.
    pub desirable_weight: f64,
    /// Weight of bad answers; lambda_U.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        let (loss_type, beta) = (KtoLoss::Kto, 0.1);
        Self { loss_type, beta, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl Kto {
    /// Refuses what is out of its range, by name.
    pub fn validate(&self) -> Result<(), ObjectiveError> {
        check::positive("beta", self.beta)?;
        let expected = "a number from 0 up";
        check::within("desirable_weight", self.desirable_weight, 0.0.., expected)?;
        check::within("undesirable_weight", self.undesirable_weight, 0.0.., expected)
    }
}

/// A micro-batch of answers.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLogps<'a> {
    /// Sequence log-probs under the policy, `[answers]`.
    pub policy: &'a Tensor,
    /// Sequence log-probs under the reference, `[answers]`; no gradient flows there.
    pub reference: &'a Tensor,
    /// Which of them are good.
    pub desirable: &'a [bool],
}

/// Loss of a micro-batch and what is logged beside it.
#[derive(Debug, Clone)]
pub struct KtoOutput {
    /// This micro-batch's share of the step's loss, a scalar to differentiate.
    pub loss: Tensor,
    /// Weighted loss of each answer, `[answers]`.
    pub answer_losses: Tensor,
    /// Sums to be merged over the step and then read.
    pub metrics: KtoMetrics,
}

/// The estimate of the divergence from log-ratios `log pi/pi_ref` of answers that belong to other
/// prompts: their mean over the step, 0 where that is negative or there are none.
pub fn kto_kl(log_ratios: &[f64]) -> f64 {
    let mean = log_ratios.iter().sum::<f64>() / log_ratios.len().max(1) as f64;
    mean.max(0.0)
}

/// Computes this micro-batch's share of the step's loss: the mean over `total_answers`, good and bad
/// together. `kl` is read by `kto` alone.
pub fn kto(
    logps: &AnswerLogps<'_>,
    kl: f64,
    total_answers: f64,
    settings: &Kto,
) -> Result<KtoOutput, ObjectiveError> {
    let answers = check::logps("policy", logps.policy)?;
    check::shape("reference", logps.reference, &[answers])?;
    check::logps("reference", logps.reference)?;
    if logps.desirable.len() != answers {
        let (expected, got) = (vec![answers], vec![logps.desirable.len()]);
        return Err(ObjectiveError::Shape { what: "desirable", expected, got });
    }
    check::positive("answers", answers as f64)?;
    check::positive("total_answers", total_answers)?;
    settings.validate()?;
    check::within("kl", kl, 0.0.., "a number from 0 up")?;

    let zero = if settings.loss_type == KtoLoss::Kto { kl } else { 0.0 };
    let per_answer = |good: f64, bad: f64| {
        let values: Vec<f64> =
            logps.desirable.iter().map(|&d| if d { good } else { bad }).collect();
        Tensor::from_vec(values, answers, logps.policy.device())?.to_dtype(logps.policy.dtype())
    };
    let log_ratios = (logps.policy - logps.reference.detach())?;
    // 1 - sigmoid(x) is sigmoid(-x): good answers should be above zero, bad ones below.
    let apart = ((&log_ratios - zero)? * settings.beta)?;
    let losses = sigmoid(&(apart * per_answer(-1.0, 1.0)?)?)?;
    let weights = per_answer(settings.desirable_weight, settings.undesirable_weight)?;
    let answer_losses = (losses * weights)?;
    let loss = (answer_losses.sum_all()? * (1.0 / total_answers))?;
    let metrics = KtoMetrics::new(logps, &(log_ratios * settings.beta)?, kl)?;
    Ok(KtoOutput { loss, answer_losses, metrics })
}

/// Figures about a step's answers under TRL's names, held as sums so that micro-batches can be merged.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KtoMetrics {
    chosen: Side,
    rejected: Side,
    kl: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Side {
    answers: f64,
    rewards: f64,
    logps: f64,
}

impl KtoMetrics {
    fn new(logps: &AnswerLogps<'_>, rewards: &Tensor, kl: f64) -> candle_core::Result<Self> {
        let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
        let mut metrics = Self { kl, ..Self::default() };
        let (rewards, policy) = (values(rewards)?, values(logps.policy)?);
        for ((&good, reward), logp) in logps.desirable.iter().zip(rewards).zip(policy) {
            let side = if good { &mut metrics.chosen } else { &mut metrics.rejected };
            side.add(&Side { answers: 1.0, rewards: reward, logps: logp });
        }
        Ok(metrics)
    }

    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.chosen.add(&other.chosen);
        self.rejected.add(&other.rejected);
    }

    /// The figures by TRL's names, means over the answers of each side; a side without answers is
    /// left out, and so are margins then.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mut rows = vec![("kl", self.kl)];
        let sides = [
            (&self.chosen, "rewards/chosen", "logps/chosen"),
            (&self.rejected, "rewards/rejected", "logps/rejected"),
        ];
        let there = |side: &Side| side.answers > 0.0;
        for (side, rewards, logps) in sides.into_iter().filter(|(side, ..)| there(side)) {
            rows.push((rewards, side.rewards / side.answers));
            rows.push((logps, side.logps / side.answers));
        }
        if there(&self.chosen) && there(&self.rejected) {
            let mean = |side: &Side| side.rewards / side.answers;
            rows.push(("rewards/margins", mean(&self.chosen) - mean(&self.rejected)));
        }
        rows
    }
}

impl Side {
    fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.rewards += other.rewards;
        self.logps += other.logps;
    }
}

#[cfg(test)]
mod tests;
