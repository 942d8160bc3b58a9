//! What the loop sees on its way: figures of a few steps together, evaluations with the best among them, and the
//! records that are at fault where a step is not finite.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use savi_nn::device::memory_used;
use savi_nn::optim::global_norm;
use savi_run::{TrainerState, peak_memory};
use serde_json::{Map, Value, json};

use super::{Hooks, StepOutput, Training};
use crate::config::EvalStrategy;
use crate::{TrainError, checkpoint};

impl Training<'_> {
    /// Refuses settings that this training has no way to carry out.
    pub(super) fn check<C>(&self, hooks: &Hooks<'_, C>) -> Result<(), TrainError> {
        let asked = self.config.eval_strategy;
        let reason = match (asked, &hooks.evaluate, self.records) {
            (EvalStrategy::No, ..) | (EvalStrategy::Steps, Some(_), _) => return Ok(()),
            (EvalStrategy::Epoch, Some(_), Some(_)) => return Ok(()),
            (_, None, _) => "there are no records to evaluate on",
            (EvalStrategy::Epoch, _, None) => "a stream has no epochs",
        };
        let value = format!("{asked:?}").to_lowercase();
        Err(TrainError::Setting { key: "eval_strategy", value, reason })
    }

    /// Refuses ranks that have been given something else, or elsewhere.
    pub(super) fn check_ranks(&self, state: &TrainerState) -> Result<(), TrainError> {
        let ranks = self.io.ranks;
        if ranks.is_alone() {
            return Ok(());
        }
        if !self.device.is_cpu() {
            return Err(TrainError::Ranks(format!(
                "{ranks:?} computes on a GPU: gradients go from rank to rank on the CPU alone for now"
            )));
        }
        let told = |what: &dyn std::fmt::Debug| format!("{what:?}");
        ranks.check_same("another trainer or other settings", &told(&(self.label, self.config)))?;
        ranks
            .check_same("another number of steps or records", &told(&(self.total, self.records)))?;
        ranks.check_same("another last checkpoint", &told(&state.global_step))?;
        let weights: Vec<_> = self.weights.iter().map(|w| (w.name(), w.elements())).collect();
        ranks.check_same("other weights to train", &told(&weights))?;
        self.check_weights("another model")
    }

    /// Refuses ranks whose weights have come apart: sums of gradients are the same, what CPUs of several types make
    /// of them may not be.
    pub(super) fn check_weights(&self, what: &str) -> Result<(), TrainError> {
        let ranks = self.io.ranks;
        if ranks.is_alone() {
            return Ok(());
        }
        let mut hash = 0u64;
        for weight in self.weights {
            let values = weight.tensor(false).flatten_all()?.to_dtype(DType::F32)?;
            for value in values.to_vec1::<f32>()? {
                hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        ranks.check_same(what, &hash.to_string())
    }

    /// Says what is trained in the words of Hugging Face's trainer.
    pub(super) fn describe(&self, state: &mut TrainerState) {
        let config = self.config;
        state.max_steps = self.total;
        state.logging_steps = config.logging_steps;
        state.save_steps = config.save_steps;
        state.train_batch_size = Some(config.per_device_train_batch_size as u64);
        state.num_train_epochs = self.epoch(self.total).ceil() as u64;
        if config.eval_strategy == EvalStrategy::Steps {
            state.eval_steps = config.eval_interval();
        }
        let due = state.should_evaluate();
        state.set_control(due, false);
    }

    /// Passes over the data after `steps` steps.
    pub(super) fn epoch(&self, steps: u64) -> f64 {
        let records =
            |records: usize| (steps * self.config.step_records() as u64) as f64 / records as f64;
        self.records.map_or(0.0, records)
    }

    /// Makes the evaluation that is due; says whether it is the best so far.
    pub(super) fn evaluate<C>(
        &self,
        state: &mut TrainerState,
        carried: &C,
        hooks: &mut Hooks<'_, C>,
    ) -> Result<bool, TrainError> {
        let Some(evaluate) = &mut hooks.evaluate else { return Ok(false) };
        let (step, start) = (state.global_step, Instant::now());
        let figures = evaluate(carried)?;
        let mut line = Map::new();
        for (name, value) in figures {
            line.insert(format!("eval_{name}"), json!(value));
        }
        line.insert("eval_runtime".to_owned(), json!(start.elapsed().as_secs_f64()));
        if self.records.is_some() {
            line.insert("epoch".to_owned(), json!(state.epoch));
        }
        add_memory(&mut line, self.device);
        let better = self.judge(state, &line)?;
        self.io.metrics.log(step, &line)?;
        let stops = self.stops(state);
        if stops {
            let patience = self.config.early_stopping_patience;
            tracing::info!(
                "stopping after step {step}: {patience} evaluations brought nothing better"
            );
        }
        state.set_control(false, stops);
        Ok(better)
    }

    /// Whether patience has run out.
    pub(super) fn stops(&self, state: &TrainerState) -> bool {
        let patience = self.config.early_stopping_patience;
        patience > 0 && state.patience_counter() >= patience
    }

    /// Compares an evaluation with the best before it.
    fn judge(
        &self,
        state: &mut TrainerState,
        line: &Map<String, Value>,
    ) -> Result<bool, TrainError> {
        let config = self.config;
        let name = config.best_metric();
        let Some(value) = line.get(&name).and_then(Value::as_f64) else {
            let asked = config.load_best_model_at_end
                || config.early_stopping_patience > 0
                || config.metric_for_best_model.is_some();
            if !asked {
                return Ok(false);
            }
            let numbers = line.iter().filter(|(_, value)| value.is_number());
            let known: Vec<&str> = numbers.map(|(name, _)| name.as_str()).collect();
            return Err(TrainError::Setting {
                key: "metric_for_best_model",
                value: format!("{name} (figures of evaluations: {})", known.join(", ")),
                reason: "has to be a figure of every evaluation, and a finite number",
            });
        };
        let gain = state.best_metric.map(|best| match config.more_is_better() {
            true => value - best,
            false => best - value,
        });
        if config.early_stopping_patience > 0 {
            let renewed = gain.is_none_or(|gain| gain > config.early_stopping_threshold);
            let counter = if renewed { 0 } else { state.patience_counter() + 1 };
            let patience = config.early_stopping_patience;
            state.set_patience(counter, patience, config.early_stopping_threshold);
        }
        let better = gain.is_none_or(|gain| gain > 0.0);
        if better {
            let step = state.global_step;
            (state.best_metric, state.best_global_step) = (Some(value), Some(step));
            let name = checkpoint::name(step);
            state.best_model_checkpoint = config.load_best_model_at_end.then_some(name);
        }
        Ok(better)
    }

    /// The error of a step that is not finite, with the records that are so without the others.
    pub(super) fn blame<C>(
        &self,
        hooks: &mut Hooks<'_, C>,
        at: u64,
        what: String,
        ids: &[String],
    ) -> Result<TrainError, TrainError> {
        let mut found = Vec::new();
        if let Some(alone) = &mut hooks.alone {
            for (place, id) in ids.iter().enumerate() {
                let (loss, grads) = alone(at, place)?;
                if !loss.is_finite() || global_norm(self.weights, &grads).is_err() {
                    found.push(id.clone());
                }
            }
        }
        let ranks = self.io.ranks;
        let (ids, found) = (ranks.gather(ids.to_vec())?.concat(), ranks.gather(found)?.concat());
        let ids = if found.is_empty() { ids } else { found };
        Ok(TrainError::NotFinite { step: at + 1, what, ids })
    }
}

/// Adds what is known of memory, in GiB: the most that the process had, and what is taken of a GPU's.
fn add_memory(line: &mut Map<String, Value>, device: &Device) {
    let gib = |bytes: u64| json!((bytes as f64 / (1u64 << 30) as f64 * 1e4).round() / 1e4);
    if let Some(bytes) = peak_memory() {
        line.insert("memory/peak_rss_gib".to_owned(), gib(bytes));
    }
    if let Some((used, _)) = memory_used(device) {
        line.insert("memory/gpu_used_gib".to_owned(), gib(used));
    }
}

/// Means over the steps since the last line of metrics; a figure that a step lacks is the mean of
/// the other steps.
pub(super) struct Window {
    device: Device,
    start: Instant,
    tokens: usize,
    sums: Vec<(Cow<'static, str>, f64, f64)>,
}

impl Window {
    pub(super) fn new(device: &Device) -> Self {
        Self { device: device.clone(), start: Instant::now(), tokens: 0, sums: Vec::new() }
    }

    pub(super) fn add(&mut self, output: &StepOutput) {
        self.tokens += output.tokens;
        for (name, value) in [("loss".into(), output.loss)].iter().chain(&output.figures) {
            match self.sums.iter_mut().find(|(known, ..)| known == name) {
                Some((_, sum, steps)) => (*sum, *steps) = (*sum + value, *steps + 1.0),
                None => self.sums.push((name.clone(), *value, 1.0)),
            }
        }
    }

    /// Leaves out time that no step took.
    pub(super) fn skip(&mut self, time: Duration) {
        self.start += time;
    }

    pub(super) fn take(&mut self) -> Map<String, Value> {
        let mut line: Map<String, Value> = self
            .sums
            .iter()
            .map(|(name, sum, steps)| (name.clone().into_owned(), json!(sum / steps)))
            .collect();
        let rate = self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        line.insert("tokens_per_second".to_owned(), json!(rate.round()));
        add_memory(&mut line, &self.device);
        *self = Self::new(&self.device);
        line
    }
}
