//! What was asked and what it cost.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde_json::Value;

use crate::Prices;

/// What an endpoint has been asked since it was set up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usage {
    /// Calls that the server answered.
    pub requests: u64,
    /// Answers that were in the cache.
    pub cached_answers: u64,
    /// Further tries.
    pub retries: u64,
    /// Tokens of prompts, by the server's count.
    pub prompt_tokens: u64,
    /// Those of them that the server found computed.
    pub cached_prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// The cost of all that, in the unit of the prices.
    pub cost: f64,
}

/// The counters behind it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    cached_answers: AtomicU64,
    retries: AtomicU64,
    prompt: AtomicU64,
    cached_prompt: AtomicU64,
    completion: AtomicU64,
}

impl Counters {
    /// The server answered.
    pub(crate) fn answered(&self, answer: &Value) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let usage = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let add = |to: &AtomicU64, pointer| to.fetch_add(usage(pointer), Ordering::Relaxed);
        // SGLang's own interface counts elsewhere.
        add(&self.prompt, "/usage/prompt_tokens");
        add(&self.prompt, "/meta_info/prompt_tokens");
        add(&self.cached_prompt, "/usage/prompt_tokens_details/cached_tokens");
        add(&self.cached_prompt, "/meta_info/cached_tokens");
        add(&self.completion, "/usage/completion_tokens");
        add(&self.completion, "/meta_info/completion_tokens");
    }

    /// The cache answered.
    pub(crate) fn cached(&self) {
        self.cached_answers.fetch_add(1, Ordering::Relaxed);
    }

    /// A call is tried again.
    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, at these prices.
    pub(crate) fn usage(&self, prices: &Prices) -> Usage {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (prompt, completion) = (read(&self.prompt), read(&self.completion));
        let cached = read(&self.cached_prompt).min(prompt);
        let million = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        Usage {
            requests: read(&self.requests),
            cached_answers: read(&self.cached_answers),
            retries: read(&self.retries),
            prompt_tokens: prompt,
            cached_prompt_tokens: cached,
            completion_tokens: completion,
            cost: million(prompt - cached, prices.prompt)
                + million(cached, prices.cached_prompt.unwrap_or(prices.prompt))
                + million(completion, prices.completion),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_follows_from_tokens_and_prices() {
        let counters = Counters::default();
        counters.answered(&serde_json::json!({"usage": {
            "prompt_tokens": 1_000_000, "completion_tokens": 500_000,
            "prompt_tokens_details": {"cached_tokens": 400_000}}}));
        counters.answered(&serde_json::json!({"meta_info": {"prompt_tokens": 1_000_000}}));
        let prices = Prices { prompt: 2.0, cached_prompt: Some(1.0), completion: 8.0 };
        let usage = counters.usage(&prices);
        assert_eq!((usage.requests, usage.prompt_tokens), (2, 2_000_000));
        // 1.6 * 2 + 0.4 * 1 + 0.5 * 8.
        assert!((usage.cost - 7.6).abs() < 1e-9, "{}", usage.cost);
        let plain = Prices { cached_prompt: None, ..prices };
        assert!((counters.usage(&plain).cost - 8.0).abs() < 1e-9);
    }
}
