//! The judgement of several candidates side by side: evidence first, then one line of scores each.
//!
//! ```text
//! Evidence: <sentences>.
//! A: relevance 5, accuracy 5, temporal grounding 5, clarity 5
//! B: relevance 5, accuracy 1, temporal grounding 2, clarity 5
//! ```
//!
//! The four criteria are those that VideoSAVi v1 names on its page; the scale of 1 to 5 is read off
//! its figure. The parser wants every candidate once, in order, with every criterion, in order. Its
//! liberties: blank lines, white space between words, any case in keywords, evidence over several
//! lines, and a full stop at the end of a line.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::{excerpt, fold_whitespace, strip_prefix_ignore_case};

/// What candidates are scored on, in the order in which scores are written.
pub const CRITERIA: [&str; 4] = ["relevance", "accuracy", "temporal grounding", "clarity"];

/// Largest number of candidates: labels are single letters.
pub const MOST_CANDIDATES: usize = 26;

const EVIDENCE: &str = "Evidence:";

/// The scores of one candidate, each from 1 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scores {
    /// Whether it answers what was asked.
    pub relevance: u8,
    /// Whether it is true of the clip.
    pub accuracy: u8,
    /// Whether what it says about time holds.
    pub temporal_grounding: u8,
    /// Whether it is clear.
    pub clarity: u8,
}

impl Scores {
    /// The four scores in the order of [`CRITERIA`].
    pub fn to_array(self) -> [u8; 4] {
        [self.relevance, self.accuracy, self.temporal_grounding, self.clarity]
    }

    /// Four scores in the order of [`CRITERIA`].
    pub fn from_array([relevance, accuracy, temporal_grounding, clarity]: [u8; 4]) -> Self {
        Self { relevance, accuracy, temporal_grounding, clarity }
    }

    /// The mean of the four: the figure by which candidates are ranked.
    pub fn mean(self) -> f64 {
        self.to_array().iter().map(|&score| f64::from(score)).sum::<f64>() / 4.0
    }
}

/// A parsed judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listwise {
    /// What is seen.
    pub evidence: String,
    /// One entry for each candidate, in the order in which they were shown.
    pub scores: Vec<Scores>,
}

/// Why a text is not a judgement of `n` candidates.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing was written.
    #[error("the judgement is empty")]
    Empty,
    /// The number of candidates cannot be labelled.
    #[error("{count} candidates cannot be labelled: 1 to {MOST_CANDIDATES} can")]
    BadCount {
        /// How many were asked for.
        count: usize,
    },
    /// It does not start with the evidence.
    #[error("the judgement does not start with \"Evidence:\" but with {found:?}")]
    MissingEvidence {
        /// How it starts.
        found: String,
    },
    /// The evidence has no words.
    #[error("the judgement has no words after \"Evidence:\"")]
    EmptyEvidence,
    /// A candidate has no line, or lines are out of order.
    #[error("candidate {label} has no scores where they are due; found {found:?}")]
    MissingCandidate {
        /// Its letter.
        label: char,
        /// What stands there instead; empty at the end of the text.
        found: String,
    },
    /// A criterion is missing or out of order in a candidate's line.
    #[error("candidate {label} has no score for {criterion}; found {found:?}")]
    MissingCriterion {
        /// The candidate's letter.
        label: char,
        /// The criterion.
        criterion: &'static str,
        /// What stands there instead.
        found: String,
    },
    /// A score is not a whole number from 1 to 5.
    #[error("candidate {label}: {criterion} is {found:?}, not a whole number from 1 to 5")]
    BadScore {
        /// The candidate's letter.
        label: char,
        /// The criterion.
        criterion: &'static str,
        /// What stands there.
        found: String,
    },
    /// Something follows the last candidate.
    #[error("unexpected text after the last candidate: {found:?}")]
    TrailingText {
        /// How it starts.
        found: String,
    },
}

/// The letter of candidate `index`: A, B, C, ...; `None` from [`MOST_CANDIDATES`] on.
pub fn label(index: usize) -> Option<char> {
    (index < MOST_CANDIDATES).then(|| char::from(b'A' + index as u8))
}

