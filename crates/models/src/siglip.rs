//! The SigLIP vision transformer: patches, learned positions, pre-norm blocks, full attention
//! within each frame.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::attention::{Heads, tree};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{gelu_tanh, layer_norm, linear};
use savi_nn::{Forest, Init, Params, Weight};

use crate::SiglipConfig;

#[derive(Debug)]
struct Norm {
    weight: Arc<Weight>,
    bias: Arc<Weight>,
    eps: f64,
}

impl Norm {
    fn new(params: &Params, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[width], Init::Constant(1.0))?,
            bias: params.get(&format!("{name}.bias"), &[width], Init::Constant(0.0))?,
            eps,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        layer_norm(x, &self.weight.tensor(mode.train), &self.bias.tensor(mode.train), self.eps)
    }
}

#[derive(Debug)]
struct Block {
    norm1: Norm,
    norm2: Norm,
    q: Arc<Linear>,
    k: Arc<Linear>,
    v: Arc<Linear>,
    out: Arc<Linear>,
    fc1: Arc<Linear>,
    fc2: Arc<Linear>,
}

/// The tower up to its last block.
#[derive(Debug)]
pub(crate) struct Siglip {
    heads: Heads,
    side: usize,
    patches: Arc<Weight>,
    patch_bias: Arc<Weight>,
    positions: Arc<Weight>,
    blocks: Vec<Block>,
    /// Part of the checkpoint, but not of the features that LLaVA-OneVision takes.
    _post: Norm,
}

impl Siglip {
    pub(crate) fn new(params: &Params, prefix: &str, config: &SiglipConfig) -> Result<Self> {
        let (width, patch, side) = (config.hidden_size, config.patch_size, config.side());
        let eps = config.layer_norm_eps;
        let at = |part: &str| format!("{prefix}{part}");
        let kernel = [width, 3, patch, patch];
        let scale = 1.0 / ((3 * patch * patch) as f64).sqrt();
        let patches = params.get_patch_matrix(
            &at("embeddings.patch_embedding.weight"),
            kernel,
            Init::Normal(scale),
        )?;
        let patch_bias =
            params.get(&at("embeddings.patch_embedding.bias"), &[width], Init::Constant(0.0))?;
        // As large as the patches themselves: with the usual 0.02 a fresh tower takes long to find
        // out where things are.
        let positions = params.get(
            &at("embeddings.position_embedding.weight"),
            &[side * side, width],
            Init::Normal(0.5),
        )?;
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let at = |part: &str| format!("{prefix}encoder.layers.{i}.{part}");
            blocks.push(Block {
                norm1: Norm::new(params, &at("layer_norm1"), width, eps)?,
                norm2: Norm::new(params, &at("layer_norm2"), width, eps)?,
                q: params.linear(&at("self_attn.q_proj"), width, width, true)?,
                k: params.linear(&at("self_attn.k_proj"), width, width, true)?,
                v: params.linear(&at("self_attn.v_proj"), width, width, true)?,
                out: params.linear(&at("self_attn.out_proj"), width, width, true)?,
                fc1: params.linear(&at("mlp.fc1"), width, config.intermediate_size, true)?,
                fc2: params.linear(&at("mlp.fc2"), config.intermediate_size, width, true)?,
            });
        }
        Ok(Self {
            heads: Heads::new(
                config.num_attention_heads,
                config.num_attention_heads,
                width / config.num_attention_heads,
            ),
            side,
            patches,
            patch_bias,
            positions,
            blocks,
            _post: Norm::new(params, &at("post_layernorm"), width, eps)?,
        })
    }

    /// Features `[frames * side * side, width]` of flattened patches `[frames * side * side, in]`.
    pub(crate) fn forward(&self, patches: &Tensor, mode: Mode) -> Result<Tensor> {
        let per_frame = self.side * self.side;
        let frames = patches.dim(0)? / per_frame;
        let x = linear(patches, &self.patches.tensor(mode.train))?
            .broadcast_add(&self.patch_bias.tensor(mode.train))?;
        let width = x.dim(1)?;
        let mut x = x
            .reshape((frames, per_frame, width))?
            .broadcast_add(&self.positions.tensor(mode.train))?
            .reshape((frames * per_frame, width))?;
        let forest = Arc::new(Forest::full(frames, per_frame));
        for block in &self.blocks {
            let y = block.norm1.forward(&x, mode)?;
            let (q, k, v) = (
                block.q.forward(&y, mode)?,
                block.k.forward(&y, mode)?,
                block.v.forward(&y, mode)?,
            );
            x = (x + block.out.forward(&tree(&q, &k, &v, self.heads, &forest)?, mode)?)?;
            let y = gelu_tanh(&block.fc1.forward(&block.norm2.forward(&x, mode)?, mode)?)?;
            x = (x + block.fc2.forward(&y, mode)?)?;
        }
        Ok(x)
    }
}
