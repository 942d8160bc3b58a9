//! From the replies to one question to one graded answer.

use serde::{Deserialize, Serialize};

use crate::QuestionRecord;
use crate::extract::{self, Unparsed};

/// How one reply was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grade {
    /// The answer found in it, or why there is none.
    pub extracted: Result<String, Unparsed>,
    /// Whether that answer is right.
    pub correct: bool,
}

impl Grade {
    /// Reads `reply` as an answer to `question`.
    pub fn of(question: &QuestionRecord, reply: &str) -> Self {
        match extract::grade(question.format, question.options(), &question.answer, reply) {
            Ok((extracted, correct)) => Self { extracted: Ok(extracted), correct },
            Err(unparsed) => Self { extracted: Err(unparsed), correct: false },
        }
    }
}

/// The outcome of a vote among replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Place of the first reply that gives the winning answer.
    pub winner: usize,
    /// Replies that give it.
    pub votes: usize,
}

/// The most frequent answer. Unparsed replies have no vote; among equals the answer that was drawn
/// first wins; when nothing was parsed the first reply stands. `None` for no replies.
pub fn vote(grades: &[Grade]) -> Option<Vote> {
    let mut best: Option<Vote> = None;
    for (place, grade) in grades.iter().enumerate() {
        let Ok(answer) = &grade.extracted else { continue };
        let same = |other: &Grade| other.extracted.as_ref() == Ok(answer);
        if grades[..place].iter().any(same) {
            continue;
        }
        let votes = grades.iter().filter(|other| same(other)).count();
        if best.as_ref().is_none_or(|best| votes > best.votes) {
            best = Some(Vote { winner: place, votes });
        }
    }
    best.or_else(|| (!grades.is_empty()).then_some(Vote { winner: 0, votes: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::tests::{choice, question};

    #[test]
    fn the_majority_wins_and_the_first_of_equals() {
        let asked = question("1", "c", "direction", "left");
        for (replies, winner, votes) in [
            (&["up", "Left.", "the left"][..], 1, 2),
            (&["up", "left"], 0, 1),
            (&["", "?", "left", "up", "up"], 3, 2),
            (&["", "?"], 0, 0),
        ] {
            let grades: Vec<Grade> = replies.iter().map(|r| Grade::of(&asked, r)).collect();
            assert_eq!(vote(&grades), Some(Vote { winner, votes }), "{replies:?}");
        }
        assert_eq!(vote(&[]), None);
    }

    #[test]
    fn letter_and_text_vote_together() {
        let asked = choice("1", "c", &["up", "left"], "left");
        let grades: Vec<Grade> =
            ["A", "B", "left"].iter().map(|reply| Grade::of(&asked, reply)).collect();
        assert_eq!(vote(&grades), Some(Vote { winner: 1, votes: 2 }));
        assert!(grades[1].correct && !grades[0].correct);
    }
}
