//! Log-probabilities of tokens, in the shapes of chats and of completions.

use savi_schema::{Alternative, Token};
use serde_json::{Map, Value, json};

/// JSON has no infinity; this stands for it, as in vLLM.
const LEAST: f32 = -9999.0;

/// A token's text: its bytes as UTF-8, with the replacement character where they are none.
fn text(alternative: &Alternative) -> String {
    String::from_utf8_lossy(&alternative.bytes).into_owned()
}

fn logp(alternative: &Alternative) -> f32 {
    if alternative.logp.is_finite() { alternative.logp } else { LEAST }
}

/// `logprobs` of a choice of a chat, with `most` alternatives for each token.
pub(super) fn chat(tokens: &[Token], most: usize) -> Value {
    let entry =
        |one: &Alternative| json!({"token": text(one), "logprob": logp(one), "bytes": one.bytes});
    let content = tokens.iter().map(|token| {
        let mut value = entry(&token.drawn);
        value["top_logprobs"] = token.top.iter().take(most).map(entry).collect();
        value
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

/// `logprobs` of a choice of a completion. `offset` is where its first token begins, in characters from the
/// start of the choice, and is moved to the end of its last.
pub(super) fn completion(tokens: &[Token], most: usize, offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    let mut texts = Vec::new();
    let mut tops = Vec::new();
    for token in tokens {
        let word = text(&token.drawn);
        offsets.push(*offset);
        *offset += word.chars().count();
        // The token that was drawn is told even where it is none of the likeliest.
        let mut top: Map<String, Value> = Map::new();
        for one in token.top.iter().take(most).chain([&token.drawn]) {
            top.entry(text(one)).or_insert_with(|| json!(logp(one)));
        }
        tops.push(Value::Object(top));
        texts.push(word);
    }
    let logps: Vec<f32> = tokens.iter().map(|token| logp(&token.drawn)).collect();
    let tops = if most == 0 { Value::Null } else { Value::Array(tops) };
    json!({
        "text_offset": offsets, "token_logprobs": logps, "tokens": texts, "top_logprobs": tops,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8], logp: f32) -> Alternative {
        Alternative { token_id: 7, bytes: bytes.to_vec(), logp }
    }

    #[test]
    fn shapes() {
        let half = Token { drawn: one(b"\xc3", f32::NEG_INFINITY), top: Vec::new() };
        let word = Token {
            drawn: one("né".as_bytes(), -0.5),
            top: vec![one(b"a", -0.25), one("né".as_bytes(), -0.5), one(b"c", -2.0)],
        };
        let value = chat(&[word.clone(), half.clone()], 2);
        assert_eq!(
            value,
            json!({"refusal": null, "content": [
                {"token": "né", "logprob": -0.5, "bytes": [110, 195, 169], "top_logprobs": [
                    {"token": "a", "logprob": -0.25, "bytes": [97]},
                    {"token": "né", "logprob": -0.5, "bytes": [110, 195, 169]}]},
                {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [195], "top_logprobs": []}]})
        );
        let mut offset = 10;
        let value = completion(&[word, half], 1, &mut offset);
        assert_eq!(
            value,
            json!({"text_offset": [10, 12], "token_logprobs": [-0.5, -9999.0],
                "tokens": ["né", "\u{fffd}"],
                "top_logprobs": [{"a": -0.25, "né": -0.5}, {"\u{fffd}": -9999.0}]})
        );
        assert_eq!(offset, 13);
    }
}
