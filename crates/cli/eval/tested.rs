//! A paired difference with its tests: what tables and result files say of two runs.

use std::collections::{BTreeMap, HashSet};

use savi_suites::stats::{
    Bootstrap, Comparison, Difference, Outcome, PairedError, Pairs, holm, paired_difference,
};
use serde::Serialize;

/// Draws of the sign-flip test where there are too many clusters to try all.
const DRAWS: usize = 10_000;
/// The power at which the smallest difference that can be found is told.
const POWER: f64 = 0.8;

/// A difference and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tested {
    /// The figures with an interval.
    #[serde(flatten)]
    pub(crate) difference: Difference,
    /// Of the sign-flip test over clusters, on the means over seeds.
    pub(crate) p: f64,
    /// The same after Holm's correction over the differences that stand together in a table.
    pub(crate) p_holm: f64,
    /// Of the paired t test over clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p_t: Option<f64>,
    /// Of McNemar's exact test, where every question is a cluster of its own and right or wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p_mcnemar: Option<f64>,
    /// The smallest true difference that the t test would call significant in four of five such comparisons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_detectable: Option<f64>,
    /// Questions that only one of the runs counts, which are left out.
    pub(crate) unpaired: usize,
}

/// Compares two arms, one list of outcomes for each seed, on the questions that all of them count.
pub(crate) fn tested(
    base: &[Vec<Outcome>],
    other: &[Vec<Outcome>],
    bootstrap: &Bootstrap,
) -> Result<Tested, PairedError> {
    let runs = || base.iter().chain(other);
    let ids =
        |run: &'_ Vec<Outcome>| -> HashSet<String> { run.iter().map(|o| o.id.clone()).collect() };
    let shared = runs().map(ids).reduce(|a, b| a.intersection(&b).cloned().collect());
    let shared = shared.unwrap_or_default();
    let all: HashSet<&str> = runs().flatten().map(|outcome| outcome.id.as_str()).collect();
    let unpaired = all.len() - shared.len();
    let keep = |runs: &[Vec<Outcome>]| -> Vec<Vec<Outcome>> {
        let kept =
            |run: &Vec<Outcome>| run.iter().filter(|o| shared.contains(&o.id)).cloned().collect();
        runs.iter().map(kept).collect()
    };
    let (base, other) = (keep(base), keep(other));
    let difference = paired_difference(&base, &other, bootstrap)?;
    let pairs = Pairs::new(&means(&base), &means(&other))?;
    let least = Comparison::of(&pairs.difference()).minimum_detectable(POWER);
    let p = pairs.sign_flip(DRAWS, bootstrap.seed);
    Ok(Tested {
        difference,
        p,
        p_holm: p,
        p_t: pairs.t_test().map(|test| test.p).filter(|p| p.is_finite()),
        p_mcnemar: pairs.mcnemar(),
        minimum_detectable: Some(least).filter(|least| least.is_finite()),
        unpaired,
    })
}

/// Corrects the p values of differences that stand together.
pub(crate) fn correct<'a>(family: impl Iterator<Item = &'a mut Tested>) {
    let family: Vec<&mut Tested> = family.collect();
    let p: Vec<f64> = family.iter().map(|tested| tested.p).collect();
    for (tested, p) in family.into_iter().zip(holm(&p)) {
        tested.p_holm = p;
    }
}

/// The mean of each question over the runs of an arm.
fn means(runs: &[Vec<Outcome>]) -> Vec<Outcome> {
    let mut sums: BTreeMap<&str, (f64, &Outcome)> = BTreeMap::new();
    for outcome in runs.iter().flatten() {
        sums.entry(&outcome.id).or_insert((0.0, outcome)).0 += outcome.value;
    }
    let count = runs.len() as f64;
    sums.into_values().map(|(sum, o)| Outcome { value: sum / count, ..o.clone() }).collect()
}

/// A p value as tables show it.
pub(crate) fn shown(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[(&str, f64)]) -> Vec<Outcome> {
        let outcome = |&(id, value): &(&str, f64)| Outcome {
            id: id.to_owned(),
            cluster: id.to_owned(),
            value,
        };
        values.iter().map(outcome).collect()
    }

    #[test]
    fn what_only_one_run_counts_is_left_out_and_seeds_are_averaged() {
        let base = run(&[("a", 0.0), ("b", 0.0), ("c", 1.0), ("d", 0.0)]);
        let first = run(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
        let second = run(&[("a", 1.0), ("b", 0.0), ("c", 1.0), ("e", 1.0)]);
        let bootstrap = Bootstrap { resamples: 100, seed: 0 };
        let tested = tested(&[base], &[first, second], &bootstrap).unwrap();
        assert_eq!((tested.difference.n, tested.unpaired), (3, 2));
        // a gains 1, b half, c nothing: of the four signs of a and b two reach a sum of 1.5.
        assert!((tested.difference.difference - 0.5).abs() < 1e-12);
        assert_eq!((tested.p, tested.p_mcnemar), (0.5, None));
    }

    #[test]
    fn holms_correction_is_over_those_that_stand_together() {
        let base = run(&(0..6).map(|_| ("", 0.0)).collect::<Vec<_>>()[..1]);
        let bootstrap = Bootstrap { resamples: 10, seed: 0 };
        let one = std::slice::from_ref(&base);
        let one = tested(one, one, &bootstrap).unwrap();
        let mut family = [0.01, 0.04, 0.03].map(|p| Tested { p, ..one.clone() });
        correct(family.iter_mut());
        assert_eq!(family.map(|tested| tested.p_holm), [0.03, 0.06, 0.06]);
    }
}
