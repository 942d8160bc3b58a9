//! TRL's conversational preference rows, with the prompt of its own or as the common start of both
//! conversations.

use savi_schema::{Message, Pair, Part, Role, SCHEMA_VERSION};
use serde_json::{Map, Value, json};

use super::llava_hound::id_text;
use super::turns::{self, Waiting};
use crate::{DataError, Row};

pub(super) fn read(row: &Row) -> Result<Pair, DataError> {
    let object = row.object()?;
    let mut waiting = Waiting {
        videos: files(row, &object, "videos", "video")?.into_iter(),
        images: files(row, &object, "images", "image")?.into_iter(),
    };
    let field = |key: &str| object.get(key).ok_or_else(|| row.missing(key));
    let (prompt, chosen, rejected) = if let Some(prompt) = object.get("prompt") {
        let prompt = turns::read_turns(row, "prompt", prompt, &mut waiting)?;
        let chosen = turns::read_turns(row, "chosen", field("chosen")?, &mut waiting)?;
        let rejected = turns::read_turns(row, "rejected", field("rejected")?, &mut waiting)?;
        (prompt, chosen, rejected)
    } else {
        implicit_prompt(row, field("chosen")?, field("rejected")?, &mut waiting)?
    };
    waiting.finish(row)?;
    let score = |key: &str| object.get(key).and_then(Value::as_f64);
    Ok(Pair {
        schema: SCHEMA_VERSION,
        id: id_text(object.get("id"), row),
        prompt,
        chosen: answer(row, "chosen", &chosen)?,
        rejected: answer(row, "rejected", &rejected)?,
        chosen_score: score("score_chosen"),
        rejected_score: score("score_rejected"),
        margin: 0.0,
        provenance: Map::new(),
    })
}

type Conversations = (Vec<Message>, Vec<Message>, Vec<Message>);

/// Both conversations in full: what they share is the prompt. Media belong to that shared part and
/// are listed once for both conversations.
fn implicit_prompt(
    row: &Row,
    chosen: &Value,
    rejected: &Value,
    waiting: &mut Waiting,
) -> Result<Conversations, DataError> {
    let list = |key: &str, value: &Value| {
        value.as_array().cloned().ok_or_else(|| row.bad(format!("{key} is not a list of turns")))
    };
    let (chosen, rejected) = (list("chosen", chosen)?, list("rejected", rejected)?);
    let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    // Two equal conversations still end with an answer each.
    let shared = shared.min(chosen.len().min(rejected.len()).saturating_sub(1));
    let mut turns = |key: &str, turns: &[Value]| {
        turns::read_turns(row, key, &Value::Array(turns.to_vec()), waiting)
    };
    let prompt = turns("chosen", &chosen[..shared])?;
    Ok((prompt, turns("chosen", &chosen[shared..])?, turns("rejected", &rejected[shared..])?))
}

/// Files of a row under `many` (a list) or `one` (a single path).
fn files(
    row: &Row,
    object: &Map<String, Value>,
    many: &str,
    one: &str,
) -> Result<Vec<String>, DataError> {
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| row.bad(format!("{many} must be paths, {value} is none")))
    };
    match (object.get(many), object.get(one)) {
        (Some(Value::Array(list)), _) => list.iter().map(text).collect(),
        (Some(Value::Null) | None, Some(value)) if !value.is_null() => Ok(vec![text(value)?]),
        (Some(Value::Null) | None, _) => Ok(Vec::new()),
        (Some(other), _) => Err(row.bad(format!("{many} is {other}, not a list"))),
    }
}

/// The words of the one assistant turn of `chosen` or `rejected`.
fn answer(row: &Row, key: &str, turns: &[Message]) -> Result<String, DataError> {
    let [Message { role: Role::Assistant, content }] = turns else {
        return Err(row.bad(format!("{key} must be one assistant turn after the prompt")));
    };
    content
        .iter()
        .map(|part| match part {
            Part::Text { text } => Ok(text.as_str()),
            _ => Err(row.bad(format!("{key} has media in the answer"))),
        })
        .collect()
}

pub(super) fn write(pair: &Pair) -> Value {
    let answer =
        |text: &str| json!([{"role": "assistant", "content": [{"type": "text", "text": text}]}]);
    let mut row = json!({
        "id": pair.id,
        "prompt": pair.prompt.iter().map(turns::parts_json).collect::<Vec<_>>(),
        "chosen": answer(&pair.chosen),
        "rejected": answer(&pair.rejected),
    });
    let (videos, images) = turns::sources(&pair.prompt);
    for (key, sources) in [("videos", videos), ("images", images)] {
        if !sources.is_empty() {
            row[key] = json!(sources);
        }
    }
    for (key, score) in
        [("score_chosen", pair.chosen_score), ("score_rejected", pair.rejected_score)]
    {
        if let Some(score) = score {
            row[key] = json!(score);
        }
    }
    row
}
