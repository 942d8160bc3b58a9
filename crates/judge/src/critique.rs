//! The critique of one answer: evidence first, then one word of verdict.
//!
//! ```text
//! Evidence: <one or two sentences of what is seen>. Verdict: right.
//! ```
//!
//! The parser accepts exactly that, with these liberties only: any white space between words, any
//! case in `Evidence`, `Verdict` and the verdict word, and no full stop at the end. `incorrect` is
//! not `wrong`: a judge that does not keep the format has given no verdict.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::{excerpt, fold_whitespace, strip_prefix_ignore_case};

const EVIDENCE: &str = "Evidence:";
const VERDICT: &str = "Verdict:";

/// Whether an answer holds against the clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The answer is right.
    Right,
    /// The answer is wrong.
    Wrong,
}

impl Verdict {
    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
        }
    }
}

/// A parsed critique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Critique {
    /// What is seen, as one or two sentences, full stop included.
    pub evidence: String,
    /// The verdict on the answer.
    pub verdict: Verdict,
}

/// Why a text is not a critique.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing was written.
    #[error("the critique is empty")]
    Empty,
    /// It does not start with the evidence.
    #[error("the critique does not start with \"Evidence:\" but with {found:?}")]
    MissingEvidence {
        /// How it starts.
        found: String,
    },
    /// The evidence has no words.
    #[error("the critique has no words between \"Evidence:\" and \"Verdict:\"")]
    EmptyEvidence,
    /// No verdict follows the evidence.
    #[error("the critique has no \"Verdict:\" after its evidence")]
    MissingVerdict,
    /// More than one verdict is given.
    #[error("the critique has {count} verdicts")]
    SeveralVerdicts {
        /// How many.
        count: usize,
    },
    /// The verdict is another word, or words follow it.
    #[error("the verdict is {found:?}, not \"right\" or \"wrong\"")]
    UnknownVerdict {
        /// What stands after `Verdict:`.
        found: String,
    },
}

/// Reads a critique.
pub fn parse(text: &str) -> Result<Critique, ParseError> {
    let text = fold_whitespace(text);
    if text.is_empty() {
        return Err(ParseError::Empty);
    }
    let Some(body) = strip_prefix_ignore_case(&text, EVIDENCE) else {
        return Err(ParseError::MissingEvidence { found: excerpt(&text) });
    };
    let lower = body.to_ascii_lowercase();
    let verdicts: Vec<usize> =
        lower.match_indices(&VERDICT.to_ascii_lowercase()).map(|(at, _)| at).collect();
    let at = match verdicts[..] {
        [] => return Err(ParseError::MissingVerdict),
        [at] => at,
        _ => return Err(ParseError::SeveralVerdicts { count: verdicts.len() }),
    };
    let evidence = body[..at].trim().to_owned();
    if !evidence.chars().any(char::is_alphanumeric) {
        return Err(ParseError::EmptyEvidence);
    }
    let word = body[at + VERDICT.len()..].trim();
    let verdict = match word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase().as_str() {
        "right" => Verdict::Right,
        "wrong" => Verdict::Wrong,
        _ => return Err(ParseError::UnknownVerdict { found: excerpt(word) }),
    };
    Ok(Critique { evidence, verdict })
}

/// Writes a critique. White space in the evidence is folded, and a full stop added where the
/// last sentence has none.
pub fn format(critique: &Critique) -> String {
    let mut evidence = fold_whitespace(&critique.evidence);
    if !evidence.ends_with(['.', '!', '?']) {
        evidence.push('.');
    }
    format!("{EVIDENCE} {evidence} {VERDICT} {}.", critique.verdict.word())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn critique(evidence: &str, verdict: Verdict) -> Critique {
        Critique { evidence: evidence.to_owned(), verdict }
    }

    #[test]
    fn reads_the_format_with_the_stated_liberties() {
        for (text, evidence, verdict) in [
            (
                "Evidence: the disc starts left and ends right. Verdict: wrong.",
                "the disc starts left and ends right.",
                Verdict::Wrong,
            ),
            ("  evidence:  two\n discs.\n VERDICT: Right ", "two discs.", Verdict::Right),
        ] {
            assert_eq!(parse(text), Ok(critique(evidence, verdict)), "{text}");
        }
    }

    #[test]
    fn says_what_is_missing() {
        for (text, error) in [
            (" \n", ParseError::Empty),
            (
                "The answer is right.",
                ParseError::MissingEvidence { found: "The answer is right.".into() },
            ),
            ("Evidence: . Verdict: right.", ParseError::EmptyEvidence),
            ("Evidence: two discs.", ParseError::MissingVerdict),
            (
                "Evidence: two. Verdict: right. Verdict: wrong.",
                ParseError::SeveralVerdicts { count: 2 },
            ),
            (
                "Evidence: two. Verdict: incorrect.",
                ParseError::UnknownVerdict { found: "incorrect.".into() },
            ),
            (
                "Evidence: two. Verdict: right. It is left.",
                ParseError::UnknownVerdict { found: "right. It is left.".into() },
            ),
            ("Evidence: two. Verdict:", ParseError::UnknownVerdict { found: String::new() }),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_format(
            words in prop::collection::vec("[a-zA-Z0-9(),;:'é-]{1,8}", 1..12),
            right in any::<bool>(),
        ) {
            let evidence = format!("{} seen.", words.join(" "));
            prop_assume!(!evidence.to_ascii_lowercase().contains("verdict:"));
            let verdict = if right { Verdict::Right } else { Verdict::Wrong };
            let written = critique(&evidence, verdict);
            prop_assert_eq!(parse(&format(&written)), Ok(written));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            if let Ok(critique) = parse(&text) {
                prop_assert!(parse(&format(&critique)).is_ok());
            }
        }
    }
}
