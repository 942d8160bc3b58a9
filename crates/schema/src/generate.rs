//! The waist of the program: what methods ask of a model, whatever runs it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Message, PromptRecord, RgbImage, Sampling, Verdict};

/// A prompt as it is, without a chat template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawPrompt {
    /// Words. To score after none means to score a text alone: after what the tokenizer puts before every
    /// text, or from the second token on where that is nothing.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

/// One prompt to continue `samplings.len()` times, all from one shared prefix.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Request {
    /// Unique within a run; random numbers depend on it and the sample's index, on nothing else.
    pub id: String,
    /// The conversation so far. If its last turn is the assistant's, that turn is continued.
    pub messages: Vec<Message>,
    /// Stands in place of `messages` where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawPrompt>,
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

/// A token that could have stood in a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The token; 0 where the back end tells words alone.
    pub token_id: u32,
    /// Its bytes; a token need not be whole characters.
    pub bytes: Vec<u8>,
    /// Its natural log-probability under the model.
    pub logp: f32,
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
    /// Natural log-probability of each token under the distribution that it was drawn from; 0 where it
    /// was forced or greedy. Empty where the back end does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampling_logps: Vec<f32>,
    /// For each token the likeliest ones in its place, likeliest first, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_logps: Vec<Vec<Alternative>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What is scored after a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Continuation {
    /// Words of the assistant.
    Text(String),
    /// The very tokens, as a [`Completion`] has them.
    Tokens(Vec<u32>),
}

impl From<&str> for Continuation {
    fn from(words: &str) -> Self {
        Self::Text(words.to_owned())
    }
}

impl From<String> for Continuation {
    fn from(words: String) -> Self {
        Self::Text(words)
    }
}

impl From<Vec<u32>> for Continuation {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

/// Continuations to score after one prompt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Stands in place of `messages` where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawPrompt>,
    /// What is scored after it, each on its own.
    pub continuations: Vec<Continuation>,
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

    /// e to the power of the mean negative log-probability of a token; 1 where there is none.
    pub fn perplexity(&self) -> f64 {
        (-self.sum() / self.logps.len().max(1) as f64).exp()
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
    /// Prompt and continuation do not fit the model.
    #[error(
        "request {id}: {prompt_tokens} prompt tokens and up to {new_tokens} new ones do not fit the \
         model's {limit}"
    )]
    TooLong {
        /// Which request.
        id: String,
        /// Tokens of its prompt.
        prompt_tokens: usize,
        /// Most tokens that were asked for.
        new_tokens: usize,
        /// What the model takes.
        limit: usize,
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
    /// More waits for its turn than the back end takes.
    #[error("{waiting} requests wait already; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
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

/// Anything that knows how a model's tokens and words hang together.
pub trait Tokenize {
    /// Tokens of a prompt up to where the assistant goes on; `raw` stands in place of `messages` where there
    /// is one. Pictures and clips have no form in tokens alone and are refused.
    fn prompt_tokens(
        &self,
        messages: &[Message],
        raw: Option<&RawPrompt>,
    ) -> Result<Vec<u32>, GenerateError>;

    /// The words of tokens, special tokens left out.
    fn words(&self, tokens: &[u32]) -> Result<String, GenerateError>;

    /// The tokens with which the model ends its turn or its text.
    fn end_tokens(&self) -> Vec<u32>;
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

/// A prompt and what a policy wrote after it.
#[derive(Debug, Clone, Copy)]
pub struct Completed<'a> {
    /// The prompt.
    pub prompt: &'a PromptRecord,
    /// Its completions.
    pub completions: &'a [Completion],
}

/// Anything that judges completions.
pub trait Reward {
    /// For each group one verdict for each of its completions; `None` where the judge gave no usable answer.
    /// `policy` is who wrote them, with its weights as they were then.
    fn judge(
        &self,
        groups: &[Completed<'_>],
        policy: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError>;
}

/// A reward that looks at one completion at a time and asks nobody.
pub fn judge_each(
    groups: &[Completed<'_>],
    judge: impl Fn(&PromptRecord, &Completion) -> Option<Verdict>,
) -> Vec<Vec<Option<Verdict>>> {
    groups
        .iter()
        .map(|group| group.completions.iter().map(|c| judge(group.prompt, c)).collect())
        .collect()
}
