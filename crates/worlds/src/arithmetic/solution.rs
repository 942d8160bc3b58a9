//! Worked solutions that say the same with more and fewer words.

use serde::{Deserialize, Serialize};

use super::problem::{Operation, Problem, Query, Sum};

/// How much a solution says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The sums and the answer.
    Terse,
    /// Sums in sentences.
    Normal,
    /// Every sum with its check.
    Checked,
    /// Sums in sentences, and all of them once more.
    Repeated,
}

impl Style {
    /// All of them, shortest first.
    pub const ALL: [Self; 4] = [Self::Terse, Self::Normal, Self::Repeated, Self::Checked];

    /// How somebody asks for it.
    pub fn instruction(self) -> &'static str {
        match self {
            Self::Terse => "Be brief.",
            Self::Normal => "Explain your steps.",
            Self::Checked => "Check every step.",
            Self::Repeated => "Work it out twice.",
        }
    }
}

/// A right solution in this style; the last sentence states the answer.
pub fn solution(problem: &Problem, style: Style) -> String {
    let sums = &problem.sums;
    let mut said: Vec<String> = Vec::new();
    if style != Style::Terse && problem.query == Query::End {
        let Problem { person, start, thing, .. } = problem;
        said.push(format!("{person} has {start} {thing}."));
    }
    for sum in sums {
        said.push(match (style, sum.total) {
            (Style::Terse, _) => format!("{sum}."),
            (_, false) => format!("{sum} {} in these.", problem.thing),
            (_, true) => format!("{sum}, so it is {} now.", sum.result),
        });
        if style == Style::Checked {
            said.push(format!("Check: {}.", inverse(sum)));
        }
    }
    if style == Style::Repeated {
        let again: Vec<String> = sums.iter().map(Sum::to_string).collect();
        said.push(format!("Once more: {}.", again.join(", ")));
    }
    said.push(format!("The answer is {}.", problem.answer));
    said.join(" ")
}

/// The sum that undoes another.
fn inverse(sum: &Sum) -> Sum {
    let &Sum { a, operation, b, result, total } = sum;
    let operation = match operation {
        Operation::Plus => Operation::Minus,
        Operation::Minus => Operation::Plus,
        Operation::Times => Operation::Over,
        Operation::Over => Operation::Times,
    };
    Sum { a: result, operation, b, result: a, total }
}
