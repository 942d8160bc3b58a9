//! Answers in the shapes of OpenAI.

mod logprobs;
mod stream;
mod whole;

use std::time::{SystemTime, UNIX_EPOCH};

use savi_schema::FinishReason;
use serde_json::{Value, json};

use crate::options::ServeOptions;
use crate::request::{Asked, Shape};

pub(crate) use stream::stream;
pub(crate) use whole::whole;

/// What all answers to one request have in common.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    fingerprint: Option<String>,
    include_usage: bool,
    logprobs: Option<usize>,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    prompt: usize,
    cached: usize,
    completion: usize,
}

impl Usage {
    fn value(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

impl Voice {
    pub(crate) fn new(asked: &Asked, options: &ServeOptions) -> Self {
        let prefix = match asked.shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        let served = || options.models.first().cloned().unwrap_or_default();
        Self {
            shape: asked.shape,
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: now(),
            model: asked.model.clone().unwrap_or_else(served),
            fingerprint: options.fingerprint.clone(),
            include_usage: asked.include_usage,
            logprobs: asked.logprobs,
        }
    }

    /// An answer or a chunk of one, with these choices.
    fn with(&self, object: &str, choices: Vec<Value>) -> Value {
        let mut value = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
        });
        if let Some(fingerprint) = &self.fingerprint {
            value["system_fingerprint"] = json!(fingerprint);
        }
        value["choices"] = Value::Array(choices);
        value
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
