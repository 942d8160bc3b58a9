//! Demonstrations for supervised fine-tuning in the layouts of several trainers. The keys of a row tell what it is, so
//! that a file needs no name of a layout; a name makes sure that it is what it should be.
//!
//! | layout | keys |
//! | --- | --- |
//! | savi | an [`Example`] of `savi-schema` |
//! | trl | `messages`; `prompt` and `completion`, both text or both turns; `text` |
//! | llama-factory | `instruction, input, output, system, history`; `conversations` of `from` and `value`, `system` |
//! | ms-swift | `messages`; `query, response, system, history` |
//! | qwen | `conversations` or `messages`, with clips in `video`, `image` or in parts |
//!
//! All take files in `videos` and `images` with their marks in the words, and `weight`, which says how much the record
//! counts. Text alone (`text`, and `prompt` with `completion` as text) is learnt without a chat template, as in TRL.

use std::path::Path;

use savi_schema::{Demonstration, Example, Message, Part, Role, Taught};
use serde_json::Value;

use crate::layouts::media::Waiting;
use crate::layouts::{Keys, llama_factory, turns};
use crate::mixture::{BadRows, Named, Read, read_rows};
use crate::records::{Record, known_version};
use crate::{DataError, Row};

/// A layout of demonstrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemonstrationFormat {
    /// This project's own records.
    Savi,
    /// TRL's language-modelling and prompt-completion data.
    Trl,
    /// LLaMA-Factory's alpaca and ShareGPT data.
    LlamaFactory,
    /// ms-swift's standard data.
    MsSwift,
    /// The Qwen-VL repositories' fine-tuning data.
    Qwen,
}

impl DemonstrationFormat {
    /// All layouts.
    pub const ALL: [Self; 5] =
        [Self::Savi, Self::Trl, Self::LlamaFactory, Self::MsSwift, Self::Qwen];

    /// The name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Savi => "savi",
            Self::Trl => "trl",
            Self::LlamaFactory => "llama-factory",
            Self::MsSwift => "ms-swift",
            Self::Qwen => "qwen",
        }
    }

    /// The keys of which its rows have one.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Savi => &["schema"],
            Self::Trl => &["messages", "prompt", "text"],
            Self::LlamaFactory => &["conversations", "messages", "instruction"],
            Self::MsSwift => &["messages", "query", "conversations", "instruction"],
            Self::Qwen => &["conversations", "messages"],
        }
    }
}

impl Named for Demonstration {
    fn id_mut(&mut self) -> &mut String {
        &mut self.id
    }
}

/// Reads the demonstrations of a file; `check` may refuse and change each.
pub fn read_demonstrations(
    path: &Path,
    format: Option<DemonstrationFormat>,
    bad_rows: BadRows,
    mut check: impl FnMut(&mut Demonstration) -> Result<(), String>,
) -> Result<Read<Demonstration>, DataError> {
    read_rows(path, bad_rows, |row| {
        let mut read = of_row(row, format)?;
        if let Some(fault) = fault(&read) {
            return Err(row.bad(fault));
        }
        check(&mut read).map_err(|fault| row.bad(format!("record {}: {fault}", read.id)))?;
        Ok(read)
    })
}

fn of_row(row: &Row, format: Option<DemonstrationFormat>) -> Result<Demonstration, DataError> {
    let keys = Keys::new(row)?;
    if let Some(format) = format
        && !format.keys().iter().any(|key| keys.has(key))
    {
        let expected = format.keys().join(", ");
        return Err(row.bad(format!("layout {} has none of {expected}", format.name())));
    }
    if keys.has("schema") {
        let example: Example = known_version(row)?;
        return match example.fault() {
            Some(fault) => Err(row.bad(fault)),
            None => Ok(example.into()),
        };
    }
    let mut waiting = Waiting::of(&keys)?;
    let mut completion = None;
    let mut turns = if keys.has("messages") || keys.has("conversations") {
        llama_factory::sharegpt(&keys, &mut waiting)?
    } else if keys.has("instruction") || keys.has("query") {
        let name = if keys.has("query") { "response" } else { "output" };
        let said = keys.need_text(name)?;
        let mut turns = llama_factory::alpaca(&keys, &mut waiting)?;
        turns.push(Message::text(Role::Assistant, said));
        turns
    } else if let Some(prompt) = keys.get("prompt") {
        let said = keys.need("completion")?;
        if let (Value::String(prompt), Value::String(said)) = (prompt, said) {
            waiting.finish(row, &mut [])?;
            let (prompt, completion) = (prompt.clone(), said.clone());
            let open = false;
            return with(&keys, Taught::Continuation { prompt, completion, open });
        }
        let mut turns = turns::read_turns(row, "prompt", prompt, &mut waiting)?;
        completion = Some(turns.len());
        turns.extend(turns::read_turns(row, "completion", said, &mut waiting)?);
        turns
    } else if let Some(text) = keys.text("text")? {
        waiting.finish(row, &mut [])?;
        return with(&keys, Taught::Text(text.to_owned()));
    } else {
        return Err(row.bad(
            "no known layout of demonstrations: neither messages, conversations, prompt with completion, \
             instruction, query, text nor schema",
        ));
    };
    waiting.finish(row, &mut turns)?;
    with(&keys, Taught::Turns { turns, completion })
}

fn with(keys: &Keys<'_>, taught: Taught) -> Result<Demonstration, DataError> {
    let weight = keys.number("weight")?.unwrap_or(1.0);
    Ok(Demonstration { id: keys.id(), taught, weight })
}

/// What of a demonstration cannot be learnt from.
fn fault(read: &Demonstration) -> Option<String> {
    if read.weight <= 0.0 || read.weight > 1e6 {
        return Some(format!("weight is {}: must be above 0, at most a million", read.weight));
    }
    let empty = |text: &str, what: &str| text.trim().is_empty().then(|| format!("{what} is empty"));
    match &read.taught {
        Taught::Text(text) => empty(text, "text"),
        Taught::Continuation { prompt, completion, .. } => {
            empty(prompt, "prompt").or_else(|| empty(completion, "completion"))
        }
        Taught::Turns { turns, completion } => {
            let first = completion.unwrap_or(0);
            if !turns.iter().skip(first).any(|turn| turn.role == Role::Assistant) {
                return Some("there is no turn of the assistant to learn".to_owned());
            }
            if turns.last().is_some_and(|turn| turn.role != Role::Assistant) {
                return Some("it does not end with a turn of the assistant".to_owned());
            }
            turns.iter().enumerate().find_map(|(number, turn)| said(turn, number))
        }
        Taught::Branches(conversations) => {
            let last = conversations.iter().filter_map(|turns| turns.last());
            last.enumerate().find_map(|(number, turn)| said(turn, number))
        }
    }
}

/// What is wrong with what the assistant says in a turn.
fn said(turn: &Message, number: usize) -> Option<String> {
    if turn.role != Role::Assistant {
        return None;
    }
    if turn.content.iter().any(|part| !matches!(part, Part::Text { .. })) {
        return Some(format!("turn {}, the assistant's, shows a clip or a picture", number + 1));
    }
    turn.words()
        .trim()
        .is_empty()
        .then(|| format!("turn {}, the assistant's answer, is empty", number + 1))
}

#[cfg(test)]
mod tests;
