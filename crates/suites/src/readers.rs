//! How harnesses read replies.

use serde::{Deserialize, Serialize};

/// What a rule made of a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What was taken for the answer: a letter, an option's text, yes or no; `None` where nothing could be read.
    pub answer: Option<String>,
    /// 1 is right, 0 wrong; `None`: the reply is left out of the count, or waits for a judge.
    pub credit: Option<f64>,
    /// A random choice stood in for an answer.
    pub guessed: bool,
    /// A judge would decide.
    pub needs_judge: bool,
}
