//! InternViT, the tower of the InternVL models (Chen et al. 2023, "InternVL", section 3.2; as of
//! InternVL 2.5 in a size of 300M and one of 6B): patches and a class token with learned positions,
//! pre-norm blocks whose two branches are scaled channel by channel, full attention within each tile.

mod config;

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::attention::{Heads, tree};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::rms_norm;
use savi_nn::{Forest, Init, Params, Weight};

pub(crate) use config::{InternVitConfig, Layout};

use crate::vit::{Norm as LayerNorm, PatchEmbedding};

/// Names of weights; those of a layer after its number.
struct Names {
    class: &'static str,
    positions: &'static str,
    patches: &'static str,
    layers: &'static str,
    out: &'static str,
    attention: &'static str,
    norms: [&'static str; 2],
    scales: [&'static str; 2],
}

impl Layout {
    fn names(self) -> Names {
        match self {
            Self::Transformers => Names {
                class: "embeddings.cls_token",
                positions: "embeddings.position_embeddings",
                patches: "embeddings.patch_embeddings.projection",
                layers: "encoder.layer",
                out: "attention.projection_layer",
                attention: "attention",
                norms: ["layernorm_before", "layernorm_after"],
                scales: ["lambda_1", "lambda_2"],
            },
            Self::Original => Names {
                class: "embeddings.class_embedding",
                positions: "embeddings.position_embedding",
                patches: "embeddings.patch_embedding",
                layers: "encoder.layers",
                out: "attn.proj",
                attention: "attn",
                norms: ["norm1", "norm2"],
                scales: ["ls1", "ls2"],
            },
        }
    }
}

/// A norm of a block.
#[derive(Debug)]
enum Norm {
    Layer(LayerNorm),
    Rms { weight: Arc<Weight>, eps: f64 },
}

impl Norm {
    fn layer(params: &Params, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self::Layer(LayerNorm::new(params, name, width, eps)?))
    }

    fn rms(params: &Params, name: &str, width: usize, eps: f64) -> Result<Self> {
        let weight = params.get(&format!("{name}.weight"), &[width], Init::Constant(1.0))?;
        Ok(Self::Rms { weight, eps })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x, mode),
            Self::Rms { weight, eps } => rms_norm(x, &weight.value(mode)?, *eps),
        }
    }
}

#[derive(Debug)]
enum Qkv {
    Separate([Arc<Linear>; 3]),
    Fused(Arc<Linear>),
}

impl Qkv {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<[Tensor; 3]> {
        match self {
            Self::Separate([q, k, v]) => {
                Ok([q.forward(x, mode)?, k.forward(x, mode)?, v.forward(x, mode)?])
            }
            Self::Fused(qkv) => {
                let y = qkv.forward(x, mode)?;
                let width = y.dim(1)? / 3;
                let part = |i: usize| y.narrow(1, i * width, width)?.contiguous();
                Ok([part(0)?, part(1)?, part(2)?])
            }
        }
    }
}

#[derive(Debug)]
struct Block {
    norms: [Norm; 2],
    qkv: Qkv,
    qk_norms: Option<[Norm; 2]>,
    out: Arc<Linear>,
    fc1: Arc<Linear>,
    fc2: Arc<Linear>,
    scales: [Arc<Weight>; 2],
}

/// The tower.
#[derive(Debug)]
pub(crate) struct InternVit {
    config: InternVitConfig,
    class: Arc<Weight>,
    patches: PatchEmbedding,
    positions: Option<Arc<Weight>>,
    blocks: Vec<Block>,
    last_norm: Option<LayerNorm>,
}

