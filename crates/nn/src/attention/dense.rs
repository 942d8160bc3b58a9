//! The same attention from candle's own operations, with an explicit mask: the path of other
//! devices, and the reference of the CPU kernels. Sequences that see all of themselves and nothing else
//! (frames and windows of towers) need no mask: those of one length go through as a batch.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Result, Tensor};

use super::Heads;
use crate::Forest;

/// Attention with an additive `[tokens, tokens]` mask.
pub fn dense(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, forest: &Forest) -> Result<Tensor> {
    if heads.window.is_none()
        && let Some(sequences) = forest.apart()
    {
        return unmasked(q, k, v, heads, &sequences);
    }
    let mask = forest.mask(q.device(), heads.window)?;
    masked(q, k, v, heads, &mask)
}

/// Attention within sequences that have nothing to do with each other.
fn unmasked(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    sequences: &[Range<usize>],
) -> Result<Tensor> {
    let mut lengths: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for range in sequences {
        lengths.entry(range.len()).or_default().extend(range.clone().map(|at| at as u32));
    }
    lengths.remove(&0);
    let order = lengths.values().flatten();
    let moved = order.clone().enumerate().any(|(at, &from)| at as u32 != from);
    let mut back = vec![0u32; order.clone().count()];
    for (at, &from) in order.clone().enumerate() {
        back[from as usize] = at as u32;
    }
    let index = |order: Vec<u32>| Tensor::new(order, q.device());
    let order = index(order.copied().collect())?;
    let placed = |x: &Tensor| if moved { x.index_select(&order, 0) } else { Ok(x.clone()) };
    let (q, k, v) = (placed(q)?, placed(k)?, placed(v)?);
    let (mut start, mut parts) = (0, Vec::with_capacity(lengths.len()));
    for (len, tokens) in lengths {
        let part = |x: &Tensor| x.narrow(0, start, tokens.len());
        parts.push(batch(&part(&q)?, &part(&k)?, &part(&v)?, heads, len)?);
        start += tokens.len();
    }
    let all = Tensor::cat(&parts, 0)?;
    if moved { all.index_select(&index(back)?, 0) } else { Ok(all) }
}

/// Attention within sequences of `len` tokens each.
fn batch(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, len: usize) -> Result<Tensor> {
    let Heads { heads, kv_heads, head_dim, scale, softcap, .. } = heads;
    let (tokens, group) = (q.dim(0)?, heads / kv_heads);
    let count = tokens / len;
    let split = |x: &Tensor, own: usize| {
        x.reshape((count, len, kv_heads, own, head_dim))?
            .broadcast_as((count, len, kv_heads, group, head_dim))?
            .reshape((count, len, heads, head_dim))?
            .transpose(1, 2)?
            .contiguous()
    };
    let scores = (split(q, group)? * scale)?.matmul(&split(k, 1)?.t()?)?;
    let weights = softmax(&scores, softcap, None)?;
    let mixed = weights.matmul(&split(v, 1)?)?;
    mixed.transpose(1, 2)?.reshape((tokens, heads * head_dim))
}

/// Attention of `[queries, ...]` over `[keys, ...]` with a `[queries, keys]` mask.
pub(super) fn masked(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: &Tensor,
) -> Result<Tensor> {
    let Heads { heads, kv_heads, head_dim, scale, softcap, .. } = heads;
    let (queries, keys) = (q.dim(0)?, k.dim(0)?);
    let group = heads / kv_heads;
    let split = |x: &Tensor, len: usize| {
        x.reshape((len, kv_heads, 1, head_dim))?
            .broadcast_as((len, kv_heads, group, head_dim))?
            .reshape((len, heads, head_dim))?
            .transpose(0, 1)?
            .contiguous()
    };
    let q4 = (q.reshape((queries, heads, head_dim))?.transpose(0, 1)?.contiguous()? * scale)?;
    let scores = q4.matmul(&split(k, keys)?.t()?)?;
    let weights = softmax(&scores, softcap, Some(mask))?;
    weights.matmul(&split(v, keys)?)?.transpose(0, 1)?.reshape((queries, heads * head_dim))
}

/// Softmax of scores, softly capped and masked where asked, in single precision at least.
fn softmax(scores: &Tensor, softcap: Option<f64>, mask: Option<&Tensor>) -> Result<Tensor> {
    let dtype = scores.dtype();
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut scores = scores.to_dtype(wide)?;
    if let Some(cap) = softcap {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    if let Some(mask) = mask {
        scores = scores.broadcast_add(&mask.to_dtype(wide)?)?;
    }
    candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(dtype)
}
