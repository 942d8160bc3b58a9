//! The preference losses by name.

use std::str::FromStr;

use crate::ObjectiveError;

/// A loss on pairs of continuations. Names are TRL's `loss_type` where it has the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreferenceLoss {
    /// DPO, with `label_smoothing` conservative DPO (`logistic.rs`).
    Sigmoid,
    /// DPO on token averages (`logistic.rs`).
    SigmoidNorm,
    /// DPO that corrects for flipped labels (`logistic.rs`).
    Robust,
    /// A hinge in place of the logistic loss (`logistic.rs`).
    Hinge,
    /// DiscoPOP's blend of the logistic and the exponential loss (`logistic.rs`).
    Discopop,
    /// EXO for pairs (`logistic.rs`).
    ExoPair,
    /// DNO's regression on win rates (`logistic.rs`).
    Dno,
    /// IPO on token averages (`regression.rs`).
    Ipo,
    /// IPO on sums, as its paper prints it (`regression.rs`).
    IpoSum,
    /// INPO: the same against a mixture of two references (`regression.rs`).
    Inpo,
    /// SPPO with estimated win rates (`regression.rs`).
    Sppo,
    /// SPPO that takes the chosen answer to win always (`regression.rs`).
    SppoHard,
    /// Noise contrastive alignment for pairs (`classifier.rs`).
    NcaPair,
    /// Binary classifier optimisation for pairs (`classifier.rs`).
    BcoPair,
    /// Anchored preference optimisation that raises the chosen answer (`classifier.rs`).
    ApoZero,
    /// Anchored preference optimisation that lowers both answers (`classifier.rs`).
    ApoDown,
    /// Alignment by optimal transport between differences (`transport.rs`).
    Aot,
    /// Alignment by optimal transport between sides (`transport.rs`).
    AotUnpaired,
    /// SimPO: token averages, a margin and no reference (`reference_free.rs`).
    Simpo,
    /// ORPO: likelihood and odds ratio, no reference (`reference_free.rs`).
    Orpo,
    /// CPO: DPO without a reference, and likelihood (`reference_free.rs`).
    Cpo,
    /// Likelihood of the chosen answers alone.
    Sft,
}

use PreferenceLoss::{
    Aot, AotUnpaired, ApoDown, ApoZero, BcoPair, Cpo, Discopop, Dno, ExoPair, Hinge, Inpo, Ipo,
    IpoSum, NcaPair, Orpo, Robust, Sft, Sigmoid, SigmoidNorm, Simpo, Sppo, SppoHard,
};

impl PreferenceLoss {
    /// Every loss.
    pub const ALL: [Self; 22] = [
        Sigmoid,
        SigmoidNorm,
        Robust,
        Hinge,
        Discopop,
        ExoPair,
        Dno,
        Ipo,
        IpoSum,
        Inpo,
        Sppo,
        SppoHard,
        NcaPair,
        BcoPair,
        ApoZero,
        ApoDown,
        Aot,
        AotUnpaired,
        Simpo,
        Orpo,
        Cpo,
        Sft,
    ];

    /// The name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Sigmoid => "sigmoid",
            SigmoidNorm => "sigmoid_norm",
            Robust => "robust",
            Hinge => "hinge",
            Discopop => "discopop",
            ExoPair => "exo_pair",
            Dno => "dno",
            Ipo => "ipo",
            IpoSum => "ipo_sum",
            Inpo => "inpo",
            Sppo => "sppo",
            SppoHard => "sppo_hard",
            NcaPair => "nca_pair",
            BcoPair => "bco_pair",
            ApoZero => "apo_zero",
            ApoDown => "apo_down",
            Aot => "aot",
            AotUnpaired => "aot_unpaired",
            Simpo => "simpo",
            Orpo => "orpo",
            Cpo => "cpo",
            Sft => "sft",
        }
    }

    /// Whether it is about the distance from a reference; the others never read one.
    pub const fn reads_reference(self) -> bool {
        !matches!(self, Simpo | Orpo | Cpo | Sft)
    }

    /// Whether it is about averages over tokens and needs their numbers.
    pub const fn reads_lengths(self) -> bool {
        matches!(self, SigmoidNorm | Ipo | Simpo | Orpo)
    }

    /// Whether it learns from estimated win rates rather than from who was chosen.
    pub const fn reads_win_rates(self) -> bool {
        matches!(self, Dno | Sppo)
    }

    /// Whether it holds the likelihood of the chosen tokens (CPO's has a weight of its own).
    pub const fn reads_chosen_tokens(self) -> bool {
        matches!(self, Sft | Orpo | Cpo)
    }

    /// Whether pairs are matched by their rank in the step.
    pub const fn sorts(self) -> bool {
        matches!(self, Aot | AotUnpaired)
    }

    /// Whether a pair's margin can be added: the loss is a function of one logit.
    pub const fn takes_margins(self) -> bool {
        matches!(self, Sigmoid | SigmoidNorm | Robust | Hinge | Discopop | ExoPair | Simpo | Cpo)
    }

    /// Whether labels can be taken to be wrong now and then.
    pub const fn takes_label_smoothing(self) -> bool {
        matches!(self, Sigmoid | Robust | ExoPair | Aot | AotUnpaired | Simpo | Cpo)
    }

    /// Whether the log-ratio can be that of another divergence than the reverse KL: what is left of
    /// the partition function cancels only in the difference of two answers (TRL's list, and the
    /// summed form of IPO).
    pub const fn takes_divergence(self) -> bool {
        matches!(
            self,
            Sigmoid | SigmoidNorm | Robust | Hinge | Discopop | ExoPair | Ipo | IpoSum | Sft
        )
    }
}

impl FromStr for PreferenceLoss {
    type Err = ObjectiveError;

    fn from_str(name: &str) -> Result<Self, ObjectiveError> {
        by_name("loss_type", name, &Self::ALL, |loss| loss.name())
    }
}

/// The one of `all` that is called `name`.
pub(crate) fn by_name<T: Copy>(
    what: &'static str,
    name: &str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
) -> Result<T, ObjectiveError> {
    all.iter().copied().find(|&one| name_of(one) == name).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|&one| name_of(one)).collect();
        ObjectiveError::Unknown { what, value: name.to_owned(), known: known.join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for loss in PreferenceLoss::ALL {
            assert_eq!(loss.name().parse::<PreferenceLoss>().unwrap(), loss);
        }
        let error = "kto_pair".parse::<PreferenceLoss>().unwrap_err().to_string();
        assert!(
            error.starts_with("loss_type is \"kto_pair\", expected one of sigmoid, "),
            "{error}"
        );
    }
}
