//! QA suites: benchmarks asked, read and counted by the rules of the field.
//!
//! A [`Suite`] is data: where its questions come from, how they are put, how replies are read; [`catalog`] has all by
//! name. Opening one gives [`Item`]s that are held to the published rows. [`Asking`] puts the items of a clip together,
//! under a [`View`] (the clip as it is, or one of the blind floors), and gives [`Sample`]s, which are stored; figures are made
//! from those alone: [`readers`] has the rules of harnesses, lucky guesses and all, and [`extract`] our own, to which a
//! reply that cannot be read is wrong; [`judged`] has open answers read by a judge; [`stats`] turns figures into intervals and
//! tests that respect that questions about one clip hang together. [`evaluate_clips`] and [`solve()`] are what methods
//! measure themselves with as they run. This crate knows no training and no tensors.

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
pub use evaluate::{Answered, EvalOptions, EvaluateError, evaluate_clips};
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
