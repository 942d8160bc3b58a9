//! Softmax attention over a [`Forest`](crate::Forest), for training and for decoding from a key-value cache.
//!
//! Queries are `[tokens, heads * head_dim]`, keys and values `[tokens, kv_heads * head_dim]`;
//! query head h reads key head `h / (heads / kv_heads)`.

mod cached;
mod dense;
mod kernel;
mod tree;

pub use cached::{KvNode, cached};
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
}

impl Heads {
    /// The usual scale, one over the root of the head's width.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f64).sqrt() }
    }
}
