//! ms-swift's standard rows for preference training.

use savi_schema::{Message, Pair, Part, Role};
use serde_json::{Value, json};

use super::{answer, of_row};
use crate::layouts::media::Waiting;
use crate::layouts::{Keys, llama_factory, turns};
use crate::{DataError, Row};

/// Rows of `messages` that end with the chosen answer, or of `query` and `response` with `system` and `history`. The
/// other answer is text, or the turns that stand in the place of the chosen one's; `rejected_messages` is the other
/// conversation whole.
pub(super) fn read(row: &Row) -> Result<Pair, DataError> {
    let keys = Keys::new(row)?;
    let mut waiting = Waiting::of(&keys)?;
    let (mut prompt, chosen) = if keys.has("messages") {
        let mut turns = llama_factory::sharegpt(&keys, &mut waiting)?;
        let last = turns.pop().filter(|turn| turn.role == Role::Assistant);
        let last = last.ok_or_else(|| row.bad("messages do not end with the chosen answer"))?;
        (turns, last.words())
    } else {
        let chosen = keys.need_text("response")?.to_owned();
        (llama_factory::alpaca(&keys, &mut waiting)?, chosen)
    };
    waiting.finish(row, &mut prompt)?;
    let turns = |key: &str, value: &Value| -> Result<Vec<Message>, DataError> {
        turns::read_turns(row, key, value, &mut Waiting::default())
    };
    let rejected = match (keys.get("rejected_messages"), keys.get("rejected_response")) {
        (Some(value), _) => {
            let whole = turns("rejected_messages", value)?;
            let (last, before) =
                whole.split_last().ok_or_else(|| row.missing("rejected_messages"))?;
            // The same clips are shown in both: where their marks stand is the first one's affair.
            let unmarked = |turn: &Message| {
                let text = turns::marked_text(turn).replace(turns::VIDEO, "");
                (turn.role, text.replace(turns::IMAGE, ""))
            };
            let plain = |turns: &[Message]| turns.iter().map(unmarked).collect::<Vec<_>>();
            if plain(before) != plain(&prompt) {
                return Err(row.bad("rejected_messages parts from messages before the last turn"));
            }
            answer(row, "rejected_messages", std::slice::from_ref(last))?
        }
        (None, Some(Value::String(text))) => text.clone(),
        (None, Some(value)) => {
            answer(row, "rejected_response", &turns("rejected_response", value)?)?
        }
        (None, None) => return Err(row.missing("rejected_response")),
    };
    of_row(&keys, prompt, chosen, rejected)
}

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
