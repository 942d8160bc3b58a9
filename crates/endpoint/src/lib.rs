//! Asks any OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, hosted ones, our own.
//!
//! This crate implements [`Generate`](savi_schema::Generate) and [`Score`](savi_schema::Score) over HTTP,
//! so that whoever outgrows one machine points a stage at a cluster and changes nothing else. It knows
//! no tensors, no engine and no training, and uses no async runtime: at most
//! [`concurrency`](EndpointOptions::concurrency) threads wait for answers. Answers stand in the order of
//! the requests; seeds follow from (seed, request, sample), so they do not depend on batches or order.
//!
//! Words: a *dialect* is what a server takes beyond what OpenAI's API has ([`Dialect`]); a *call* is one
//! HTTP request; an *answer* is the JSON that came back, and what the cache keeps.
//!
//! Nothing that a [`Sampling`](savi_schema::Sampling) asks for is dropped: what the dialect does not
//! have is an error that names it. What is sent even where it changes nothing: `temperature`, `top_p`,
//! and where the dialect has them `top_k`, `min_p` and the repetition penalty, because vLLM and SGLang
//! would take them from the model's `generation_config.json` and llama.cpp has defaults of its own.
//!
//! The facts about servers are those of their sources in late 2026 (vLLM's
//! `entrypoints/openai/*/protocol.py`, SGLang's `srt/entrypoints/openai/protocol.py`, llama.cpp's
//! `tools/server/README.md`), read and not measured:
//!
//! | | openai | vllm | sglang | llamacpp | savi |
//! | --- | --- | --- | --- | --- | --- |
//! | `top_k`, `min_p`, repetition penalty, `ignore_eos` | no | yes | yes | yes | yes |
//! | `typical_p` | no | no | no | yes | yes |
//! | `no_repeat_ngram_size` | no | no | no | no | yes |
//! | `banned_tokens` | no | no | no | yes | no |
//! | `min_tokens`, `stop_token_ids` | no | yes | yes | no | yes |
//! | constraints | JSON (chat) | all | JSON, regex, choice | JSON, choice | all |
//! | a last assistant turn is continued | no | yes | yes | no | yes |
//! | several choices by `n` | yes | yes | yes | no | yes |
//! | ids of the tokens | no | yes | yes | with log-probs | no |
//! | scoring | no | yes | words alone | no | no |
//!
//! No dialect takes `ngram_penalties` or `forced_tokens`.
//!
//! Where equal names differ in detail: vLLM cuts by `min_p` before `top_k` and `top_p`; SGLang's repetition
//! penalty counts the continuation alone; llama.cpp's presence and frequency penalties count the
//! prompt too. SGLang obeys seeds only with `--enable-deterministic-inference`. Its log-probs are
//! those at the temperature and after penalties, so [`Completion::logps`](savi_schema::Completion::logps)
//! stays empty unless the temperature is 0 or 1 and nothing is added to logits. vLLM's are the model's own
//! unless it was started with another `--logprobs-mode`.

mod answer;
mod cache;
mod call;
mod endpoint;
mod http;
mod media;
mod options;
mod pace;
mod sampling;
mod score;
mod server;
mod usage;

pub use endpoint::Endpoint;
pub use options::{
    Dialect, EndpointError, EndpointOptions, MediaTransport, PictureFormat, Prices, VideoForm,
};
pub use usage::Usage;
