//! VideoSAVi: a video-language model that learns from its own judgement of its own answers.

mod prompts;

pub use prompts::{PromptError, PromptFiles, Prompts, QuestionKind, Subject};
