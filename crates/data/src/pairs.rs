//! Preference pairs in the layouts that other trainers read and write.
//!
//! | layout | read | write | keys |
//! | --- | --- | --- | --- |
//! | savi | yes | yes | a [`Pair`] of `savi-schema` |
//! | llava-hound | yes | yes | `id, video, prompt, chosen, rejected, chosen_score, rejected_score` |
//! | ms-swift | no | yes | `messages` ending with the chosen turn, `rejected_response`, `videos`, `images` |
//! | trl | yes | yes | `prompt, chosen, rejected` as lists of turns; `images`, `videos` |

use std::path::Path;

use savi_schema::Pair;
use serde_json::{Map, Value};

use crate::records::{Ids, Record, read_records};
use crate::{DataError, Row, RowWriter, Rows};

mod llava_hound;
mod ms_swift;
mod trl;
mod turns;

/// A layout of preference pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairFormat {
    /// This project's own records.
    Savi,
    /// LLaVA-Hound's preference JSONL: one question about one clip, two answers.
    LlavaHound,
    /// ms-swift's standard data set with a rejected response.
    MsSwift,
    /// TRL's conversational preference data set.
    Trl,
}

impl PairFormat {
    /// All layouts.
    pub const ALL: [Self; 4] = [Self::Savi, Self::LlavaHound, Self::MsSwift, Self::Trl];

    /// The name on the command line and in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Savi => "savi",
            Self::LlavaHound => "llava-hound",
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
        let has = |key| row.contains_key(key);
        if has("schema") {
            Some(Self::Savi)
        } else if has("rejected_response") {
            Some(Self::MsSwift)
        } else if row.get("chosen").is_some_and(Value::is_array) {
            Some(Self::Trl)
        } else if has("video") && has("chosen") {
            Some(Self::LlavaHound)
        } else {
            None
        }
    }
}

/// Reads the pairs of a JSON or JSONL file. Without `format` the first row's keys decide.
///
/// Rows without an id get `row-N`. Media keep the paths that the file has.
pub fn read_pairs(path: &Path, format: Option<PairFormat>) -> Result<Vec<Pair>, DataError> {
    let format = match format {
        Some(format) => format,
        None => {
            let Some(row) = Rows::open(path)?.next().transpose()? else { return Ok(Vec::new()) };
            PairFormat::of(&row.object()?).ok_or_else(|| {
                row.bad("no known layout of pairs: neither schema, rejected_response, lists of turns nor video with chosen")
            })?
        }
    };
    let convert: fn(&Row) -> Result<Pair, DataError> = match format {
        PairFormat::Savi => return read_records(path),
        PairFormat::LlavaHound => llava_hound::read,
        PairFormat::Trl => trl::read,
        PairFormat::MsSwift => {
            let row = Row { path: path.to_owned(), number: 1, text: String::new() };
            return Err(row.bad("the ms-swift layout is written only, not read"));
        }
    };
    let mut ids = Ids::default();
    let mut pairs = Vec::new();
    for row in Rows::open(path)? {
        let row = row?;
        let pair = convert(&row)?;
        ids.take(&row, &pair.id)?;
        if let Some(fault) = pair.fault() {
            return Err(row.bad(fault));
        }
        pairs.push(pair);
    }
    Ok(pairs)
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
            PairFormat::MsSwift => writer.write(&ms_swift::write(pair)?)?,
            PairFormat::Trl => writer.write(&trl::write(pair))?,
        }
    }
    writer.finish()
}

#[cfg(test)]
mod tests;
