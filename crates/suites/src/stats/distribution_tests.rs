//! Tails, intervals, tests and power against scipy and statsmodels
//! (tests/goldens/suites/statistics/make.py, tests.json).

use serde::Deserialize;

use super::golden_tests::{close, outcomes};
use super::{Comparison, Pairs, benjamini_hochberg, clustered, holm, letter_bias, tails, wilson};

/// Relative difference from scipy, whose own tails are good to about as much.
const EXACT: f64 = 1e-11;

#[derive(Deserialize)]
struct Golden {
    tails: Tails,
    clustered: Vec<Mean>,
    wilson: Vec<(u64, u64, f64, f64)>,
    pairs: Vec<Pair>,
    families: Vec<Family>,
    power: Vec<Power>,
    letters: Vec<Letters>,
}

#[derive(Deserialize)]
struct Tails {
    normal: Vec<(f64, f64)>,
    student_t: Vec<(f64, f64, f64)>,
    student_t_quantile: Vec<(f64, f64, f64)>,
    chi_square: Vec<(f64, f64, f64)>,
    noncentral_t: Vec<(f64, f64, f64, f64)>,
    fair_coin: Vec<(u64, u64, f64)>,
}

#[derive(Deserialize)]
struct Mean {
    answers: Vec<Vec<u8>>,
    standard_error: f64,
    ci95: [f64; 2],
}

#[derive(Deserialize)]
struct Pair {
    base: Vec<Vec<u8>>,
    other: Vec<Vec<u8>>,
    mcnemar: Option<f64>,
    sign_flip: f64,
    t: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Family {
    p: Vec<f64>,
    holm: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
}

#[derive(Deserialize)]
struct Power {
    clusters: usize,
    alpha: f64,
    effect: f64,
    power: f64,
    detectable: f64,
}

#[derive(Deserialize)]
struct Letters {
    right: Vec<u64>,
    predicted: Vec<u64>,
    chi_square: f64,
    p: f64,
}

fn golden() -> Golden {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/suites/statistics/tests.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn near(what: &str, got: f64, expected: f64) {
    let error = (got - expected).abs();
    assert!(error <= EXACT * expected.abs(), "{what}: {got:e} is not {expected:e}");
}

#[test]
fn tails_are_scipys() {
    let tails = golden().tails;
    for (x, expected) in tails.normal {
        near("normal", tails::normal(x), expected);
    }
    for (x, df, expected) in tails.student_t {
        near("t", tails::student_t(x, df), expected);
    }
    for (tail, df, expected) in tails.student_t_quantile {
        near("quantile", tails::student_t_quantile(tail, df), expected);
    }
    for (x, df, expected) in tails.chi_square {
        near("chi-square", tails::chi_square(x, df), expected);
    }
    for (k, n, expected) in tails.fair_coin {
        near("coin", tails::fair_coin(k, n), expected);
    }
    for (x, df, shift, expected) in tails.noncentral_t {
        // An integral, good to so much of 1, not of itself.
        close(tails::noncentral_t(x, df, shift), expected, 1e-10);
    }
}

#[test]
fn clustered_errors_are_statsmodels() {
    for case in golden().clustered {
        let mean = clustered(&outcomes(&case.answers)).unwrap();
        near("standard error", mean.standard_error, case.standard_error);
        close(mean.ci95()[0], case.ci95[0], 1e-12);
        close(mean.ci95()[1], case.ci95[1], 1e-12);
    }
}

#[test]
fn wilsons_intervals_are_statsmodels() {
    for (right, n, low, high) in golden().wilson {
        close(wilson(right, n)[0], low, 1e-14);
        close(wilson(right, n)[1], high, 1e-14);
    }
}

#[test]
fn paired_tests_are_scipys_and_statsmodels() {
    for case in golden().pairs {
        let pairs = Pairs::new(&outcomes(&case.base), &outcomes(&case.other)).unwrap();
        assert_eq!(pairs.mcnemar().is_some(), case.mcnemar.is_some());
        if let (Some(got), Some(expected)) = (pairs.mcnemar(), case.mcnemar) {
            near("McNemar", got, expected);
        }
        let test = pairs.t_test().unwrap();
        near("t", test.t, case.t);
        near("p of t", test.p, case.p);
        let draws = 20_000;
        let p = case.sign_flip;
        let tolerance = if case.base.len() <= 16 {
            1e-12
        } else {
            // Four standard deviations of a drawn share, and the one flip that was seen.
            4.0 * (p * (1.0 - p) / draws as f64).sqrt() + 1.0 / draws as f64
        };
        close(pairs.sign_flip(draws, 1), p, tolerance);
    }
}

#[test]
fn corrections_are_statsmodels() {
    for case in golden().families {
        for (got, expected) in holm(&case.p).iter().zip(&case.holm) {
            close(*got, *expected, 1e-14);
        }
        for (got, expected) in benjamini_hochberg(&case.p).iter().zip(&case.benjamini_hochberg) {
            close(*got, *expected, 1e-14);
        }
    }
}

#[test]
fn power_is_statsmodels() {
    for case in golden().power {
        let standard_error = 1.0 / (case.clusters as f64).sqrt();
        let comparison = Comparison { standard_error, clusters: case.clusters, alpha: case.alpha };
        close(comparison.power(case.effect), case.power, 1e-9);
        // statsmodels solves to about a millionth, too.
        close(comparison.minimum_detectable(0.8), case.detectable, 1e-5);
    }
}

#[test]
fn letters_are_scipys() {
    for case in golden().letters {
        let bias = letter_bias(&case.right, &case.predicted).unwrap();
        near("statistic", bias.chi_square, case.chi_square);
        near("p", bias.p, case.p);
    }
}
