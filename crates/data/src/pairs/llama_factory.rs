//! LLaMA-Factory's preference rows: a conversation in its alpaca or its ShareGPT form, and the two answers as text or as
//! turns.

use savi_schema::Pair;
use serde_json::Value;

use super::{answer, of_row};
use crate::layouts::media::Waiting;
use crate::layouts::{Keys, llama_factory, turns};
use crate::{DataError, Row};

pub(super) fn read(row: &Row) -> Result<Pair, DataError> {
    let keys = Keys::new(row)?;
    let mut waiting = Waiting::of(&keys)?;
    let mut prompt = match keys.has("conversations") || keys.has("messages") {
        true => llama_factory::sharegpt(&keys, &mut waiting)?,
        false => llama_factory::alpaca(&keys, &mut waiting)?,
    };
    let marks = waiting.marks();
    let mut said = |key: &str| match keys.need(key)? {
        Value::String(text) => Ok(text.clone()),
        turn @ Value::Object(_) => {
            let turn = turns::read_turn(row, key, turn, &marks, &mut waiting)?;
            answer(row, key, &[turn])
        }
        _ => Err(row.bad(format!("{key} is neither text nor a turn"))),
    };
    let (chosen, rejected) = (said("chosen")?, said("rejected")?);
    waiting.finish(row, &mut prompt)?;
    of_row(&keys, prompt, chosen, rejected)
}
