//! The tokenizer and chat template that a GGUF file carries, as a `tokenizer.json`.

mod bpe;
mod spm;

use std::path::Path;

use savi_models::{Gguf, Metadata};
use serde_json::{Value, json};

pub(crate) use bpe::{LLAMA3, QWEN2};

use crate::{EngineError, TextFiles};

/// Types of tokens: words, those with a meaning of their own, those that are always kept whole, and
/// numbers without a token.
pub(crate) const NORMAL: u64 = 1;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;

impl TextFiles {
    /// Reads the tokenizer and the chat template of a GGUF file, which need not hold a model.
    pub fn read_gguf(path: &Path) -> Result<Self, EngineError> {
        text(&Gguf::open(path)?.metadata)
    }
}

/// The metadata of a tokenizer.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<&'a str>,
    types: Vec<u64>,
}

fn bad(reason: impl Into<String>) -> EngineError {
    EngineError::Malformed { file: "the GGUF's tokenizer".into(), reason: reason.into() }
}

impl<'a> Vocabulary<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self, EngineError> {
        let mut all = Self { metadata, tokens: Vec::new(), types: Vec::new() };
        for (id, token) in all.list("tokens")?.iter().enumerate() {
            let token = token.as_str().ok_or_else(|| bad(format!("token {id} is no text")))?;
            all.tokens.push(token);
        }
        let types = all.get("token_type").and_then(Value::as_array);
        let kind = |id: usize| types.and_then(|types| types.get(id)?.as_u64()).unwrap_or(NORMAL);
        all.types = (0..all.tokens.len()).map(kind).collect();
        Ok(all)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    fn word(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn list(&self, key: &str) -> Result<&'a Vec<Value>, EngineError> {
        let list = self.get(key).and_then(Value::as_array);
        list.ok_or_else(|| bad(format!("has no list {key}")))
    }

    /// The token that a key points at, with its id.
    fn named(&self, key: &str) -> Option<(u64, &'a str)> {
        let id = self.get(key)?.as_u64()?;
        Some((id, self.tokens.get(usize::try_from(id).ok()?)?))
    }

    /// Tokens that are cut out of a text before anything else.
    fn added(&self) -> Vec<Value> {
        let name = self.metadata.get("general.name").and_then(Value::as_str).unwrap_or("");
        let name = name.to_lowercase();
        // Phi-3's special tokens take blanks after them along; the file does not say so.
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let strips = |token: &str, special: bool| {
            phi3 && special && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
        };
        let whole = |(id, (token, kind)): (usize, (&&str, &u64))| {
            let special = *kind == CONTROL;
            (special || *kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": strips(token, special), "normalized": false, "special": special,
                })
            })
        };
        self.tokens.iter().zip(&self.types).enumerate().filter_map(whole).collect()
    }
}

/// How one kind of tokenizer fills in a `tokenizer.json`.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether a text begins with the token for that where the file does not say.
    begins: bool,
}

/// Reads the metadata of a GGUF file.
pub(crate) fn text(metadata: &Metadata) -> Result<TextFiles, EngineError> {
    let kind = metadata.get("tokenizer.ggml.model").and_then(Value::as_str);
    let read = match kind {
        Some("gpt2") => bpe::parts,
        Some("gemma4") => bpe::blank_parts,
        Some("llama") => spm::parts,
        other => {
            let supported = "gpt2 (byte-level BPE), llama (SentencePiece's BPE), gemma4";
            let other = other.unwrap_or("nothing");
            return Err(bad(format!("model {other:?} is not supported (supported: {supported})")));
        }
    };
    let vocabulary = Vocabulary::new(metadata)?;
    let parts = read(&vocabulary)?;
    let (bos, eos) = (vocabulary.named("bos_token_id"), vocabulary.named("eos_token_id"));
    if vocabulary.flag("add_eos_token", false) {
        return Err(bad("add_eos_token = true is not supported (supported: false)"));
    }
    let post_processor = match bos {
        Some((id, bos)) if vocabulary.flag("add_bos_token", parts.begins) => {
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
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added(), "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer, "post_processor": post_processor,
        "decoder": parts.decoder, "model": parts.model,
    });
    let template = metadata.get("tokenizer.chat_template").and_then(Value::as_str);
    let id = |key: &str| vocabulary.get(key).and_then(Value::as_u64);
    let ends = ["eos_token_id", "eot_token_id", "eom_token_id"].map(id).into_iter().flatten();
    let named = [("unk_token", "unknown_token_id"), ("pad_token", "padding_token_id")];
    let named = named
        .into_iter()
        .filter_map(|(name, key)| Some((name.to_owned(), vocabulary.named(key)?.1.to_owned())));
    Ok(TextFiles {
        tokenizer: tokenizer.to_string().into_bytes(),
        template: template.map(str::to_owned),
        bos: bos.map(|(_, token)| token.to_owned()),
        eos: eos.map(|(_, token)| token.to_owned()),
        eos_ids: ends.filter_map(|id| u32::try_from(id).ok()).collect(),
        named: named.collect(),
    })
}
