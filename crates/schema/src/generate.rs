//! The waist of the program: what methods ask of a model, whatever runs it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Message, RgbImage, Verdict};

/// How continuations are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass; 1 keeps every token.
    pub top_p: f64,
    /// Keep the k likeliest tokens; 0 keeps every token.
    pub top_k: usize,
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// Strings that end a continuation; they are not part of its text.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, max_tokens: 256, stop: Vec::new() }
    }
}

/// One prompt to continue `samplings.len()` times, all from one shared prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Unique within a run; random numbers depend on it and the sample's index, on nothing else.
    pub id: String,
    /// The conversation so far. If its last turn is the assistant's, that turn is continued.
    pub messages: Vec<Message>,
    /// One completion is drawn for each.
    pub samplings: Vec<Sampling>,
    /// Seed of the run or stage.
    pub seed: u64,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// The token limit was reached.
    Length,
}

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The text without stop tokens.
    pub text: String,
    /// The tokens, the ending one included where the model drew it.
    pub token_ids: Vec<u32>,
    /// Natural log-probability of each token under the model (temperature 1, nothing cut).
    pub logps: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Continuations to score after one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Assistant texts to score after it.
    pub continuations: Vec<String>,
}

/// Log-probabilities of one given continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Natural log-probability of each.
    pub logps: Vec<f32>,
}

impl TokenScore {
    /// Log-probability of the whole continuation.
    pub fn sum(&self) -> f64 {
        self.logps.iter().map(|&l| f64::from(l)).sum()
    }
}

/// Why a model could not be asked.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The request cannot be served as it is.
    #[error("request {id}: {reason}")]
    BadRequest {
        /// Which request.
        id: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Media of a request could not be read.
    #[error("request {id}: {media}: {reason}")]
    Media {
        /// Which request.
        id: String,
        /// Which file.
        media: String,
        /// Why.
        reason: String,
    },
    /// The back end failed.
    #[error("back end: {0}")]
    Backend(String),
    /// The run is being interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// Anything that continues conversations.
pub trait Generate {
    /// Draws every completion of every request, in the order of the requests and their samplings.
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError>;

    /// Names the model and its weights; equal names mean equal completions for equal requests.
    fn fingerprint(&self) -> String;
}

/// Anything that scores given continuations.
pub trait Score {
    /// Scores every continuation of every request, in order.
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError>;
}

/// Anything that puts pictures and texts into one space (CLIP and its kin).
pub trait Embed {
    /// One L2-normalised vector for each text.
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError>;

    /// One L2-normalised vector for each picture.
    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError>;
}

/// Anything that judges completions.
pub trait Reward {
    /// One verdict for each completion of the prompt; `None` where the judge gave no usable answer.
    fn judge(
        &self,
        prompt: &[Message],
        completions: &[Completion],
    ) -> Result<Vec<Option<Verdict>>, GenerateError>;
}
