//! Softmax attention over a [`Forest`](crate::Forest), for training and for decoding from a key-value cache.
//!
//! Queries are `[tokens, heads * head_dim]`, keys and values `[tokens, kv_heads * head_dim]`;
//! query head h reads key head `h / (heads / kv_heads)`.

mod backward;
mod cached;
mod chains;
mod dense;
mod kernel;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod together;
mod tree;

pub use cached::{KvNode, KvPrefix, cached};
pub use dense::dense;
pub use tree::tree;

/// Shape and scale of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f64,
    /// A token sees this many tokens at most, the last ones, itself among them. They are counted
    /// along its own branch, not along the pass.
    pub window: Option<usize>,
    /// Scores are softly kept below this (Gemma 2, section 2): `cap tanh(score / cap)`.
    pub softcap: Option<f64>,
}

impl Heads {
    /// The usual scale, one over the root of the head's width; no window, no cap.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f64).sqrt();
        Self { heads, kv_heads, head_dim, scale, window: None, softcap: None }
    }
}
