//! BPE with merges in the file. How text is cut before that ("pre") is known by name only; the patterns are those of the
//! models' own `tokenizer.json`, as far as llama.cpp's reference cases confirm them.

use serde_json::{Map, Value, json};

use super::{Parts, UNUSED, Vocabulary, bad};
use crate::EngineError;

/// Qwen2: contractions, words, single digits, punctuation, line ends, blanks.
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen3.5: the same, with marks as parts of words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3: as Qwen2, with up to three digits together.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Falcon: punctuation apart from blanks, then as GPT-2, then digits by threes.
const FALCON: [&str; 3] = [
    r"[\p{P}\$\+<=>\^~\|`]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    "[0-9][0-9][0-9]",
];
/// DeepSeek Coder: line ends, words, punctuation, Chinese and Korean, single digits.
const DEEPSEEK_CODER: [&str; 5] =
    [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"];
/// DeepSeek LLM: the same with alphabets and punctuation listed by their ranges, and numbers whole.
const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
    "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-\u{d7ff}]+",
    r"\p{N}+",
];

/// Byte-level BPE in the manner of GPT-2.
pub(super) fn parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, EngineError> {
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |patterns: &[&str]| {
        let mut steps: Vec<Value> = patterns.iter().map(|pattern| isolated(pattern)).collect();
        steps.push(bytes(false));
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    let Some(pre) = vocabulary.word("pre") else {
        return Err(bad("has no pre, which says how text is cut: convert the model anew"));
    };
    let llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
    let pre_tokenizer = match pre {
        "gpt-2" | "mpt" => bytes(true),
        "smollm" | "starcoder" | "refact" | "command-r" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]})
        }
        "qwen2" | "deepseek-r1-qwen" => split(&[QWEN2]),
        "qwen35" => split(&[QWEN35]),
        _ if llama3 => split(&[LLAMA3]),
        "falcon" => split(&FALCON),
        "deepseek-coder" => split(&DEEPSEEK_CODER),
        "deepseek-llm" => split(&DEEPSEEK_LLM),
        other => {
            let supported = "gpt-2, smollm, starcoder, refact, command-r, mpt, falcon, qwen2, qwen35, \
                             llama-bpe, deepseek-llm, deepseek-coder";
            return Err(bad(format!("pre {other:?} is not supported (supported: {supported})")));
        }
    };
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let merges = Value::Array(vocabulary.list("merges")?.clone());
    let model = model(vocabulary, merges, llama3, None);
    // The format has no place for it: tokenizers of Qwen2 compose characters first.
    let composes = matches!(pre, "qwen2" | "deepseek-r1-qwen");
    let normalizer = if composes { json!({"type": "NFC"}) } else { Value::Null };
    Ok(Parts { normalizer, pre_tokenizer, decoder, model, begins: llama3 })
}

/// Gemma 4: merges over whole lines, blanks as ▁, bytes where a letter has no token.
pub(super) fn blank_parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, EngineError> {
    let normalizer = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let decoders = [
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let merges = Value::Array(vocabulary.list("merges")?.clone());
    let unknown = vocabulary.named("unknown_token_id").map_or("<unk>", |(_, token)| token);
    Ok(Parts {
        normalizer,
        pre_tokenizer: isolated(r"[^\n]+|[\n]+"),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: model(vocabulary, merges, false, Some(unknown)),
        begins: true,
    })
}

fn isolated(pattern: &str) -> Value {
    let pattern = json!({"Regex": pattern});
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

/// The model of a `tokenizer.json`; with `unknown`, what has no token falls back to bytes and then to it.
pub(super) fn model(
    vocabulary: &Vocabulary<'_>,
    merges: Value,
    whole_words: bool,
    unknown: Option<&str>,
) -> Value {
    let entry = |(id, token): (usize, &&str)| ((*token).to_owned(), json!(id));
    let used = |(_, kind): &(_, &u64)| **kind != UNUSED;
    let tokens = vocabulary.tokens.iter().enumerate().zip(&vocabulary.types).filter(used);
    let vocab: Map<String, Value> = tokens.map(|(token, _)| entry(token)).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": unknown.is_some(), "byte_fallback": unknown.is_some(),
        "ignore_merges": whole_words, "vocab": vocab, "merges": merges,
    })
}
