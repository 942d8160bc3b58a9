//! The Qwen2 decoder: pre-norm blocks with grouped-query attention, rotary positions and SwiGLU.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::attention::{Heads, KvNode, cached, tree};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{RopeTable, gathered_logps, linear_transposed, rms_norm, rope, swiglu};
use savi_nn::{Forest, Fresh, Init, Params, Weight};

use crate::Qwen2Config;

/// Standard deviation of fresh embeddings, and the size of what a fresh block adds to them: as
/// small, or a token's own word would drown in the first block's noise.
const FRESH_SIZE: f64 = 0.1;

#[derive(Debug)]
struct Block {
    input_norm: Arc<Weight>,
    post_norm: Arc<Weight>,
    q: Arc<Linear>,
    k: Arc<Linear>,
    v: Arc<Linear>,
    o: Arc<Linear>,
    gate: Arc<Linear>,
    up: Arc<Linear>,
    down: Arc<Linear>,
}

/// A decoder without its assembly.
#[derive(Debug)]
pub(crate) struct Qwen2 {
    config: Qwen2Config,
    heads: Heads,
    embedding: Arc<Weight>,
    head: Option<Arc<Weight>>,
    norm: Arc<Weight>,
    blocks: Vec<Block>,
}

impl Qwen2 {
    pub(crate) fn new(
        params: &Params,
        prefix: &str,
        config: &Qwen2Config,
        tied: bool,
    ) -> Result<Self> {
        let (width, dim) = (config.hidden_size, config.head_dim());
        let (q, kv) = (config.num_attention_heads * dim, config.num_key_value_heads * dim);
        let vocab = [config.vocab_size, width];
        let embedding = params.get(
            &format!("{prefix}model.embed_tokens.weight"),
            &vocab,
            Init::Normal(FRESH_SIZE),
        )?;
        let head = if tied {
            None
        } else {
            Some(params.get(&format!("{prefix}lm_head.weight"), &vocab, Init::Normal(0.02))?)
        };
        let norm = |name: String| params.get(&name, &[width], Init::Constant(1.0));
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let at = |part: &str| format!("{prefix}model.layers.{i}.{part}");
            let quiet = |name: String, inputs: usize| {
                let fresh = Fresh { like: &name, gain: FRESH_SIZE };
                params.linear_drawn(&name, fresh, inputs, width, false)
            };
            blocks.push(Block {
                input_norm: norm(at("input_layernorm.weight"))?,
                post_norm: norm(at("post_attention_layernorm.weight"))?,
                q: params.linear(&at("self_attn.q_proj"), width, q, true)?,
                // Fresh keys look for what is like the query: words then find what is said of pictures
                // in the same words, which otherwise takes long to be learnt.
                k: params.linear_drawn(
                    &at("self_attn.k_proj"),
                    Fresh {
                        like: &at(if q == kv { "self_attn.q_proj" } else { "self_attn.k_proj" }),
                        gain: 1.0,
                    },
                    width,
                    kv,
                    true,
                )?,
                v: params.linear(&at("self_attn.v_proj"), width, kv, true)?,
                o: quiet(at("self_attn.o_proj"), q)?,
                gate: params.linear(
                    &at("mlp.gate_proj"),
                    width,
                    config.intermediate_size,
                    false,
                )?,
                up: params.linear(&at("mlp.up_proj"), width, config.intermediate_size, false)?,
                down: quiet(at("mlp.down_proj"), config.intermediate_size)?,
            });
        }
        Ok(Self {
            heads: Heads::new(config.num_attention_heads, config.num_key_value_heads, dim),
            config: config.clone(),
            embedding,
            head,
            norm: norm(format!("{prefix}model.norm.weight"))?,
            blocks,
        })
    }

    pub(crate) fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Embeddings `[ids, width]`.
    pub(crate) fn embed(&self, ids: &[u32], mode: Mode) -> Result<Tensor> {
        let table = self.embedding.tensor(mode.train);
        let index = Tensor::from_slice(ids, ids.len(), table.device())?;
        table.index_select(&index, 0)
    }

    /// Last hidden states `[tokens, width]` after the final norm. With `rows`, attends over and
    /// fills their cache; the caller commits.
    pub(crate) fn forward(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        rows: Option<&mut [&mut KvNode]>,
    ) -> Result<Tensor> {
        let x = self.run(embeds, forest, mode, rows, |_| ())?;
        rms_norm(&x, &self.norm.tensor(mode.train), self.config.rms_norm_eps)
    }

    /// What every block gives, `[tokens, width]` each, before the final norm.
    pub(crate) fn blocks(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
    ) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(self.blocks.len());
        self.run(embeds, forest, mode, None, |x| all.push(x.clone()))?;
        Ok(all)
    }

    fn run(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        mut rows: Option<&mut [&mut KvNode]>,
        mut after: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        let table =
            RopeTable::new(forest.positions(), self.config.head_dim(), self.config.rope_theta());
        let mut x = embeds.clone();
        for (layer, block) in self.blocks.iter().enumerate() {
            let y = rms_norm(&x, &block.input_norm.tensor(mode.train), eps)?;
            let q = rope(&block.q.forward(&y, mode)?, &table)?;
            let k = rope(&block.k.forward(&y, mode)?, &table)?;
            let v = block.v.forward(&y, mode)?;
            let y = match rows.as_deref_mut() {
                None => tree(&q, &k, &v, self.heads, forest)?,
                Some(rows) => cached(&q, &k, &v, self.heads, forest, layer, rows)?,
            };
            x = (x + block.o.forward(&y, mode)?)?;
            let y = rms_norm(&x, &block.post_norm.tensor(mode.train), eps)?;
            let y = swiglu(&block.gate.forward(&y, mode)?, &block.up.forward(&y, mode)?)?;
            x = (x + block.down.forward(&y, mode)?)?;
            after(&x);
        }
        Ok(x)
    }

    fn head(&self, mode: Mode) -> Tensor {
        self.head.as_ref().unwrap_or(&self.embedding).tensor(mode.train)
    }

    /// Logits `[rows, vocab]`.
    pub(crate) fn logits(&self, hidden: &Tensor, mode: Mode) -> Result<Tensor> {
        linear_transposed(hidden, &self.head(mode))
    }

    /// Log-probability of `targets[i]` after row i, `[rows]`.
    pub(crate) fn logps(&self, hidden: &Tensor, targets: &[u32], mode: Mode) -> Result<Tensor> {
        gathered_logps(hidden, &self.head(mode), targets)
    }
}
