//! From the JSON of an answer to completions, in the shapes of chat and of completions.

use savi_schema::{Alternative, Completion, FinishReason};
use serde_json::Value;

use crate::http::Wrong;

/// What an answer has to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// So many choices.
    pub(crate) choices: usize,
    /// For each token so many of the likeliest ones.
    pub(crate) top: usize,
}

fn form(reason: impl Into<String>) -> Wrong {
    Wrong::Form(format!("the answer {}", reason.into()))
}

/// Reads the choices of an answer, in the order of their indices.
pub(crate) fn completions(answer: &Value, expected: Expected) -> Result<Vec<Completion>, Wrong> {
    let Some(choices) = answer.get("choices").and_then(Value::as_array) else {
        return Err(form("has no choices"));
    };
    if choices.len() != expected.choices {
        let hint = match expected.choices {
            1 => "",
            _ => " (a server that does not know n: set several_choices = false)",
        };
        let (got, asked) = (choices.len(), expected.choices);
        return Err(form(format!("has {got} choices where {asked} were asked for{hint}")));
    }
    let mut places = vec![None; choices.len()];
    for (place, choice) in choices.iter().enumerate() {
        let index = choice.get("index").map_or(Some(place as u64), Value::as_u64);
        let free = index.and_then(|index| places.get_mut(index as usize));
        match free {
            Some(free @ None) => *free = Some(completion(choice, expected.top)?),
            _ => return Err(form(format!("numbers its choices wrongly ({index:?})"))),
        }
    }
    Ok(places.into_iter().flatten().collect())
}

fn completion(choice: &Value, top: usize) -> Result<Completion, Wrong> {
    let finish_reason = finish_reason(choice)?;
    let text = match choice.get("message") {
        Some(message) => {
            if let Some(refusal) = message.get("refusal").and_then(Value::as_str) {
                return Err(Wrong::Refusal(format!("the model refuses: {refusal}")));
            }
            // Nothing was said where all tokens went into reasoning.
            match message.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) => String::new(),
                _ => return Err(form("has a message without content")),
            }
        }
        None => match choice.get("text") {
            Some(Value::String(text)) => text.clone(),
            _ => return Err(form("has a choice without message or text")),
        },
    };
    let mut tokens = match choice.get("logprobs").filter(|logprobs| !logprobs.is_null()) {
        Some(logprobs) => tokens(logprobs, top)?,
        None => Tokens::default(),
    };
    if let Some(ids) = choice.get("token_ids").filter(|ids| !ids.is_null()) {
        tokens.ids = Some(token_ids(ids)?);
    }
    let token_ids = tokens.ids.unwrap_or_default();
    let (ids, logps) = (token_ids.len(), tokens.logps.len());
    if ids != 0 && logps != 0 && ids != logps {
        let reason = format!(
            "the answer has {ids} tokens and {logps} log-probs: set logprobs = false to do without"
        );
        return Err(Wrong::Refusal(reason));
    }
    Ok(Completion {
        text,
        token_ids,
        logps: tokens.logps,
        sampling_logps: Vec::new(),
        top_logps: if top > 0 { tokens.top } else { Vec::new() },
        finish_reason,
    })
}

fn finish_reason(choice: &Value) -> Result<FinishReason, Wrong> {
    match choice.get("finish_reason").and_then(Value::as_str) {
        Some("stop") => Ok(FinishReason::Stop),
        Some("length") => Ok(FinishReason::Length),
        // The server gave up.
        Some(reason @ ("abort" | "error")) => Err(form(format!("ended by {reason:?}"))),
        Some(reason) => Err(Wrong::Refusal(format!("the answer ended by {reason:?}"))),
        None => Err(form("has a choice without finish_reason")),
    }
}

#[derive(Debug, Default)]
struct Tokens {
    ids: Option<Vec<u32>>,
    logps: Vec<f32>,
    top: Vec<Vec<Alternative>>,
}

/// Reads log-probs: `content` of chat (llama.cpp has it for completions too), or the lists of
/// completions.
fn tokens(logprobs: &Value, top: usize) -> Result<Tokens, Wrong> {
    match logprobs.get("content") {
        Some(Value::Array(content)) => chat_tokens(content, top),
        Some(Value::Null) => Ok(Tokens::default()),
        _ => completion_tokens(logprobs, top),
    }
}

