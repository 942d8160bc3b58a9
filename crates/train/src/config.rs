//! Settings, with TRL's names.

mod dpo;
mod evaluation;

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_nn::checkpoint::Tape;
use savi_nn::optim::{AdamWConfig, Schedule};
use serde::{Deserialize, Serialize};

pub use dpo::DpoConfig;
pub use evaluation::{EvalStrategy, SchedulerKwargs};

use crate::TrainError;

/// In which order records are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// In a fresh order in each epoch.
    #[default]
    Random,
    /// As they come.
    Sequential,
}

/// What every kind of training can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate.
    pub lr_scheduler_type: Schedule,
    /// Share of the steps over which the learning rate rises.
    pub warmup_ratio: f64,
    /// Steps over which it rises; 0 leaves it to the share.
    pub warmup_steps: u64,
    /// Steps over which it falls at the end (`warmup_stable_decay` only).
    pub num_decay_steps: u64,
    /// Records of one forward pass, of all ranks together.
    pub per_device_train_batch_size: usize,
    /// Forward passes of one step.
    pub gradient_accumulation_steps: usize,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Number of steps; 0 leaves it to the epochs.
    pub max_steps: u64,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub max_grad_norm: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    pub adam_beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub adam_epsilon: f64,
    /// Steps between lines of metrics.
    pub logging_steps: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// In which order records are taken.
    #[serde(skip_serializing_if = "is_default")]
    pub train_sampling_strategy: SamplingStrategy,
    /// Seed of the order, of fresh weights and of dropout.
    pub seed: u64,
    /// Keeps only what goes into each layer of the decoder and runs the layers again in the backward
    /// pass: less memory for more time, with the same results.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Layers that are kept and run again together: more take less memory for what goes into them, and more while
    /// they are run again.
    #[serde(skip_serializing_if = "is_one")]
    pub gradient_checkpointing_layers: usize,
    /// Options of the schedule, where it has any.
    #[serde(skip_serializing_if = "is_default")]
    pub lr_scheduler_kwargs: SchedulerKwargs,
    /// When held-out records are looked at.
    #[serde(skip_serializing_if = "is_default")]
    pub eval_strategy: EvalStrategy,
    /// Steps between evaluations; 0 for `logging_steps`.
    #[serde(skip_serializing_if = "is_default")]
    pub eval_steps: u64,
    /// Records of one forward pass in evaluation.
    #[serde(skip_serializing_if = "is_eight")]
    pub per_device_eval_batch_size: usize,
    /// Checkpoints that are kept, the newest; the best is kept as well where it is to be loaded.
    #[serde(skip_serializing_if = "is_one")]
    pub save_total_limit: usize,
    /// Saves the best state whenever an evaluation finds one, and ends with it.
    #[serde(skip_serializing_if = "is_default")]
    pub load_best_model_at_end: bool,
    /// The figure of evaluations that says which state is best; `loss` where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better; told by its name where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,
    /// Stops after as many evaluations in a row that brought nothing better; 0 never does.
    #[serde(skip_serializing_if = "is_default")]
    pub early_stopping_patience: u64,
    /// How much better is better.
    #[serde(skip_serializing_if = "is_default")]
    pub early_stopping_threshold: f64,
}

fn is_eight(value: &usize) -> bool {
    *value == 8
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            lr_scheduler_type: Schedule::Cosine,
            warmup_ratio: 0.1,
            warmup_steps: 0,
            num_decay_steps: 0,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_train_epochs: 1.0,
            max_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            logging_steps: 1,
            save_steps: 25,
            train_sampling_strategy: SamplingStrategy::Random,
            seed: 0,
            gradient_checkpointing: false,
            gradient_checkpointing_layers: 1,
            lr_scheduler_kwargs: SchedulerKwargs::default(),
            eval_strategy: EvalStrategy::No,
            eval_steps: 0,
            per_device_eval_batch_size: 8,
            save_total_limit: 1,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: 0,
            early_stopping_threshold: 0.0,
        }
    }
}

