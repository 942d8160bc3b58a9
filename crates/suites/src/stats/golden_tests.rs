//! The statistics against numpy, scipy and statsmodels (tests/goldens/suites/statistics/make.py).

use serde::Deserialize;

use super::{Bootstrap, Outcome, mean, paired_difference, quantile};

/// Ends of intervals are themselves draws: with 10,000 resamples an end at 2.5 % has a standard
/// deviation of 0.027 standard errors of the figure, here at most 0.06. Four of those, and as much
/// again for the reference's own 100,000 draws.
const MONTE_CARLO: f64 = 0.008;

#[derive(Deserialize)]
struct Golden {
    quantiles: Vec<Quantiles>,
    exact: Vec<Exact>,
    mean: Vec<Mean>,
    paired: Vec<Paired>,
}

#[derive(Deserialize)]
struct Quantiles {
    sorted: Vec<f64>,
    levels: Vec<f64>,
    quantiles: Vec<f64>,
}

#[derive(Deserialize)]
struct Exact {
    differences: Vec<Vec<f64>>,
    counts: Vec<usize>,
    value: f64,
    ci95: [f64; 2],
}

#[derive(Deserialize)]
struct Mean {
    answers: Vec<Vec<u8>>,
    value: f64,
    ci95: [f64; 2],
    clustered_standard_error: f64,
}

#[derive(Deserialize)]
struct Paired {
    base: Vec<Vec<u8>>,
    others: Vec<Vec<Vec<u8>>>,
    value: f64,
    ci95: [f64; 2],
}

fn golden() -> Golden {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/suites/statistics/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One run from the figures of each clip's questions.
pub(super) fn outcomes<T: Copy + Into<f64>>(clips: &[Vec<T>]) -> Vec<Outcome> {
    let of_clip = |(clip, values): (usize, &Vec<T>)| {
        let outcome = |(question, &value): (usize, &T)| Outcome {
            id: format!("{clip}-{question}"),
            cluster: clip.to_string(),
            value: value.into(),
        };
        values.iter().enumerate().map(outcome).collect::<Vec<_>>()
    };
    clips.iter().enumerate().flat_map(of_clip).collect()
}

pub(super) fn close(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{got} is not {expected} within {tolerance}");
}

#[test]
fn quantiles_are_numpys() {
    for case in golden().quantiles {
        for (level, expected) in case.levels.iter().zip(case.quantiles) {
            close(quantile(&case.sorted, *level).unwrap(), expected, 1e-12);
        }
    }
}

#[test]
fn intervals_are_those_of_all_resamples() {
    for case in golden().exact {
        // A clip's whole difference on its first question; the others differ by nothing.
        let run = |sums: &[f64]| {
            let clips: Vec<Vec<f64>> = sums
                .iter()
                .zip(&case.counts)
                .map(|(&sum, &count)| {
                    (0..count).map(|question| if question == 0 { sum } else { 0.0 }).collect()
                })
                .collect();
            outcomes(&clips)
        };
        let base = run(&vec![0.0; case.counts.len()]);
        let others: Vec<Vec<Outcome>> = case.differences.iter().map(|sums| run(sums)).collect();
        let result = paired_difference(&[base], &others, &Bootstrap::default()).unwrap();
        close(result.difference, case.value, 1e-12);
        close(result.ci95[0], case.ci95[0], 1e-11);
        close(result.ci95[1], case.ci95[1], 1e-11);
        if let [other] = &others[..] {
            let alone = mean(other, &Bootstrap { seed: 9, ..Bootstrap::default() }).unwrap();
            close(alone.ci95[0], case.ci95[0], 1e-11);
            close(alone.ci95[1], case.ci95[1], 1e-11);
        }
    }
}

#[test]
fn clustered_means_agree_with_scipy_and_statsmodels() {
    for case in golden().mean {
        let estimate = mean(&outcomes(&case.answers), &Bootstrap::default()).unwrap();
        close(estimate.value, case.value, 1e-12);
        close(estimate.ci95[0], case.ci95[0], MONTE_CARLO);
        close(estimate.ci95[1], case.ci95[1], MONTE_CARLO);
        // The normal interval around the clustered standard error: another method, so only near.
        let normal = 2.0 * 1.959_964 * case.clustered_standard_error;
        close((estimate.ci95[1] - estimate.ci95[0]) / normal, 1.0, 0.05);
    }
}

#[test]
fn paired_differences_agree_with_numpy() {
    for case in golden().paired {
        let others: Vec<Vec<Outcome>> = case.others.iter().map(|other| outcomes(other)).collect();
        let result =
            paired_difference(&[outcomes(&case.base)], &others, &Bootstrap::default()).unwrap();
        close(result.difference, case.value, 1e-12);
        close(result.ci95[0], case.ci95[0], MONTE_CARLO);
        close(result.ci95[1], case.ci95[1], MONTE_CARLO);
        assert_eq!(result.seeds, case.others.len());
    }
}
