//! Figures that are logged beside preference losses.

use candle_core::{DType, Tensor};

/// Figures about a step's pairs under TRL's names, held as sums so that micro-batches can be merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreferenceMetrics {
    pairs: f64,
    rewards_chosen: f64,
    rewards_rejected: f64,
    accuracies: f64,
    logps_chosen: f64,
    logps_rejected: f64,
    nll: Option<f64>,
}

impl PreferenceMetrics {
    pub(crate) fn new(
        rewards: &(Tensor, Tensor),
        logps_chosen: &Tensor,
        logps_rejected: &Tensor,
    ) -> candle_core::Result<Self> {
        let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
        let (chosen, rejected) = (values(&rewards.0)?, values(&rewards.1)?);
        Ok(Self {
            pairs: chosen.len() as f64,
            accuracies: chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count() as f64,
            rewards_chosen: chosen.iter().sum(),
            rewards_rejected: rejected.iter().sum(),
            logps_chosen: values(logps_chosen)?.iter().sum(),
            logps_rejected: values(logps_rejected)?.iter().sum(),
            nll: None,
        })
    }

    /// Notes the share of the likelihood term.
    pub(crate) fn with_nll(self, nll: f64) -> Self {
        Self { nll: Some(nll), ..self }
    }

    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.rewards_chosen += other.rewards_chosen;
        self.rewards_rejected += other.rewards_rejected;
        self.accuracies += other.accuracies;
        self.logps_chosen += other.logps_chosen;
        self.logps_rejected += other.logps_rejected;
        if let Some(more) = other.nll {
            *self.nll.get_or_insert(0.0) += more;
        }
    }

    /// The sums as plain numbers, for another process to [read](Self::from_numbers).
    pub fn numbers(&self) -> Vec<f64> {
        let sums = [
            self.pairs,
            self.rewards_chosen,
            self.rewards_rejected,
            self.accuracies,
            self.logps_chosen,
            self.logps_rejected,
        ];
        sums.into_iter().chain(self.nll).collect()
    }

    /// What [`numbers`](Self::numbers) gave; `None` where that is something else.
    pub fn from_numbers(numbers: &[f64]) -> Option<Self> {
        let (sums, nll) = numbers.split_first_chunk()?;
        let &[pairs, rewards_chosen, rewards_rejected, accuracies, logps_chosen, logps_rejected] =
            sums;
        Some(Self {
            pairs,
            rewards_chosen,
            rewards_rejected,
            accuracies,
            logps_chosen,
            logps_rejected,
            nll: nll.first().copied(),
        })
    }

    /// The figures by TRL's names, means over the pairs; `nll_loss` only where it is part of the
    /// loss. A pair counts as accurate when its chosen reward is the greater one.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: f64| sum / self.pairs;
        let mut rows = vec![
            ("rewards/chosen", mean(self.rewards_chosen)),
            ("rewards/rejected", mean(self.rewards_rejected)),
            ("rewards/margins", mean(self.rewards_chosen - self.rewards_rejected)),
            ("rewards/accuracies", mean(self.accuracies)),
            ("logps/chosen", mean(self.logps_chosen)),
            ("logps/rejected", mean(self.logps_rejected)),
        ];
        rows.extend(self.nll.map(|nll| ("nll_loss", nll)));
        rows
    }

    /// Sum and number of the rewards of both sides.
    fn rewards(&self) -> (f64, f64) {
        (self.rewards_chosen + self.rewards_rejected, 2.0 * self.pairs)
    }
}

/// The running mean of rewards that `bco_pair` is told as `bco_delta`.
///
/// Jung et al., "Binary Classifier Optimization" (arXiv 2404.04656): the mean over both sides of
/// everything seen so far. A step is told the mean of the steps before it, so that its
/// micro-batches share one number; TRL's former trainer counted the current batch in.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RewardBaseline {
    /// Mean of the rewards seen so far.
    pub mean: f64,
    /// Their number.
    pub count: f64,
}

impl RewardBaseline {
    /// The baseline after a step, from the metrics of all its micro-batches.
    pub fn after(self, step: &PreferenceMetrics) -> Self {
        let (sum, more) = step.rewards();
        let count = self.count + more;
        if count == 0.0 {
            return self;
        }
        Self { mean: self.mean + (sum - self.mean * more) / count, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back() {
        for nll in [None, Some(0.25)] {
            let metrics =
                PreferenceMetrics { pairs: 2.0, accuracies: 1.0, nll, ..Default::default() };
            assert_eq!(PreferenceMetrics::from_numbers(&metrics.numbers()), Some(metrics));
        }
        assert_eq!(PreferenceMetrics::from_numbers(&[1.0]), None);
    }

    #[test]
    fn the_baseline_is_the_mean_of_all_rewards() {
        let step = |pairs, rewards_chosen, rewards_rejected| PreferenceMetrics {
            pairs,
            rewards_chosen,
            rewards_rejected,
            ..PreferenceMetrics::default()
        };
        let empty = RewardBaseline::default();
        assert_eq!(empty.after(&step(0.0, 0.0, 0.0)), empty);
        let first = empty.after(&step(2.0, 5.0, -1.0));
        assert_eq!(first, RewardBaseline { mean: 1.0, count: 4.0 });
        // (4 + 8) / (4 + 2) = 2
        let second = first.after(&step(1.0, 10.0, -2.0));
        assert_eq!(second, RewardBaseline { mean: 2.0, count: 6.0 });
    }
}
