//! Differences between two arms on the same questions, clustered by clip and by seed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bootstrap::draw_weights;
use super::{Bootstrap, Outcome};

/// The mean difference between two arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean of the first arm over questions and seeds.
    pub base: f64,
    /// Mean of the second arm.
    pub other: f64,
    /// `other - base`.
    pub difference: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Number of questions.
    pub n: usize,
    /// Number of clusters.
    pub clusters: usize,
    /// Number of pairs of runs.
    pub seeds: usize,
    /// The difference of each pair of runs.
    pub by_seed: Vec<f64>,
}

impl Difference {
    /// Whether the interval lies wholly on one side of zero.
    pub fn is_clear(&self) -> bool {
        self.ci95[0] > 0.0 || self.ci95[1] < 0.0
    }
}

/// Why two arms cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PairedError {
    /// An arm has no run, or its runs no question.
    #[error("there is nothing to compare: an arm has no answered question")]
    Empty,
    /// The arms have different numbers of runs, and neither has one alone.
    #[error("{base} runs cannot be paired with {other}: equal numbers are needed, or 1")]
    Seeds {
        /// Runs of the first arm.
        base: usize,
        /// Runs of the second.
        other: usize,
    },
    /// A question is missing from one of the runs.
    #[error("question {id} is missing from {missing} of the runs: the same questions are needed")]
    Questions {
        /// The first such question.
        id: String,
        /// In how many runs.
        missing: usize,
    },
    /// A question occurs twice in a run.
    #[error("question {id} occurs twice in a run")]
    Twice {
        /// The question.
        id: String,
    },
    /// A question belongs to different clips in different runs.
    #[error("question {id} belongs to different clips in different runs")]
    Clusters {
        /// The question.
        id: String,
    },
}

/// Compares `other` with `base`: one list of outcomes for each seed, paired in order. An arm with
/// one run (a base model that no seed touches) is paired with every run of the other.
///
/// Resampling draws clips, and seeds where there are several.
pub fn paired_difference(
    base: &[Vec<Outcome>],
    other: &[Vec<Outcome>],
    bootstrap: &Bootstrap,
) -> Result<Difference, PairedError> {
    let seeds = match (base.len(), other.len()) {
        (0, _) | (_, 0) => return Err(PairedError::Empty),
        (1, n) | (n, 1) => n,
        (n, m) if n == m => n,
        (n, m) => return Err(PairedError::Seeds { base: n, other: m }),
    };
    let runs = base.iter().chain(other).map(|run| index(run)).collect::<Result<Vec<_>, _>>()?;
    same_questions(&runs)?;
    let (base_runs, other_runs) = runs.split_at(base.len());
    let questions = &runs[0];
    if questions.is_empty() {
        return Err(PairedError::Empty);
    }

    let mut clips: Vec<&str> = questions.values().map(|outcome| outcome.cluster.as_str()).collect();
    clips.sort_unstable();
    clips.dedup();
    // Sum of differences by seed and clip, and questions by clip: all that resampling needs.
    let mut sums = vec![vec![0.0; clips.len()]; seeds];
    let mut counts = vec![0.0; clips.len()];
    for (id, outcome) in questions {
        let Ok(clip) = clips.binary_search(&outcome.cluster.as_str()) else { continue };
        counts[clip] += 1.0;
        for (seed, sums) in sums.iter_mut().enumerate() {
            let value =
                |runs: &[BTreeMap<&str, &Outcome>]| runs[seed.min(runs.len() - 1)][id].value;
            sums[clip] += value(other_runs) - value(base_runs);
        }
    }

    let ratio = |clip_weights: &[f64], seed_weights: &[f64]| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (sums, seed_weight) in sums.iter().zip(seed_weights) {
            for ((s, c), clip_weight) in sums.iter().zip(&counts).zip(clip_weights) {
                sum += seed_weight * clip_weight * s;
                count += seed_weight * clip_weight * c;
            }
        }
        (count > 0.0).then(|| sum / count)
    };
    let difference = ratio(&vec![1.0; clips.len()], &vec![1.0; seeds]).unwrap_or(0.0);
    let ci95 = bootstrap
        .interval(|rng| {
            let clip_weights = draw_weights(clips.len(), rng);
            let seed_weights = draw_weights(seeds, rng);
            ratio(&clip_weights, &seed_weights)
        })
        .unwrap_or([difference, difference]);
    let arm_mean = |runs: &[BTreeMap<&str, &Outcome>]| {
        let sum: f64 = runs.iter().flat_map(|run| run.values()).map(|o| o.value).sum();
        sum / (runs.len() * questions.len()) as f64
    };
    Ok(Difference {
        base: arm_mean(base_runs),
        other: arm_mean(other_runs),
        difference,
        ci95,
        n: questions.len(),
        clusters: clips.len(),
        seeds,
        by_seed: sums
            .iter()
            .map(|sums| sums.iter().sum::<f64>() / questions.len() as f64)
            .collect(),
    })
}

