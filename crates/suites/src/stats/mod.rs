//! Figures with intervals for questions that hang together by clip, and runs that differ by seed.
//!
//! Intervals are percentile bootstraps. Questions about one clip share the clip, so clips are
//! drawn, with all their questions (the cluster bootstrap; Davison and Hinkley, *Bootstrap Methods
//! and their Application*, section 3.8). Runs of several seeds share the clips, so for them clips
//! and seeds are drawn independently and the product of both weights counts (the pigeonhole
//! bootstrap; Owen, *Annals of Applied Statistics* 1(2), 2007). It errs on the wide side while clips
//! make most of the spread; three seeds that differ by more than the clips do are too few for it (it
//! cannot leave their range, and then covers 75 to 90 %), so the differences of the seeds are given
//! beside it.
//! Resample `k` has a random stream of its own, so results depend neither on threads nor on order.

mod bootstrap;
#[cfg(test)]
mod golden_tests;
mod mean;
mod paired;

pub use bootstrap::{Bootstrap, quantile};
pub use mean::mean;
pub use paired::{Difference, PairedError, paired_difference};

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