fn chat_tokens(content: &[Value], top: usize) -> Result<Tokens, Wrong> {
    let mut tokens = Tokens::default();
    let mut ids = Vec::with_capacity(content.len());
    for token in content {
        let (told, alternative) = chat_token(token)?;
        ids.extend(told.then_some(alternative.token_id));
        tokens.logps.push(alternative.logp);
        let others = token.get("top_logprobs").and_then(Value::as_array);
        let others = others.into_iter().flatten().map(|other| Ok(chat_token(other)?.1));
        tokens.top.push(likeliest(others.collect::<Result<_, Wrong>>()?, top));
    }
    tokens.ids = (ids.len() == content.len()).then_some(ids);
    Ok(tokens)
}

/// A token of chat's log-probs, and whether its id is told.
fn chat_token(token: &Value) -> Result<(bool, Alternative), Wrong> {
    let (words, logp) = (token.get("token").and_then(Value::as_str), logp(token.get("logprob")));
    let (Some(words), Some(logp)) = (words, logp) else {
        return Err(form("has log-probs that cannot be read"));
    };
    let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let mut read = named(words, logp);
    if let Some(id) = id {
        read.1.token_id = id;
        read.0 = true;
    }
    if let Some(bytes) = token.get("bytes").and_then(Value::as_array)
        && !words.starts_with(NAMED)
    {
        let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
        let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
        read.1.bytes = bytes.ok_or_else(|| form("has bytes of a token that are none"))?;
    }
    Ok(read)
}

fn completion_tokens(logprobs: &Value, top: usize) -> Result<Tokens, Wrong> {
    let list = |key: &str| logprobs.get(key).and_then(Value::as_array);
    let (Some(words), Some(logps)) = (list("tokens"), list("token_logprobs")) else {
        return Err(form("has log-probs of an unknown form"));
    };
    let bad = || form("has log-probs that cannot be read");
    if words.len() != logps.len() {
        return Err(bad());
    }
    let mut tokens = Tokens::default();
    let mut ids = Vec::with_capacity(words.len());
    for (words, value) in words.iter().zip(logps) {
        let (Some(words), Some(logp)) = (words.as_str(), logp(Some(value))) else {
            return Err(bad());
        };
        let (told, token) = named(words, logp);
        ids.extend(told.then_some(token.token_id));
        tokens.logps.push(logp);
    }
    for others in list("top_logprobs").into_iter().flatten().take(logps.len()) {
        let others = others.as_object().into_iter().flatten();
        let others =
            others.map(|(words, value)| Ok(named(words, logp(Some(value)).ok_or_else(bad)?).1));
        tokens.top.push(likeliest(others.collect::<Result<_, Wrong>>()?, top));
    }
    tokens.ids = (ids.len() == words.len()).then_some(ids);
    Ok(tokens)
}

/// How vLLM writes a token where it is to tell its id (`return_tokens_as_token_ids`).
const NAMED: &str = "token_id:";

/// A token by its words, and whether they tell its id.
fn named(words: &str, logp: f32) -> (bool, Alternative) {
    match words.strip_prefix(NAMED).and_then(|id| id.parse().ok()) {
        Some(token_id) => (true, Alternative { token_id, bytes: Vec::new(), logp }),
        None => (false, Alternative { token_id: 0, bytes: words.as_bytes().to_vec(), logp }),
    }
}

/// The likeliest first, as many as were asked for: the token that was drawn may stand behind them.
fn likeliest(mut tokens: Vec<Alternative>, top: usize) -> Vec<Alternative> {
    tokens.sort_by(|a, b| b.logp.total_cmp(&a.logp));
    tokens.truncate(top);
    tokens
}

pub(crate) fn logp(value: Option<&Value>) -> Option<f32> {
    value?.as_f64().map(|logp| logp as f32).filter(|logp| !logp.is_nan())
}

