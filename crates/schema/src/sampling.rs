//! How continuations are drawn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How continuations are drawn, with the names of transformers and vLLM. Penalties and bans come first,
/// in the order of the fields here, then `temperature`, `top_k`, `top_p`, `min_p` and `typical_p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass; 1 keeps every token.
    pub top_p: f64,
    /// Keep the k likeliest tokens; 0 keeps every token.
    pub top_k: usize,
    /// Keep tokens of at least this share of the likeliest one's probability; 0 keeps every token.
    #[serde(skip_serializing_if = "is_default")]
    pub min_p: f64,
    /// Keep the tokens whose surprise is nearest to the expected one, up to this mass (Meister et al.
    /// 2022); 1 keeps every token.
    #[serde(skip_serializing_if = "is_one")]
    pub typical_p: f64,
    /// Logits of tokens in the prompt or the continuation are divided by this where positive, multiplied
    /// where negative (Keskar et al. 2019); 1 changes nothing.
    #[serde(skip_serializing_if = "is_one")]
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens in the continuation.
    #[serde(skip_serializing_if = "is_default")]
    pub presence_penalty: f64,
    /// Taken off the logits of tokens in the continuation, for every time that they are in it.
    #[serde(skip_serializing_if = "is_default")]
    pub frequency_penalty: f64,
    /// By n: taken off a token's logit for every time that the n-gram which it would complete is in the
    /// continuation (SELF-ALIGN).
    #[serde(skip_serializing_if = "is_default", with = "numbered")]
    pub ngram_penalties: BTreeMap<usize, f64>,
    /// No n-gram of this length comes twice in prompt and continuation; 0 allows all.
    #[serde(skip_serializing_if = "is_default")]
    pub no_repeat_ngram_size: usize,
    /// Added to logits.
    #[serde(skip_serializing_if = "is_default", with = "numbered")]
    pub logit_bias: BTreeMap<u32, f64>,
    /// Tokens that are never drawn.
    #[serde(skip_serializing_if = "is_default")]
    pub banned_tokens: Vec<u32>,
    /// What every continuation begins with.
    #[serde(skip_serializing_if = "is_default")]
    pub forced_tokens: Vec<u32>,
    /// Shortest continuation, in tokens: before it nothing ends one but a stop string.
    #[serde(skip_serializing_if = "is_default")]
    pub min_tokens: usize,
    /// Longest continuation, in tokens; [`Sampling::ALL_ROOM`] where a back end of [`crate::Serve`] is to
    /// take as many as fit.
    pub max_tokens: usize,
    /// Strings that end a continuation; they are not part of its text.
    pub stop: Vec<String>,
    /// Tokens that end a continuation beside the model's own.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_token_ids: Vec<u32>,
    /// The model's own ends do not end a continuation.
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_eos: bool,
    /// What the text has to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// For every token, so many of the likeliest ones are told with it.
    #[serde(skip_serializing_if = "is_default")]
    pub top_logprobs: usize,
}

/// A form that a text is held to while it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// One of these texts.
    Choice(Vec<String>),
    /// JSON that this schema describes.
    JsonSchema(serde_json::Value),
    /// Any JSON object.
    JsonObject,
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// A text of this context-free grammar, in the Lark format.
    Grammar(String),
}

/// Maps with numbers for keys, which TOML has as text.
mod numbered {
    use std::collections::BTreeMap;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer, K: Display>(
        map: &BTreeMap<K, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, K: FromStr<Err: Display> + Ord>(
        deserializer: D,
    ) -> Result<BTreeMap<K, f64>, D::Error> {
        let read = |(key, value): (String, f64)| match key.parse() {
            Ok(number) => Ok((number, value)),
            Err(error) => Err(D::Error::custom(format!("{key:?} is no number: {error}"))),
        };
        BTreeMap::<String, f64>::deserialize(deserializer)?.into_iter().map(read).collect()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[allow(clippy::float_cmp, reason = "the very value that changes nothing")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            ngram_penalties: BTreeMap::new(),
            no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            banned_tokens: Vec::new(),
            forced_tokens: Vec::new(),
            min_tokens: 0,
            max_tokens: 256,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            constraint: None,
            top_logprobs: 0,
        }
    }
}

impl Sampling {
    /// As `max_tokens`: as many as the model has room for after the prompt.
    pub const ALL_ROOM: usize = u32::MAX as usize;

    /// Refuses values that mean nothing, by name.
    pub fn check(&self) -> Result<(), String> {
        let bad =
            |name: &str, value: f64, want: &str| Err(format!("{name} = {value} is not {want}"));
        let share = |name: &str, value: f64| {
            if value > 0.0 && value <= 1.0 {
                Ok(())
            } else {
                bad(name, value, "above 0 and at most 1")
            }
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "0 or more");
        }
        share("top_p", self.top_p)?;
        share("typical_p", self.typical_p)?;
        if !(0.0..1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "from 0 to below 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", self.repetition_penalty, "above 0");
        }
        let finite = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        let ngrams = self.ngram_penalties.values().map(|&value| ("ngram_penalties", value));
        let biases = self.logit_bias.values().map(|&value| ("logit_bias", value));
        for (name, value) in finite.into_iter().chain(ngrams).chain(biases) {
            if !value.is_finite() {
                return bad(name, value, "a number");
            }
        }
        if self.ngram_penalties.contains_key(&0) {
            return Err("ngram_penalties has an n of 0".to_owned());
        }
        if matches!(&self.constraint, Some(Constraint::Choice(choices)) if choices.is_empty()) {
            return Err("constraint.choice is an empty list".to_owned());
        }
        if self.stop.iter().any(String::is_empty) {
            return Err("stop has an empty string".to_owned());
        }
        if self.min_tokens > self.max_tokens || self.forced_tokens.len() > self.max_tokens {
            return Err(format!(
                "min_tokens = {} or {} forced tokens are more than max_tokens = {}",
                self.min_tokens,
                self.forced_tokens.len(),
                self.max_tokens
            ));
        }
        Ok(())
    }
}
