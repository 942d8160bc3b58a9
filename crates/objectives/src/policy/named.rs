//! Settings by the names that TRL and verl give them.

use super::aggregate::Aggregation;
use super::bounds::Bounds;
use super::kl::{Kl, KlEstimator};
use super::loss::PolicyLoss;
use super::ratio::Level;
use super::surrogate::Surrogate;
use crate::ObjectiveError;

impl Aggregation {
    /// The aggregation that is part of TRL's `loss_type`; `max_completion_length` is read by
    /// `dr_grpo` only.
    pub fn of_loss_type(
        loss_type: &str,
        max_completion_length: f64,
    ) -> Result<Self, ObjectiveError> {
        match loss_type {
            "grpo" | "sapo" => Ok(Self::SeqMeanTokenMean),
            "bnpo" => Ok(Self::LocalTokenMean),
            "dr_grpo" => Ok(Self::SeqMeanTokenSumNorm { loss_scale_factor: max_completion_length }),
            "dapo" | "cispo" | "vespo" => Ok(Self::TokenMean),
            "luspo" => Ok(Self::SeqMeanTokenSum),
            _ => Err(ObjectiveError::Unknown {
                what: "loss_type",
                value: loss_type.to_string(),
                known: "grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo or vespo".to_string(),
            }),
        }
    }

    /// The aggregation by verl's `loss_agg_mode`; `loss_scale_factor` is read by
    /// `seq-mean-token-sum-norm` only. verl takes the padded width where it is not set; here there
    /// is no padding, so it has to be.
    pub fn of_loss_agg_mode(
        loss_agg_mode: &str,
        loss_scale_factor: f64,
    ) -> Result<Self, ObjectiveError> {
        match loss_agg_mode {
            "token-mean" => Ok(Self::TokenMean),
            "token-sum" => Ok(Self::TokenSum),
            "seq-mean-token-sum" => Ok(Self::SeqMeanTokenSum),
            "seq-mean-token-mean" => Ok(Self::SeqMeanTokenMean),
            "seq-mean-token-sum-norm" => Ok(Self::SeqMeanTokenSumNorm { loss_scale_factor }),
            _ => Err(ObjectiveError::Unknown {
                what: "loss_agg_mode",
                value: loss_agg_mode.to_string(),
                known: "token-mean, token-sum, seq-mean-token-sum, seq-mean-token-mean or \
                           seq-mean-token-sum-norm"
                    .to_string(),
            }),
        }
    }
}

impl PolicyLoss {
    /// The loss that TRL's `loss_type` stands for, with TRL's defaults: ratios of tokens, `epsilon`
    /// 0.2, no KL term, no entropy term. `luspo` has the ratio of the completion, which TRL
    /// recommends with it, and `cispo` the cap of 5 that it recommends: left alone, TRL would hold
    /// every ratio at 0.2.
    pub fn of_loss_type(
        loss_type: &str,
        max_completion_length: f64,
    ) -> Result<Self, ObjectiveError> {
        let importance_sampling_level =
            if loss_type == "luspo" { Level::Sequence } else { Level::Token };
        let surrogate = match loss_type {
            "cispo" => {
                Surrogate::Cispo { importance_sampling_level, ratio_min: None, epsilon_high: 5.0 }
            }
            "sapo" => Surrogate::Sapo {
                importance_sampling_level,
                sapo_temperature_pos: 1.0,
                sapo_temperature_neg: 1.05,
            },
            "vespo" => Surrogate::Vespo {
                vespo_k_pos: 2.0,
                vespo_lambda_pos: 3.0,
                vespo_k_neg: 3.0,
                vespo_lambda_neg: 2.0,
            },
            _ => Surrogate::Clip {
                importance_sampling_level,
                epsilon: 0.2,
                epsilon_high: None,
                delta: None,
                clip_ratio_c: None,
            },
        };
        Ok(Self {
            surrogate,
            log_ratio_clamp: Bounds::WIDE,
            aggregation: Aggregation::of_loss_type(loss_type, max_completion_length)?,
            beta: 0.0,
            kl: Kl { estimator: KlEstimator::K3_TRL, straight_through: false },
            use_bias_correction_kl: false,
            entropy_coef: 0.0,
            entropy_aggregation: Aggregation::TokenMean,
        })
    }
}
