//! ms-swift's standard rows for preference training.

use savi_schema::{Pair, Part};
use serde_json::{Value, json};

use super::turns;
use crate::DataError;

/// The prompt's turns, the chosen answer as the last turn, the rejected one beside it; `<video>` and
/// `<image>` mark where the files of `videos` and `images` stand.
pub(super) fn write(pair: &Pair) -> Result<Value, DataError> {
    let said =
        pair.prompt.iter().flat_map(|message| &message.content).filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            _ => None,
        });
    let answers = [pair.chosen.as_str(), pair.rejected.as_str()];
    // A mark in the words would be taken for one more file.
    for text in said.chain(answers) {
        if let Some(mark) = [turns::VIDEO, turns::IMAGE].into_iter().find(|m| text.contains(m)) {
            let reason =
                format!("ms-swift: the words contain {mark}, which stands for a file there");
            return Err(DataError::Layout { id: pair.id.clone(), reason });
        }
    }
    let mut messages: Vec<Value> = pair
        .prompt
        .iter()
        .map(|m| json!({"role": turns::role_name(m.role), "content": turns::marked_text(m)}))
        .collect();
    messages.push(json!({"role": "assistant", "content": pair.chosen}));
    let mut row = json!({"messages": messages, "rejected_response": pair.rejected});
    let (videos, images) = turns::sources(&pair.prompt);
    for (key, sources) in [("videos", videos), ("images", images)] {
        if !sources.is_empty() {
            row[key] = json!(sources);
        }
    }
    Ok(row)
}
