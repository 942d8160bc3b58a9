//! Whether a model prefers letters: predicted ones against how often each is right.
//!
//! Pearson's statistic, sum over letters of (predicted - expected)^2 / expected, where the expected number
//! is what the share of a letter among the right answers makes of all predictions; under no preference
//! chi-square with one degree of freedom fewer than letters. Questions with other numbers of options are
//! other tests: a letter that few questions offer is expected less often. Predictions that are right follow
//! the right letters, so a good model's preference shows less than a guessing one's; and questions are
//! counted as if they did not hang together.

use serde::{Deserialize, Serialize};

use super::tails;

/// The outcome of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LetterBias {
    /// Pearson's statistic; infinite where a letter is predicted that is never right.
    pub chi_square: f64,
    /// Letters less one.
    pub degrees_of_freedom: usize,
    /// Chance of such a statistic or a larger one without a preference.
    pub p: f64,
    /// The smallest expected number; below 5 the p value is rough.
    pub least_expected: f64,
}

/// Compares how often each letter is predicted with how often it is right: numbers of questions by letter,
/// in one order. `None` where the two differ in length, one of them is all zero, or fewer than two letters
/// ever occur.
pub fn letter_bias(right: &[u64], predicted: &[u64]) -> Option<LetterBias> {
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
    let scale = total(predicted) / total(right);
    let used: Vec<(f64, f64)> = right
        .iter()
        .zip(predicted)
        .filter(|(right, predicted)| **right + **predicted > 0)
        .map(|(&right, &predicted)| (right as f64 * scale, predicted as f64))
        .collect();
    if right.len() != predicted.len() || !(scale > 0.0 && scale.is_finite()) || used.len() < 2 {
        return None;
    }
    let chi_square: f64 =
        used.iter().map(|(expected, got)| (got - expected).powi(2) / expected).sum();
    let degrees_of_freedom = used.len() - 1;
    Some(LetterBias {
        chi_square,
        degrees_of_freedom,
        p: tails::chi_square(chi_square, degrees_of_freedom as f64),
        least_expected: used.iter().map(|(expected, _)| *expected).fold(f64::INFINITY, f64::min),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_letters_by_hand() {
        // Expected 20 and 20: 100/20 + 100/20 = 10.
        let bias = letter_bias(&[10, 10], &[30, 10]).unwrap();
        assert_eq!((bias.chi_square, bias.degrees_of_freedom), (10.0, 1));
        assert!((bias.p - 0.001_565_402_258_002_55).abs() < 1e-15);
        assert_eq!(bias.least_expected, 20.0);
    }

    #[test]
    fn letters_never_right_and_nothing_to_compare() {
        assert_eq!(letter_bias(&[10, 10, 0], &[9, 9, 2]).unwrap().p, 0.0);
        assert_eq!(letter_bias(&[10, 10, 0], &[10, 10, 0]).unwrap().p, 1.0);
        for (right, predicted) in
            [(&[1, 1][..], &[0, 0][..]), (&[0, 0], &[1, 1]), (&[3], &[2]), (&[1, 2], &[1, 2, 3])]
        {
            assert_eq!(letter_bias(right, predicted), None);
        }
    }
}
