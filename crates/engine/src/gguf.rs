//! The tokenizer and chat template that a GGUF file carries.

use savi_models::Metadata;
use serde_json::{Map, Value, json};

use crate::{EngineError, TextFiles};

/// How Qwen2 cuts text before it looks up tokens: contractions, words, single digits, punctuation,
/// line ends, blanks.
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3: the same, with up to three digits together.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Types of tokens: words of the vocabulary, those with a meaning of their own, those that are always
/// kept whole, and numbers without a token.
pub(crate) const NORMAL: u64 = 1;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;

/// Reads the metadata of a GGUF file.
pub(crate) fn text(metadata: &Metadata) -> Result<TextFiles, EngineError> {
    let bad =
        |reason: String| EngineError::Malformed { file: "the GGUF's tokenizer".into(), reason };
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let word = |key: &str| get(key).and_then(Value::as_str);
    match word("model") {
        Some("gpt2") => {}
        other => {
            let reason =
                format!("model {other:?} is not supported (supported: gpt2, byte-level BPE)");
            return Err(bad(reason));
        }
    }
    let list = |key: &str| {
        let list = get(key).and_then(Value::as_array);
        list.ok_or_else(|| bad(format!("has no list {key}")))
    };
    let (tokens, merges) = (list("tokens")?, list("merges")?);
    let types = get("token_type").and_then(Value::as_array);
    let kind = |id: usize| types.and_then(|types| types.get(id)?.as_u64());
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let Some(token) = token.as_str() else { return Err(bad(format!("token {id} is no text"))) };
        if kind(id) == Some(UNUSED) {
            continue;
        }
        vocab.insert(token.to_owned(), json!(id));
        if let Some(kind @ (CONTROL | USER_DEFINED)) = kind(id) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            }));
        }
    }
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        let pattern = json!({"Regex": pattern});
        let split =
            json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let pre = word("pre").unwrap_or("default");
    let pre_tokenizer = match pre {
        "gpt-2" | "default" => bytes(true),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]})
        }
        "qwen2" => split(QWEN2),
        "llama-bpe" | "llama3" => split(LLAMA3),
        other => {
            let supported = "gpt-2, smollm, qwen2, llama-bpe";
            return Err(bad(format!("pre {other:?} is not supported (supported: {supported})")));
        }
    };
    let id = |key: &str| get(key).and_then(Value::as_u64);
    let named = |key: &str| Some(tokens.get(id(key)? as usize)?.as_str()?.to_owned());
    let (bos, eos) = (named("bos_token_id"), named("eos_token_id"));
    let begins = get("add_bos_token").and_then(Value::as_bool).unwrap_or(pre == "llama-bpe");
    let post_processor = match (&bos, id("bos_token_id")) {
        (Some(bos), Some(id)) if begins => {
            let special = json!({"SpecialToken": {"id": bos, "type_id": 0}});
            let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
            json!({
                "type": "TemplateProcessing",
                "single": [special, text("A")],
                "pair": [special, text("A"), special, text("B")],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
            })
        }
        _ => Value::Null,
    };
    // The format has no place for it: every tokenizer of Qwen2's manner composes characters first.
    let normalizer = if pre == "qwen2" { json!({"type": "NFC"}) } else { Value::Null };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    });
    let template = metadata.get("tokenizer.chat_template").and_then(Value::as_str);
    let ends = ["eos_token_id", "eot_token_id", "eom_token_id"].map(id).into_iter().flatten();
    Ok(TextFiles {
        tokenizer: tokenizer.to_string().into_bytes(),
        template: template.map(str::to_owned),
        bos,
        eos,
        eos_ids: ends.filter_map(|id| u32::try_from(id).ok()).collect(),
    })
}
