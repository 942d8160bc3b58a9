//! Settings of group-relative policy optimisation, under TRL's names.

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_objectives::policy::{self, Grpo, Level, PolicyLoss, ScaleRewards, Surrogate};
use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

use super::control::{AlphaScheduler, KlCtrl, KlCtrlType};
use super::credit::AdvEstimator;
use super::filter::FilterGroups;
use super::ppo_config::KlInReward;
use crate::config::is_default;
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
    /// The whole completion's probability, by no length: TRL's RLOO.
    SequenceSum,
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
    /// Whether the KL term is taken off rewards in place of being added to the loss, as in TRL's RLOO.
    #[serde(skip_serializing_if = "is_default")]
    pub use_kl_in_reward: bool,
    /// How the divergence is estimated that rewards pay for.
    #[serde(skip_serializing_if = "is_default")]
    pub kl_estimator: KlInReward,
    /// Whether `beta` follows the divergence that rewards pay for.
    #[serde(skip_serializing_if = "is_default")]
    pub kl_ctrl: KlCtrl,
    /// Weight of the mean entropy of a token, which is taken off the loss. With it the logits of a micro-batch are kept
    /// for the backward pass, unless `gradient_checkpointing` is on.
    #[serde(skip_serializing_if = "is_default")]
    pub entropy_coef: f64,
    /// Whether `entropy_coef` moves so that the entropy stays up, and counts only where it is not (Skywork-OR1, arXiv
    /// 2505.22312).
    #[serde(skip_serializing_if = "is_default")]
    pub use_adaptive_entropy: bool,
    /// The mean entropy of a token that is to be held.
    #[serde(skip_serializing_if = "is_fifth")]
    pub entropy_target: f64,
    /// By how much `entropy_coef` moves in a step.
    #[serde(skip_serializing_if = "is_usual_delta")]
    pub entropy_coef_delta: f64,
    /// The least `entropy_coef`.
    #[serde(skip_serializing_if = "is_default")]
    pub entropy_coef_min: f64,
    /// The greatest `entropy_coef`.
    #[serde(skip_serializing_if = "is_one")]
    pub entropy_coef_max: f64,
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
    /// How rewards become advantages, under verl's names.
    #[serde(skip_serializing_if = "is_default")]
    pub adv_estimator: AdvEstimator,
    /// Of rloo: whether advantages are normalised over the generation.
    #[serde(skip_serializing_if = "is_default")]
    pub normalize_advantages: bool,
    /// Of reinforce_plus_plus: the discount from a token to the one before it.
    #[serde(skip_serializing_if = "is_one")]
    pub gamma: f64,
    /// Draws again where groups do not vary (DAPO's dynamic sampling).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_groups: Option<FilterGroups>,
    /// What advantages of grpo are divided by.
    pub scale_rewards: Scale,
    /// How several rewards come together.
    pub multi_objective_aggregation: MultiObjective,
    /// Whether the KL term is multiplied by the ratio (DeepSeek-V3.2, arXiv 2512.02556), as TRL 1.16 does unless told
    /// otherwise. It changes the gradient where the ratio is 1, too.
    pub use_bias_correction_kl: bool,
    /// How much each reward counts; empty: all the same.
    pub reward_weights: Vec<f64>,
    /// What all rewards but the first are multiplied by as the training goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_scheduler: Option<AlphaScheduler>,
    /// Whether completions that were cut off teach nothing.
    pub mask_truncated_completions: bool,
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
            use_kl_in_reward: false,
            kl_estimator: KlInReward::K1,
            kl_ctrl: KlCtrl::default(),
            entropy_coef: 0.0,
            use_adaptive_entropy: false,
            entropy_target: 0.2,
            entropy_coef_delta: 0.005,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: RatioLevel::Token,
            adv_estimator: AdvEstimator::Grpo,
            normalize_advantages: false,
            gamma: 1.0,
            filter_groups: None,
            scale_rewards: Scale::Group,
            multi_objective_aggregation: MultiObjective::SumThenNormalize,
            use_bias_correction_kl: false,
            reward_weights: Vec::new(),
            alpha_scheduler: None,
            mask_truncated_completions: false,
            log_completions: true,
            lora_r: 8,
            lora_alpha: 32.0,
            lora: LoraOptions::default(),
            optim,
        }
    }
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn is_fifth(value: &f64) -> bool {
    *value == 0.2
}

