//! The completions as a file of rows beside the metrics, `completions.jsonl`: what was drawn, and what it was worth.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use savi_schema::{FinishReason, Message};
use serde_json::{Map, Value, json};

use super::Session;
use super::rollout::Rollout;
use crate::TrainError;

pub(super) struct CompletionLog {
    path: PathBuf,
    wanted: bool,
    /// Open once it is known at which step the training goes on.
    file: Option<File>,
}

impl CompletionLog {
    pub(super) fn new(dir: &Path, wanted: bool) -> Self {
        Self { path: dir.join("completions.jsonl"), wanted, file: None }
    }

    fn failed(&self, error: impl ToString) -> TrainError {
        TrainError::Checkpoint { path: self.path.clone(), reason: error.to_string() }
    }

    /// At the first step of a start: forgets what an earlier start wrote of later steps than the `done` ones.
    pub(super) fn resume_at(&mut self, done: u64) -> Result<(), TrainError> {
        if !self.wanted || self.file.is_some() {
            return Ok(());
        }
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.failed(error)),
        };
        let is_before = |line: &&str| {
            let row: Option<Value> = serde_json::from_str(line).ok();
            row.is_some_and(|row| row["step"].as_u64().is_some_and(|step| step <= done))
        };
        let kept: String = text.lines().filter(is_before).flat_map(|line| [line, "\n"]).collect();
        savi_run::write_atomic(&self.path, kept.as_bytes())?;
        let file = File::options().append(true).open(&self.path).map_err(|e| self.failed(e))?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes a generation under the number of the first step that learns from it.
    pub(super) fn write(
        &mut self,
        step: u64,
        session: &Session<'_>,
        rollout: &Rollout,
    ) -> Result<(), TrainError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = String::new();
        for group in &rollout.groups {
            let prompt = &session.prompts[group.prompt];
            for (at, completion) in group.completions.iter().enumerate() {
                let names = session.rewards.iter().map(|(name, _)| name.clone());
                let scores = group.rewards[at].iter().map(|score| json!(score));
                let rewards: Map<String, Value> = names.zip(scores).collect();
                let mut row = json!({
                    "step": step, "id": prompt.id,
                    "prompt": prompt.prompt.last().map(Message::words),
                    "completion": completion.text, "tokens": completion.token_ids.len(),
                    "cut_off": completion.finish_reason == FinishReason::Length,
                    "rewards": rewards,
                });
                if let Some(advantage) = group.advantages.get(at) {
                    row["advantage"] = json!(advantage);
                }
                text.push_str(&format!("{row}\n"));
            }
        }
        let written = file.write_all(text.as_bytes());
        written.map_err(|error| self.failed(error))
    }
}
