//! How choices are drawn, and which log-probabilities are told.

use savi_schema::Sampling;
use serde_json::Value;

use super::Shape;
use crate::fields::{Fields, kind};
use crate::options::ServeOptions;
use crate::refusal::Refusal;

/// Most stop strings or stop tokens of a request.
const MOST_STOPS: usize = 16;
/// Longest stop string; each is looked for after every token.
const LONGEST_STOP: usize = 1000;
/// Most tokens with a bias.
const MOST_BIASES: usize = 4096;
/// Most alternatives that chats and completions tell.
const MOST_ALTERNATIVES: (u64, u64) = (20, 5);
/// Length of completions that name none.
const COMPLETION: usize = 16;

/// How choices are drawn, and whether log-probabilities are told and of how many alternatives.
pub(super) fn sampling(
    fields: &mut Fields,
    shape: Shape,
    options: &ServeOptions,
) -> Result<(Sampling, Option<usize>), Refusal> {
    let mut sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let share = |value: f64| value > 0.0 && value <= 1.0;
    let penalty = |value: f64| (-2.0..=2.0).contains(&value);
    let set = |place: &mut f64, value: Option<f64>| *place = value.unwrap_or(*place);
    let within = "a number above 0 and at most 1";
    let temperature = fields.number("temperature", "a number from 0 on", |value| value >= 0.0)?;
    set(&mut sampling.temperature, temperature);
    set(&mut sampling.top_p, fields.number("top_p", within, share)?);
    set(&mut sampling.typical_p, fields.number("typical_p", within, share)?);
    let want = "a number from 0 to below 1";
    let min_p = fields.number("min_p", want, |value| (0.0..1.0).contains(&value))?;
    set(&mut sampling.min_p, min_p);
    let want = "a number above 0";
    let repetition = fields.number("repetition_penalty", want, |value| value > 0.0)?;
    set(&mut sampling.repetition_penalty, repetition);
    let want = "a number from -2 to 2";
    set(&mut sampling.presence_penalty, fields.number("presence_penalty", want, penalty)?);
    set(&mut sampling.frequency_penalty, fields.number("frequency_penalty", want, penalty)?);
    // -1 and 0 both stand for all tokens.
    sampling.top_k = match fields.integer("top_k")? {
        None | Some(-1) => 0,
        Some(k) => usize::try_from(k)
            .map_err(|_| Refusal::value("top_k", format!("{k} is neither -1 nor 0 or more")))?,
    };
    let most = options.max_tokens as u64;
    let ngram = fields.count("no_repeat_ngram_size", 0, most)?;
    sampling.no_repeat_ngram_size = ngram.unwrap_or(0);
    sampling.max_tokens = max_tokens(fields, shape, most)?;
    sampling.min_tokens = fields.count("min_tokens", 0, most)?.unwrap_or(0);
    if sampling.min_tokens > sampling.max_tokens {
        let reason = format!("{} is more than max_tokens", sampling.min_tokens);
        return Err(Refusal::value("min_tokens", reason));
    }
    sampling.ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    sampling.stop = stop(fields)?;
    sampling.stop_token_ids = stop_tokens(fields)?;
    bias(fields, &mut sampling)?;
    let logprobs = logprobs(fields, shape)?;
    sampling.top_logprobs = logprobs.unwrap_or(0);
    sampling.check().map_err(|reason| Refusal::value("sampling", reason))?;
    Ok((sampling, logprobs))
}

fn max_tokens(fields: &mut Fields, shape: Shape, most: u64) -> Result<usize, Refusal> {
    let old = fields.count("max_tokens", 1, most)?;
    if shape == Shape::Text {
        return Ok(old.unwrap_or(COMPLETION));
    }
    let new = fields.count("max_completion_tokens", 1, most)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let reason = format!("{new} is not the {old} of max_tokens");
        return Err(Refusal::value("max_completion_tokens", reason));
    }
    Ok(new.or(old).unwrap_or(Sampling::ALL_ROOM))
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    let bad = |reason: String| Err(Refusal::value("stop", reason));
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(value) => vec![value],
    };
    if list.len() > MOST_STOPS {
        return bad(format!("{} strings are more than {MOST_STOPS}", list.len()));
    }
    let mut strings = Vec::new();
    for value in list {
        match value {
            Value::String(text) if text.is_empty() => return bad("has an empty string".to_owned()),
            Value::String(text) if text.len() > LONGEST_STOP => {
                return bad(format!("a string has more than {LONGEST_STOP} bytes"));
            }
            Value::String(text) => strings.push(text),
            other => return bad(format!("has {}, not a string", kind(&other))),
        }
    }
    Ok(strings)
}

fn stop_tokens(fields: &mut Fields) -> Result<Vec<u32>, Refusal> {
    let list = fields.list("stop_token_ids")?.unwrap_or_default();
    if list.len() > MOST_STOPS {
        let reason = format!("{} tokens are more than {MOST_STOPS}", list.len());
        return Err(Refusal::value("stop_token_ids", reason));
    }
    list.iter().map(|value| token(value, "stop_token_ids")).collect()
}

fn bias(fields: &mut Fields, sampling: &mut Sampling) -> Result<(), Refusal> {
    const FIELD: &str = "logit_bias";
    let map = match fields.take(FIELD) {
        None => return Ok(()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(Refusal::value(FIELD, format!("is {}, not an object", kind(&other))));
        }
    };
    if map.len() > MOST_BIASES {
        let reason = format!("{} tokens are more than {MOST_BIASES}", map.len());
        return Err(Refusal::value(FIELD, reason));
    }
    for (key, value) in map {
        let Ok(token) = key.parse::<u32>() else {
            let key: String = key.chars().take(100).collect();
            return Err(Refusal::value(FIELD, format!("{key:?} is not the number of a token")));
        };
        let Some(bias) = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) else {
            let reason = format!("{value} for token {token} is not a number from -100 to 100");
            return Err(Refusal::value(FIELD, reason));
        };
        sampling.logit_bias.insert(token, bias);
    }
    Ok(())
}

/// The number of a token.
pub(super) fn token(value: &Value, field: &str) -> Result<u32, Refusal> {
    let token = value.as_u64().and_then(|token| u32::try_from(token).ok());
    token.ok_or_else(|| Refusal::value(field, format!("{value} is not the number of a token")))
}

/// Chats say yes and how many, completions say how many alone.
fn logprobs(fields: &mut Fields, shape: Shape) -> Result<Option<usize>, Refusal> {
    if shape == Shape::Text {
        fields.only("top_logprobs", &[], "a completion says logprobs = 0 to 5")?;
        return fields.count("logprobs", 0, MOST_ALTERNATIVES.1);
    }
    let told = fields.flag("logprobs")?.unwrap_or(false);
    match fields.count("top_logprobs", 0, MOST_ALTERNATIVES.0)? {
        Some(count) if count > 0 && !told => {
            Err(Refusal::value("top_logprobs", "is told only where logprobs is true"))
        }
        count => Ok(told.then_some(count.unwrap_or(0))),
    }
}