/// Reads a judgement of `n` candidates.
pub fn parse(text: &str, n: usize) -> Result<Listwise, ParseError> {
    if n == 0 || n > MOST_CANDIDATES {
        return Err(ParseError::BadCount { count: n });
    }
    let mut lines = text.lines().map(fold_whitespace).filter(|line| !line.is_empty()).peekable();
    let Some(first) = lines.next() else { return Err(ParseError::Empty) };
    let Some(start) = strip_prefix_ignore_case(&first, EVIDENCE) else {
        return Err(ParseError::MissingEvidence { found: excerpt(&first) });
    };
    let mut evidence = start.trim().to_owned();
    while let Some(more) = lines.next_if(|line| candidate_label(line).is_none()) {
        if !evidence.is_empty() {
            evidence.push(' ');
        }
        evidence.push_str(&more);
    }
    if !evidence.chars().any(char::is_alphanumeric) {
        return Err(ParseError::EmptyEvidence);
    }
    let scores = (0..n)
        .filter_map(label)
        .map(|label| parse_candidate(label, &lines.next().unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    if let Some(rest) = lines.next() {
        return Err(ParseError::TrailingText { found: excerpt(&rest) });
    }
    Ok(Listwise { evidence, scores })
}

/// The letter of a line that opens with `X: relevance`; such a line ends the evidence.
fn candidate_label(line: &str) -> Option<char> {
    let (head, rest) = line.split_once(':')?;
    let mut letters = head.chars();
    let letter = letters.next().filter(char::is_ascii_alphabetic)?.to_ascii_uppercase();
    let is_label = letters.next().is_none()
        && strip_prefix_ignore_case(rest.trim_start(), CRITERIA[0]).is_some();
    is_label.then_some(letter)
}

fn parse_candidate(label: char, line: &str) -> Result<Scores, ParseError> {
    if candidate_label(line) != Some(label) {
        return Err(ParseError::MissingCandidate { label, found: excerpt(line) });
    }
    let body = line.split_once(':').map_or("", |(_, body)| body);
    let body = body.strip_suffix('.').unwrap_or(body);
    let mut fields = body.split(',').map(str::trim);
    let mut scores = [0; CRITERIA.len()];
    for (score, criterion) in scores.iter_mut().zip(CRITERIA) {
        let field = fields.next().unwrap_or_default();
        let Some(value) = strip_prefix_ignore_case(field, criterion) else {
            return Err(ParseError::MissingCriterion { label, criterion, found: excerpt(field) });
        };
        *score = match value.trim() {
            "1" => 1,
            "2" => 2,
            "3" => 3,
            "4" => 4,
            "5" => 5,
            other => {
                return Err(ParseError::BadScore { label, criterion, found: excerpt(other) });
            }
        };
    }
    match fields.next() {
        None => Ok(Scores::from_array(scores)),
        Some(rest) => Err(ParseError::TrailingText { found: excerpt(rest) }),
    }
}

/// Writes a judgement. White space in the evidence is folded. Candidates beyond
/// [`MOST_CANDIDATES`] have no letter and are left out; [`parse`] cannot ask for them either.
pub fn format(judgement: &Listwise) -> String {
    let mut text = format!("{EVIDENCE} {}", fold_whitespace(&judgement.evidence));
    for (index, scores) in judgement.scores.iter().enumerate() {
        let Some(label) = label(index) else { break };
        let fields: Vec<String> = CRITERIA
            .iter()
            .zip(scores.to_array())
            .map(|(criterion, score)| format!("{criterion} {score}"))
            .collect();
        text.push_str(&format!("\n{label}: {}", fields.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &str = "Evidence: the disc goes left.\n\
        A: relevance 5, accuracy 5, temporal grounding 4, clarity 5\n\
        B: relevance 5, accuracy 1, temporal grounding 2, clarity 5";

    #[test]
    fn reads_and_ranks() {
        let judgement = parse(TWO, 2).unwrap();
        assert_eq!(judgement.evidence, "the disc goes left.");
        assert_eq!(judgement.scores[0].mean(), 4.75);
        assert_eq!(judgement.scores[1], Scores::from_array([5, 1, 2, 5]));
        assert_eq!(format(&judgement), TWO);
    }

    #[test]
    fn takes_the_stated_liberties() {
        let loose = "\n evidence: the disc\n\ngoes left.\n\
            a: Relevance 5,accuracy  5, temporal   grounding 4, clarity 5.\n\n\
            B:relevance 5, accuracy 1, temporal grounding 2, clarity 5\n";
        assert_eq!(parse(loose, 2), parse(TWO, 2));
    }

    #[test]
    fn says_what_is_missing() {
        let line = |body: &str| format!("Evidence: seen.\nA: {body}");
        for (text, n, error) in [
            (String::new(), 1, ParseError::Empty),
            (TWO.to_owned(), 0, ParseError::BadCount { count: 0 }),
            (TWO.to_owned(), 27, ParseError::BadCount { count: 27 }),
            (
                "A: relevance 5".into(),
                1,
                ParseError::MissingEvidence { found: "A: relevance 5".into() },
            ),
            ("Evidence:\nA: relevance 5".into(), 1, ParseError::EmptyEvidence),
            (TWO.to_owned(), 3, ParseError::MissingCandidate { label: 'C', found: String::new() }),
            (
                TWO.to_owned(),
                1,
                ParseError::TrailingText {
                    found: "B: relevance 5, accuracy 1, temporal grounding 2, clarity 5".into(),
                },
            ),
            (
                "Evidence: seen.\nB: relevance 5".into(),
                2,
                ParseError::MissingCandidate { label: 'A', found: "B: relevance 5".into() },
            ),
            (
                line("relevance 5, clarity 5"),
                1,
                ParseError::MissingCriterion {
                    label: 'A',
                    criterion: "accuracy",
                    found: "clarity 5".into(),
                },
            ),
            (
                line("relevance 6, accuracy 5, temporal grounding 5, clarity 5"),
                1,
                ParseError::BadScore { label: 'A', criterion: "relevance", found: "6".into() },
            ),
            (
                line("relevance 5, accuracy 4.5, temporal grounding 5, clarity 5"),
                1,
                ParseError::BadScore { label: 'A', criterion: "accuracy", found: "4.5".into() },
            ),
            (
                line("relevance 5, accuracy 5, temporal grounding 5, clarity 5, charm 5"),
                1,
                ParseError::TrailingText { found: "charm 5".into() },
            ),
        ] {
            assert_eq!(parse(&text, n), Err(error), "{n}: {text}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_format(
            words in prop::collection::vec("[a-zA-Z0-9(),.;:'é-]{1,8}", 0..12),
            scores in prop::collection::vec(prop::array::uniform4(1u8..=5), 1..=MOST_CANDIDATES),
        ) {
            let written = Listwise {
                evidence: format!("Seen {}", words.join(" ")).trim().to_owned(),
                scores: scores.into_iter().map(Scores::from_array).collect(),
            };
            prop_assert_eq!(parse(&format(&written), written.scores.len()), Ok(written));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*", n in 0usize..30) {
            if let Ok(judgement) = parse(&text, n) {
                prop_assert_eq!(judgement.scores.len(), n);
            }
        }
    }
}
