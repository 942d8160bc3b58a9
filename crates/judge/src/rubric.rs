//! Scores of several candidates in one dictionary, with a reason for each: what a judge of an additive
//! rubric writes (Direct Nash Optimization, arXiv 2404.03715, appendix).
//!
//! ```text
//! {"1": {"justification": "<reasons>", "score": 4}, "2": {"justification": "<reasons>", "score": 2}}
//! ```
//!
//! [`parse`] wants every id once, in any order, each with these two keys and a whole number from 0 to the rubric's
//! most. Damage that leaves no doubt about what was meant is mended and told ([`Repair`]): a fence of code around the
//! dictionary, text after it, one brace missing at its end. Nothing else is guessed at.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::excerpt;

/// What a judge says of one candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// Why.
    pub justification: String,
    /// How many points it gets.
    pub score: u8,
}

/// A repair that a text needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// A fence of code around the dictionary was taken off.
    Fence,
    /// Text after the dictionary was passed over.
    TrailingText,
    /// The brace that ends the dictionary was added.
    MissingBrace,
}

impl Repair {
    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::TrailingText => "trailing-text",
            Self::MissingBrace => "missing-brace",
        }
    }
}

/// A parsed judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rubric {
    /// One entry for each id, in the order in which ids were asked for.
    pub scored: Vec<Scored>,
    /// What had to be mended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}

/// Why a text is no judgement of the candidates.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RubricError {
    /// Nothing was written.
    #[error("the judgement is empty")]
    Empty,
    /// It is no dictionary of scores.
    #[error("the judgement is no dictionary of scores: {reason}; it starts with {found:?}")]
    NoDictionary {
        /// What the parser said.
        reason: String,
        /// How the text starts.
        found: String,
    },
    /// An id has no entry.
    #[error("candidate {id} has no entry")]
    Missing {
        /// The id.
        id: String,
    },
    /// An entry is about nobody.
    #[error("there is no candidate {id}")]
    Unknown {
        /// The id that was written.
        id: String,
    },
    /// A score is beyond the rubric's.
    #[error("candidate {id} has {score} points, {most} are the most")]
    BeyondScale {
        /// The candidate.
        id: String,
        /// Its score.
        score: u8,
        /// The rubric's most.
        most: u8,
    },
}

/// Reads a judgement of the candidates `ids` on a scale from 0 to `most`.
pub fn parse(text: &str, ids: &[String], most: u8) -> Result<Rubric, RubricError> {
    let mut repairs = Vec::new();
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(RubricError::Empty);
    }
    let inner = match unfence(trimmed) {
        Some(inner) => {
            repairs.push(Repair::Fence);
            inner
        }
        None => trimmed,
    };
    let mut entries = match first_value(inner) {
        Ok((entries, rest)) => {
            if !rest.trim().is_empty() {
                repairs.push(Repair::TrailingText);
            }
            entries
        }
        Err(error) => {
            // Only a text that breaks off can lack its last brace.
            let whole = format!("{inner}}}");
            let mended = error.is_eof().then(|| first_value(&whole).ok()).flatten();
            let Some((entries, _)) = mended else {
                let (reason, found) = (error.to_string(), excerpt(inner));
                return Err(RubricError::NoDictionary { reason, found });
            };
            repairs.push(Repair::MissingBrace);
            entries
        }
    };
    let mut scored = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(entry) = entries.0.remove(id) else {
            return Err(RubricError::Missing { id: id.clone() });
        };
        if entry.score > most {
            return Err(RubricError::BeyondScale { id: id.clone(), score: entry.score, most });
        }
        scored.push(entry);
    }
    match entries.0.into_keys().next() {
        Some(id) => Err(RubricError::Unknown { id }),
        None => Ok(Rubric { scored, repairs }),
    }
}

/// What stands in a fence of code: after its first line, up to the fence's end or that of the text.
fn unfence(text: &str) -> Option<&str> {
    let (_, inner) = text.strip_prefix("```")?.split_once('\n')?;
    Some(inner.rsplit_once("```").map_or(inner, |(inner, _)| inner))
}

/// The dictionary at the start of a text, and what follows it.
fn first_value(text: &str) -> Result<(Entries, &str), serde_json::Error> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Entries>();
    match stream.next() {
        Some(entries) => {
            let entries = entries?;
            let end = stream.byte_offset();
            Ok((entries, text.get(end..).unwrap_or_default()))
        }
        None => Err(serde_json::Error::custom("there is none")),
    }
}

/// The dictionary; an id that comes twice is an error, where a plain map would keep the last one.
struct Entries(BTreeMap<String, Scored>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ById)
    }
}

