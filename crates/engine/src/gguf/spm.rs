//! SentencePiece's BPE (Llama 2, Gemma, Phi-3): pieces with scores and bytes for letters without a piece. SentencePiece merges the
//! neighbours whose piece has the best score, the leftmost first; as merges in a list this is each piece's pairs, pieces in
//! the order of their scores.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{NORMAL, Parts, USER_DEFINED, Vocabulary, bad, bpe};
use crate::EngineError;

/// What SentencePiece writes for a blank.
const BLANK: &str = "▁";

pub(super) fn parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, EngineError> {
    let pre = vocabulary.word("pre").unwrap_or("default");
    if pre != "default" {
        let reason =
            format!("pre {pre:?} is not supported beside model \"llama\" (supported: default)");
        return Err(bad(reason));
    }
    let Some((_, unknown)) = vocabulary.named("unknown_token_id").or_else(|| {
        let id = vocabulary.tokens.iter().position(|&token| token == "<unk>")?;
        Some((id as u64, "<unk>"))
    }) else {
        return Err(bad("has no unknown_token_id and no <unk>"));
    };
    for key in ["remove_extra_whitespaces", "escape_whitespaces"] {
        let usual = key == "escape_whitespaces";
        if vocabulary.flag(key, usual) != usual {
            return Err(bad(format!("{key} = {} is not supported (supported: {usual})", !usual)));
        }
    }
    let spaced = vocabulary.flag("add_space_prefix", true);
    let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    let mut normalizers = vec![blanks];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if spaced {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": BLANK}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: bpe::model(vocabulary, Value::Array(merges(vocabulary)?), false, Some(unknown)),
        begins: true,
    })
}

/// All pairs of pieces that make up a third.
fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, EngineError> {
    let scores = vocabulary.list("scores")?;
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (id, (&token, &kind)) in vocabulary.tokens.iter().zip(&vocabulary.types).enumerate() {
        if kind == NORMAL || kind == USER_DEFINED {
            ids.entry(token).or_insert(id);
        }
    }
    let mut pieces = Vec::with_capacity(ids.len());
    for (&token, &id) in &ids {
        let score = scores.get(id).and_then(Value::as_f64);
        let score = score.ok_or_else(|| bad(format!("scores: token {id} has no number")))?;
        pieces.push((score, id, token));
    }
    pieces.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut merges = Vec::new();
    for (_, _, piece) in pieces {
        let mut pairs: Vec<(usize, usize, &str, &str)> = piece
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?, left, right))
            })
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(_, _, left, right)| json!([left, right])));
    }
    Ok(merges)
}
