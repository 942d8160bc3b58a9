//! TRL's preference rows, with the prompt of its own or as the common start of both sides: as conversations, or as
//! strings, of which the prompt is the user's turn here.

use savi_schema::{Message, Pair, Role};
use serde_json::{Value, json};

use super::{answer, of_row};
use crate::layouts::media::Waiting;
use crate::layouts::{Keys, turns};
use crate::{DataError, Row};

pub(super) fn read(row: &Row) -> Result<Pair, DataError> {
    let keys = Keys::new(row)?;
    let (chosen, rejected) = (keys.need("chosen")?, keys.need("rejected")?);
    let mut waiting = Waiting::of(&keys)?;
    let strings = chosen.is_string() && rejected.is_string();
    let (mut prompt, chosen, rejected) = match keys.get("prompt") {
        Some(Value::String(words)) if strings => {
            let prompt = asked(row, words, &mut waiting)?;
            (prompt, keys.need_text("chosen")?.to_owned(), keys.need_text("rejected")?.to_owned())
        }
        None if strings => {
            let (chosen, rejected) = (keys.need_text("chosen")?, keys.need_text("rejected")?);
            let shared = shared_text(chosen, rejected);
            let prompt = asked(row, &chosen[..shared], &mut waiting)?;
            (prompt, chosen[shared..].to_owned(), rejected[shared..].to_owned())
        }
        prompt => {
            let (prompt, chosen, rejected) = match prompt {
                Some(prompt) => (
                    turns::read_turns(row, "prompt", prompt, &mut waiting)?,
                    turns::read_turns(row, "chosen", chosen, &mut waiting)?,
                    turns::read_turns(row, "rejected", rejected, &mut waiting)?,
                ),
                None => implicit_prompt(row, chosen, rejected, &mut waiting)?,
            };
            (prompt, answer(row, "chosen", &chosen)?, answer(row, "rejected", &rejected)?)
        }
    };
    waiting.finish(row, &mut prompt)?;
    of_row(&keys, prompt, chosen, rejected)
}

fn asked(row: &Row, words: &str, waiting: &mut Waiting) -> Result<Vec<Message>, DataError> {
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let marks = waiting.marks();
    let content = waiting.marked(row, "prompt", words, &marks)?;
    Ok(vec![Message { role: Role::User, content }])
}

/// How much of two texts is the same; a blank at the end of it belongs to what follows, as in TRL.
fn shared_text(chosen: &str, rejected: &str) -> usize {
    let same = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
    let same = chosen.floor_char_boundary(same);
    match chosen[..same].ends_with(' ') {
        true => same - 1,
        false => same,
    }
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
