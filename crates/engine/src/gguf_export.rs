//! A tokenizer and chat template as metadata of a GGUF file: the way back of [`crate::gguf`].

use std::collections::BTreeMap;

use savi_models::GgufValue;
use serde_json::Value;

use crate::gguf::{CONTROL, LLAMA3, NORMAL, QWEN2, UNUSED, USER_DEFINED};
use crate::{EngineError, TextFiles};

/// Metadata of a byte-level BPE; `vocab` is the number of rows of the embedding. What the format has no
/// place for is refused.
pub(crate) fn metadata(
    text: &TextFiles,
    vocab: usize,
) -> Result<Vec<(String, GgufValue)>, EngineError> {
    let tokenizer: Value =
        serde_json::from_slice(&text.tokenizer).map_err(|e| bad(e.to_string()))?;
    let model = &tokenizer["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || model["byte_fallback"] == true {
        return Err(bad("for GGUF, only byte-level BPE is supported".to_owned()));
    }
    let pre = pre_tokenizer(&tokenizer)?;
    if (model["ignore_merges"] == true) != (pre == "llama-bpe") {
        let reason =
            format!("for GGUF, ignore_merges = {} does not go with {pre}", model["ignore_merges"]);
        return Err(bad(reason));
    }
    let mut tokens: BTreeMap<u64, (String, i32)> = BTreeMap::new();
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        let Some(id) = id.as_u64() else { return Err(bad(format!("{token:?} has no number"))) };
        tokens.insert(id, (token.clone(), NORMAL as i32));
    }
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) else {
            return Err(bad(format!("{token}: an added token has an id and a content")));
        };
        for key in ["single_word", "lstrip", "rstrip"] {
            if token[key] == true {
                return Err(bad(format!("for GGUF, {content:?} with {key} is not supported")));
            }
        }
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        tokens.insert(id, (content.to_owned(), kind as i32));
    }
    if let Some((id, (token, _))) = tokens.last_key_value().filter(|(id, _)| **id >= vocab as u64) {
        return Err(bad(format!("{token:?} is token {id}, the model has {vocab}")));
    }
    let (mut words, mut kinds) = (Vec::with_capacity(vocab), Vec::with_capacity(vocab));
    for id in 0..vocab as u64 {
        let (word, kind) =
            tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED as i32));
        words.push(word);
        kinds.push(kind);
    }
    let id_of = |word: &str| words.iter().position(|known| known == word).map(|id| id as u32);
    let merges = merges(model)?;
    let mut all = Vec::new();
    let mut set = |key: &str, value| all.push((format!("tokenizer.{key}"), value));
    set("ggml.model", GgufValue::Text("gpt2".to_owned()));
    set("ggml.pre", GgufValue::Text(pre.to_owned()));
    let bos = text.bos.as_deref().and_then(id_of);
    if let Some(bos) = bos {
        set("ggml.bos_token_id", GgufValue::U32(bos));
    }
    set("ggml.add_bos_token", GgufValue::Bool(begins(&tokenizer, text.bos.as_deref())?));
    let mut ends: Vec<u32> = text.eos.as_deref().and_then(id_of).into_iter().collect();
    ends.extend(text.eos_ids.iter().copied().filter(|id| !ends.contains(id)).collect::<Vec<_>>());
    let keys = ["ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"];
    if ends.len() > keys.len() {
        return Err(bad(format!("for GGUF, {} tokens that end a text are too many", ends.len())));
    }
    for (key, end) in keys.into_iter().zip(ends) {
        set(key, GgufValue::U32(end));
    }
    if let Some(template) = &text.template {
        set("chat_template", GgufValue::Text(template.clone()));
    }
    set("ggml.tokens", GgufValue::Texts(words.clone()));
    set("ggml.token_type", GgufValue::Integers(kinds));
    set("ggml.merges", GgufValue::Texts(merges));
    Ok(all)
}

/// Pairs of tokens, a blank between them; files have them so or as pairs.
fn merges(model: &Value) -> Result<Vec<String>, EngineError> {
    let merges = model["merges"].as_array().into_iter().flatten();
    let pair = |merge: &Value| match merge {
        Value::String(pair) => Some(pair.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    let malformed = |merge: &Value| bad(format!("{merge} is no pair of tokens"));
    merges.map(|merge| pair(merge).ok_or_else(|| malformed(merge))).collect()
}

/// llama.cpp's name of the way in which text is cut.
fn pre_tokenizer(tokenizer: &Value) -> Result<&'static str, EngineError> {
    let normalizer = tokenizer["normalizer"]["type"].as_str();
    let pre = &tokenizer["pre_tokenizer"];
    let steps: Vec<&Value> = match pre["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![pre],
    };
    let bytes = |step: &Value, regex: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] != true
            && (step["use_regex"] != false) == regex
    };
    let name = match steps.as_slice() {
        [step] if bytes(step, true) => Some("gpt-2"),
        [digits, step]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == true
                && bytes(step, true) =>
        {
            Some("smollm")
        }
        [split, step]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != true
                && bytes(step, false) =>
        {
            match split["pattern"]["Regex"].as_str() {
                Some(QWEN2) => Some("qwen2"),
                Some(LLAMA3) => Some("llama-bpe"),
                _ => None,
            }
        }
        _ => None,
    };
    match (name, normalizer) {
        (Some("qwen2"), Some("NFC")) | (Some("gpt-2" | "smollm" | "llama-bpe"), None) => {
            Ok(name.unwrap_or_default())
        }
        _ => {
            let supported = "those of GPT-2, SmolLM, Qwen2 and Llama 3";
            let reason = format!(
                "for GGUF, the pre-tokenizer {pre} with the normalizer {} is not supported \
                 (supported: {supported})",
                tokenizer["normalizer"]
            );
            Err(bad(reason))
        }
    }
}

/// Whether every text begins with `bos`. Anything else around texts is refused.
fn begins(tokenizer: &Value, bos: Option<&str>) -> Result<bool, EngineError> {
    let post = &tokenizer["post_processor"];
    let steps: Vec<&Value> = match post["processors"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![post],
    };
    for step in steps {
        match step["type"].as_str() {
            None | Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                let single = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
                let special = |piece: &Value| {
                    piece["SpecialToken"]["id"].as_str().is_some_and(|id| Some(id) == bos)
                };
                match single {
                    [text] if text.get("Sequence").is_some() => {}
                    [first, text] if special(first) && text.get("Sequence").is_some() => {
                        return Ok(true);
                    }
                    _ => {
                        let single = &step["single"];
                        let reason = format!("for GGUF, {single} around texts is not supported");
                        return Err(bad(reason));
                    }
                }
            }
            Some(other) => {
                let reason = format!("for GGUF, the post-processor {other} is not supported");
                return Err(bad(reason));
            }
        }
    }
    Ok(false)
}

fn bad(reason: String) -> EngineError {
    EngineError::Malformed { file: "tokenizer.json".to_owned(), reason }
}
