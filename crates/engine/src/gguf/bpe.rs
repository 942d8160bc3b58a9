//! BPE with merges in the file. How text is cut before that ("pre") is known by name only; the patterns are those of the
//! models' own `tokenizer.json`, as far as llama.cpp's reference cases confirm them.

use serde_json::{Map, Value, json};

use super::{Parts, Vocabulary, bad};
use crate::EngineError;

/// Qwen2: contractions, words, single digits, punctuation, line ends, blanks.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen3.5: the same, with marks as parts of words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3: as Qwen2, with up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
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
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
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
    let pre = vocabulary.word("pre").unwrap_or("default");
    let llama3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
    let pre_tokenizer = match pre {
        "gpt-2" | "default" | "mpt" => bytes(true),
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
    Ok(Parts { normalizer: Value::Null, pre_tokenizer, decoder, model, begins: llama3 })
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
    let vocab: Map<String, Value> = vocabulary.tokens.iter().enumerate().map(entry).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": unknown.is_some(), "byte_fallback": unknown.is_some(),
        "ignore_merges": whole_words, "vocab": vocab, "merges": merges,
    })
}
