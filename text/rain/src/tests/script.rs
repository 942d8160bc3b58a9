//! A scripted model: what it says is a hash of what it is asked. The hashes are those of
//! `tests/goldens/rain/make.py`.

use std::cell::{Cell, RefCell};

use savi_schema::{
    Alternative, Completion, Continuation, Embed, FinishReason, Generate, GenerateError, Message,
    RawPrompt, Request, RgbImage, Sampling, Score, ScoreRequest, TokenScore, Tokenize,
};
use serde::Deserialize;

pub(super) const END: u32 = 2;
const TURN: u32 = 5;
const VOCAB: u32 = 40;
const WIDTH: u64 = 6;

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// From 0 to below 1.
fn number(parts: &[u64]) -> f64 {
    let hash = parts.iter().fold(0, |hash, part| mix(hash ^ part));
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

fn text_hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    text.bytes().fold(0xCBF2_9CE4_8422_2325, step)
}

fn word(token: u32) -> String {
    match token {
        0..=2 => String::new(),
        3 => ".".to_owned(),
        4 => ",".to_owned(),
        TURN => " Human:".to_owned(),
        _ => {
            let letter = |of: &str, at: u32| of.as_bytes()[at as usize] as char;
            format!(" {}{}", letter("bcdfghklmn", token % 10), letter("aeiou", token / 10 % 5))
        }
    }
}

/// What a scripted model says, in a few numbers.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Table {
    pub(super) seed: u64,
    pub(super) form: String,
    pub(super) iterations: u64,
    pub(super) min_visits: u64,
    pub(super) threshold: f64,
    pub(super) sharp: f64,
    pub(super) end: f64,
    pub(super) turn: f64,
    pub(super) good: f64,
    pub(super) noise: f64,
}

impl Table {
    fn logits(&self, answer: &[u32]) -> Vec<f32> {
        let last = answer.last().copied().unwrap_or(0);
        let before = answer.iter().rev().nth(1).copied().unwrap_or(0);
        let logit = |token: u32| {
            let parts = [self.seed, 1, u64::from(before), u64::from(last), u64::from(token)];
            let own = self.sharp * number(&parts);
            match token {
                0 | 1 => f64::NEG_INFINITY,
                END if last == END => 0.0,
                _ if last == END => f64::NEG_INFINITY,
                END => own + self.end * (answer.len() as f64 - 12.0),
                TURN => own + self.turn,
                _ => own,
            }
        };
        (0..VOCAB).map(|token| logit(token) as f32).collect()
    }

    fn good(&self, text: &str, order: u64) -> bool {
        number(&[self.seed, 2, text_hash(text), order]) < self.good
    }

    fn vector(&self, text: &str) -> Vec<f32> {
        let signed = |parts: &[u64]| 2.0 * number(parts) - 1.0;
        (0..WIDTH)
            .map(|at| {
                let noise = signed(&[self.seed, 3, text_hash(text), at]);
                (signed(&[self.seed, 4, at]) + self.noise * noise) as f32
            })
            .collect()
    }

    fn draw(&self, kind: u64, count: u64, answer: &[u32]) -> f64 {
        let hash = answer.iter().fold(0, |hash, &token| mix(hash ^ (u64::from(token) + 1)));
        number(&[self.seed, 5, kind, count, hash])
    }
}

/// The model, its tokenizer, its judge and an encoder, which count how often they are asked.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) table: Table,
    /// Description of good replies, by which the order is seen.
    pub(super) good: String,
    /// Everything that was asked for, in order.
    pub(super) asked: RefCell<Vec<String>>,
    /// Interrupts when so much has been asked for.
    pub(super) patience: Cell<usize>,
}

impl Script {
    pub(super) fn new(table: Table) -> Self {
        let good = crate::JudgeConfig::default().good;
        let (asked, patience) = (RefCell::default(), Cell::new(usize::MAX));
        Self { table, good, asked, patience }
    }

    fn note(&self, what: String) -> Result<(), GenerateError> {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= self.patience.get() {
            return Err(GenerateError::Interrupted);
        }
        asked.push(what);
        Ok(())
    }

