//! QA suites: questions about clips, asked, read and counted by fixed rules.
//!
//! A suite is a list of [`QuestionRecord`]s. [`evaluate()`] asks a model all questions of a clip
//! together, under a [`View`] (the clip as it is, or one of the blind floors); [`extract`] turns
//! each reply into an answer or says why it is none; [`stats`] turns right and wrong into figures
//! with intervals that respect that questions about one clip hang together. This crate knows no
//! training and no tensors, and a reply that cannot be read is wrong, never a lucky guess. How other
//! harnesses read the same replies, lucky guesses and all, is in [`readers`];
//! [`judged`] has open answers read by a judge.

mod asking;
pub mod catalog;
mod cells;
mod clips;
mod evaluate;
pub mod extract;
mod item;
pub mod judged;
mod open;
mod prompt;
mod question;
pub mod readers;
mod results;
mod sample;
mod score;
mod scores;
mod shots;
mod solve;
pub mod stats;
mod subtitles;
mod suite;
mod view;
mod vote;

pub use asking::{AskError, AskOptions, Asking, PLACE, argmax};
pub use clips::Clips;
pub use evaluate::{Answered, EvalOptions, EvaluateError, evaluate, evaluate_clips};
pub use item::{Gold, Item, ItemClip, clusters};
pub use open::{OpenError, OpenSuite, SuiteManifest, SuiteSplit};
pub use prompt::QuestionPrompt;
pub use question::{Format, QuestionError, QuestionRecord, by_clip, read_questions};
pub use results::{RunFacts, SuiteFacts, results, sample_lines};
pub use sample::{Sample, sha256};
pub use score::{Counts, Graded, Letters, Metric, Row, chance};
pub use scores::{evaluations, outcomes};
pub use shots::Shots;
pub use solve::{
    SolveError, SolveOptions, Solved, Solving, solve, solve_evaluations, solve_key, solve_outcomes,
};
pub use suite::{
    Ask, Figure, Found, OptionScore, Reader, Scorer, Suite, choice_words, greedy, plain_words,
    short_words, yes_no_words,
};
pub use view::{View, ViewError};
pub use vote::{Grade, Vote, vote};