impl OptimConfig {
    /// Records of one step.
    pub fn step_records(&self) -> usize {
        self.per_device_train_batch_size * self.gradient_accumulation_steps
    }

    /// What a pass is recorded on.
    pub(crate) fn tape<'a>(&self) -> Tape<'a> {
        Tape::every(if self.gradient_checkpointing {
            self.gradient_checkpointing_layers
        } else {
            0
        })
    }

    pub(crate) fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            adam_beta1: self.adam_beta1,
            adam_beta2: self.adam_beta2,
            adam_epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), TrainError> {
        let bad = |key, value: String, reason| Err(TrainError::Setting { key, value, reason });
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return bad(
                "learning_rate",
                self.learning_rate.to_string(),
                "must be a positive number",
            );
        }
        if self.step_records() == 0 {
            return bad(
                "per_device_train_batch_size",
                "0".into(),
                "batch and accumulation must be at least 1",
            );
        }
        for (key, value) in [
            ("warmup_ratio", self.warmup_ratio),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return bad(key, value.to_string(), "must be between 0 and 1");
            }
        }
        for (key, value) in [
            ("max_grad_norm", self.max_grad_norm),
            ("weight_decay", self.weight_decay),
            ("adam_epsilon", self.adam_epsilon),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return bad(key, value.to_string(), "must be a number from 0 up");
            }
        }
        for (key, value) in [("logging_steps", self.logging_steps), ("save_steps", self.save_steps)]
        {
            if value == 0 {
                return bad(key, value.to_string(), "must be at least 1");
            }
        }
        let layers = self.gradient_checkpointing_layers;
        if layers == 0 || layers > 1 && !self.gradient_checkpointing {
            return bad(
                "gradient_checkpointing_layers",
                layers.to_string(),
                "goes with gradient_checkpointing = true and is at least 1",
            );
        }
        let decays = self.lr_scheduler_type == Schedule::WarmupStableDecay;
        if decays != (self.num_decay_steps > 0) {
            return bad(
                "num_decay_steps",
                self.num_decay_steps.to_string(),
                "goes with lr_scheduler_type = \"warmup_stable_decay\": at least 1 there, 0 elsewhere",
            );
        }
        if self.max_steps == 0
            && !(self.num_train_epochs.is_finite() && self.num_train_epochs > 0.0)
        {
            return bad(
                "num_train_epochs",
                self.num_train_epochs.to_string(),
                "must be a positive number",
            );
        }
        self.validate_floor()?;
        self.validate_evaluation()
    }

    /// Steps over which the learning rate rises, of `total`.
    pub(crate) fn warmup(&self, total: u64) -> u64 {
        match self.warmup_steps {
            0 => (self.warmup_ratio * total as f64).ceil() as u64,
            steps => steps,
        }
    }

    /// Steps over `records` records.
    pub fn total_steps(&self, records: usize) -> u64 {
        if self.max_steps > 0 {
            return self.max_steps;
        }
        let steps = records as f64 * self.num_train_epochs / self.step_records() as f64;
        (steps.ceil() as u64).max(1)
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn positive(key: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(TrainError::Setting { key, value: value.to_string(), reason: "must be a positive number" })
}

/// Refuses an adapter that cannot be carried out, and options of one where there is none.
fn check_adapter(adapter: Option<&LoraConfig>, options: &LoraOptions) -> Result<(), TrainError> {
    match adapter {
        Some(adapter) => Ok(adapter.validate(Path::new("lora"))?),
        None if !is_default(options) => {
            let (key, value) = ("lora", "options of an adapter".to_owned());
            let reason = "there is none with lora_r = 0, which trains all weights";
            Err(TrainError::Setting { key, value, reason })
        }
        None => Ok(()),
    }
}

/// Settings of supervised fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Adapter rank; 0 trains all weights.
    pub lora_r: usize,
    /// Adapter scale is `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// The adapter's other options, with PEFT's names. Layers are looked for in the decoder alone:
    /// what sees runs once for each clip and stays as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub lora: LoraOptions,
    /// Without an adapter: leaves the vision tower as it is. With one it always is.
    pub freeze_vision_tower: bool,
    /// A token of a target of n tokens weighs `n^-length_exponent`: 0 treats tokens alike,
    /// 1 treats targets alike.
    pub length_exponent: f64,
    /// In conversations every turn of the assistant is learnt and nothing else; without it everything is, as far
    /// as `completion_only_loss` lets it. (TRL's is off by default.)
    #[serde(skip_serializing_if = "is_true")]
    pub assistant_only_loss: bool,
    /// Whether prompts are left unlearnt. Not set: those of records that have a prompt and a completion are, other
    /// records are learnt whole. Set, the completion of a conversation without one is its last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_only_loss: Option<bool>,
    /// Most tokens of a record, media included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What is done with longer records.
    #[serde(skip_serializing_if = "is_default")]
    pub overlong: Overlong,
    /// Which end of a record stays with `overlong = "truncate"`.
    #[serde(skip_serializing_if = "is_default")]
    pub truncation_mode: Truncation,
    /// Optimiser and data order.
    pub optim: OptimConfig,
}