impl InternVit {
    pub(crate) fn new(params: &Params, prefix: &str, config: &InternVitConfig) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let names = config.layout.names();
        let at = |part: &str| format!("{prefix}{part}");
        let class = params.get(&at(names.class), &[1, 1, width], Init::Normal(0.5))?;
        let patches = PatchEmbedding::new(params, &at(names.patches), width, patch, true)?;
        let positions = if config.positions {
            let shape = [1, 1 + config.side().pow(2), width];
            Some(params.get(&at(names.positions), &shape, Init::Normal(0.5))?)
        } else {
            None
        };
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let at = |part: &str| format!("{prefix}{}.{i}.{part}", names.layers);
            blocks.push(Block::new(params, config, &names, at)?);
        }
        let last_norm = if config.last_norm {
            Some(LayerNorm::new(params, &at("layernorm"), width, config.norm_eps)?)
        } else {
            None
        };
        let config = config.clone();
        Ok(Self { config, class, patches, positions, blocks, last_norm })
    }

    /// What the first `blocks` blocks make of flattened patches `[tiles * side * side, in]`:
    /// `[tiles, side * side, width]`, without the class token. The norm at the end belongs to the whole
    /// tower.
    pub(crate) fn forward(
        &self,
        patches: &Tensor,
        blocks: usize,
        last_norm: bool,
        mode: Mode,
    ) -> Result<Tensor> {
        let (width, count) = (self.config.hidden_size, self.config.side().pow(2));
        let tiles = patches.dim(0)? / count;
        let x = self.patches.forward(patches, mode)?.reshape((tiles, count, width))?;
        let class = self.class.value(mode)?.broadcast_as((tiles, 1, width))?;
        let mut x = Tensor::cat(&[&class.contiguous()?, &x], 1)?;
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(&positions.value(mode)?)?;
        }
        let mut x = x.reshape((tiles * (1 + count), width))?;
        let forest = Arc::new(Forest::full(tiles, 1 + count));
        for block in self.blocks.iter().take(blocks) {
            x = block.forward(&x, &self.config, &forest, mode)?;
        }
        if let Some(norm) = self.last_norm.as_ref().filter(|_| last_norm) {
            x = norm.forward(&x, mode)?;
        }
        x.reshape((tiles, 1 + count, width))?.narrow(1, 1, count)
    }
}

impl Block {
    fn new(
        params: &Params,
        config: &InternVitConfig,
        names: &Names,
        at: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let (width, inner, bias) = (config.hidden_size, config.intermediate_size, config.qkv_bias);
        let of_attention = |part: &str| at(&format!("{}.{part}", names.attention));
        let norm = |name: String| {
            if config.rms_norm {
                Norm::rms(params, &name, width, config.norm_eps)
            } else {
                Norm::layer(params, &name, width, config.norm_eps)
            }
        };
        let scale =
            |name: &str| params.get(&at(name), &[width], Init::Constant(config.layer_scale));
        Ok(Self {
            norms: [norm(at(names.norms[0]))?, norm(at(names.norms[1]))?],
            qkv: match config.layout {
                Layout::Transformers => Qkv::Separate([
                    params.linear(&of_attention("q_proj"), width, width, bias)?,
                    params.linear(&of_attention("k_proj"), width, width, bias)?,
                    params.linear(&of_attention("v_proj"), width, width, bias)?,
                ]),
                Layout::Original => {
                    Qkv::Fused(params.linear(&of_attention("qkv"), width, 3 * width, bias)?)
                }
            },
            qk_norms: match config.qk_norm {
                Some(eps) => Some([
                    Norm::rms(params, &of_attention("q_norm"), width, eps)?,
                    Norm::rms(params, &of_attention("k_norm"), width, eps)?,
                ]),
                None => None,
            },
            out: params.linear(&at(names.out), width, width, true)?,
            fc1: params.linear(&at("mlp.fc1"), width, inner, true)?,
            fc2: params.linear(&at("mlp.fc2"), inner, width, true)?,
            scales: [scale(names.scales[0])?, scale(names.scales[1])?],
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        config: &InternVitConfig,
        forest: &Arc<Forest>,
        mode: Mode,
    ) -> Result<Tensor> {
        let heads = config.num_attention_heads;
        let heads = Heads::new(heads, heads, config.hidden_size / heads);
        let [scale1, scale2] = &self.scales;
        let [mut q, mut k, v] = self.qkv.forward(&self.norms[0].forward(x, mode)?, mode)?;
        if let Some([of_q, of_k]) = &self.qk_norms {
            q = of_q.forward(&q, mode)?;
            k = of_k.forward(&k, mode)?;
        }
        let y = self.out.forward(&tree(&q, &k, &v, heads, forest)?, mode)?;
        let x = (x + y.broadcast_mul(&scale1.value(mode)?)?)?;
        let y = self.fc1.forward(&self.norms[1].forward(&x, mode)?, mode)?;
        let y = self.fc2.forward(&config.activation.forward(&y)?, mode)?;
        x + y.broadcast_mul(&scale2.value(mode)?)?
    }
}
