//! Corrections of p values that belong to one family of tests.
//!
//! Both give adjusted p values in the order of those they get: a test is significant at level alpha where
//! its adjusted value is at most alpha.

/// Holm (*Scandinavian Journal of Statistics* 6(2), 1979): bounds the chance of any false discovery,
/// however the tests hang together. The i-th smallest of m becomes the largest of (m - j + 1) p_j over
/// j <= i, at most 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut largest: f64 = 0.0;
    adjust(p, order(p).into_iter(), |rank, p_value| {
        largest = largest.max((p.len() - rank) as f64 * p_value);
        largest
    })
}

/// Benjamini and Hochberg (*Journal of the Royal Statistical Society B* 57(1), 1995): bounds the expected
/// share of false ones among the discoveries, for tests that are independent or positively dependent. The
/// i-th smallest of m becomes the smallest of m p_j / j over j >= i, at most 1.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut smallest: f64 = 1.0;
    adjust(p, order(p).into_iter().rev(), |rank, p_value| {
        smallest = smallest.min(p.len() as f64 * p_value / (rank + 1) as f64);
        smallest
    })
}

/// Places and ranks of the values, smallest first.
fn order(p: &[f64]) -> Vec<(usize, usize)> {
    let mut places: Vec<usize> = (0..p.len()).collect();
    places.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    places.into_iter().enumerate().collect()
}

fn adjust(
    p: &[f64],
    order: impl Iterator<Item = (usize, usize)>,
    mut step: impl FnMut(usize, f64) -> f64,
) -> Vec<f64> {
    let mut adjusted = vec![1.0; p.len()];
    for (rank, place) in order {
        adjusted[place] = step(rank, p[place]).min(1.0);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_tests_by_hand() {
        let p = [0.04, 0.01, 0.03];
        let close = |got: Vec<f64>, expected: [f64; 3]| {
            assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{got:?}");
        };
        close(holm(&p), [0.06, 0.03, 0.06]);
        close(benjamini_hochberg(&p), [0.04, 0.03, 0.04]);
        assert!(holm(&[]).is_empty() && benjamini_hochberg(&[]).is_empty());
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
    }
}
