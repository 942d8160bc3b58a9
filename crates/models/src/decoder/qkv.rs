//! Queries, keys and values, however a family stores their projections.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::layers::{Linear, Mode};
use savi_nn::{Fresh, Params};

use super::{DecoderConfig, Projections};

#[derive(Debug)]
pub(super) enum Qkv {
    Separate { q: Arc<Linear>, k: Arc<Linear>, v: Arc<Linear> },
    Fused(Arc<Linear>),
    Grouped(Arc<Linear>),
}

impl Qkv {
    pub(super) fn new(
        params: &Params,
        config: &DecoderConfig,
        at: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let (width, dim, names) = (config.hidden_size, config.head_dim, config.names);
        let (q, kv) = (config.num_attention_heads * dim, config.num_key_value_heads * dim);
        let bias = config.bias.qkv;
        Ok(match config.projections {
            // Fresh keys look for what is like the query: words then find what is said of pictures
            // in the same words, which otherwise takes long to be learnt.
            Projections::Separate => Self::Separate {
                q: params.linear(&at(names.q), width, q, bias)?,
                k: params.linear_drawn(
                    &at(names.k),
                    Fresh { like: &at(if q == kv { names.q } else { names.k }), gain: 1.0 },
                    width,
                    kv,
                    bias,
                )?,
                v: params.linear(&at(names.v), width, kv, bias)?,
            },
            Projections::Fused => {
                Self::Fused(params.linear(&at(names.qkv), width, q + 2 * kv, bias)?)
            }
            Projections::Grouped => {
                Self::Grouped(params.linear(&at(names.qkv), width, q + 2 * kv, bias)?)
            }
        })
    }

    /// Queries `[tokens, heads * dim]`, keys and values `[tokens, kv_heads * dim]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        config: &DecoderConfig,
        mode: Mode,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let dim = config.head_dim;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        match self {
            Self::Separate { q, k, v } => {
                Ok((q.forward(x, mode)?, k.forward(x, mode)?, v.forward(x, mode)?))
            }
            Self::Fused(qkv) => {
                let y = qkv.forward(x, mode)?;
                let (q, kv) = (heads * dim, kv_heads * dim);
                Ok((y.narrow(1, 0, q)?, y.narrow(1, q, kv)?, y.narrow(1, q + kv, kv)?))
            }
            Self::Grouped(qkv) => {
                let (tokens, group) = (x.dim(0)?, heads / kv_heads);
                let y = qkv.forward(x, mode)?.reshape((tokens, kv_heads, group + 2, dim))?;
                let part = |start: usize, len: usize| {
                    y.narrow(2, start, len)?.contiguous()?.reshape((tokens, kv_heads * len * dim))
                };
                Ok((part(0, group)?, part(group, 1)?, part(group + 1, 1)?))
            }
        }
    }
}
