//! Blocks of vision transformers (Dosovitskiy et al. 2021): norms before attention and MLP, full
//! attention within each picture, and where a family has them a scale of what a block adds (LayerScale,
//! Touvron et al. 2021) and a gated MLP.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::attention::{Heads, tree};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{layer_norm, swiglu};
use savi_nn::{Forest, Init, Params, Weight};

use crate::decoder::Activation;

/// LayerNorm with weight and bias.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Arc<Weight>,
    bias: Arc<Weight>,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(params: &Params, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[width], Init::Constant(1.0))?,
            bias: params.get(&format!("{name}.bias"), &[width], Init::Constant(0.0))?,
            eps,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        layer_norm(x, &self.weight.value(mode)?, &self.bias.value(mode)?, self.eps)
    }
}

/// What a block's parts are called in checkpoints.
#[derive(Debug)]
pub(crate) struct BlockNames {
    pub(crate) norm1: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) out: &'static str,
    pub(crate) fc1: &'static str,
    pub(crate) fc2: &'static str,
    /// The scales of attention and MLP, where blocks have them.
    pub(crate) scales: Option<[&'static str; 2]>,
}

/// The shape of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockShape {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) mlp: Mlp,
    pub(crate) qkv_bias: bool,
    pub(crate) eps: f64,
    pub(crate) names: &'static BlockNames,
}

/// The MLP of a block, and its width within.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mlp {
    Plain {
        width: usize,
        activation: Activation,
    },
    /// SwiGLU, whose gate and values come from one matrix, the gate first.
    Gated {
        width: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Block {
    heads: Heads,
    norm1: Norm,
    norm2: Norm,
    q: Arc<Linear>,
    k: Arc<Linear>,
    v: Arc<Linear>,
    out: Arc<Linear>,
    mlp: Mlp,
    fc1: Arc<Linear>,
    fc2: Arc<Linear>,
    scales: Option<[Arc<Weight>; 2]>,
}

impl Block {
    /// The block whose names begin with `prefix`; the width is a multiple of the heads.
    pub(crate) fn new(params: &Params, prefix: &str, shape: &BlockShape) -> Result<Self> {
        let &BlockShape { width, heads, mlp, qkv_bias, eps, names } = shape;
        let at = |part: &str| format!("{prefix}{part}");
        let (inner, outer) = match mlp {
            Mlp::Plain { width, .. } => (width, width),
            Mlp::Gated { width } => (2 * width, width),
        };
        let scale = |name| params.get(&at(name), &[width], Init::Constant(1.0));
        Ok(Self {
            heads: Heads::new(heads, heads, width / heads),
            norm1: Norm::new(params, &at(names.norm1), width, eps)?,
            norm2: Norm::new(params, &at(names.norm2), width, eps)?,
            q: params.linear(&at(names.q), width, width, qkv_bias)?,
            k: params.linear(&at(names.k), width, width, qkv_bias)?,
            v: params.linear(&at(names.v), width, width, qkv_bias)?,
            out: params.linear(&at(names.out), width, width, true)?,
            mlp,
            fc1: params.linear(&at(names.fc1), width, inner, true)?,
            fc2: params.linear(&at(names.fc2), outer, width, true)?,
            scales: match names.scales {
                Some([first, second]) => Some([scale(first)?, scale(second)?]),
                None => None,
            },
        })
    }

    /// The block on `[tokens, width]`.
    pub(crate) fn forward(&self, x: &Tensor, forest: &Arc<Forest>, mode: Mode) -> Result<Tensor> {
        let y = self.norm1.forward(x, mode)?;
        let (q, k, v) =
            (self.q.forward(&y, mode)?, self.k.forward(&y, mode)?, self.v.forward(&y, mode)?);
        let y = self.out.forward(&tree(&q, &k, &v, self.heads, forest)?, mode)?;
        let x = (x + self.scaled(y, 0, mode)?)?;
        let y = self.fc1.forward(&self.norm2.forward(&x, mode)?, mode)?;
        let y = match self.mlp {
            Mlp::Plain { activation, .. } => activation.forward(&y)?,
            Mlp::Gated { width } => swiglu(&y.narrow(1, 0, width)?, &y.narrow(1, width, width)?)?,
        };
        let y = self.fc2.forward(&y, mode)?;
        x + self.scaled(y, 1, mode)?
    }

    fn scaled(&self, y: Tensor, part: usize, mode: Mode) -> Result<Tensor> {
        match &self.scales {
            Some(scales) => y.broadcast_mul(&scales[part].value(mode)?),
            None => Ok(y),
        }
    }
}

/// A convolution whose kernel is a patch, on flattened patches `[patches, 3 * patch * patch]`.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    weight: Arc<Weight>,
    bias: Option<Arc<Weight>>,
}

impl PatchEmbedding {
    pub(crate) fn new(
        params: &Params,
        name: &str,
        width: usize,
        patch: usize,
        bias: bool,
    ) -> Result<Self> {
        let scale = 1.0 / ((3 * patch * patch) as f64).sqrt();
        let kernel = [width, 3, patch, patch];
        let weight =
            params.get_patch_matrix(&format!("{name}.weight"), kernel, Init::Normal(scale))?;
        let bias = if bias {
            Some(params.get(&format!("{name}.bias"), &[width], Init::Constant(0.0))?)
        } else {
            None
        };
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, patches: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = savi_nn::ops::linear(patches, &self.weight.value(mode)?)?;
        match &self.bias {
            Some(bias) => x.broadcast_add(&bias.value(mode)?),
            None => Ok(x),
        }
    }
}
