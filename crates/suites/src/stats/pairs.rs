//! Two runs over the same questions, and tests of whether they differ.
//!
//! All three are two-sided. [`mcnemar`] (*Psychometrika* 12, 1947, in its exact form) counts questions that
//! only one run has right, and holds where no two questions share a cluster. [`Pairs::sign_flip`] and
//! [`Pairs::t_test`] take clusters as what is drawn, by the sum d_c of the differences in each:
//!
//! - If nothing tells the runs apart, +d_c and -d_c are equally likely; p is the share of sign flips whose
//!   sum is as far from 0 as the one that was seen (Fisher, *The Design of Experiments*, 1935, section 21).
//!   No distribution is assumed, so this is the one to report.
//! - t = mean(d_c) / (sd(d_c) / sqrt C), with C - 1 degrees of freedom: near the other for many clusters.

use rand::Rng;
use rayon::prelude::*;
use savi_judge::order::seeded_rng;
use serde::{Deserialize, Serialize};

use super::paired::{index, same_questions};
use super::{Clustered, Outcome, PairedError, tails};

/// The differences between two runs over the same questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    /// Sum of differences and number of questions, by cluster.
    clusters: Vec<(f64, f64)>,
    /// Questions that the second run alone has right, and the first alone; `None` where a figure is
    /// neither 0 nor 1.
    discordant: Option<(u64, u64)>,
}

/// The outcome of a paired t test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TTest {
    /// The mean sum of a cluster over its standard error.
    pub t: f64,
    /// Clusters less one.
    pub degrees_of_freedom: usize,
    /// Chance of a `t` as far from 0 if the runs do not differ.
    pub p: f64,
}

impl Pairs {
    /// Pairs two runs by question; the differences are `other - base`.
    pub fn new(base: &[Outcome], other: &[Outcome]) -> Result<Self, PairedError> {
        let runs = [index(base)?, index(other)?];
        same_questions(&runs)?;
        let [base, other] = runs;
        if base.is_empty() {
            return Err(PairedError::Empty);
        }
        let mut clusters = std::collections::BTreeMap::<&str, (f64, f64)>::new();
        let mut discordant = Some((0, 0));
        for (id, before) in &base {
            let after = other[id];
            let (sum, count) = clusters.entry(&before.cluster).or_default();
            *sum += after.value - before.value;
            *count += 1.0;
            let right = |value: f64| {
                if value == 1.0 { Some(true) } else { (value == 0.0).then_some(false) }
            };
            discordant = match (discordant, right(before.value), right(after.value)) {
                (Some((gained, lost)), Some(before), Some(after)) => {
                    Some((gained + u64::from(!before && after), lost + u64::from(before && !after)))
                }
                _ => None,
            };
        }
        Ok(Self { clusters: clusters.into_values().collect(), discordant })
    }

    /// The mean difference with its clustered standard error.
    pub fn difference(&self) -> Clustered {
        let none = Clustered { value: 0.0, standard_error: f64::INFINITY, n: 0, clusters: 0 };
        Clustered::of(&self.clusters).unwrap_or(none)
    }

    /// The p value of [`mcnemar`]; `None` where it does not hold: a cluster has several questions, or a
    /// figure is neither 0 nor 1.
    pub fn mcnemar(&self) -> Option<f64> {
        let (gained, lost) = self.discordant?;
        self.clusters.iter().all(|&(_, count)| count == 1.0).then(|| mcnemar(gained, lost))
    }

    /// The p value of the sign-flip test over clusters. Up to 16 clusters that differ at all have every
    /// flip counted; for more, `draws` flips are drawn with `seed`, and what was seen counts as one more,
    /// which keeps the test valid (Phipson and Smyth, *Statistical Applications in Genetics and Molecular
    /// Biology* 9(1), 2010).
    pub fn sign_flip(&self, draws: usize, seed: u64) -> f64 {
        /// Most clusters whose flips are all counted.
        const ENUMERATED: usize = 16;
        // Clusters without a difference have the same sum under every flip.
        let sums: Vec<f64> =
            self.clusters.iter().map(|&(sum, _)| sum).filter(|&sum| sum != 0.0).collect();
        // Sums of equal parts in another order may differ in their last digits.
        let rounding = 1e-12 * sums.iter().map(|sum| sum.abs()).sum::<f64>();
        let seen = sums.iter().sum::<f64>().abs() - rounding;
        let as_far = |flips: &mut dyn FnMut(usize) -> u64| {
            let sum: f64 = sums
                .chunks(64)
                .enumerate()
                .map(|(word, sums)| {
                    let flips = flips(word);
                    let signed =
                        |(bit, &sum): (usize, &f64)| if flips >> bit & 1 == 1 { -sum } else { sum };
                    sums.iter().enumerate().map(signed).sum::<f64>()
                })
                .sum();
            sum.abs() >= seen
        };
        if sums.len() <= ENUMERATED {
            let all = 1u64 << sums.len();
            let far = (0..all).filter(|&flips| as_far(&mut |_| flips)).count();
            return far as f64 / all as f64;
        }
        let root = seeded_rng(seed, &["sign-flip"]);
        let far = (0..draws as u64)
            .into_par_iter()
            .filter(|&draw| {
                let mut rng = root.clone();
                rng.set_stream(draw);
                as_far(&mut |_| rng.random())
            })
            .count();
        (far + 1) as f64 / (draws + 1) as f64
    }

