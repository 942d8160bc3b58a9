//! The mean over questions with the standard error of clustered data.
//!
//! With clusters c of n_c questions, the mean m of all n questions and s_c the sum of a cluster's values,
//!
//! ```text
//! SE^2 = C / (C - 1) * sum_c (s_c - n_c m)^2 / n^2
//! ```
//!
//! Liang and Zeger, *Biometrika* 73(1), 1986; Miller, *Adding Error Bars to Evals*, 2024, section 2.2, has it
//! without the factor C / (C - 1). With the factor it is the standard error of statsmodels and Stata, and for
//! clusters of one question the usual one, with n - 1 below.

use std::collections::BTreeMap;

use super::{Outcome, tails};

/// A mean over clustered questions and how far it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clustered {
    /// The mean over all questions.
    pub value: f64,
    /// Its standard error; infinite for one cluster, which says nothing of others.
    pub standard_error: f64,
    /// Number of questions.
    pub n: usize,
    /// Number of clusters.
    pub clusters: usize,
}

/// The mean of all outcomes with its clustered standard error; `None` for no outcomes.
pub fn clustered(outcomes: &[Outcome]) -> Option<Clustered> {
    Clustered::of(&by_cluster(outcomes))
}

impl Clustered {
    /// From each cluster's sum and number of questions.
    pub(super) fn of(clusters: &[(f64, f64)]) -> Option<Self> {
        let n: f64 = clusters.iter().map(|(_, count)| count).sum();
        if n <= 0.0 {
            return None;
        }
        let value = clusters.iter().map(|(sum, _)| sum).sum::<f64>() / n;
        let count = clusters.len() as f64;
        let squares: f64 = clusters.iter().map(|(sum, count)| (sum - count * value).powi(2)).sum();
        let standard_error = if clusters.len() < 2 {
            f64::INFINITY
        } else {
            (squares * count / (count - 1.0)).sqrt() / n
        };
        Some(Self { value, standard_error, n: n as usize, clusters: clusters.len() })
    }

    /// The 95 % interval from Student's t distribution with a degree of freedom for every cluster but one.
    pub fn ci95(&self) -> [f64; 2] {
        let half = self.quantile() * self.standard_error;
        [self.value - half, self.value + half]
    }

    /// How many standard errors a 95 % interval reaches to either side.
    pub(super) fn quantile(&self) -> f64 {
        match self.clusters {
            0 | 1 => f64::INFINITY,
            clusters => tails::student_t_quantile(0.025, (clusters - 1) as f64),
        }
    }
}

/// Each cluster's sum and number of questions, in the order of the clusters' names.
pub(super) fn by_cluster(outcomes: &[Outcome]) -> Vec<(f64, f64)> {
    let mut clusters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for outcome in outcomes {
        let (sum, count) = clusters.entry(&outcome.cluster).or_default();
        *sum += outcome.value;
        *count += 1.0;
    }
    clusters.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_clusters_by_hand() {
        // m = 3/6; deviations of sums 2 - 1.5, 1 - 0.5, 0 - 1: squares 0.25 + 0.25 + 1 = 1.5;
        // 1.5 * 3/2 / 36 = 1/16.
        let mean = Clustered::of(&[(2.0, 3.0), (1.0, 1.0), (0.0, 2.0)]).unwrap();
        let expected = Clustered { value: 0.5, standard_error: 0.25, n: 6, clusters: 3 };
        assert_eq!(mean, expected);
        // The quantile of t with two degrees of freedom has a closed form: (2q - 1) / sqrt(2 q (1 - q)).
        let quantile = 0.95 / (2.0f64 * 0.975 * 0.025).sqrt();
        assert!((mean.ci95()[1] - 0.5 - 0.25 * quantile).abs() < 1e-12);
    }

    #[test]
    fn single_questions_give_the_usual_error() {
        // Two right of four: variance with n - 1 below is 1/3.
        let mean = Clustered::of(&[(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, 1.0)]).unwrap();
        assert!((mean.standard_error - (1.0f64 / 12.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn one_cluster_says_nothing_of_others() {
        let mean = Clustered::of(&[(2.0, 4.0)]).unwrap();
        assert_eq!(mean.ci95(), [f64::NEG_INFINITY, f64::INFINITY]);
        assert_eq!(Clustered::of(&[]), None);
    }
}
