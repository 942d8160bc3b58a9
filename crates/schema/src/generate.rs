//! The waist of the program: what methods ask of a model, whatever runs it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Message, RgbImage, Verdict};

/// How continuations are drawn, with the names of transformers and vLLM. Penalties and bans come first,
/// in the order of the fields here, then `temperature`, `top_k`, `top_p`, `min_p` and `typical_p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass; 1 keeps every token.
    pub top_p: f64,
    /// Keep the k likeliest tokens; 0 keeps every token.
    pub top_k: usize,
    /// Keep tokens of at least this share of the likeliest one's probability; 0 keeps every token.
    #[serde(skip_serializing_if = "is_default")]
    pub min_p: f64,
    /// Keep the tokens whose surprise is nearest to the expected one, up to this mass (Meister et al.
    /// 2022); 1 keeps every token.
    #[serde(skip_serializing_if = "is_one")]
    pub typical_p: f64,
    /// Logits of tokens in the prompt or the continuation are divided by this where positive, multiplied
    /// where negative (Keskar et al. 2019); 1 changes nothing.
    #[serde(skip_serializing_if = "is_one")]
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens in the continuation.
    #[serde(skip_serializing_if = "is_default")]
    pub presence_penalty: f64,
    /// Taken off the logits of tokens in the continuation, for every time that they are in it.
    #[serde(skip_serializing_if = "is_default")]
    pub frequency_penalty: f64,
    /// By n: taken off a token's logit for every time that the n-gram which it would complete is in the
    /// continuation (SELF-ALIGN).
    #[serde(skip_serializing_if = "is_default")]
    pub ngram_penalties: BTreeMap<usize, f64>,
    /// No n-gram of this length comes twice in prompt and continuation; 0 allows all.
    #[serde(skip_serializing_if = "is_default")]
    pub no_repeat_ngram_size: usize,
    /// Added to logits.
    #[serde(skip_serializing_if = "is_default")]
    pub logit_bias: BTreeMap<u32, f64>,
    /// Tokens that are never drawn.
    #[serde(skip_serializing_if = "is_default")]
    pub banned_tokens: Vec<u32>,
    /// What every continuation begins with.
    #[serde(skip_serializing_if = "is_default")]
    pub forced_tokens: Vec<u32>,
    /// Shortest continuation, in tokens: before it nothing ends one but a stop string.
    #[serde(skip_serializing_if = "is_default")]
    pub min_tokens: usize,
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// Strings that end a continuation; they are not part of its text.
    pub stop: Vec<String>,
    /// Tokens that end a continuation beside the model's own.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_token_ids: Vec<u32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[allow(clippy::float_cmp, reason = "the very value that changes nothing")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            ngram_penalties: BTreeMap::new(),
            no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            banned_tokens: Vec::new(),
            forced_tokens: Vec::new(),
            min_tokens: 0,
            max_tokens: 256,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
        }
    }
}

impl Sampling {
    /// Refuses values that mean nothing, by name.
    pub fn check(&self) -> Result<(), String> {
        let bad =
            |name: &str, value: f64, want: &str| Err(format!("{name} = {value} is not {want}"));
        let share = |name: &str, value: f64| {
            if value > 0.0 && value <= 1.0 {
                Ok(())
            } else {
                bad(name, value, "above 0 and at most 1")
            }
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "0 or more");
        }
        share("top_p", self.top_p)?;
        share("typical_p", self.typical_p)?;
        if !(0.0..1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "from 0 to below 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", self.repetition_penalty, "above 0");
        }
        let finite = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        let ngrams = self.ngram_penalties.values().map(|&value| ("ngram_penalties", value));
        let biases = self.logit_bias.values().map(|&value| ("logit_bias", value));
        for (name, value) in finite.into_iter().chain(ngrams).chain(biases) {
            if !value.is_finite() {
                return bad(name, value, "a number");
            }
        }
        if self.ngram_penalties.contains_key(&0) {
            return Err("ngram_penalties has an n of 0".to_owned());
        }
        if self.min_tokens > self.max_tokens || self.forced_tokens.len() > self.max_tokens {
            return Err(format!(
                "min_tokens = {} or {} forced tokens are more than max_tokens = {}",
                self.min_tokens,
                self.forced_tokens.len(),
                self.max_tokens
            ));
        }
        Ok(())
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
    /// Natural log-probability of each token under the distribution that it was drawn from; 0 where it
    /// was forced or greedy. Empty where the back end does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampling_logps: Vec<f32>,
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
