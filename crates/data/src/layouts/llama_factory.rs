//! LLaMA-Factory's two ways to write a conversation down. Alpaca: `instruction`, `input`, `system` and `history`, a list of
//! turns by two. ShareGPT: `conversations` of `from` and `value` (or `messages` of `role` and `content`), with the system's
//! words among them or beside them.

use savi_schema::{Message, Role};
use serde_json::Value;

use super::media::Waiting;
use super::{Keys, turns};
use crate::DataError;

/// The conversation of an alpaca row up to its answer. `query` and `history` of ms-swift are the same by other names.
pub(crate) fn alpaca(keys: &Keys<'_>, waiting: &mut Waiting) -> Result<Vec<Message>, DataError> {
    let marks = waiting.marks();
    let mut prompt = Vec::new();
    if let Some(system) = keys.text("system")?.filter(|words| !words.is_empty()) {
        prompt.push(Message::text(Role::System, system));
    }
    let mut asked = |at: &str, text: &str| -> Result<Message, DataError> {
        Ok(Message { role: Role::User, content: waiting.marked(keys.row, at, text, &marks)? })
    };
    if let Some(history) = keys.get("history") {
        let fault = || keys.row.bad("history is not a list of questions with their answers");
        for (number, pair) in history.as_array().ok_or_else(fault)?.iter().enumerate() {
            let texts: Option<Vec<&str>> =
                pair.as_array().map(|pair| pair.iter().filter_map(Value::as_str).collect());
            let Some([question, answer]) = texts.as_deref() else { return Err(fault()) };
            prompt.push(asked(&format!("history[{number}]"), question)?);
            prompt.push(Message::text(Role::Assistant, *answer));
        }
    }
    let name = if keys.has("query") { "query" } else { "instruction" };
    let lines = [keys.text(name)?, keys.text("input")?];
    let lines: Vec<&str> = lines.into_iter().flatten().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(keys.row.missing(name));
    }
    prompt.push(asked(name, &lines.join("\n"))?);
    Ok(prompt)
}

/// The turns of a ShareGPT row.
pub(crate) fn sharegpt(keys: &Keys<'_>, waiting: &mut Waiting) -> Result<Vec<Message>, DataError> {
    let name = if keys.has("messages") { "messages" } else { "conversations" };
    let mut turns = turns::read_turns(keys.row, name, keys.need(name)?, waiting)?;
    if let Some(system) = keys.text("system")?.filter(|words| !words.is_empty()) {
        if turns.first().is_some_and(|turn| turn.role == Role::System) {
            return Err(keys.row.bad(format!("system stands beside {name} and in it")));
        }
        turns.insert(0, Message::text(Role::System, system));
    }
    Ok(turns)
}
