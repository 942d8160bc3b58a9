//! A round's lesson as files, in this project's layout and in those of other trainers, so that it
//! can be taught elsewhere or looked at.

use std::path::Path;

use savi_run::{RunError, write_atomic};
use savi_schema::{Message, Pair, Part};
use serde::Serialize;
use serde_json::{Value, json};

use crate::learn::Lesson;

/// Writes `pairs.jsonl` (and the same pairs for LLaVA-Hound's and ms-swift's trainers) or
/// `examples.jsonl` into `dir`.
pub(crate) fn write(dir: &Path, lesson: &Lesson) -> Result<(), RunError> {
    match lesson {
        Lesson::Nothing => Ok(()),
        Lesson::Examples(examples) => write_lines(&dir.join("examples.jsonl"), examples),
        Lesson::Pairs(pairs) => {
            write_lines(&dir.join("pairs.jsonl"), pairs)?;
            let hound: Vec<Value> = pairs.iter().map(llava_hound).collect();
            write_lines(&dir.join("pairs.llava-hound.jsonl"), &hound)?;
            let swift: Vec<Value> = pairs.iter().map(ms_swift).collect();
            write_lines(&dir.join("pairs.ms-swift.jsonl"), &swift)
        }
    }
}

/// The layout of LLaVA-Hound's preference files.
fn llava_hound(pair: &Pair) -> Value {
    json!({
        "id": pair.id,
        "video": videos(&pair.prompt).first(),
        "prompt": pair.prompt.iter().map(Message::words).collect::<String>(),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
    })
}

/// The layout of ms-swift: the chosen answer ends the messages.
fn ms_swift(pair: &Pair) -> Value {
    let mut messages: Vec<Value> = pair
        .prompt
        .iter()
        .map(|message| {
            let content: String = message
                .content
                .iter()
                .map(|part| match part {
                    Part::Text { text } => text.as_str(),
                    Part::Image(_) => "<image>",
                    Part::Video(_) => "<video>",
                })
                .collect();
            json!({ "role": message.role, "content": content })
        })
        .collect();
    messages.push(json!({ "role": "assistant", "content": pair.chosen }));
    json!({
        "messages": messages,
        "rejected_response": pair.rejected,
        "videos": videos(&pair.prompt),
    })
}

fn videos(prompt: &[Message]) -> Vec<&str> {
    let parts = prompt.iter().flat_map(|message| &message.content);
    parts
        .filter_map(|part| match part {
            Part::Video(media) => Some(media.source.as_str()),
            Part::Text { .. } | Part::Image(_) => None,
        })
        .collect()
}

fn write_lines<T: Serialize>(path: &Path, records: &[T]) -> Result<(), RunError> {
    let mut text = String::new();
    for record in records {
        let line = serde_json::to_string(record).map_err(|error| RunError::Encode {
            what: path.display().to_string(),
            reason: error.to_string(),
        })?;
        text.push_str(&line);
        text.push('\n');
    }
    write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use savi_schema::Media;

    use super::*;

    #[test]
    fn other_trainers_layouts() {
        let media = Media { source: "a.mp4".to_owned(), policy: None };
        let pair = Pair {
            schema: 1,
            id: "round-1/a/what-00".to_owned(),
            prompt: vec![Message::about_video(media, "Which way?")],
            chosen: "left".to_owned(),
            rejected: "up".to_owned(),
            chosen_score: Some(5.0),
            rejected_score: Some(3.0),
            margin: 0.0,
            provenance: Default::default(),
        };
        assert_eq!(
            llava_hound(&pair),
            json!({
                "id": "round-1/a/what-00", "video": "a.mp4", "prompt": "Which way?",
                "chosen": "left", "rejected": "up", "chosen_score": 5.0, "rejected_score": 3.0,
            })
        );
        assert_eq!(
            ms_swift(&pair),
            json!({
                "messages": [
                    {"role": "user", "content": "<video>Which way?"},
                    {"role": "assistant", "content": "left"},
                ],
                "rejected_response": "up",
                "videos": ["a.mp4"],
            })
        );
    }
}
