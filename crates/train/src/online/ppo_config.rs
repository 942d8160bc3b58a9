//! Settings of proximal policy optimisation, under TRL's names.

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_objectives::policy::{Aggregation, KlEstimator, PolicyLoss, Surrogate, ValueLoss};
use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

use super::control::{AlphaScheduler, KlCtrl, KlCtrlType};
use crate::config::is_default;
use crate::{OptimConfig, TrainError};

/// How the divergence from the reference is estimated that the reward pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlInReward {
    /// The difference of log-probs.
    #[default]
    K1,
    /// `exp(-d) + d - 1`, never negative.
    K3,
}

impl KlInReward {
    pub(super) fn estimator(self) -> KlEstimator {
        match self {
            Self::K1 => KlEstimator::K1,
            Self::K3 => KlEstimator::K3_TRL,
        }
    }
}

/// Settings of PPO. A step takes `per_device_train_batch_size * gradient_accumulation_steps` completions, one of each
/// prompt; `num_mini_batches` times as many are drawn at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// Most tokens of a completion.
    pub response_length: usize,
    /// Of sampling; log-probs are those at this temperature.
    pub temperature: f64,
    /// Passes over what was drawn.
    pub num_ppo_epochs: u64,
    /// Steps of a pass.
    pub num_mini_batches: u64,
    /// How far the ratio goes from 1.
    pub cliprange: f64,
    /// How far a value goes from what it was when the completions were drawn.
    pub cliprange_value: f64,
    /// Weight of the value loss.
    pub vf_coef: f64,
    /// Discount from a token to the one before it.
    pub gamma: f64,
    /// Weight of longer looks ahead.
    pub lam: f64,
    /// What a token pays for its divergence from the reference; 0 needs no reference.
    pub kl_coef: f64,
    /// How that divergence is estimated.
    pub kl_estimator: KlInReward,
    /// Whether `kl_coef` follows the divergence.
    #[serde(skip_serializing_if = "is_default")]
    pub kl_ctrl: KlCtrl,
    /// Weight of the mean entropy of a token, which is taken off the loss. With it the logits of a micro-batch are kept
    /// for the backward pass, unless `gradient_checkpointing` is on.
    #[serde(skip_serializing_if = "is_default")]
    pub entropy_coef: f64,
    /// Whether rewards of tokens are brought to unit variance.
    pub whiten_rewards: bool,
    /// Taken off the reward of a completion that was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_eos_penalty: Option<f64>,
    /// How much each reward counts; empty: all the same.
    pub reward_weights: Vec<f64>,
    /// What all rewards but the first are multiplied by as the training goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_scheduler: Option<AlphaScheduler>,
    /// Writes completions and rewards to `completions.jsonl`.
    pub log_completions: bool,
    /// Adapter rank; 0 trains all weights of the decoder, with a copy of them where a reference is asked.
    pub lora_r: usize,
    /// Adapter scale is `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// The adapter's other options, with PEFT's names.
    pub lora: LoraOptions,
    /// Optimiser and order of the prompts.
    pub optim: OptimConfig,
}

impl Default for PpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { learning_rate: 3e-6, ..OptimConfig::default() };
        Self {
            response_length: 53,
            temperature: 0.7,
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            gamma: 1.0,
            lam: 0.95,
            kl_coef: 0.05,
            kl_estimator: KlInReward::K1,
            kl_ctrl: KlCtrl::default(),
            entropy_coef: 0.0,
            whiten_rewards: false,
            missing_eos_penalty: None,
            reward_weights: Vec::new(),
            alpha_scheduler: None,
            log_completions: true,
            lora_r: 8,
            lora_alpha: 32.0,
            lora: LoraOptions::default(),
            optim,
        }
    }
}

impl PpoConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), TrainError> {
        let refuse = |key, value: String, reason| Err(TrainError::Setting { key, value, reason });
        for (key, value) in [
            ("response_length", self.response_length as u64),
            ("num_ppo_epochs", self.num_ppo_epochs),
            ("num_mini_batches", self.num_mini_batches),
        ] {
            if value == 0 {
                return refuse(key, "0".to_owned(), "at least 1");
            }
        }
        for (key, value) in
            [("temperature", self.temperature), ("cliprange_value", self.cliprange_value)]
        {
            if !(value.is_finite() && value > 0.0) {
                return refuse(key, value.to_string(), "a number above 0");
            }
        }
        for (key, value) in [
            ("vf_coef", self.vf_coef),
            ("kl_coef", self.kl_coef),
            ("missing_eos_penalty", self.missing_eos_penalty.unwrap_or(0.0)),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(key, value.to_string(), "a number from 0 up");
            }
        }
        for (key, value) in
            [("cliprange", self.cliprange), ("gamma", self.gamma), ("lam", self.lam)]
        {
            if !(0.0..=1.0).contains(&value) {
                return refuse(key, value.to_string(), "from 0 to 1");
            }
        }
        if !self.entropy_coef.is_finite() {
            return refuse("entropy_coef", self.entropy_coef.to_string(), "a number");
        }
        self.kl_ctrl.validate()?;
        if self.kl_ctrl.r#type == KlCtrlType::Adaptive && self.kl_coef == 0.0 {
            let reason = "adaptive begins at kl_coef, which has to be above 0";
            return refuse("kl_ctrl.type", "adaptive".to_owned(), reason);
        }
        if let Some(lora) = self.adapter() {
            lora.validate(Path::new("lora"))?;
        }
        self.policy_loss()?;
        self.alpha_scheduler.map_or(Ok(()), |alpha| alpha.validate())?;
        self.optim.validate()
    }

    pub(super) fn policy_loss(&self) -> Result<PolicyLoss, TrainError> {
        // PPO's clip over tokens, and the mean over all tokens of the step.
        let named = PolicyLoss::of_loss_type("dapo", self.response_length as f64)?;
        let surrogate = match named.surrogate {
            Surrogate::Clip {
                importance_sampling_level,
                epsilon_high,
                delta,
                clip_ratio_c,
                ..
            } => Surrogate::Clip {
                importance_sampling_level,
                epsilon: self.cliprange,
                epsilon_high,
                delta,
                clip_ratio_c,
            },
            other => other,
        };
        Ok(PolicyLoss { surrogate, entropy_coef: self.entropy_coef, ..named })
    }

    pub(super) fn value_loss(&self) -> ValueLoss {
        ValueLoss {
            cliprange_value: Some(self.cliprange_value),
            vf_coef: self.vf_coef,
            aggregation: Aggregation::TokenMean,
        }
    }

    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            max_tokens: self.response_length,
            ..Sampling::default()
        }
    }

    pub(crate) fn adapter(&self) -> Option<LoraConfig> {
        let (r, lora_alpha, options) = (self.lora_r, self.lora_alpha, self.lora.clone());
        (r > 0).then_some(LoraConfig { r, lora_alpha, options })
    }
}
