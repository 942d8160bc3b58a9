//! What difference a comparison can see, and how surely it sees a given one.
//!
//! A paired comparison is a t test over clusters: for a true difference d and a standard error SE of the
//! paired difference, its statistic has the noncentral t distribution around d / SE, and its power is the
//! chance that it lies beyond the quantiles t of the level (Miller, *Adding Error Bars to Evals*, 2024,
//! section 5, takes normal quantiles, which promise too much for few clusters):
//!
//! ```text
//! power(d) = P(T > t_(1 - alpha/2)) + P(T < -t_(1 - alpha/2))
//! ```
//!
//! Before a second run exists its spread is taken to be the first one's, and r, the correlation of the two
//! runs' figures by cluster, is stated: SE = SE_1 sqrt(2 (1 - r)). 0 holds for runs that
//! agree by chance alone, and lmms-eval assumes 0.5 where nothing is said.

use super::{Clustered, tails};

/// A comparison of two runs over the same questions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Number of clusters.
    pub clusters: usize,
    /// Two-sided level of the test.
    pub alpha: f64,
}

impl Comparison {
    /// Of two runs that are there, by [`super::Pairs::difference`]; at the 5 % level.
    pub fn of(difference: &Clustered) -> Self {
        let Clustered { standard_error, clusters, .. } = *difference;
        Self { standard_error, clusters, alpha: 0.05 }
    }

    /// Of a run with another like it that is still to come, whose figures have this `correlation` with
    /// the run's own, from -1 to 1; at the 5 % level.
    pub fn before(run: &Clustered, correlation: f64) -> Self {
        let standard_error = run.standard_error * (2.0 * (1.0 - correlation)).max(0.0).sqrt();
        Self { standard_error, clusters: run.clusters, alpha: 0.05 }
    }

    /// The same on another number of clusters of the same kind.
    pub fn with_clusters(self, clusters: usize) -> Self {
        let ratio = self.clusters as f64 / clusters as f64;
        Self { standard_error: self.standard_error * ratio.sqrt(), clusters, ..self }
    }

    /// The chance that the test calls a true `difference` significant. `alpha` at 0; where there are fewer
    /// than two clusters, no test and 0.
    pub fn power(&self, difference: f64) -> f64 {
        if self.clusters < 2 {
            return 0.0;
        }
        if self.standard_error == 0.0 {
            return if difference == 0.0 { self.alpha } else { 1.0 };
        }
        let df = (self.clusters - 1) as f64;
        let quantile = tails::student_t_quantile(0.5 * self.alpha, df);
        let shift = difference.abs() / self.standard_error;
        tails::noncentral_t(quantile, df, shift) + tails::noncentral_t(quantile, df, -shift)
    }

    /// The smallest true difference that the test calls significant with chance `power` (0.8 is usual);
    /// infinite where there are fewer than two clusters.
    pub fn minimum_detectable(&self, power: f64) -> f64 {
        if self.clusters < 2 || !self.standard_error.is_finite() {
            return f64::INFINITY;
        }
        let mut high = self.standard_error;
        while high > 0.0 && self.power(high) < power {
            high *= 2.0;
        }
        // A millionth of a standard error is more than anyone needs.
        let (mut low, step) = (0.0, 1e-6 * self.standard_error);
        while high - low > step {
            let middle = 0.5 * (low + high);
            if self.power(middle) < power {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clusters_meet_the_normal_formula() {
        // (1.959964 + 0.841621) standard errors, Miller's equation; t with 9,999 degrees of freedom adds 1e-4.
        let comparison = Comparison { standard_error: 0.01, clusters: 10_000, alpha: 0.05 };
        let difference = comparison.minimum_detectable(0.8);
        assert!((difference / 0.01 - 2.801_585).abs() < 1e-3, "{difference}");
        assert!((comparison.power(difference) - 0.8).abs() < 1e-6);
        assert!((comparison.power(0.0) - 0.05).abs() < 1e-10);
        assert_eq!(comparison.power(0.03), comparison.power(-0.03));
    }

    #[test]
    fn before_a_second_run() {
        let run = Clustered { value: 0.6, standard_error: 0.02, n: 900, clusters: 300 };
        let half = Comparison::before(&run, 0.5);
        assert!((half.standard_error - 0.02).abs() < 1e-15);
        let (worst, alike) = (Comparison::before(&run, 0.0), Comparison::before(&run, 1.0));
        assert!((worst.standard_error - 0.02 * 2.0f64.sqrt()).abs() < 1e-15);
        assert_eq!((alike.standard_error, alike.power(0.01)), (0.0, 1.0));
        assert_eq!(alike.minimum_detectable(0.8), 0.0);
        let four = half.with_clusters(1200);
        assert!((four.standard_error - 0.01).abs() < 1e-15 && four.clusters == 1200);
    }

    #[test]
    fn one_cluster_shows_nothing() {
        let one = Clustered { value: 0.5, standard_error: f64::INFINITY, n: 9, clusters: 1 };
        let comparison = Comparison::of(&one);
        assert_eq!(
            (comparison.power(0.5), comparison.minimum_detectable(0.8)),
            (0.0, f64::INFINITY)
        );
    }
}
