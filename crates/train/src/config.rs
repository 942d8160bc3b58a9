//! Settings, with TRL's names.

mod dpo;

use std::path::Path;

use savi_models::{LoraConfig, LoraOptions};
use savi_nn::optim::{AdamWConfig, Schedule};
use serde::{Deserialize, Serialize};

pub use dpo::DpoConfig;

use crate::TrainError;

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
    /// Records of one forward pass.
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
    /// Seed of the order, of fresh weights and of dropout.
    pub seed: u64,
    /// Keeps only what goes into each layer of the decoder and runs the layers again in the backward
    /// pass: less memory for more time, with the same results.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
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
            seed: 0,
            gradient_checkpointing: false,
        }
    }
}

impl OptimConfig {
    /// Records of one step.
    pub(crate) fn step_records(&self) -> usize {
        self.per_device_train_batch_size * self.gradient_accumulation_steps
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
        Ok(())
    }

    /// Steps over `records` records.
    pub(crate) fn total_steps(&self, records: usize) -> u64 {
        if self.max_steps > 0 {
            return self.max_steps;
        }
        let steps = records as f64 * self.num_train_epochs / self.step_records() as f64;
        (steps.ceil() as u64).max(1)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn positive(key: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(TrainError::Setting { key, value: value.to_string(), reason: "must be a positive number" })
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
        match self.adapter() {
            Some(adapter) => adapter.validate(Path::new("lora"))?,
            None if !is_default(&self.lora) => {
                let (key, value) = ("lora", "options of an adapter".to_owned());
                let reason = "there is none with lora_r = 0, which trains all weights";
                return Err(TrainError::Setting { key, value, reason });
            }
            None => {}
        }
        if let Some(most @ 0..2) = self.max_length {
            let (key, value) = ("max_length", most.to_string());
            return Err(TrainError::Setting { key, value, reason: "must be at least 2" });
        }
        if self.max_length.is_none() && self.overlong != Overlong::Error {
            let (key, value) = ("overlong", format!("{:?}", self.overlong).to_lowercase());
            return Err(TrainError::Setting { key, value, reason: "goes with max_length" });
        }
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
