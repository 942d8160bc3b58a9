//! Log-probs of given continuations.
//!
//! A continuation's tokens are those of its own words after those of the prompt, as in the engine: both are
//! tokenised by the server (`/tokenize`) and sent as tokens. vLLM then tells `prompt_logprobs` of
//! `/v1/completions`; SGLang, whose OpenAI interface does not score, the `input_token_logprobs` of its own
//! `/generate`. Counts and tokens of the answer are checked against what was sent.
//!
//! Where a conversation shows media (vLLM alone), two calls of chat tell the tokens of the prompt and of prompt
//! and continuation together. The second has to begin with the first; then the words are tokenised in one
//! piece, and the rest are the continuation's tokens.

use savi_schema::{Continuation, GenerateError, RawPrompt, Score, ScoreRequest, TokenScore};
use serde_json::{Map, Value, json};

use crate::answer::{logp, token_ids};
use crate::call::{Call, Prompt};
use crate::endpoint::Turn;
use crate::http::Wrong;
use crate::{Dialect, Endpoint};

/// Tokens of a prompt, told before anything is scored.
enum Begun {
    /// Of words: continuations follow as tokens.
    Tokens(Vec<u32>),
    /// Of a conversation that shows something: continuations follow as words.
    Shown { prompt: Prompt, tokens: Vec<u32> },
}

impl Score for Endpoint {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        let id = |number: usize| format!("score {number}");
        if !matches!(self.server.dialect, Dialect::Vllm | Dialect::Sglang) {
            let reason = format!(
                "an endpoint of the dialect {} tells no log-probs of given words (vllm and sglang do)",
                self.server.dialect.name()
            );
            return Err(self.refuse(&id(0), reason));
        }
        for (number, request) in requests.iter().enumerate() {
            self.check_turns(&id(number), &request.messages)?;
        }
        let begun =
            self.spread(requests.len(), &|at, turn| self.begin(&id(at), &requests[at], turn))?;
        let places: Vec<(usize, &Continuation)> = requests
            .iter()
            .enumerate()
            .flat_map(|(at, request)| request.continuations.iter().map(move |c| (at, c)))
            .collect();
        let mut scores = self
            .spread(places.len(), &|place, turn| {
                let (at, continuation) = places[place];
                let (id, empty) = match continuation {
                    Continuation::Text(words) => (id(at), words.is_empty()),
                    Continuation::Tokens(tokens) => (id(at), tokens.is_empty()),
                };
                if empty {
                    return Ok(TokenScore { token_ids: Vec::new(), logps: Vec::new() });
                }
                match (&begun[at], continuation) {
                    (Begun::Tokens(prompt), Continuation::Tokens(tokens)) => {
                        self.follow(&id, prompt, tokens.clone(), turn)
                    }
                    (Begun::Tokens(prompt), Continuation::Text(words)) => {
                        let tokens = self.words(&id, words, turn)?;
                        self.follow(&id, prompt, tokens, turn)
                    }
                    (Begun::Shown { prompt, tokens }, Continuation::Text(words)) => {
                        self.follow_shown(&id, prompt, tokens, words, turn)
                    }
                    (Begun::Shown { .. }, Continuation::Tokens(_)) => {
                        let reason = "after pictures and clips a server scores words, not tokens";
                        Err(self.refuse(&id, reason))
                    }
                }
            })?
            .into_iter();
        Ok(requests.iter().map(|r| scores.by_ref().take(r.continuations.len()).collect()).collect())
    }
}

