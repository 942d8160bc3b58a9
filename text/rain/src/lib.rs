//! RAIN: a frozen model that searches its answer token set by token set, judges by itself what it would say, and
//! goes back where it does not like it (Li et al. 2023, arXiv 2309.07124).
//!
//! The answer grows by *token sets* of 1, 2, 4 and then 10 tokens. For each the *inner loop* goes down a tree of
//! candidates by value and prior, lets the model go on to the end of a clause (*simulation*), asks it whether that
//! is good (*self-evaluation*), and carries the score up; similar siblings get a share (Eq. 2), and nodes whose
//! children are all alike and bad get more (*dynamic node addition*). The *outer loop* commits the child with the most
//! visits. Nothing is learnt.
//!
//! The formulae stand in `formulae`, the tree in `tree`, the loops in `search`, what is asked of models in `models`
//! and `judge`. A search asks [`Oracle`], which [`models::Asking`] is for models behind [`savi_schema::Generate`] and
//! [`savi_schema::Score`]; it tells everything in a trace, from which it continues when it was killed and which can be
//! checked without a model ([`replay`]). [`Rain`] answers conversations, [`run()`] files of prompts, beside greedy,
//! drawn and best-of-N answers that the same judge scores. This crate knows no tensors and no model.

mod config;
mod error;
pub mod formulae;
pub mod judge;
pub mod models;
mod prompts;
mod rain;
mod run;
mod search;
mod settings;
#[cfg(test)]
mod tests;
pub mod trace;
mod tree;

pub use config::{ConfigProblem, Mode, Search};
pub use error::Error;
pub use judge::Judge;
pub use models::Models;
pub use prompts::{Demonstration, PromptError, PromptFiles, Prompts};
pub use rain::Rain;
pub use run::{AnswerRecord, Inputs, Method, Summary, answers, run};
pub use search::{Judgement, Oracle, Searching, replay};
pub use settings::{Baselines, Config, JudgeConfig, JudgeForm, PromptForm, ScoreKind};
pub use tree::{Node, Offer, Similar, Tree};
