//! What can be had without looking: the most frequent answer of each family.

use std::collections::HashMap;

use crate::extract::normalise;
use crate::{Answered, Format, QuestionRecord};

/// Answers every question of `asked` with the answer most frequent among the `train` questions of
/// its family (all formats together). For choice questions that is the option most frequent there.
/// Among equals the first in the alphabet, or the first option, is taken. A family that `train`
/// does not have gets an empty reply, which is wrong.
pub fn majority_class(train: &[QuestionRecord], asked: &[QuestionRecord]) -> Vec<Answered> {
    let mut counts: HashMap<&str, HashMap<String, u64>> = HashMap::new();
    for question in train {
        let family = counts.entry(&question.family).or_default();
        *family.entry(normalise(&question.answer)).or_default() += 1;
    }
    asked
        .iter()
        .map(|question| {
            let family = counts.get(question.family.as_str());
            let count = |answer: &str| {
                family.and_then(|counts| counts.get(&normalise(answer))).copied().unwrap_or(0)
            };
            let reply = match question.format {
                Format::Open => family
                    .into_iter()
                    .flatten()
                    .max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)))
                    .map(|(answer, _)| answer.clone())
                    .unwrap_or_default(),
                Format::Choice => {
                    let options = question.options();
                    let best = options.iter().map(|option| count(option)).max();
                    options
                        .iter()
                        .find(|option| Some(count(option)) == best && family.is_some())
                        .cloned()
                        .unwrap_or_default()
                }
            };
            Answered::new(question, None, vec![reply])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::tests::{choice, question};

    #[test]
    fn the_most_frequent_answer_of_the_family() {
        let train: Vec<QuestionRecord> = ["left", "Left", "up", "down", "down", "up"]
            .iter()
            .map(|answer| question("t", "t", "choice", answer))
            .chain([question("t", "t", "count", "3")])
            .collect();
        let asked = [
            question("1", "c", "choice", "down"),
            question("2", "c", "count", "three"),
            question("3", "c", "unseen", "x"),
            choice("4", "c", &["right", "up", "left"], "up"),
            choice("5", "c", &["right", "left"], "left"),
        ];
        let answered = majority_class(&train, &asked);
        let replies: Vec<&str> = answered.iter().map(|a| a.replies[0].as_str()).collect();
        // down, left and up come twice each: the first in the alphabet, or the first option.
        assert_eq!(replies, ["down", "3", "", "up", "left"]);
        let correct: Vec<bool> = answered.iter().map(|a| a.correct).collect();
        assert_eq!(correct, [true, true, false, true, true]);
    }
}
