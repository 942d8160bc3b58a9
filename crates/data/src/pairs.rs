//! Preference pairs in the layouts that other trainers read and write.
//!
//! | layout | read | write | keys |
//! | --- | --- | --- | --- |
//! | savi | yes | yes | a [`Pair`] of `savi-schema` |
//! | llava-hound | yes | yes | `id, video, prompt, chosen, rejected, chosen_score, rejected_score` |
//! | llama-factory | yes | no | `conversations` or `instruction, input`, with `chosen, rejected`; `images`, `videos` |
//! | ms-swift | yes | yes | `messages` ending with the chosen turn, `rejected_response`, `videos`, `images` |
//! | trl | yes | yes | `prompt, chosen, rejected` as lists of turns or as text; `images`, `videos` |

use std::path::Path;

use savi_schema::{Message, Pair, Part, Role, SCHEMA_VERSION};
use serde_json::{Map, Value};

use crate::layouts::Keys;
use crate::mixture::{BadRows, Named, Read, read_rows};
use crate::records::{Record, known_version};
use crate::{DataError, Row, RowWriter, Rows};

mod llama_factory;
mod llava_hound;
mod ms_swift;
mod trl;

/// A layout of preference pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairFormat {
    /// This project's own records.
    Savi,
    /// LLaVA-Hound's preference JSONL: one question about one clip, two answers.
    LlavaHound,
    /// LLaMA-Factory's ranking data sets, alpaca and ShareGPT.
    LlamaFactory,
    /// ms-swift's standard data set with a rejected response.
    MsSwift,
    /// TRL's conversational preference data set.
    Trl,
}

impl PairFormat {
    /// All layouts.
    pub const ALL: [Self; 5] =
        [Self::Savi, Self::LlavaHound, Self::LlamaFactory, Self::MsSwift, Self::Trl];

    /// The name on the command line and in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Savi => "savi",
            Self::LlavaHound => "llava-hound",
            Self::LlamaFactory => "llama-factory",
            Self::MsSwift => "ms-swift",
            Self::Trl => "trl",
        }
    }

    /// The layout called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The layout that a row's keys speak of.
    fn of(row: &Map<String, Value>) -> Option<Self> {
        let has = |key| row.get(key).is_some_and(|value| !value.is_null());
        let chosen = row.get("chosen");
        if has("schema") {
            Some(Self::Savi)
        } else if has("rejected_response") || has("rejected_messages") {
            Some(Self::MsSwift)
        } else if has("conversations") || has("instruction") || chosen.is_some_and(Value::is_object)
        {
            Some(Self::LlamaFactory)
        } else if chosen.is_some_and(Value::is_array) {
            Some(Self::Trl)
        } else if has("video") && chosen.is_some() {
            Some(Self::LlavaHound)
        } else {
            chosen.is_some_and(Value::is_string).then_some(Self::Trl)
        }
    }
}

impl Named for Pair {
    fn id_mut(&mut self) -> &mut String {
        &mut self.id
    }
}

/// Reads the pairs of a file. Without `format` the first row's keys decide.
///
/// Rows without an id get `row-N`. Media keep the paths that the file has.
pub fn read_pairs(path: &Path, format: Option<PairFormat>) -> Result<Vec<Pair>, DataError> {
    Ok(read_pairs_with(path, format, BadRows::Error, |_| Ok(()))?.records)
}

/// [`read_pairs`] with a check of each pair and a choice of what happens to rows that cannot be used.
pub fn read_pairs_with(
    path: &Path,
    format: Option<PairFormat>,
    bad_rows: BadRows,
    mut check: impl FnMut(&mut Pair) -> Result<(), String>,
) -> Result<Read<Pair>, DataError> {
    let format = match format {
        Some(format) => format,
        None => {
            let Some(row) = Rows::open(path)?.next().transpose()? else {
                return Ok(Read { records: Vec::new(), skipped: Vec::new() });
            };
            PairFormat::of(&row.object()?).ok_or_else(|| {
                row.bad("no known layout of pairs: neither schema, rejected_response nor chosen")
            })?
        }
    };
    let convert: fn(&Row) -> Result<Pair, DataError> = match format {
        PairFormat::Savi => known_version,
        PairFormat::LlavaHound => llava_hound::read,
        PairFormat::LlamaFactory => llama_factory::read,
        PairFormat::Trl => trl::read,
        PairFormat::MsSwift => ms_swift::read,
    };
    read_rows(path, bad_rows, |row| {
        let mut pair = convert(row)?;
        for (side, text) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            if text.trim().is_empty() {
                return Err(row.bad(format!("{side} is empty")));
            }
        }
        if let Some(fault) = pair.fault() {
            return Err(row.bad(fault));
        }
        check(&mut pair).map_err(|fault| row.bad(format!("record {}: {fault}", pair.id)))?;
        Ok(pair)
    })
}

/// A pair of a row that has answers as plain text.
fn of_row(
    keys: &Keys<'_>,
    prompt: Vec<Message>,
    chosen: String,
    rejected: String,
) -> Result<Pair, DataError> {
    Ok(Pair {
        schema: SCHEMA_VERSION,
        id: keys.id(),
        prompt,
        chosen,
        rejected,
        chosen_score: keys.number("score_chosen")?,
        rejected_score: keys.number("score_rejected")?,
        margin: 0.0,
        provenance: Map::new(),
    })
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

/// Writes pairs as JSONL in a layout; returns their number. What the layout cannot say (margins,
/// provenance, several clips in LLaVA-Hound's) is left out or, where the pair would change its
/// meaning, refused.
pub fn write_pairs(path: &Path, pairs: &[Pair], format: PairFormat) -> Result<u64, DataError> {
    let mut writer = RowWriter::create(path)?;
    for pair in pairs {
        match format {
            PairFormat::Savi => writer.write(pair)?,
            PairFormat::LlavaHound => writer.write(&llava_hound::write(pair)?)?,
            PairFormat::LlamaFactory => {
                let reason = "the llama-factory layout is read only: write trl's".to_owned();
                return Err(DataError::Layout { id: pair.id.clone(), reason });
            }
            PairFormat::MsSwift => writer.write(&ms_swift::write(pair)?)?,
            PairFormat::Trl => writer.write(&trl::write(pair))?,
        }
    }
    writer.finish()
}

#[cfg(test)]
mod tests;
