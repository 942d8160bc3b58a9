//! Figures with intervals for questions that hang together by clip, and runs that differ by seed.
//!
//! Questions about one clip share the clip, so clips are what is drawn, with all their questions.
//!
//! **Which interval.** A table shows that of [`estimate`]: for shares Wilson's, with the effective number of
//! questions and the quantile of Student's t where clips have several. In simulations (`coverage_tests`: clips
//! of 1 to 9 questions, correlated by 0, 0.2 and 0.6 within a clip, 2000 draws a case) it covers in 93 to 99 %
//! of draws from 5 clips on, and in 88 to 92 % only where a rare answer comes in whole clips (correlation 0.6;
//! a share of 0.9 in 20, of 0.05 in 50 and 100). The t interval around the clustered standard error and the
//! percentile bootstrap cover too little with few clips or shares near 0 or 1, where single clips make the
//! spread; here at a correlation of 0.2, in percent:
//!
//! | clips | share | estimate | t | bootstrap |
//! | --- | --- | --- | --- | --- |
//! | 10 | 0.5 | 94.6 | 92.5 | 90.7 |
//! | 10 | 0.9 | 98.1 | 85.5 | 83.3 |
//! | 20 | 0.5 | 95.0 | 94.1 | 93.1 |
//! | 20 | 0.9 | 94.0 | 88.9 | 88.7 |
//! | 100 | 0.5 | 95.6 | 95.4 | 95.0 |
//! | 100 | 0.9 | 95.1 | 94.2 | 94.1 |
//!
//! So from a hundred clips on all three may stand, away from 0 and 1; below, the first. Figures that are no shares
//! have the t interval, differences over several seeds the bootstrap. The plain [`wilson()`] takes questions for
//! independent: for clustered ones it is wrong however many there are.
//!
//! **Bootstraps.** [`mean()`] is the cluster bootstrap (Davison and Hinkley, *Bootstrap Methods
//! and their Application*, section 3.8). Runs of several seeds share the clips, so in [`paired_difference`] clips
//! and seeds are drawn independently and the product of both weights counts (the pigeonhole
//! bootstrap; Owen, *Annals of Applied Statistics* 1(2), 2007). It errs on the wide side while clips
//! make most of the spread; three seeds that differ by more than the clips do are too few for it (it
//! cannot leave their range, and then covers 75 to 90 %), so the differences of the seeds are given
//! beside it.
//! Resample `k` has a random stream of its own, so results depend neither on threads nor on order.
//!
//! **Two runs.** [`Pairs`] tests whether they differ; several such tests are one family, corrected by [`holm`]
//! or [`benjamini_hochberg`]. [`Comparison`] says what difference a test can see. [`letter_bias`] says
//! whether a model prefers letters.

mod bootstrap;
mod clustered;
#[cfg(test)]
mod coverage_tests;
#[cfg(test)]
mod distribution_tests;
mod family;
#[cfg(test)]
mod golden_tests;
mod letters;
mod mean;
mod paired;
mod pairs;
mod power;
mod tails;
mod wilson;

pub use bootstrap::{Bootstrap, quantile};
pub use clustered::{Clustered, clustered};
pub use family::{benjamini_hochberg, holm};
pub use letters::{LetterBias, letter_bias};
pub use mean::mean;
pub use paired::{Difference, PairedError, paired_difference};
pub use pairs::{Pairs, TTest, mcnemar};
pub use power::Comparison;
pub use wilson::{estimate, wilson};

use serde::{Deserialize, Serialize};

/// One figure of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The question.
    pub id: String,
    /// What it hangs together with: its clip.
    pub cluster: String,
    /// 1 for right, 0 for wrong, or any figure whose mean is wanted.
    pub value: f64,
}

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean over all questions.
    pub value: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Number of questions.
    pub n: usize,
    /// Number of clusters.
    pub clusters: usize,
}
