//! Where a training stands, in the layout of Hugging Face's `trainer_state.json` (`TrainerState` of
//! transformers), which its own loader and the tools around it read.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::RunError;

const STOPPING: &str = "EarlyStoppingCallback";
const COUNTER: &str = "early_stopping_patience_counter";

/// The state of a training after a step. Fields are transformers'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// The step of the best evaluation.
    pub best_global_step: Option<u64>,
    /// Its figure.
    pub best_metric: Option<f64>,
    /// The folder of the checkpoint that it is about.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the data, the one in progress as a fraction.
    pub epoch: f64,
    /// Steps between evaluations.
    pub eval_steps: u64,
    /// Steps that are done.
    pub global_step: u64,
    /// False: nobody searches for settings.
    pub is_hyper_param_search: bool,
    /// True: the one process that writes.
    pub is_local_process_zero: bool,
    /// True: the one process that writes.
    pub is_world_process_zero: bool,
    /// Figures as they were logged.
    pub log_history: Vec<Map<String, Value>>,
    /// Steps between lines of metrics.
    pub logging_steps: u64,
    /// Steps that there will be.
    pub max_steps: u64,
    /// Tokens that went through the model.
    pub num_input_tokens_seen: u64,
    /// Passes over the data that there will be, rounded up.
    pub num_train_epochs: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// What else goes on: patience of early stopping, evaluations that are due.
    pub stateful_callbacks: Map<String, Value>,
    /// Not counted: 0.
    pub total_flos: f64,
    /// Records of one forward pass.
    pub train_batch_size: Option<u64>,
    /// Null: nobody searches for settings.
    pub trial_name: Option<String>,
    /// Null: nobody searches for settings.
    pub trial_params: Option<Map<String, Value>>,
}

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 0,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 0,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 0,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: None,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// Reads a file; none where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, RunError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RunError::io(path)(error)),
        };
        let malformed = |error: serde_json::Error| RunError::Malformed {
            path: path.to_owned(),
            line: None,
            reason: error.to_string(),
        };
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    /// Evaluations in a row that brought nothing better.
    pub fn patience_counter(&self) -> u64 {
        let counter = self.attribute(STOPPING, COUNTER);
        counter.and_then(Value::as_u64).unwrap_or(0)
    }

    /// Sets the evaluations in a row that brought nothing better.
    pub fn set_patience(&mut self, counter: u64, patience: u64, threshold: f64) {
        let args =
            json!({"early_stopping_patience": patience, "early_stopping_threshold": threshold});
        let state = json!({"args": args, "attributes": {COUNTER: counter}});
        self.stateful_callbacks.insert(STOPPING.to_owned(), state);
    }

    /// Whether an evaluation is due that was not made yet.
    pub fn should_evaluate(&self) -> bool {
        let due = self.attribute("TrainerControl", "should_evaluate");
        due.and_then(Value::as_bool).unwrap_or(false)
    }

    /// Says whether an evaluation is due, and whether no step is to follow.
    pub fn set_control(&mut self, should_evaluate: bool, should_training_stop: bool) {
        let attributes = json!({
            "should_epoch_stop": false,
            "should_evaluate": should_evaluate,
            "should_log": false,
            "should_save": false,
            "should_training_stop": should_training_stop,
        });
        let state = json!({"args": {}, "attributes": attributes});
        self.stateful_callbacks.insert("TrainerControl".to_owned(), state);
    }

    /// The same, told in a run of which earlier parts made `offset` steps.
    pub(crate) fn after(&self, offset: u64) -> Self {
        Self {
            best_global_step: self.best_global_step.map(|step| step + offset),
            global_step: self.global_step + offset,
            max_steps: self.max_steps + offset,
            ..self.clone()
        }
    }

    fn attribute(&self, callback: &str, name: &str) -> Option<&Value> {
        self.stateful_callbacks.get(callback)?.get("attributes")?.get(name)
    }
}
