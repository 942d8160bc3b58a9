//! Settings of evaluation while training, and of what follows from it: the best checkpoint and early
//! stopping. Names and meanings are those of Hugging Face's trainer.

use serde::{Deserialize, Serialize};

use super::OptimConfig;
use crate::TrainError;

/// When held-out records are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalStrategy {
    /// Never.
    #[default]
    No,
    /// Every `eval_steps` steps.
    Steps,
    /// At the end of every pass over the data.
    Epoch,
}

/// Options of single schedules.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerKwargs {
    /// The learning rate that `cosine_with_min_lr` ends at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// The same as a share of the peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
}

impl OptimConfig {
    /// The name of the figure that says which checkpoint is best.
    pub(crate) fn best_metric(&self) -> String {
        let name = self.metric_for_best_model.as_deref().unwrap_or("loss");
        if name.starts_with("eval_") { name.to_owned() } else { format!("eval_{name}") }
    }

    /// Whether more of that figure is better: said, or told by its name.
    pub(crate) fn more_is_better(&self) -> bool {
        self.greater_is_better.unwrap_or_else(|| !self.best_metric().ends_with("loss"))
    }

    /// Steps between evaluations, where they are counted in steps.
    pub(crate) fn eval_interval(&self) -> u64 {
        if self.eval_steps > 0 { self.eval_steps } else { self.logging_steps }
    }

    /// Whether an evaluation is due after `done` steps on `records` records.
    pub(crate) fn evaluates_after(&self, done: u64, records: Option<usize>) -> bool {
        match (self.eval_strategy, records) {
            (EvalStrategy::No, _) | (EvalStrategy::Epoch, None) => false,
            (EvalStrategy::Steps, _) => done.is_multiple_of(self.eval_interval().max(1)),
            (EvalStrategy::Epoch, Some(records)) => {
                let passes = |steps: u64| steps * self.step_records() as u64 / records as u64;
                passes(done) > passes(done - 1)
            }
        }
    }

    /// The share of the peak that the schedule ends at.
    pub(crate) fn floor(&self) -> f64 {
        let SchedulerKwargs { min_lr, min_lr_rate } = self.lr_scheduler_kwargs;
        min_lr.map(|lr| lr / self.learning_rate).or(min_lr_rate).unwrap_or(0.0)
    }

    pub(super) fn validate_evaluation(&self) -> Result<(), TrainError> {
        let bad = |key, value: String, reason| Err(TrainError::Setting { key, value, reason });
        if self.save_total_limit == 0 {
            return bad(
                "save_total_limit",
                "0".into(),
                "must be at least 1: a run goes on from it",
            );
        }
        if self.per_device_eval_batch_size == 0 {
            return bad("per_device_eval_batch_size", "0".into(), "must be at least 1");
        }
        let threshold = self.early_stopping_threshold;
        if !(threshold.is_finite() && threshold >= 0.0) {
            let reason = "must be a number from 0 up";
            return bad("early_stopping_threshold", threshold.to_string(), reason);
        }
        if self.eval_steps > 0 && self.eval_strategy != EvalStrategy::Steps {
            let reason = "goes with eval_strategy = \"steps\"";
            return bad("eval_steps", self.eval_steps.to_string(), reason);
        }
        if self.eval_strategy != EvalStrategy::No {
            return Ok(());
        }
        let reason = "needs evaluations: eval_strategy = \"steps\" or \"epoch\"";
        if self.load_best_model_at_end {
            return bad("load_best_model_at_end", "true".into(), reason);
        }
        if self.early_stopping_patience > 0 {
            let value = self.early_stopping_patience.to_string();
            return bad("early_stopping_patience", value, reason);
        }
        match &self.metric_for_best_model {
            Some(name) => bad("metric_for_best_model", name.clone(), reason),
            None => Ok(()),
        }
    }

    pub(super) fn validate_floor(&self) -> Result<(), TrainError> {
        use savi_nn::optim::Schedule;
        let SchedulerKwargs { min_lr, min_lr_rate } = self.lr_scheduler_kwargs;
        let given = usize::from(min_lr.is_some()) + usize::from(min_lr_rate.is_some());
        let wanted = usize::from(self.lr_scheduler_type == Schedule::CosineWithMinLr);
        let (key, value) = ("lr_scheduler_kwargs", format!("{:?}", self.lr_scheduler_kwargs));
        if given != wanted {
            let reason = "lr_scheduler_type = \"cosine_with_min_lr\" takes either min_lr or min_lr_rate; other \
                          schedules take neither";
            return Err(TrainError::Setting { key, value, reason });
        }
        if !(0.0..=1.0).contains(&self.floor()) {
            let reason =
                "must be between 0 and the learning rate (min_lr), or 0 and 1 (min_lr_rate)";
            return Err(TrainError::Setting { key, value, reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &str) -> OptimConfig {
        serde_json::from_str(keys).unwrap()
    }

    #[test]
    fn evaluations_come_when_they_are_due() {
        let due = |keys: &str, records| {
            let config = config(keys);
            (1..=6).filter(|&done| config.evaluates_after(done, records)).collect::<Vec<u64>>()
        };
        assert!(due("{}", Some(3)).is_empty());
        let steps = r#"{"eval_strategy": "steps", "eval_steps": 2}"#;
        assert_eq!(due(steps, None), [2, 4, 6]);
        let epochs = r#"{"eval_strategy": "epoch", "per_device_train_batch_size": 2}"#;
        assert_eq!(due(epochs, Some(3)), [2, 3, 5, 6]);
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_by_key() {
        for (keys, named) in [
            (r#"{"load_best_model_at_end": true}"#, "load_best_model_at_end"),
            (r#"{"early_stopping_patience": 1}"#, "early_stopping_patience"),
            (r#"{"metric_for_best_model": "loss"}"#, "metric_for_best_model"),
            (r#"{"eval_steps": 3}"#, "eval_steps"),
            (r#"{"save_total_limit": 0}"#, "save_total_limit"),
            (r#"{"lr_scheduler_type": "cosine_with_min_lr"}"#, "min_lr_rate"),
            (r#"{"lr_scheduler_kwargs": {"min_lr": 0.1}}"#, "cosine_with_min_lr"),
        ] {
            let refused = config(keys).validate().unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
        let floor = r#"{"lr_scheduler_type": "cosine_with_min_lr", "learning_rate": 1e-3,
            "lr_scheduler_kwargs": {"min_lr": 1e-4}}"#;
        config(floor).validate().unwrap();
        assert!((config(floor).floor() - 0.1).abs() < 1e-15);
        let accuracy = r#"{"metric_for_best_model": "rewards/accuracies"}"#;
        assert!(config(accuracy).more_is_better() && !config("{}").more_is_better());
    }
}
