//! The same attention from candle's own operations, with an explicit mask: the path of other
//! devices, and the reference of the CPU kernels.

use candle_core::{D, DType, Result, Tensor};

use super::Heads;
use crate::Forest;

/// Attention with an additive `[tokens, tokens]` mask.
pub fn dense(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, forest: &Forest) -> Result<Tensor> {
    let mask = forest.mask(q.device(), heads.window)?;
    masked(q, k, v, heads, &mask)
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
    let dtype = scores.dtype();
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut scores = scores.to_dtype(wide)?;
    if let Some(cap) = softcap {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let scores = scores.broadcast_add(&mask.to_dtype(wide)?)?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(dtype)?;
    weights.matmul(&split(v, keys)?)?.transpose(0, 1)?.reshape((queries, heads * head_dim))
}