impl Endpoint {
    fn begin(
        &self,
        id: &str,
        request: &ScoreRequest,
        turn: Turn<'_>,
    ) -> Result<Begun, GenerateError> {
        if let Some(RawPrompt::Tokens(tokens)) = &request.raw {
            return self.not_empty(id, tokens.clone()).map(Begun::Tokens);
        }
        let prompt = Prompt::new(id, &request.messages, request.raw.as_ref(), &self.encoder)?;
        if !prompt.shows() {
            let mut fields = prompt.fields(self.server.dialect);
            let vllm = self.server.dialect == Dialect::Vllm;
            if vllm && request.raw.is_none() && !prompt.goes_on() {
                fields.insert("add_generation_prompt".to_owned(), true.into());
            }
            fields.extend(self.template());
            let tokens = self.tokenize(id, Some(prompt), fields, turn)?;
            return self.not_empty(id, tokens).map(Begun::Tokens);
        }
        if self.server.dialect == Dialect::Sglang {
            let reason = "SGLang tells no log-probs of words after pictures and clips";
            return Err(self.refuse(id, reason));
        }
        let read = |answer: &Value| {
            answer.get("prompt_token_ids").map_or_else(|| Err(no_ids()), token_ids)
        };
        let tokens = self.answer(id, &self.shown(prompt.clone(), false), turn, &read)?;
        Ok(Begun::Shown { prompt, tokens: self.not_empty(id, tokens)? })
    }

    fn not_empty(&self, id: &str, tokens: Vec<u32>) -> Result<Vec<u32>, GenerateError> {
        match tokens.is_empty() {
            true => Err(self.refuse(id, "words are scored after at least one token")),
            false => Ok(tokens),
        }
    }

    /// What is said to the chat template everywhere.
    fn template(&self) -> Option<(String, Value)> {
        let key = "chat_template_kwargs";
        self.options.extra.get(key).map(|value| (key.to_owned(), value.clone()))
    }

    fn tokenize(
        &self,
        id: &str,
        prompt: Option<Prompt>,
        fields: Map<String, Value>,
        turn: Turn<'_>,
    ) -> Result<Vec<u32>, GenerateError> {
        let model = Some(self.server.model.clone());
        let call = Call { path: "/tokenize", model, prompt, fields };
        let read = |answer: &Value| {
            let tokens = answer.get("tokens").map_or_else(|| Err(no_ids()), token_ids)?;
            match answer.get("count").and_then(Value::as_u64) {
                Some(count) if count != tokens.len() as u64 => Err(Wrong::Form(format!(
                    "the answer counts {count} of {} tokens",
                    tokens.len()
                ))),
                _ => Ok(tokens),
            }
        };
        self.answer(id, &call, turn, &read)
    }

    /// Tokens of words alone.
    fn words(&self, id: &str, words: &str, turn: Turn<'_>) -> Result<Vec<u32>, GenerateError> {
        let raw = Prompt::Raw(RawPrompt::Text(words.to_owned()));
        let own = Map::from_iter([("add_special_tokens".to_owned(), false.into())]);
        self.tokenize(id, Some(raw), own, turn)
    }

