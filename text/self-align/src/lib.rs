//! SELF-ALIGN (Dromedary, arXiv 2305.03047): a base model becomes an assistant by a short list of principles, five
//! examples and its own answers.
//!
//! Four stages, each in a file that reads as the paper's: the model writes tasks (`instruct`) and questions that
//! such models get wrong (`topics`, `questions`), answers them under the principles, with thoughts that name the
//! rules it weighed (`align`), is trained from the base on the answers alone (`engrave`), answers everything again at
//! length, and a second student is trained from the base on that (`clone`). [`run()`] puts them together.
//!
//! Words: a *query* is what the model is asked, instruction and input; a *row* is a query with the answer that is
//! taught; the *terminator* is a blank line and the heading of the user's turn, by which an answer ends. What people
//! write (seeds, principles, examples, identity) lies in `data/`, the wording of requests in `prompts/`; a config
//! can replace each file. This crate knows no tensors and no worlds.

mod align;
mod answers;
mod ask;
mod clone;
mod config;
mod data;
mod engrave;
mod error;
mod forms;
mod instruct;
mod persona;
mod prompts;
mod queries;
mod questions;
mod records;
mod run;
mod tasks;
#[cfg(test)]
mod tests;
mod thoughts;
mod topics;
mod trim;

pub use config::{
    Align, Config, ConfigProblem, Forms, Questions, SelfInstruct, StageName, Topics, Truncated,
    Verbose,
};
pub use data::{
    Data, DataFiles, DataProblem, Exemplar, Principle, SeedTask, SeedTopic, Turn, Utterance,
};
pub use error::Error;
pub use persona::Persona;
pub use prompts::{PromptFiles, PromptProblem, Prompts};
pub use records::{
    Answered, AskedQuestions, AskedTasks, AskedTopics, Counters, Dropped, Line, Query, Row, Source,
    Task, Thoughts, TopicQuestion,
};
pub use run::{FirstToken, Inputs, Outputs, Summary, check, run};
