//! The interval of a share, and the interval that a suite's table shows.
//!
//! Wilson (*Journal of the American Statistical Association* 22, 1927), for a share p of n questions and z
//! standard errors:
//!
//! ```text
//! (p + z^2 / 2n  ±  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
//! ```
//!
//! For clustered questions n is the *effective* number, p (1 - p) / SE^2 with the clustered standard error
//! and never more than there are, and z the quantile of Student's t (Dean and Pagano, *Journal of Survey
//! Statistics and Methodology* 3(4), 2015, compare such intervals). Where all answers are alike the standard
//! error says nothing; then n is the number of clusters.

use super::clustered::by_cluster;
use super::{Clustered, Estimate, Outcome};

/// The 97.5 % quantile of the standard normal distribution.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of a share `right / n` of questions that do not hang together; `[0, 1]` for none.
pub fn wilson(right: u64, n: u64) -> [f64; 2] {
    if n == 0 { [0.0, 1.0] } else { interval(right as f64 / n as f64, n as f64, Z) }
}

/// The mean with the interval that a table shows: of shares (every value is 0 or 1) Wilson's, with the
/// effective number of questions where they are clustered, of other figures that of
/// [`Clustered::ci95`], which is infinite for a single cluster. `None` for no outcomes. The order of outcomes does
/// not matter.
pub fn estimate(outcomes: &[Outcome]) -> Option<Estimate> {
    let mean = Clustered::of(&by_cluster(outcomes))?;
    let is_share = outcomes.iter().all(|outcome| outcome.value == 0.0 || outcome.value == 1.0);
    let ci95 = if is_share { share_interval(&mean) } else { mean.ci95() };
    Some(Estimate { value: mean.value, ci95, n: mean.n, clusters: mean.clusters })
}

/// Wilson's interval of a clustered share.
pub(super) fn share_interval(mean: &Clustered) -> [f64; 2] {
    let (share, n) = (mean.value, mean.n as f64);
    if mean.clusters == mean.n {
        return interval(share, n, Z);
    }
    let variance = share * (1.0 - share);
    let effective = if variance > 0.0 {
        n.min(variance / mean.standard_error.powi(2))
    } else {
        mean.clusters as f64
    };
    interval(share, effective, mean.quantile())
}

fn interval(share: f64, n: f64, z: f64) -> [f64; 2] {
    if n <= 0.0 || z.is_infinite() {
        return [0.0, 1.0];
    }
    let square = z * z / n;
    let centre = (share + 0.5 * square) / (1.0 + square);
    let half = (square * (share * (1.0 - share) + 0.25 * square)).sqrt() / (1.0 + square);
    // Rounding must not push the end of a share of 0 or 1 off it.
    let low = if share == 0.0 { 0.0 } else { centre - half };
    let high = if share == 1.0 { 1.0 } else { centre + half };
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(clusters: &[&[f64]]) -> Vec<Outcome> {
        let of = |(cluster, values): (usize, &&[f64])| {
            let outcome =
                |&value: &f64| Outcome { id: String::new(), cluster: cluster.to_string(), value };
            values.iter().map(outcome).collect::<Vec<_>>()
        };
        clusters.iter().enumerate().flat_map(of).collect()
    }

    #[test]
    fn clusters_of_one_question_have_the_plain_interval() {
        let single = estimate(&outcomes(&[&[1.0], &[0.0], &[1.0], &[1.0]])).unwrap();
        assert_eq!((single.value, single.ci95), (0.75, wilson(3, 4)));
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn clustering_widens_and_never_narrows() {
        let width = |clusters: &[&[f64]]| {
            let [low, high] = estimate(&outcomes(clusters)).unwrap().ci95;
            high - low
        };
        let alike: &[&[f64]] = &[&[1.0; 4], &[0.0; 4], &[1.0; 4], &[0.0; 4]];
        let mixed: &[&[f64]] =
            &[&[1.0, 0.0, 1.0, 0.0], &[0.0, 1.0, 1.0, 0.0], &[1.0, 1.0, 0.0, 0.0]];
        let [low, high] = wilson(6, 12);
        assert!(width(alike) > width(mixed) && width(mixed) > high - low);
    }

    #[test]
    fn all_right_and_one_cluster_are_not_certain() {
        let all = estimate(&outcomes(&[&[1.0, 1.0], &[1.0, 1.0], &[1.0]])).unwrap();
        assert!(all.ci95[0] < 0.5 && all.ci95[1] == 1.0);
        assert_eq!(estimate(&outcomes(&[&[1.0, 0.0, 1.0]])).unwrap().ci95, [0.0, 1.0]);
    }

    #[test]
    fn figures_that_are_no_shares_have_the_t_interval() {
        let outcomes = outcomes(&[&[4.0, 2.0], &[3.0], &[1.5]]);
        let mean = Clustered::of(&by_cluster(&outcomes)).unwrap();
        assert_eq!(estimate(&outcomes).unwrap().ci95, mean.ci95());
        assert_eq!(estimate(&[]), None);
    }
}