    fn follow(
        &self,
        id: &str,
        prompt: &[u32],
        tokens: Vec<u32>,
        turn: Turn<'_>,
    ) -> Result<TokenScore, GenerateError> {
        let all: Vec<u32> = prompt.iter().chain(&tokens).copied().collect();
        let Value::Object(fields) = (match self.server.dialect {
            Dialect::Sglang => json!({
                "input_ids": all,
                "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
                "return_logprob": true,
                // The first entry is that of the prompt's last token, which has none.
                "logprob_start_len": prompt.len() - 1,
            }),
            _ => json!({"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}),
        }) else {
            return Err(GenerateError::Backend("a call is an object".to_owned()));
        };
        let sglang = self.server.dialect == Dialect::Sglang;
        let call = match sglang {
            true => Call { path: "/generate", model: None, prompt: None, fields },
            false => Call {
                path: "/v1/completions",
                model: Some(self.server.model.clone()),
                prompt: Some(Prompt::Raw(RawPrompt::Tokens(all.clone()))),
                fields,
            },
        };
        let logps = self.answer(id, &call, turn, &|answer: &Value| match sglang {
            true => sglang_logps(answer, &tokens),
            false => vllm_logps(answer.pointer("/choices/0/prompt_logprobs"), &all, tokens.len()),
        })?;
        Ok(TokenScore { token_ids: tokens, logps })
    }

    /// A call of chat that tells the prompt's tokens.
    fn shown(&self, prompt: Prompt, logprobs: bool) -> Call {
        let mut fields = prompt.fields(self.server.dialect);
        for (key, value) in [
            ("max_tokens", json!(1)),
            ("temperature", json!(0.0)),
            ("return_token_ids", json!(true)),
        ] {
            fields.insert(key.to_owned(), value);
        }
        if logprobs {
            fields.insert("prompt_logprobs".to_owned(), 0.into());
        }
        fields.extend(self.options.extra.clone());
        let model = Some(self.server.model.clone());
        Call { path: "/v1/chat/completions", model, prompt: Some(prompt), fields }
    }

    /// Scores words after a conversation that shows something.
    fn follow_shown(
        &self,
        id: &str,
        prompt: &Prompt,
        tokens: &[u32],
        words: &str,
        turn: Turn<'_>,
    ) -> Result<TokenScore, GenerateError> {
        let call = self.shown(prompt.and(words), true);
        self.answer(id, &call, turn, &|answer: &Value| {
            let all = answer.get("prompt_token_ids").map_or_else(|| Err(no_ids()), token_ids)?;
            let Some(own) = all.strip_prefix(tokens) else {
                return Err(Wrong::Refusal(
                    "the tokens of prompt and continuation do not begin with those of the prompt: the \
                     chat template or the tokeniser joins the two, and they cannot be scored apart"
                        .to_owned(),
                ));
            };
            let logps = vllm_logps(answer.get("prompt_logprobs"), &all, own.len())?;
            Ok(TokenScore { token_ids: own.to_vec(), logps })
        })
    }
}

fn no_ids() -> Wrong {
    Wrong::Refusal("the answer tells no tokens: this needs a newer server".to_owned())
}

/// The last `count` log-probs of vLLM's `prompt_logprobs`: for each token but the first a map from tokens to
/// log-probs with the token in it.
fn vllm_logps(logprobs: Option<&Value>, all: &[u32], count: usize) -> Result<Vec<f32>, Wrong> {
    let Some(entries) = logprobs.and_then(Value::as_array) else {
        return Err(Wrong::Refusal("the answer has no prompt_logprobs".to_owned()));
    };
    if entries.len() != all.len() {
        let (got, sent) = (entries.len(), all.len());
        return Err(Wrong::Refusal(format!("{got} log-probs were told of {sent} tokens")));
    }
    let own = entries.iter().zip(all).skip(all.len() - count);
    own.map(|(entry, token)| {
        logp(entry.get(token.to_string()).and_then(|entry| entry.get("logprob")))
            .ok_or_else(|| Wrong::Refusal(format!("no log-prob was told of token {token}")))
    })
    .collect()
}

/// The log-probs of SGLang's `input_token_logprobs`: `[log-prob, token, words]`, from the prompt's last
/// token on.
fn sglang_logps(answer: &Value, tokens: &[u32]) -> Result<Vec<f32>, Wrong> {
    let entries = answer.pointer("/meta_info/input_token_logprobs").and_then(Value::as_array);
    let Some(entries) = entries else {
        return Err(Wrong::Refusal("the answer has no input_token_logprobs".to_owned()));
    };
    if entries.len() != tokens.len() + 1 {
        let (got, sent) = (entries.len(), tokens.len() + 1);
        return Err(Wrong::Refusal(format!("{got} log-probs were told of {sent} tokens")));
    }
    let own = entries.iter().skip(1).zip(tokens);
    own.map(|(entry, &token)| {
        let same = entry.get(1).and_then(Value::as_u64) == Some(u64::from(token));
        logp(entry.get(0))
            .filter(|_| same)
            .ok_or_else(|| Wrong::Refusal(format!("no log-prob was told of token {token}")))
    })
    .collect()
}
