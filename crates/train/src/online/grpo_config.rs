//! Settings of group-relative policy optimisation, under TRL's names.

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_objectives::policy::{self, Grpo, Level, PolicyLoss, ScaleRewards, Surrogate};
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

/// How several rewards come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiObjective {
    /// Their weighted sum is the reward.
    #[default]
    SumThenNormalize,
    /// Each is normalised over its group, and the weighted sum over the step (GDPO, arXiv 2601.05242).
    NormalizeThenSum,
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
    /// Of sampling; log-probs are those at this temperature.
    pub temperature: f64,
    /// Nucleus mass of sampling; 1 keeps every token.
    pub top_p: f64,
    /// Sampling keeps the k likeliest tokens; 0 keeps every token.
    pub top_k: usize,
    /// Sampling keeps tokens of at least this share of the likeliest one's probability; 0 keeps every token.
    pub min_p: f64,
    /// Forward passes whose completions are drawn at once, a multiple of `gradient_accumulation_steps`; as many as
    /// that where it is not set, which is one step of the optimiser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_per_generation: Option<usize>,
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
    /// How several rewards come together.
    pub multi_objective_aggregation: MultiObjective,
    /// Whether the KL term is multiplied by the ratio (DeepSeek-V3.2, arXiv 2512.02556).
    pub use_bias_correction_kl: bool,
    /// How much each reward counts; empty: all the same.
    pub reward_weights: Vec<f64>,
    /// Whether completions that were cut off teach nothing.
    pub mask_truncated_completions: bool,
    /// Writes completions and rewards to `completions.jsonl`.
    pub log_completions: bool,
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
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            steps_per_generation: None,
            num_iterations: 1,
            loss_type: "dapo".to_owned(),
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: RatioLevel::Token,
            scale_rewards: Scale::Group,
            multi_objective_aggregation: MultiObjective::SumThenNormalize,
            use_bias_correction_kl: false,
            reward_weights: Vec::new(),
            mask_truncated_completions: false,
            log_completions: true,
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
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let reason = "a number above 0: without it all completions of a prompt are the same";
            return refuse("temperature", self.temperature.to_string(), reason);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p.to_string(), "above 0 and at most 1");
        }
        if !(0.0..1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p.to_string(), "from 0 to below 1");
        }
        let passes = self.optim.gradient_accumulation_steps;
        if let Some(steps) = self.steps_per_generation
            && (steps == 0 || !steps.is_multiple_of(passes))
        {
            let reason = "a multiple of gradient_accumulation_steps";
            return refuse("steps_per_generation", steps.to_string(), reason);
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
        let mut loss = PolicyLoss {
            beta: self.beta,
            use_bias_correction_kl: self.use_bias_correction_kl,
            ..named
        };
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
        let multi_objective_aggregation = match self.multi_objective_aggregation {
            MultiObjective::SumThenNormalize => policy::MultiObjective::SumThenNormalize,
            MultiObjective::NormalizeThenSum => policy::MultiObjective::NormalizeThenSum,
        };
        Grpo { scale_rewards, multi_objective_aggregation, ..Grpo::default() }
    }

    /// Steps of the optimiser that a pass over a generation takes.
    pub(super) fn slices(&self) -> u64 {
        let passes = self.optim.gradient_accumulation_steps.max(1);
        (self.steps_per_generation.unwrap_or(passes) / passes).max(1) as u64
    }

    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
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