/// The outcomes of a run by question.
pub(super) fn index(run: &[Outcome]) -> Result<BTreeMap<&str, &Outcome>, PairedError> {
    let mut questions = BTreeMap::new();
    for outcome in run {
        if questions.insert(outcome.id.as_str(), outcome).is_some() {
            return Err(PairedError::Twice { id: outcome.id.clone() });
        }
    }
    Ok(questions)
}

/// Refuses runs over other questions or other clusters.
pub(super) fn same_questions(runs: &[BTreeMap<&str, &Outcome>]) -> Result<(), PairedError> {
    let ids: BTreeSet<&str> = runs.iter().flat_map(|run| run.keys().copied()).collect();
    for id in ids {
        let found: Vec<&Outcome> = runs.iter().filter_map(|run| run.get(id).copied()).collect();
        if found.len() != runs.len() {
            let missing = runs.len() - found.len();
            return Err(PairedError::Questions { id: id.to_owned(), missing });
        }
        if found.windows(2).any(|pair| pair[0].cluster != pair[1].cluster) {
            return Err(PairedError::Clusters { id: id.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One run from the answers of each clip.
    fn run(clips: &[&[u8]]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (clip, values) in clips.iter().enumerate() {
            outcomes.extend(values.iter().enumerate().map(|(question, &value)| Outcome {
                id: format!("{clip}-{question}"),
                cluster: clip.to_string(),
                value: f64::from(value),
            }));
        }
        outcomes
    }

    #[test]
    fn one_seed_by_hand() {
        // Differences by clip: a +1 of 2 questions, b 0 of 1. Resamples of the two clips: both a
        // 1/2, both b 0, one of each 1/3.
        let base = run(&[&[0, 1], &[1]]);
        let other = run(&[&[1, 1], &[1]]);
        let result = paired_difference(&[base], &[other], &Bootstrap::default()).unwrap();
        assert_eq!(result.ci95, [0.0, 0.5]);
        assert!((result.difference - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!((result.n, result.clusters, result.seeds), (3, 2, 1));
        assert!((result.base - 2.0 / 3.0).abs() < 1e-15 && result.other == 1.0);
        assert!(!result.is_clear());
    }

    #[test]
    fn two_seeds_by_hand() {
        // One clip of two questions: seed 0 gains both, seed 1 gains none. Drawing seeds gives
        // 1, 1/2 or 0; without drawing seeds the interval would be the point 1/2.
        let base = run(&[&[0, 0]]);
        let others = [run(&[&[1, 1]]), run(&[&[0, 0]])];
        let result = paired_difference(&[base], &others, &Bootstrap::default()).unwrap();
        assert_eq!((result.difference, result.ci95), (0.5, [0.0, 1.0]));
        assert_eq!((result.seeds, result.n, result.by_seed), (2, 2, vec![1.0, 0.0]));
    }

    #[test]
    fn an_equal_gain_on_every_clip_and_seed_is_clear() {
        let bases = [run(&[&[0, 1], &[1, 0]]), run(&[&[0, 0], &[0, 0]])];
        let others = [run(&[&[1, 1], &[1, 1]]), run(&[&[1, 0], &[0, 1]])];
        let result = paired_difference(&bases, &others, &Bootstrap::default()).unwrap();
        assert_eq!((result.difference, result.ci95), (0.5, [0.5, 0.5]));
        assert!(result.is_clear());
    }

    #[test]
    fn refuses_what_is_not_paired() {
        let one = run(&[&[0, 1], &[1]]);
        let few = run(&[&[0, 1]]);
        let mut moved = one.clone();
        moved[0].cluster = "9".to_owned();
        let twice = [one.clone(), one.clone()].concat();
        let compare = |base: &[Vec<Outcome>], other: &[Vec<Outcome>]| {
            paired_difference(base, other, &Bootstrap::default()).unwrap_err()
        };
        let single = std::slice::from_ref(&one);
        assert_eq!(compare(&[], single), PairedError::Empty);
        assert_eq!(compare(&[vec![]], &[vec![]]), PairedError::Empty);
        assert_eq!(
            compare(&vec![one.clone(); 2], &vec![one.clone(); 3]),
            PairedError::Seeds { base: 2, other: 3 }
        );
        assert_eq!(
            compare(single, &[few]),
            PairedError::Questions { id: "1-0".to_owned(), missing: 1 }
        );
        assert_eq!(compare(single, &[moved]), PairedError::Clusters { id: "0-0".to_owned() });
        assert_eq!(compare(single, &[twice]), PairedError::Twice { id: "0-0".to_owned() });
    }
}
