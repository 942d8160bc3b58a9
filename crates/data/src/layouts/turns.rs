//! Turns of a conversation as other programs write them: plain text with `<video>` and `<image>`
//! marks, or a list of parts.

use savi_schema::{Message, Part, Role};
use serde_json::{Value, json};

use super::media::{Marked, Waiting};
use crate::{DataError, Row};

pub(crate) const VIDEO: &str = "<video>";
pub(crate) const IMAGE: &str = "<image>";

/// The text of a turn with a mark where each medium stands.
pub(crate) fn marked_text(message: &Message) -> String {
    message
        .content
        .iter()
        .map(|part| match part {
            Part::Text { text } => text.as_str(),
            Part::Video(_) => VIDEO,
            Part::Image(_) => IMAGE,
        })
        .collect()
}

/// Sources of the clips and of the pictures of a conversation, in order.
pub(crate) fn sources(messages: &[Message]) -> (Vec<&str>, Vec<&str>) {
    let (mut videos, mut images) = (Vec::new(), Vec::new());
    for part in messages.iter().flat_map(|message| &message.content) {
        match part {
            Part::Video(media) => videos.push(media.source.as_str()),
            Part::Image(media) => images.push(media.source.as_str()),
            Part::Text { .. } => {}
        }
    }
    (videos, images)
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// A turn as `{"role": .., "content": [parts]}`, media without their sources.
pub(crate) fn parts_json(message: &Message) -> Value {
    let parts: Vec<Value> = message
        .content
        .iter()
        .map(|part| match part {
            Part::Text { text } => json!({"type": "text", "text": text}),
            Part::Video(_) => json!({"type": "video"}),
            Part::Image(_) => json!({"type": "image"}),
        })
        .collect();
    json!({"role": role_name(message.role), "content": parts})
}

/// Reads a list of turns, each with `role` and `content` or (ShareGPT) with `from` and `value`; `key` names it in
/// errors.
pub(crate) fn read_turns(
    row: &Row,
    key: &str,
    value: &Value,
    waiting: &mut Waiting,
) -> Result<Vec<Message>, DataError> {
    let turns = value.as_array().ok_or_else(|| row.bad(format!("{key} is not a list of turns")))?;
    let marks = waiting.marks();
    let read = |(index, turn): (usize, &Value)| {
        read_turn(row, &format!("{key}[{index}]"), turn, &marks, waiting)
    };
    turns.iter().enumerate().map(read).collect()
}

/// One turn.
pub(crate) fn read_turn(
    row: &Row,
    at: &str,
    turn: &Value,
    marks: &Marked,
    waiting: &mut Waiting,
) -> Result<Message, DataError> {
    let field = |names: [&str; 2]| names.iter().find_map(|name| turn.get(name));
    let said = |key: &str| row.missing(&format!("{at}.{key}"));
    let speaker = field(["role", "from"]).and_then(Value::as_str).ok_or_else(|| said("role"))?;
    let role = role(speaker).ok_or_else(|| {
        let tools =
            ["tool", "function", "observation", "function_call", "tool_call", "tool_response"];
        let reason =
            if tools.contains(&speaker) { ": turns of tools are not learnt here" } else { "" };
        row.bad(format!("{at}.role is {speaker:?}{reason}"))
    })?;
    let content = field(["content", "value"]).ok_or_else(|| said("content"))?;
    let content = match content {
        // What the model says shows nothing.
        Value::String(text) if role == Role::Assistant => vec![Part::Text { text: text.clone() }],
        Value::String(text) => waiting.marked(row, at, text, marks)?,
        Value::Array(parts) => {
            let part = |part: &Value| read_part(row, at, part, waiting);
            parts.iter().map(part).collect::<Result<_, _>>()?
        }
        _ => return Err(row.bad(format!("{at}.content is neither text nor a list of parts"))),
    };
    Ok(Message { role, content })
}

/// Who speaks under a name of some trainer.
pub(crate) fn role(name: &str) -> Option<Role> {
    match name {
        "system" | "developer" => Some(Role::System),
        "user" | "human" => Some(Role::User),
        "assistant" | "gpt" | "chatgpt" | "bot" => Some(Role::Assistant),
        _ => None,
    }
}

fn read_part(row: &Row, at: &str, part: &Value, waiting: &mut Waiting) -> Result<Part, DataError> {
    let text_of = |key: &str| part.get(key).and_then(Value::as_str);
    // Qwen's parts may tell their type by their key alone.
    let told = text_of("type");
    let kind = told
        .or_else(|| ["text", "video", "image"].into_iter().find(|&key| part.get(key).is_some()));
    match kind.ok_or_else(|| row.missing(&format!("{at}.content.type")))? {
        "text" => {
            let text = text_of("text").or_else(|| text_of("content"));
            let text = text.ok_or_else(|| row.missing(&format!("{at}.content.text")))?;
            Ok(Part::Text { text: text.to_owned() })
        }
        "video" | "video_url" => waiting.part(row, at, part, true),
        "image" | "image_url" => waiting.part(row, at, part, false),
        other => Err(row.bad(format!("{at} has a part of type {other:?}"))),
    }
}