/// A list of tokens.
pub(crate) fn token_ids(value: &Value) -> Result<Vec<u32>, Wrong> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = value.as_array().and_then(|ids| ids.iter().map(id).collect());
    ids.ok_or_else(|| form("has tokens that are no numbers"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(answer: Value, choices: usize, top: usize) -> Result<Vec<Completion>, Wrong> {
        completions(&answer, Expected { choices, top })
    }

    #[test]
    fn choices_stand_by_their_index() {
        let choice = |index, text| json!({"index": index, "text": text, "finish_reason": "stop"});
        let read = read(json!({"choices": [choice(1, "b"), choice(0, "a")]}), 2, 0).unwrap();
        assert_eq!((read[0].text.as_str(), read[1].text.as_str()), ("a", "b"));
        assert!(read[0].logps.is_empty() && read[0].token_ids.is_empty());
    }

    #[test]
    fn log_probs_of_chat() {
        let token = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
        let mut first = token("Hé", -0.25);
        first["top_logprobs"] = json!([token("No", -2.0), token("Hé", -0.25), token("x", -9.0)]);
        let choice = json!({"index": 0, "finish_reason": "length", "token_ids": [5, 6],
            "message": {"role": "assistant", "content": "Hé!"},
            "logprobs": {"content": [first, token("!", -0.5)]}});
        let read = &read(json!({"choices": [choice]}), 1, 2).unwrap()[0];
        assert_eq!(
            (read.token_ids.as_slice(), read.logps.as_slice()),
            (&[5, 6][..], &[-0.25, -0.5][..])
        );
        assert_eq!(read.finish_reason, FinishReason::Length);
        assert_eq!(read.top_logps[0].len(), 2);
        assert_eq!(read.top_logps[0][0].bytes, "Hé".as_bytes());
        assert!(read.top_logps[1].is_empty());
    }

    #[test]
    fn log_probs_of_completions() {
        let choice = json!({"index": 0, "finish_reason": "stop", "text": "ab", "logprobs": {
            "tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -2.0],
            "top_logprobs": [{"token_id:7": -1.0, "token_id:9": -0.5}, null], "text_offset": [0, 1]}});
        let read = &read(json!({"choices": [choice]}), 1, 1).unwrap()[0];
        assert_eq!(read.token_ids, [7, 8]);
        assert_eq!(read.top_logps[0], [Alternative { token_id: 9, bytes: Vec::new(), logp: -0.5 }]);
        assert!(read.top_logps[1].is_empty());
    }

    #[test]
    fn ids_as_llama_cpp_tells_them() {
        let choice = json!({"index": 0, "finish_reason": "stop", "text": "a", "logprobs": {"content": [
            {"id": 3, "token": "a", "bytes": [97], "logprob": -0.1,
             "top_logprobs": [{"id": 3, "token": "a", "bytes": [97], "logprob": -0.1}]}]}});
        let read = &read(json!({"choices": [choice]}), 1, 1).unwrap()[0];
        assert_eq!((read.token_ids.as_slice(), read.top_logps[0][0].token_id), (&[3][..], 3));
    }

    #[test]
    fn what_is_no_answer_is_named() {
        let check = |choice: Value, lasting: bool, words: &str| {
            let wrong = read(json!({"choices": [choice]}), 1, 0).unwrap_err();
            let (is_lasting, reason) = match &wrong {
                Wrong::Refusal(reason) => (true, reason),
                Wrong::Form(reason) => (false, reason),
            };
            assert!(is_lasting == lasting && reason.contains(words), "{wrong:?}");
        };
        let message = |content: Value, reason: &str| json!({"index": 0, "finish_reason": reason, "message": {"content": content}});
        check(message(json!("x"), "content_filter"), true, "content_filter");
        check(message(json!("x"), "tool_calls"), true, "tool_calls");
        check(message(json!("x"), "abort"), false, "abort");
        check(message(json!(3), "stop"), false, "content");
        check(json!({"index": 0, "finish_reason": "stop"}), false, "text");
        check(json!({"index": 0, "text": "x"}), false, "finish_reason");
        check(json!({"index": 4, "text": "x", "finish_reason": "stop"}), false, "numbers");
        let refusal = json!({"index": 0, "finish_reason": "stop", "message": {"content": null, "refusal": "no"}});
        check(refusal, true, "refuses");
        let uneven = json!({"index": 0, "finish_reason": "stop", "text": "a", "token_ids": [1, 2],
            "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}});
        check(uneven, true, "2 tokens and 1 log-probs");
        assert!(matches!(read(json!({"choices": []}), 1, 0), Err(Wrong::Form(_))));
        assert!(matches!(read(json!([]), 1, 0), Err(Wrong::Form(_))));
        let null = read(json!({"choices": [message(Value::Null, "length")]}), 1, 0).unwrap();
        assert_eq!(null[0].text, "");
    }
}
