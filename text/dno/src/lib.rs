//! Direct Nash Optimization (arXiv 2404.03715): a model that learns, iteration after iteration, to be preferred to what
//! it was, from its own samples and a teacher's answers side by side.
//!
//! Each iteration works on prompts of its own. The model as it is writes several answers to each, a teacher may add one,
//! an annotator gives points or win rates, good answers are paired with worse ones ([`run()`]), and the model learns from
//! these pairs and some of earlier iterations, held against itself as it was. The stages stand in `candidates`,
//! `annotate` and `pair`, their order in `iteration`, what is learnt in `lesson`, the loop in `run`.
//!
//! Words: a *candidate* is an answer of the *student* (the current *iterate*) or of the teacher; *points* go from 0 to 6;
//! a *decision* is what became of a prompt: its pairs, or why there are none. This crate knows no tensors and no world;
//! losses and references are the trainer's.

mod annotate;
mod candidates;
mod config;
mod dynamics;
mod error;
mod evaluate;
mod iteration;
mod lesson;
mod pair;
mod prompts;
mod records;
mod run;
#[cfg(test)]
mod tests;

pub use config::{
    Annotator, AnnotatorKind, BestBy, Config, ConfigProblem, Evaluation, MOST_POINTS, Mode,
    NoPairs, Opponent, PairRules, Reference, Replay, ReplayBase, Rule, Targets,
};
pub use dynamics::{Dynamics, table};
pub use error::Error;
pub use iteration::{Other, Teacher};
pub use prompts::{PromptError, PromptFiles};
pub use records::{
    Allotted, Annotation, Candidate, Decision, Dropped, Duel, HeldOut, Made, PairKind, Reading,
    Writer,
};
pub use run::{Best, Exam, Inputs, Outcome, Outputs, run};
