//! VideoSAVi: a video-language model that learns from its own judgement of its own answers
//! (arXiv 2412.00624), in both published forms.
//!
//! Each round the model as it is writes questions about unlabelled clips, answers them, judges or
//! criticises its answers against the clip, and learns by DPO to prefer what came out better; held-out
//! questions are asked before the first round and after every round ([`run()`]). The stages stand in
//! `ask`, `answer`, `judge`, `critique` and `pair`, their order in `forms`, the loop in `run`.
//!
//! Words: a *decision* is what became of a question: a pair, or the reason why there is none; a
//! *lesson* is what a round teaches; a [`Learner`](savi_train::Learner) is whoever can be asked and taught. This crate
//! knows no tensors, no labels of clips and no world; the true answers of the ceiling control come
//! in as ready examples.

mod answer;
mod ask;
mod config;
mod correct;
mod critique;
mod error;
mod forms;
mod judge;
mod learn;
mod pair;
mod prompts;
mod records;
mod round;
mod run;
#[cfg(test)]
mod tests;
mod text;

pub use config::{
    Answers, ClipCheck, Config, ConfigProblem, Critique, Filters, Form, Judge, JudgeVideo, Learn,
    NoPairs, Questions, Revise, Ties,
};
pub use error::Error;
pub use prompts::{PromptError, PromptFiles, Prompts, QuestionKind, Subject};
pub use records::{
    Answer, ClipRecord, CritiqueRecord, Decision, Drawn, Dropped, Judgement, Question, Reading,
    Revision,
};
pub use round::{ClipSpace, DrawKind, Served, check_served};
pub use run::{Exam, Inputs, Outputs, read_decisions, run};