    /// The paired t test over clusters; `None` for fewer than two of them. Where all sums are equal, `p` is
    /// 1 if they are 0, and 0 otherwise.
    pub fn t_test(&self) -> Option<TTest> {
        let count = self.clusters.len();
        if count < 2 {
            return None;
        }
        let mean = self.clusters.iter().map(|(sum, _)| sum).sum::<f64>() / count as f64;
        let squares: f64 = self.clusters.iter().map(|(sum, _)| (sum - mean).powi(2)).sum();
        let standard_error = (squares / (count - 1) as f64 / count as f64).sqrt();
        let t = if mean == 0.0 { 0.0 } else { mean / standard_error };
        let p = 2.0 * tails::student_t(t.abs(), (count - 1) as f64);
        Some(TTest { t, degrees_of_freedom: count - 1, p })
    }
}

/// The exact McNemar test on `gained` and `lost` questions, those that only the second run or only the
/// first has right: p = min(1, 2 P(X <= min(gained, lost))) for X heads of gained + lost fair coins.
/// Questions must not hang together.
pub fn mcnemar(gained: u64, lost: u64) -> f64 {
    (2.0 * tails::fair_coin(gained.min(lost), gained + lost)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(clusters: &[&[f64]]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (cluster, values) in clusters.iter().enumerate() {
            outcomes.extend(values.iter().enumerate().map(|(question, &value)| Outcome {
                id: format!("{cluster}-{question}"),
                cluster: cluster.to_string(),
                value,
            }));
        }
        outcomes
    }

    #[test]
    fn mcnemar_by_hand() {
        // 2 (1 + 5) / 32.
        assert!((mcnemar(1, 4) - 0.375).abs() < 1e-14);
        assert_eq!((mcnemar(3, 3), mcnemar(0, 0)), (1.0, 1.0));
        let single = Pairs::new(&run(&[&[0.0], &[1.0]]), &run(&[&[1.0], &[1.0]])).unwrap();
        assert_eq!(single.mcnemar(), Some(1.0));
        let clustered = Pairs::new(&run(&[&[0.0, 1.0]]), &run(&[&[1.0, 1.0]])).unwrap();
        assert_eq!(clustered.mcnemar(), None);
        let graded = Pairs::new(&run(&[&[0.0]]), &run(&[&[0.5]])).unwrap();
        assert_eq!(graded.mcnemar(), None);
    }

    #[test]
    fn flips_by_hand() {
        // Sums 2, 1, 0 and -1: of the 8 flips of the first three that differ, |±2 ±1 ±1| is 2 or more in 6
        // (4 twice, 2 four times) and 0 in 2.
        let base = run(&[&[0.0, 0.0], &[0.0], &[1.0], &[1.0]]);
        let other = run(&[&[1.0, 1.0], &[1.0], &[1.0], &[0.0]]);
        let pairs = Pairs::new(&base, &other).unwrap();
        assert_eq!(pairs.sign_flip(0, 0), 0.75);
        // Mean 1/2, variance 5/3, t = 0.5 / sqrt(5/12).
        let test = pairs.t_test().unwrap();
        assert!((test.t - 0.5 / (5.0f64 / 12.0).sqrt()).abs() < 1e-15);
        assert_eq!(test.degrees_of_freedom, 3);
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let alike = run(&[&[0.0, 1.0], &[1.0]]);
        let pairs = Pairs::new(&alike, &alike).unwrap();
        assert_eq!((pairs.sign_flip(10, 0), pairs.t_test().unwrap().p), (1.0, 1.0));
        let gained = Pairs::new(&run(&[&[0.0], &[0.0]]), &run(&[&[1.0], &[1.0]])).unwrap();
        assert_eq!((gained.sign_flip(10, 0), gained.t_test().unwrap().p), (0.5, 0.0));
        assert_eq!(Pairs::new(&run(&[&[0.0]]), &run(&[&[1.0]])).unwrap().t_test(), None);
    }

    #[test]
    fn threads_do_not_matter() {
        let clusters = (0..70).map(|k| (f64::from(k % 5) - 1.5, 2.0)).collect();
        let pairs = Pairs { clusters, discordant: None };
        let drawn = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| pairs.sign_flip(999, 4))
        };
        assert_eq!(drawn(1), drawn(3));
        assert!(drawn(1) > 0.001 && drawn(1) < 0.05, "{}", drawn(1));
    }

    #[test]
    fn other_questions_are_refused() {
        let error = Pairs::new(&run(&[&[0.0]]), &run(&[&[0.0, 1.0]])).unwrap_err();
        assert_eq!(error, PairedError::Questions { id: "0-1".to_owned(), missing: 1 });
        assert_eq!(Pairs::new(&[], &[]), Err(PairedError::Empty));
    }
}
