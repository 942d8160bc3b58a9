//! Requests as clients write them, and what is asked of the back end for them.

mod chat;
mod completion;
mod constraint;
mod content;
mod sampling;

use savi_schema::{MediaPolicy, RawPrompt, Role, Sampling};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::options::ServeOptions;
use crate::refusal::Refusal;

pub(crate) use chat::chat;
pub(crate) use completion::completion;

/// The two ways to ask, which differ in the shape of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// A request, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) shape: Shape,
    /// The name under which the model was asked for.
    pub(crate) model: Option<String>,
    pub(crate) prompts: Vec<Draft>,
    pub(crate) sampling: Sampling,
    /// Choices for each prompt.
    pub(crate) choices: usize,
    pub(crate) seed: Option<u64>,
    pub(crate) stream: bool,
    /// Whether a stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
    /// Whether log-probabilities are told, and of how many alternatives.
    pub(crate) logprobs: Option<usize>,
}

/// A prompt whose media are still references.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Draft {
    Messages(Vec<DraftMessage>),
    Raw(RawPrompt),
}

/// A turn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DraftMessage {
    pub(crate) role: Role,
    pub(crate) content: Vec<DraftPart>,
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DraftPart {
    Text(String),
    Image(Reference),
    Video(Reference),
}

/// How a request names a picture or a clip.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reference {
    /// `data:`, `file://`, `http://` or `https://`.
    pub(crate) url: String,
    pub(crate) policy: Option<MediaPolicy>,
    /// Where it stands, for refusals.
    pub(crate) field: String,
}

/// What is read of both kinds of requests, beside their prompts.
fn common(fields: &mut Fields, shape: Shape, options: &ServeOptions) -> Result<Asked, Refusal> {
    let model = fields.text("model")?;
    if let Some(name) = &model
        && !options.models.contains(name)
    {
        return Err(Refusal::model(&name.chars().take(200).collect::<String>(), &options.models));
    }
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = stream_options(fields, stream)?;
    let choices = fields.count("n", 1, options.max_choices as u64)?.unwrap_or(1);
    // Any integer is a seed; the bits of negative ones are taken as they are.
    let seed = match fields.take("seed") {
        None => None,
        Some(value) => match value.as_u64().or(value.as_i64().map(|seed| seed as u64)) {
            Some(seed) => Some(seed),
            None => return Err(Refusal::value("seed", format!("{value} is not a whole number"))),
        },
    };
    let (mut sampling, logprobs) = sampling::sampling(fields, shape, options)?;
    sampling.constraint = constraint::constraint(fields)?;
    refused(fields, choices)?;
    fields.ignore(&[
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
    ]);
    let prompts = Vec::new();
    Ok(Asked { shape, model, prompts, sampling, choices, seed, stream, include_usage, logprobs })
}

fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, Refusal> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(Refusal::value("stream_options", "is for streams; stream is not true"));
    }
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    options.only("include_obfuscation", &[json!(false)], "nothing is obfuscated here")?;
    let reason = "usage comes once, at the end";
    options.only("continuous_usage_stats", &[json!(false)], reason)?;
    options.finish()?;
    Ok(include_usage)
}

/// Fields that others know; a value that changes nothing may stand.
fn refused(fields: &mut Fields, choices: usize) -> Result<(), Refusal> {
    let (none, no, yes): (Value, Value, Value) = (json!([]), json!(false), json!(true));
    let tools = "tools are not called here";
    fields.only("tools", std::slice::from_ref(&none), tools)?;
    fields.only("tool_choice", &[json!("none"), json!("auto")], tools)?;
    fields.only("functions", std::slice::from_ref(&none), tools)?;
    fields.only("function_call", &[json!("none"), json!("auto")], tools)?;
    fields.only("modalities", &[json!(["text"])], "answers are text")?;
    fields.only("audio", &[], "answers are text")?;
    fields.only("prediction", &[], "predicted output is not used here")?;
    fields.only("web_search_options", &[], "nothing is searched for here")?;
    fields.only("reasoning_effort", &[], "how long a model reasons is not set here")?;
    fields.only("verbosity", &[json!("medium")], "the length of answers is not set here")?;
    let best = "choices are not ranked here; ask for n";
    fields.only("best_of", &[json!(1), json!(choices)], best)?;
    fields.only("use_beam_search", std::slice::from_ref(&no), "beams are not searched here")?;
    fields.only("length_penalty", &[json!(1)], "beams are not searched here")?;
    fields.only("early_stopping", std::slice::from_ref(&no), "beams are not searched here")?;
    fields.only(
        "bad_words",
        std::slice::from_ref(&none),
        "words are not banned here; use logit_bias",
    )?;
    let allowed = "tokens are not allowed one by one here; use structured_outputs";
    fields.only("allowed_token_ids", &[], allowed)?;
    let stops = "stop strings are never part of the text";
    fields.only("include_stop_str_in_output", std::slice::from_ref(&no), stops)?;
    let specials = "special tokens are never part of the text";
    fields.only("skip_special_tokens", std::slice::from_ref(&yes), specials)?;
    fields.only("spaces_between_special_tokens", &[no.clone(), yes.clone()], specials)?;
    fields.only("prompt_logprobs", &[], "log-probabilities of prompts are not told here")?;
    fields.only("truncate_prompt_tokens", &[], "prompts are not cut here")?;
    fields.only(
        "return_tokens_as_token_ids",
        std::slice::from_ref(&no),
        "tokens are told as text",
    )?;
    fields.only("return_token_ids", std::slice::from_ref(&no), "tokens are told as text")?;
    fields.only("priority", &[json!(0)], "requests are served as they come")?;
    fields.only(
        "logits_processors",
        std::slice::from_ref(&none),
        "logits are not changed by code",
    )?;
    fields.only("guided_decoding_backend", &[], "there is one way to hold a text to a form")?;
    fields.only("guided_whitespace_pattern", &[], "blanks in JSON are not set here")
}
