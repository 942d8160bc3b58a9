//! QA suites: questions about clips, asked, read and counted by fixed rules.
//!
//! A suite is a list of [`QuestionRecord`]s. [`evaluate()`] asks a model all questions of a clip
//! together, under a [`View`] (the clip as it is, or one of the blind floors); [`extract`] turns
//! each reply into an answer or says why it is none; [`stats`] turns right and wrong into figures
//! with intervals that respect that questions about one clip hang together. This crate knows no
//! training and no tensors, and a reply that cannot be read is wrong, never a lucky guess. How other
//! harnesses read the same replies, lucky guesses and all, is in [`readers`].

mod evaluate;
pub mod extract;
mod floor;
mod prompt;
mod question;
pub mod readers;
mod scores;
mod solve;
pub mod stats;
mod view;
mod vote;

pub use evaluate::{Answered, EvalOptions, EvaluateError, evaluate, evaluate_clips};
pub use floor::majority_class;
pub use prompt::QuestionPrompt;
pub use question::{Format, QuestionError, QuestionRecord, by_clip, read_questions};
pub use scores::{evaluations, outcomes};
pub use solve::{
    SolveError, SolveOptions, Solved, Solving, solve, solve_evaluations, solve_key, solve_outcomes,
};
pub use view::{View, ViewError};
pub use vote::{Grade, Vote, vote};