/// What is done with records that are longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// The run ends before it begins, naming the record.
    #[default]
    Error,
    /// They are left out and counted.
    Drop,
    /// One end of them is cut, never a clip.
    Truncate,
}

/// Which end of a record stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The beginning.
    #[default]
    KeepStart,
    /// The end.
    KeepEnd,
}

fn check_length(max_length: Option<usize>, overlong: Overlong) -> Result<(), TrainError> {
    if let Some(most @ 0..2) = max_length {
        let (key, value) = ("max_length", most.to_string());
        return Err(TrainError::Setting { key, value, reason: "must be at least 2" });
    }
    if max_length.is_none() && overlong != Overlong::Error {
        let (key, value) = ("overlong", format!("{overlong:?}").to_lowercase());
        return Err(TrainError::Setting { key, value, reason: "goes with max_length" });
    }
    Ok(())
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            lora_r: 8,
            lora_alpha: 32.0,
            lora: LoraOptions::default(),
            freeze_vision_tower: false,
            length_exponent: 0.0,
            assistant_only_loss: true,
            completion_only_loss: None,
            max_length: None,
            overlong: Overlong::Error,
            truncation_mode: Truncation::KeepStart,
            optim: OptimConfig::default(),
        }
    }
}

impl SftConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), TrainError> {
        positive("lora_alpha", self.lora_alpha)?;
        check_adapter(self.adapter().as_ref(), &self.lora)?;
        check_length(self.max_length, self.overlong)?;
        if !self.length_exponent.is_finite() {
            let (key, value) = ("length_exponent", self.length_exponent.to_string());
            return Err(TrainError::Setting { key, value, reason: "must be a finite number" });
        }
        self.optim.validate()
    }

    pub(crate) fn adapter(&self) -> Option<LoraConfig> {
        let (r, lora_alpha, options) = (self.lora_r, self.lora_alpha, self.lora.clone());
        (r > 0).then_some(LoraConfig { r, lora_alpha, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_steps_go_with_their_schedule() {
        let config = |lr_scheduler_type, num_decay_steps| OptimConfig {
            lr_scheduler_type,
            num_decay_steps,
            ..OptimConfig::default()
        };
        for (schedule, steps, good) in [
            (Schedule::WarmupStableDecay, 5, true),
            (Schedule::WarmupStableDecay, 0, false),
            (Schedule::Cosine, 0, true),
            (Schedule::Cosine, 5, false),
        ] {
            let checked = config(schedule, steps).validate();
            assert_eq!(checked.is_ok(), good, "{schedule:?} {steps}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("num_decay_steps"), "{error}");
            }
        }
    }
}