struct ById;

impl<'de> Visitor<'de> for ById {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dictionary of candidates")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((id, entry)) = map.next_entry::<String, Scored>()? {
            if entries.insert(id.clone(), entry).is_some() {
                return Err(A::Error::custom(format!("candidate {id} comes twice")));
            }
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &str = r#"{"1": {"justification": "good", "score": 5}, "2": {"justification": "{ no }", "score": 0}}"#;

    fn ids(n: usize) -> Vec<String> {
        (1..=n).map(|id| id.to_string()).collect()
    }

    #[test]
    fn reads_entries_in_the_order_of_ids() {
        let read = parse(TWO, &ids(2), 6).unwrap();
        assert_eq!([read.scored[0].score, read.scored[1].score], [5, 0]);
        assert!(read.repairs.is_empty());
        let turned: Vec<String> = ids(2).into_iter().rev().collect();
        assert_eq!(parse(TWO, &turned, 6).unwrap().scored[0].score, 0);
        let broken = TWO.replace(", \"2\"", ",\n\t\"2\"");
        assert_eq!(parse(&broken, &ids(2), 6), Ok(read));
    }

    #[test]
    fn common_damage_is_mended_and_told() {
        let whole = parse(TWO, &ids(2), 6).unwrap().scored;
        for (text, repairs) in [
            (format!("```json\n{TWO}\n```"), vec![Repair::Fence]),
            (format!("```\n{TWO}"), vec![Repair::Fence]),
            (format!("```json\n{TWO}\n```\nSo 1 wins."), vec![Repair::Fence]),
            (format!("{TWO}\n\nCandidate 1 is best."), vec![Repair::TrailingText]),
            (format!("{TWO}}}"), vec![Repair::TrailingText]),
            (TWO[..TWO.len() - 1].to_owned(), vec![Repair::MissingBrace]),
            (
                format!("```json\n{}\n```", &TWO[..TWO.len() - 1]),
                vec![Repair::Fence, Repair::MissingBrace],
            ),
        ] {
            let read = parse(&text, &ids(2), 6).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((read.scored, read.repairs), (whole.clone(), repairs), "{text}");
        }
    }

    #[test]
    fn what_leaves_doubt_is_refused() {
        let one = |entry: &str| format!(r#"{{"1": {entry}}}"#);
        for (text, n, words) in [
            (" ".to_owned(), 1, "empty"),
            ("Candidate 1 is good.".to_owned(), 1, "no dictionary"),
            (format!("Scores: {TWO}"), 2, "no dictionary"),
            (TWO[..TWO.len() - 2].to_owned(), 2, "no dictionary"),
            (TWO[..60].to_owned(), 2, "no dictionary"),
            (TWO.to_owned(), 3, "candidate 3 has no entry"),
            (TWO.to_owned(), 1, "no candidate 2"),
            (TWO.replace("\"2\"", "\"1\""), 2, "comes twice"),
            (TWO.replace('5', "7"), 2, "7 points, 6 are the most"),
            (one(r#"{"justification": "x", "score": 4.5}"#), 1, "no dictionary"),
            (one(r#"{"justification": "x", "score": "4"}"#), 1, "no dictionary"),
            (one(r#"{"justification": "x", "score": -1}"#), 1, "no dictionary"),
            (one(r#"{"justification": "x"}"#), 1, "missing field `score`"),
            (one(r#"{"score": 3}"#), 1, "missing field `justification`"),
            (one(r#"{"justification": "x", "score": 3, "rank": 1}"#), 1, "unknown field `rank`"),
            (one(r#"{"justification": "x", "score": 3, "score": 4}"#), 1, "duplicate field"),
            ("[1, 2]".to_owned(), 1, "no dictionary"),
        ] {
            let error = parse(&text, &ids(n), 6).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_as_json_is_read(
            entries in prop::collection::vec(("\\PC{0,20}", 0u8..=6), 1..7),
        ) {
            let scored: Vec<Scored> = entries
                .into_iter()
                .map(|(justification, score)| Scored { justification, score })
                .collect();
            let ids = ids(scored.len());
            let map: BTreeMap<&String, &Scored> = ids.iter().zip(&scored).collect();
            let text = serde_json::to_string(&map).unwrap();
            prop_assert_eq!(parse(&text, &ids, 6), Ok(Rubric { scored, repairs: Vec::new() }));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", n in 1usize..4) {
            if let Ok(read) = parse(&text, &ids(n), 6) {
                prop_assert_eq!(read.scored.len(), n);
            }
        }
    }
}
