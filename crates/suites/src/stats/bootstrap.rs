//! Drawing resamples and reading intervals off them.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use savi_judge::order::seeded_rng;
use serde::{Deserialize, Serialize};

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

impl Bootstrap {
    /// The 95 % percentile interval of `statistic`, which gets one generator for each resample.
    /// Resamples without a value (nothing was drawn) are left out; `None` when all are.
    pub(super) fn interval(
        &self,
        statistic: impl Fn(&mut ChaCha8Rng) -> Option<f64> + Sync,
    ) -> Option<[f64; 2]> {
        let root = seeded_rng(self.seed, &["bootstrap"]);
        let mut values: Vec<f64> = (0..self.resamples as u64)
            .into_par_iter()
            .filter_map(|resample| {
                let mut rng = root.clone();
                rng.set_stream(resample);
                statistic(&mut rng)
            })
            .collect();
        values.sort_by(f64::total_cmp);
        Some([quantile(&values, 0.025)?, quantile(&values, 0.975)?])
    }
}

/// How often each of `n` items comes in `n` draws with replacement.
pub(super) fn draw_weights(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut weights = vec![0.0; n];
    for _ in 0..n {
        weights[rng.random_range(0..n)] += 1.0;
    }
    weights
}

/// The quantile of sorted values by linear interpolation between order statistics (type 7 of
/// Hyndman and Fan, which numpy and R use by default). `None` for no values.
pub fn quantile(sorted: &[f64], level: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = level.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    let share = place - below as f64;
    Some(sorted[below] + share * (sorted[above] - sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_hand() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (level, expected) in [(0.0, 1.0), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            let got = quantile(&values, level).unwrap();
            assert!((got - expected).abs() < 1e-12, "{level}: {got}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn weights_are_n_draws() {
        let mut rng = seeded_rng(1, &[]);
        let weights = draw_weights(50, &mut rng);
        assert_eq!(weights.iter().sum::<f64>(), 50.0);
        assert!(weights.contains(&0.0), "drawn without replacement");
    }

    #[test]
    fn threads_do_not_matter() {
        let interval = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let bootstrap = Bootstrap { resamples: 500, seed: 3 };
            pool.install(|| bootstrap.interval(|rng| Some(rng.random::<f64>())))
        };
        assert_eq!(interval(1), interval(4));
        assert!(interval(1).is_some());
    }
}