    /// One completion; `kind` and `count` say which random numbers it draws.
    fn complete(&self, before: &[u32], sampling: &Sampling, kind: u64, count: u64) -> Completion {
        let mut answer = before.to_vec();
        let (mut logps, mut sampling_logps, mut top_logps) = (Vec::new(), Vec::new(), Vec::new());
        let mut finish_reason = FinishReason::Length;
        while answer.len() - before.len() < sampling.max_tokens {
            let logits = self.table.logits(&answer);
            let mut order: Vec<u32> =
                (0..VOCAB).filter(|&t| logits[t as usize].is_finite()).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            let weight = |token: u32, temperature: f64| {
                (f64::from(logits[token as usize] - logits[order[0] as usize]) / temperature).exp()
            };
            let total: f64 = order.iter().map(|&token| weight(token, 1.0)).sum();
            let logp = |token: u32| (weight(token, 1.0) / total).ln() as f32;
            let (token, sampled) = if sampling.temperature == 0.0 {
                (order[0], 0.0)
            } else {
                let k = if sampling.top_k == 0 { order.len() } else { sampling.top_k };
                let mut kept: Vec<u32> = order.iter().copied().take(k).collect();
                kept.sort_unstable();
                let weights: Vec<f64> =
                    kept.iter().map(|&token| weight(token, sampling.temperature)).collect();
                let total: f64 = weights.iter().sum();
                let limit = self.table.draw(kind, count, &answer) * total;
                let mut sum = 0.0;
                let place = weights.iter().position(|weight| {
                    sum += weight;
                    sum > limit
                });
                let place = place.unwrap_or(kept.len() - 1);
                (kept[place], (weights[place] / total).ln() as f32)
            };
            let top = order.iter().take(sampling.top_logprobs);
            top_logps.push(
                top.map(|&token| Alternative {
                    token_id: token,
                    bytes: Vec::new(),
                    logp: logp(token),
                })
                .collect(),
            );
            answer.push(token);
            logps.push(logp(token));
            sampling_logps.push(sampled);
            let text: String = answer[before.len()..].iter().map(|&token| word(token)).collect();
            if token == END || sampling.stop.iter().any(|stop| text.contains(stop.as_str())) {
                finish_reason = FinishReason::Stop;
                break;
            }
        }
        let token_ids = answer.split_off(before.len());
        let text = token_ids.iter().map(|&token| word(token)).collect();
        Completion { text, token_ids, logps, sampling_logps, top_logps, finish_reason }
    }
}

impl Generate for Script {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let of = |request: &Request| {
            self.note(request.id.clone())?;
            let Some(RawPrompt::Tokens(tokens)) = &request.raw else { unreachable!("no tokens") };
            let name = request.id.rsplit('/').next().unwrap_or_default();
            let is_again = name.ends_with("-again");
            let number: Option<u64> = name.split('-').find_map(|part| part.parse().ok());
            let (kind, first) = match name {
                _ if request.id.contains("/simulation/") => (0, 1),
                _ if name.starts_with("sets") => (1, if is_again { 10 } else { 0 }),
                _ if name.starts_with("more") => {
                    (1 + number.unwrap_or(0), if is_again { 2 } else { 0 })
                }
                _ => (1000, 1),
            };
            let completion = |(index, sampling): (usize, &Sampling)| {
                let count = (index as u64 + first).saturating_sub(1);
                self.complete(&tokens[1..], sampling, kind, count)
            };
            Ok(request.samplings.iter().enumerate().map(completion).collect())
        };
        requests.iter().map(of).collect()
    }

    fn fingerprint(&self) -> String {
        format!("script:{:?}", self.table)
    }
}

impl Score for Script {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        let texts = requests.iter().flat_map(|request| &request.messages).map(Message::words);
        self.note(format!("scores {:?}", texts.collect::<Vec<_>>()))?;
        let of = |request: &ScoreRequest| {
            let words = request.messages.first().map(Message::words).unwrap_or_default();
            let answer = words.rsplit("Assistant: ").next().unwrap_or_default();
            let answer = answer.split("\n\nReply with").next().unwrap_or_default();
            let order = u64::from(!words.contains(&format!("A. {}", self.good)));
            let likely =
                if self.table.good(answer.trim(), order) == (order == 0) { "A" } else { "B" };
            let score = |continuation: &Continuation| match continuation {
                Continuation::Text(text) => {
                    let logp = if text == likely { -0.1 } else { -3.0 };
                    TokenScore { token_ids: vec![9], logps: vec![logp] }
                }
                Continuation::Tokens(tokens) => {
                    TokenScore { token_ids: tokens.clone(), logps: vec![-1.0; tokens.len()] }
                }
            };
            request.continuations.iter().map(score).collect()
        };
        Ok(requests.iter().map(of).collect())
    }
}

impl Tokenize for Script {
    fn prompt_tokens(
        &self,
        _: &[Message],
        _: Option<&RawPrompt>,
    ) -> Result<Vec<u32>, GenerateError> {
        Ok(vec![0])
    }

    fn words(&self, tokens: &[u32]) -> Result<String, GenerateError> {
        Ok(tokens.iter().map(|&token| word(token)).collect())
    }

    fn end_tokens(&self) -> Vec<u32> {
        vec![END]
    }
}

impl Embed for Script {
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, GenerateError> {
        Ok(texts.iter().map(|text| self.table.vector(text)).collect())
    }

    fn embed_images(&self, _: &[RgbImage]) -> Result<Vec<Vec<f32>>, GenerateError> {
        Err(GenerateError::Backend("there are no pictures".to_owned()))
    }
}
