//! Turns of a conversation as other programs write them: plain text with `<video>` and `<image>`
//! marks, or a list of parts.

use savi_schema::{Media, Message, Part, Role};
use serde_json::{Value, json};

use crate::{DataError, Row};

pub(super) const VIDEO: &str = "<video>";
pub(super) const IMAGE: &str = "<image>";

/// The text of a turn with a mark where each medium stands.
pub(super) fn marked_text(message: &Message) -> String {
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
pub(super) fn sources(messages: &[Message]) -> (Vec<&str>, Vec<&str>) {
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

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// A turn as `{"role": .., "content": [parts]}`, media without their sources.
pub(super) fn parts_json(message: &Message) -> Value {
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

/// Media of a row that wait for the part they belong to.
pub(super) struct Waiting {
    pub(super) videos: std::vec::IntoIter<String>,
    pub(super) images: std::vec::IntoIter<String>,
}

impl Waiting {
    /// Refuses media that no part asked for.
    pub(super) fn finish(mut self, row: &Row) -> Result<(), DataError> {
        match self.videos.next().or_else(|| self.images.next()) {
            None => Ok(()),
            Some(source) => Err(row.bad(format!("{source:?} has no place in the turns"))),
        }
    }
}

/// Reads a list of turns; `key` names it in errors.
pub(super) fn read_turns(
    row: &Row,
    key: &str,
    value: &Value,
    waiting: &mut Waiting,
) -> Result<Vec<Message>, DataError> {
    let turns = value.as_array().ok_or_else(|| row.bad(format!("{key} is not a list of turns")))?;
    let read = |(index, turn): (usize, &Value)| {
        let at = format!("{key}[{index}]");
        let role = turn.get("role").and_then(Value::as_str);
        let role = match role.ok_or_else(|| row.missing(&format!("{at}.role")))? {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => return Err(row.bad(format!("{at}.role is {other:?}"))),
        };
        let content = turn.get("content").ok_or_else(|| row.missing(&format!("{at}.content")))?;
        Ok(Message { role, content: read_content(row, &at, content, waiting)? })
    };
    turns.iter().enumerate().map(read).collect()
}

fn read_content(
    row: &Row,
    at: &str,
    content: &Value,
    waiting: &mut Waiting,
) -> Result<Vec<Part>, DataError> {
    match content {
        Value::String(text) => Ok(vec![Part::Text { text: text.clone() }]),
        Value::Array(parts) => parts.iter().map(|part| read_part(row, at, part, waiting)).collect(),
        _ => Err(row.bad(format!("{at}.content is neither text nor a list of parts"))),
    }
}

fn read_part(row: &Row, at: &str, part: &Value, waiting: &mut Waiting) -> Result<Part, DataError> {
    let text_of = |key: &str| part.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = text_of("type").ok_or_else(|| row.missing(&format!("{at}.content.type")))?;
    let mut source = |key: &str, queue: fn(&mut Waiting) -> Option<String>| {
        let source = text_of(key).or_else(|| queue(waiting));
        let source = source.ok_or_else(|| row.bad(format!("{at}: {key} without a file")))?;
        Ok(Media { source, policy: None })
    };
    match kind.as_str() {
        "text" => {
            let text = text_of("text").ok_or_else(|| row.missing(&format!("{at}.content.text")))?;
            Ok(Part::Text { text })
        }
        "video" => Ok(Part::Video(source("video", |waiting| waiting.videos.next())?)),
        "image" => Ok(Part::Image(source("image", |waiting| waiting.images.next())?)),
        other => Err(row.bad(format!("{at} has a part of type {other:?}"))),
    }
}
