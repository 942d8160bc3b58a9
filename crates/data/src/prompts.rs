//! Prompts that a policy is to answer, with the columns that rewards ask.
//!
//! | layout | keys |
//! | --- | --- |
//! | savi | a [`PromptRecord`] of `savi-schema` |
//! | verl | `prompt` as turns, `data_source`, `reward_model`, `extra_info`, `images`, `videos` |
//! | trl | `prompt` as turns or as text (which is the user's turn), `images`, `videos`, any other column |
//! | question | `question` (GSM8K) or `problem` (MATH) as the user's turn, and its other columns, as `answer` |
//!
//! verl's layout is TRL's with names for what rewards read; both keep every column but the prompt and its media. A
//! trailing answer is no part of a prompt and is refused.

use std::path::Path;

use savi_schema::{Message, PromptRecord, Role};
use serde_json::Value;

use crate::layouts::media::Waiting;
use crate::layouts::{Keys, turns};
use crate::mixture::{BadRows, Named, Read, read_rows};
use crate::{DataError, Row};

/// A layout of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptFormat {
    /// This project's own records.
    Savi,
    /// verl's RL data.
    Verl,
    /// TRL's prompt-only data.
    Trl,
    /// Questions with their answers, as GSM8K and MATH have them.
    Question,
}

impl PromptFormat {
    /// All layouts.
    pub const ALL: [Self; 4] = [Self::Savi, Self::Verl, Self::Trl, Self::Question];

    /// The name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Savi => "savi",
            Self::Verl => "verl",
            Self::Trl => "trl",
            Self::Question => "question",
        }
    }
}

impl Named for PromptRecord {
    fn id_mut(&mut self) -> &mut String {
        &mut self.id
    }
}

/// Reads the prompts of a file. Without `format` each row's keys decide.
pub fn read_prompts(
    path: &Path,
    format: Option<PromptFormat>,
    bad_rows: BadRows,
    mut check: impl FnMut(&mut PromptRecord) -> Result<(), String>,
) -> Result<Read<PromptRecord>, DataError> {
    read_rows(path, bad_rows, |row| {
        let keys = Keys::new(row)?;
        let own = format == Some(PromptFormat::Savi) || format.is_none() && keys.has("columns");
        let mut record = if own { row.parse()? } else { of_row(&keys, format)? };
        if record.prompt.last().is_none_or(|turn| turn.role != Role::User) {
            return Err(row.bad("the prompt does not end with a turn of the user"));
        }
        check(&mut record).map_err(|fault| row.bad(format!("record {}: {fault}", record.id)))?;
        Ok(record)
    })
}

fn of_row(keys: &Keys<'_>, format: Option<PromptFormat>) -> Result<PromptRecord, DataError> {
    let row: &Row = keys.row;
    let mut waiting = Waiting::of(keys)?;
    let asks = |key: &&&str| keys.has(key) && !keys.has("prompt");
    let question = ["question", "problem"].iter().find(asks).copied();
    let question = match (question, format) {
        (Some(question), Some(PromptFormat::Question) | None) => question,
        (None, Some(PromptFormat::Question)) => "question",
        _ => "prompt",
    };
    let mut prompt = match keys.need(question)? {
        Value::String(words) if format != Some(PromptFormat::Verl) => {
            let marks = waiting.marks();
            let content = waiting.marked(row, question, words, &marks)?;
            vec![Message { role: Role::User, content }]
        }
        turns => turns::read_turns(row, question, turns, &mut waiting)?,
    };
    waiting.finish(row, &mut prompt)?;
    if format == Some(PromptFormat::Verl) {
        keys.need_text("data_source")?;
    }
    let taken = ["id", question, "videos", "video", "images", "image"];
    let columns = keys.object.iter().filter(|(key, _)| !taken.contains(&key.as_str()));
    let columns = columns.map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(PromptRecord { id: keys.id(), prompt, columns })
}
