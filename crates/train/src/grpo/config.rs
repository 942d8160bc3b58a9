//! Settings of group-relative policy optimisation, under TRL's names.

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_objectives::policy::{Grpo, Level, PolicyLoss, ScaleRewards, Surrogate};
use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

use crate::{OptimConfig, TrainError};

/// What advantages are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// The deviation of the group.
    #[default]
    Group,
    /// The deviation of all rewards of the step.
    Batch,
    /// Nothing: Dr.GRPO.
    None,
}

/// Over what the ratio of new to old policy is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// Each token.
    #[default]
    Token,
    /// The whole completion: GSPO.
    Sequence,
    /// The whole completion, the gradient flowing through each token's own log-prob: GSPO-token.
    SequenceToken,
}

/// Settings of GRPO. A record of the batch is a completion, as in TRL: a step takes
/// `per_device_train_batch_size * gradient_accumulation_steps` of them, in groups of `num_generations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// Completions of a prompt.
    pub num_generations: usize,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Of sampling. The policy's log-probs are those at temperature 1, so only 1 is taken.
    pub temperature: f64,
    /// Steps that learn from the same completions.
    pub num_iterations: u64,
    /// grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo or vespo.
    pub loss_type: String,
    /// Weight of the KL term; 0 needs no reference.
    pub beta: f64,
    /// How far the ratio goes below 1, and above it where `epsilon_high` is not set.
    pub epsilon: f64,
    /// How far the ratio goes above 1 (clip-higher); cispo's cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon_high: Option<f64>,
    /// The most a ratio counts where the advantage is negative (two-sided clipping).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Over what the ratio is taken.
    pub importance_sampling_level: RatioLevel,
    /// What advantages are divided by.
    pub scale_rewards: Scale,
    /// How much each reward counts; empty: all the same.
    pub reward_weights: Vec<f64>,
    /// Whether completions that were cut off teach nothing.
    pub mask_truncated_completions: bool,
    /// Adapter rank; 0 trains all weights of the decoder.
    pub lora_r: usize,
    /// Adapter scale is `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// The adapter's other options, with PEFT's names.
    pub lora: LoraOptions,
    /// Optimiser and order of the prompts.
    pub optim: OptimConfig,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        let optim = OptimConfig { learning_rate: 1e-6, ..OptimConfig::default() };
        Self {
            num_generations: 8,
            max_completion_length: 256,
            temperature: 1.0,
            num_iterations: 1,
            loss_type: "dapo".to_owned(),
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: RatioLevel::Token,
            scale_rewards: Scale::Group,
            reward_weights: Vec::new(),
            mask_truncated_completions: false,
            lora_r: 8,
            lora_alpha: 32.0,
            lora: LoraOptions::default(),
            optim,
        }
    }
}

impl GrpoConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), TrainError> {
        let refuse = |key, value: String, reason| Err(TrainError::Setting { key, value, reason });
        if self.num_generations < 2 {
            let reason = "a completion is compared with others of its prompt: at least 2";
            return refuse("num_generations", self.num_generations.to_string(), reason);
        }
        if !self.optim.step_records().is_multiple_of(self.num_generations) {
            let reason = "per_device_train_batch_size * gradient_accumulation_steps has to be a multiple of it";
            return refuse("num_generations", self.num_generations.to_string(), reason);
        }
        if self.max_completion_length == 0 {
            return refuse("max_completion_length", "0".to_owned(), "at least 1");
        }
        if self.temperature != 1.0 {
            let reason = "the log-probs that are learnt from are those at temperature 1: only 1";
            return refuse("temperature", self.temperature.to_string(), reason);
        }
        if self.num_iterations == 0 {
            return refuse("num_iterations", "0".to_owned(), "at least 1");
        }
        if self.lora_r == 0 && self.beta != 0.0 {
            let reason =
                "the reference is the model without its adapter, so this needs lora_r above 0";
            return refuse("beta", self.beta.to_string(), reason);
        }
        if let Some(lora) = self.adapter() {
            lora.validate(Path::new("lora"))?;
        }
        self.loss()?;
        self.optim.validate()
    }

    /// The policy loss that these settings stand for.
    pub(super) fn loss(&self) -> Result<PolicyLoss, TrainError> {
        let named = PolicyLoss::of_loss_type(&self.loss_type, self.max_completion_length as f64)?;
        let level = match self.importance_sampling_level {
            RatioLevel::Token => Level::Token,
            RatioLevel::Sequence => Level::Sequence,
            RatioLevel::SequenceToken => Level::SequenceToken,
        };
        let mut loss = PolicyLoss { beta: self.beta, ..named };
        match &mut loss.surrogate {
            Surrogate::Clip { importance_sampling_level, epsilon, epsilon_high, delta, .. } => {
                if level != Level::Token {
                    *importance_sampling_level = level;
                }
                *epsilon = self.epsilon;
                (*epsilon_high, *delta) = (self.epsilon_high, self.delta);
            }
            Surrogate::Cispo { importance_sampling_level, epsilon_high, .. } => {
                *importance_sampling_level = level;
                *epsilon_high = self.epsilon_high.unwrap_or(*epsilon_high);
            }
            Surrogate::Sapo { importance_sampling_level, .. } => {
                *importance_sampling_level = level;
            }
            _ => {}
        }
        Ok(loss)
    }

    pub(super) fn advantages(&self) -> Grpo {
        let scale_rewards = match self.scale_rewards {
            Scale::Group => ScaleRewards::Group,
            Scale::Batch => ScaleRewards::Batch,
            Scale::None => ScaleRewards::None,
        };
        Grpo { scale_rewards, ..Grpo::default() }
    }

    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: 1.0,
            top_k: 0,
            max_tokens: self.max_completion_length,
            ..Sampling::default()
        }
    }

    pub(super) fn adapter(&self) -> Option<LoraConfig> {
        (self.lora_r > 0).then(|| LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            options: self.lora.clone(),
        })
    }
}
