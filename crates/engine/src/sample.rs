//! Drawing one token from logits.

use rand::Rng;
use savi_schema::Sampling;

/// Draws a token: greedy at temperature 0, otherwise from the softmax of `logits / temperature`
/// cut to the `top_k` likeliest and then to the smallest set that holds `top_p` of the mass. Ties
/// go to the smaller token.
pub(crate) fn draw(logits: &[f32], sampling: &Sampling, rng: &mut impl Rng) -> u32 {
    if sampling.temperature <= 0.0 {
        return logits
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
            .0 as u32;
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut kept: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(i, &x)| (i as u32, (f64::from(x - max) / sampling.temperature).exp()))
        .collect();
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let total: f64 = kept.iter().map(|k| k.1).sum();
        let mut mass = 0.0;
        let keep = kept
            .iter()
            .position(|k| {
                mass += k.1;
                mass >= sampling.top_p * total
            })
            .map_or(kept.len(), |last| last + 1);
        kept.truncate(keep);
    }
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut left = rng.random::<f64>() * total;
    for &(token, weight) in &kept {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    kept.last().map_or(0, |k| k.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p, ..Sampling::default() }
    }

    /// Pearson's test against the exact distribution, at a fixed seed.
    fn chi_square(sampling: &Sampling, exact: &[f64]) {
        let logits = [1.0f32, 2.0, 0.5, -1.0, 1.5];
        let mut rng = savi_nn::rng::stream(5, &["chi-square"]);
        let draws = 40_000;
        let mut counts = vec![0f64; logits.len()];
        for _ in 0..draws {
            counts[draw(&logits, sampling, &mut rng) as usize] += 1.0;
        }
        let mut statistic = 0.0;
        for (count, p) in counts.iter().zip(exact) {
            if *p == 0.0 {
                assert_eq!(*count, 0.0);
            } else {
                statistic += (count - p * f64::from(draws)).powi(2) / (p * f64::from(draws));
            }
        }
        // 0.999 quantile of chi-square with 4 degrees of freedom.
        assert!(statistic < 18.47, "{statistic}");
    }

    fn softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / sum).collect()
    }

    #[test]
    fn frequencies_follow_the_exact_distribution() {
        let none = f64::NEG_INFINITY;
        chi_square(&sampling(1.0, 0, 1.0), &softmax(&[1.0, 2.0, 0.5, -1.0, 1.5]));
        chi_square(&sampling(0.5, 0, 1.0), &softmax(&[2.0, 4.0, 1.0, -2.0, 3.0]));
        chi_square(&sampling(1.0, 2, 1.0), &softmax(&[none, 2.0, none, none, 1.5]));
        // Masses 0.442, 0.268, 0.163, 0.099, ...: 0.7 is reached with the second.
        chi_square(&sampling(1.0, 0, 0.7), &softmax(&[none, 2.0, none, none, 1.5]));
        assert_eq!(
            draw(&[0.0, 3.0, 3.0], &sampling(0.0, 0, 1.0), &mut savi_nn::rng::stream(0, &[])),
            1
        );
    }
}
