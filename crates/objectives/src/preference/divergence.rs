//! Divergences other than the reverse KL between policy and reference.
//!
//! Wang et al., "Beyond Reverse KL" (f-DPO, arXiv 2309.16240), theorem 1: with the regulariser
//! `D_f`, the reward of an answer is `beta * f'(pi / pi_ref)` up to what cancels in a pair. With
//! `u = log(pi / pi_ref)`, constants that cancel left in as TRL does:
//!
//! ```text
//! reverse_kl        u
//! forward_kl        1 - exp(-u)
//! js_divergence     log 2 + log sigmoid(u)
//! alpha_divergence  (exp((alpha - 1) u) - 1) / (alpha - 1)
//! ```
//!
//! Exponents above 80 are cut. TRL does so for `alpha_divergence` alone and has infinite scores with
//! `forward_kl` where the policy has all but forgotten an answer.

use std::str::FromStr;

use candle_core::Tensor;

use super::kind::by_name;
use crate::ObjectiveError;
use crate::stable::{exp_cut, log_sigmoid};

/// How far the policy is from the reference, with TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Divergence {
    /// The usual one.
    #[default]
    ReverseKl,
    /// The Kullback-Leibler divergence with the sides exchanged.
    ForwardKl,
    /// The Jensen-Shannon divergence.
    JsDivergence,
    /// The alpha divergence: forward KL at 0, reverse KL at 1.
    AlphaDivergence,
}

impl Divergence {
    /// Every divergence.
    pub const ALL: [Self; 4] =
        [Self::ReverseKl, Self::ForwardKl, Self::JsDivergence, Self::AlphaDivergence];

    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReverseKl => "reverse_kl",
            Self::ForwardKl => "forward_kl",
            Self::JsDivergence => "js_divergence",
            Self::AlphaDivergence => "alpha_divergence",
        }
    }

    /// What takes the place of the log-ratio; `alpha` is read by `alpha_divergence` alone.
    pub(crate) fn score(self, log_ratio: &Tensor, alpha: f64) -> candle_core::Result<Tensor> {
        match self {
            Self::ReverseKl => Ok(log_ratio.clone()),
            Self::ForwardKl => 1.0 - exp_cut(&log_ratio.neg()?)?,
            Self::JsDivergence => log_sigmoid(log_ratio)? + std::f64::consts::LN_2,
            // The limit, from TRL's distance on.
            Self::AlphaDivergence if (alpha - 1.0).abs() < 1e-6 => Ok(log_ratio.clone()),
            Self::AlphaDivergence => {
                (exp_cut(&(log_ratio * (alpha - 1.0))?)? - 1.0)? * (1.0 / (alpha - 1.0))
            }
        }
    }
}

impl FromStr for Divergence {
    type Err = ObjectiveError;

    fn from_str(name: &str) -> Result<Self, ObjectiveError> {
        by_name("f_divergence_type", name, &Self::ALL, |divergence| divergence.name())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn alpha_goes_from_forward_to_reverse() {
        let u = Tensor::new(&[-2f64, 0.0, 0.7], &Device::Cpu).unwrap();
        let score = |divergence: Divergence, alpha| {
            divergence.score(&u, alpha).unwrap().to_vec1::<f64>().unwrap()
        };
        let close = |a: Vec<f64>, b: Vec<f64>, tolerance: f64| {
            a.iter().zip(&b).all(|(a, b)| (a - b).abs() < tolerance)
        };
        let alpha = Divergence::AlphaDivergence;
        assert!(close(score(alpha, 0.0), score(Divergence::ForwardKl, 0.5), 1e-14));
        assert!(close(score(alpha, 1.0 - 1e-5), score(Divergence::ReverseKl, 0.5), 1e-4));
        assert_eq!(score(alpha, 1.0), score(Divergence::ReverseKl, 0.5));
    }

    #[test]
    fn names_are_read_back() {
        for divergence in Divergence::ALL {
            assert_eq!(divergence.name().parse::<Divergence>().unwrap(), divergence);
        }
        assert_eq!(
            "kl".parse::<Divergence>().unwrap_err().to_string(),
            "f_divergence_type is \"kl\", expected one of reverse_kl, forward_kl, js_divergence, \
             alpha_divergence"
        );
    }
}
