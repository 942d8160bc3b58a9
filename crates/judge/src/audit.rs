//! Audits of a judge against known truth: are its verdicts right, and does it favour a place?

use serde::{Deserialize, Serialize};

use crate::critique::Verdict;

/// Verdicts counted against the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerdictAudit {
    /// Right answers called right.
    pub right_called_right: u64,
    /// Right answers called wrong.
    pub right_called_wrong: u64,
    /// Wrong answers called right.
    pub wrong_called_right: u64,
    /// Wrong answers called wrong.
    pub wrong_called_wrong: u64,
    /// Verdicts that could not be read; they count for neither side.
    pub unparsed: u64,
}

impl VerdictAudit {
    /// Counts one verdict; `None` is one that could not be read.
    pub fn add(&mut self, answer_is_right: bool, verdict: Option<Verdict>) {
        let count = match (answer_is_right, verdict) {
            (_, None) => &mut self.unparsed,
            (true, Some(Verdict::Right)) => &mut self.right_called_right,
            (true, Some(Verdict::Wrong)) => &mut self.right_called_wrong,
            (false, Some(Verdict::Right)) => &mut self.wrong_called_right,
            (false, Some(Verdict::Wrong)) => &mut self.wrong_called_wrong,
        };
        *count += 1;
    }

    /// Share of right answers that are called right; `None` without right answers.
    pub fn sensitivity(&self) -> Option<f64> {
        share(self.right_called_right, self.right_called_wrong)
    }

    /// Share of wrong answers that are called wrong; `None` without wrong answers.
    pub fn specificity(&self) -> Option<f64> {
        share(self.wrong_called_wrong, self.wrong_called_right)
    }

    /// Mean of sensitivity and specificity: 0.5 for a judge that ignores the clip, however often
    /// answers are right. `None` unless there were both right and wrong answers.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        Some((self.sensitivity()? + self.specificity()?) / 2.0)
    }
}

fn share(part: u64, rest: u64) -> Option<f64> {
    let all = part + rest;
    (all > 0).then(|| part as f64 / all as f64)
}

/// How often each place of showing wins. A tie shares the win among the tied places.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PositionAudit {
    /// Wins by place of showing.
    pub wins: Vec<f64>,
    /// Judgements counted.
    pub judgements: u64,
}

impl PositionAudit {
    /// Counts one judgement: scores in the order of showing. All judgements of one audit have the
    /// same number of candidates; `false` is returned, and nothing counted, for another number,
    /// for none, and for scores that are not numbers.
    pub fn add(&mut self, shown_scores: &[f64]) -> bool {
        if self.wins.is_empty() {
            self.wins = vec![0.0; shown_scores.len()];
        }
        let best = shown_scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let usable = !shown_scores.is_empty()
            && shown_scores.len() == self.wins.len()
            && shown_scores.iter().all(|score| !score.is_nan());
        if !usable {
            return false;
        }
        let tied = shown_scores.iter().filter(|&&score| score == best).count() as f64;
        for (wins, &score) in self.wins.iter_mut().zip(shown_scores) {
            if score == best {
                *wins += 1.0 / tied;
            }
        }
        self.judgements += 1;
        true
    }

    /// Share of judgements that each place wins; all are `1 / n` for a judge without bias.
    pub fn shares(&self) -> Vec<f64> {
        self.wins.iter().map(|wins| wins / self.judgements.max(1) as f64).collect()
    }

    /// Pearson's statistic of the wins against equal shares; under no bias it follows, for many
    /// judgements without ties, a chi-square distribution with `places - 1` degrees of freedom.
    pub fn chi_square(&self) -> Option<f64> {
        let expected = self.judgements as f64 / self.wins.len().max(1) as f64;
        (expected > 0.0)
            .then(|| self.wins.iter().map(|wins| (wins - expected).powi(2) / expected).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_accuracy_by_hand() {
        let mut audit = VerdictAudit::default();
        assert_eq!(audit.balanced_accuracy(), None);
        for (right, verdict, times) in [
            (true, Some(Verdict::Right), 8),
            (true, Some(Verdict::Wrong), 2),
            (false, Some(Verdict::Wrong), 1),
            (false, Some(Verdict::Right), 3),
            (true, None, 5),
        ] {
            (0..times).for_each(|_| audit.add(right, verdict));
        }
        // (8/10 + 1/4) / 2; plain accuracy would be 9/14.
        assert_eq!(audit.balanced_accuracy(), Some(0.525));
        assert_eq!(audit.unparsed, 5);
    }

    #[test]
    fn a_judge_that_always_agrees_is_at_one_half() {
        let mut audit = VerdictAudit::default();
        (0..9).for_each(|_| audit.add(true, Some(Verdict::Right)));
        audit.add(false, Some(Verdict::Right));
        assert_eq!(audit.balanced_accuracy(), Some(0.5));
    }

    #[test]
    fn wins_by_place_with_shared_ties() {
        let mut audit = PositionAudit::default();
        for scores in [[5.0, 1.0, 1.0], [5.0, 5.0, 1.0], [1.0, 2.0, 3.0], [4.0, 1.0, 1.0]] {
            assert!(audit.add(&scores));
        }
        assert!(!audit.add(&[1.0, 2.0]));
        assert!(!audit.add(&[f64::NAN, 2.0, 1.0]));
        assert_eq!(audit.shares(), [0.625, 0.125, 0.25]);
        // (2.5 - 4/3)^2 + (0.5 - 4/3)^2 + (1 - 4/3)^2 over 4/3.
        assert!((audit.chi_square().unwrap() - 1.625).abs() < 1e-12);
    }
}