fn is_usual_delta(value: &f64) -> bool {
    *value == 0.005
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
        self.validate_credit()?;
        if let Some(lora) = self.adapter() {
            lora.validate(Path::new("lora"))?;
        }
        self.loss()?;
        self.alpha_scheduler.map_or(Ok(()), |alpha| alpha.validate())?;
        self.optim.validate()
    }

    /// Refuses settings of advantages, penalties and bonuses that nothing would read.
    fn validate_credit(&self) -> Result<(), TrainError> {
        let estimator = self.adv_estimator;
        let is_grpo = estimator == AdvEstimator::Grpo;
        let adaptive = self.kl_ctrl.r#type == KlCtrlType::Adaptive;
        let numbers = [
            ("beta", self.beta),
            ("entropy_target", self.entropy_target),
            ("entropy_coef_delta", self.entropy_coef_delta),
            ("entropy_coef_min", self.entropy_coef_min),
        ];
        for (key, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                let (value, reason) = (value.to_string(), "a number from 0 up");
                return Err(TrainError::Setting { key, value, reason });
            }
        }
        let unread = [
            (
                !self.entropy_coef.is_finite(),
                ("entropy_coef", self.entropy_coef.to_string(), "a number"),
            ),
            (
                self.entropy_coef_max.is_nan() || self.entropy_coef_max < self.entropy_coef_min,
                (
                    "entropy_coef_max",
                    self.entropy_coef_max.to_string(),
                    "at least entropy_coef_min",
                ),
            ),
            (!(0.0..=1.0).contains(&self.gamma), ("gamma", self.gamma.to_string(), "from 0 to 1")),
            (
                self.gamma != 1.0 && estimator != AdvEstimator::ReinforcePlusPlus,
                ("gamma", self.gamma.to_string(), "is read by reinforce_plus_plus alone"),
            ),
            (
                self.normalize_advantages && estimator != AdvEstimator::Rloo,
                ("normalize_advantages", "true".to_owned(), "is read by rloo alone"),
            ),
            (
                self.scale_rewards != Scale::Group && !is_grpo,
                ("scale_rewards", "batch or none".to_owned(), "is read by grpo alone"),
            ),
            (
                self.multi_objective_aggregation != MultiObjective::SumThenNormalize
                    && (!is_grpo || self.use_kl_in_reward),
                (
                    "multi_objective_aggregation",
                    "normalize_then_sum".to_owned(),
                    "is read by grpo alone, and without use_kl_in_reward",
                ),
            ),
            (
                self.use_kl_in_reward && self.beta == 0.0,
                ("use_kl_in_reward", "true".to_owned(), "needs beta, which is its coefficient"),
            ),
            (
                adaptive && !self.use_kl_in_reward,
                ("kl_ctrl.type", "adaptive".to_owned(), "is about use_kl_in_reward"),
            ),
        ];
        if let Some((_, (key, value, reason))) = unread.into_iter().find(|(wrong, _)| *wrong) {
            return Err(TrainError::Setting { key, value, reason });
        }
        self.kl_ctrl.validate()?;
        self.filter_groups.as_ref().map_or(Ok(()), FilterGroups::validate)
    }

    /// Refuses settings that speak of rewards which are not there.
    pub fn check_rewards(&self, names: impl Iterator<Item: AsRef<str>>) -> Result<(), TrainError> {
        self.filter_groups.as_ref().map_or(Ok(()), |filter| filter.check(names))
    }

    /// The policy loss that these settings stand for.
    pub(super) fn loss(&self) -> Result<PolicyLoss, TrainError> {
        let named = PolicyLoss::of_loss_type(&self.loss_type, self.max_completion_length as f64)?;
        let level = match self.importance_sampling_level {
            RatioLevel::Token => Level::Token,
            RatioLevel::Sequence => Level::Sequence,
            RatioLevel::SequenceToken => Level::SequenceToken,
            RatioLevel::SequenceSum => Level::SequenceSum,
        };
        let mut loss = PolicyLoss {
            beta: if self.use_kl_in_reward { 0.0 } else { self.beta },
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
    pub(crate) fn slices(&self) -> u64 {
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

    pub(crate) fn adapter(&self) -> Option<LoraConfig> {
        (self.lora_r > 0).then(|| LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            options: self.lora.clone(),
        })
    }
}
