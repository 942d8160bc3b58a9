//! The vision towers of SigLIP (Zhai et al. 2023) and CLIP (Radford et al. 2021): patches, learned
//! positions, blocks. CLIP has a class token before the patches and a norm before the blocks, SigLIP a bias
//! at the patches.

use std::sync::Arc;

use candle_core::{Result as TensorResult, Tensor};
use savi_nn::layers::Mode;
use savi_nn::{Forest, Init, Params, Weight};

use crate::ModelError;
use crate::decoder::Activation;
use crate::families::{MOST_LAYERS, activation};
use crate::reader::Reader;
use crate::vit::{Block, BlockNames, BlockShape, Mlp, Norm, PatchEmbedding};

/// The shape of a tower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TowerConfig {
    /// Width.
    pub(crate) hidden_size: usize,
    /// Width of the MLP.
    pub(crate) intermediate_size: usize,
    /// Layers.
    pub(crate) num_hidden_layers: usize,
    /// Heads.
    pub(crate) num_attention_heads: usize,
    /// Side of the square input, in pixels.
    pub(crate) image_size: usize,
    /// Side of a patch, in pixels.
    pub(crate) patch_size: usize,
    /// Added to the variance in norms.
    pub(crate) layer_norm_eps: f64,
    /// Of the MLP.
    pub(crate) activation: Activation,
    /// Whether it is a CLIP, with a class token.
    pub(crate) class_token: bool,
}

/// The `model_type` of SigLIP's tower.
pub(crate) const SIGLIP: &str = "siglip_vision_model";
/// The `model_type` of CLIP's tower.
pub(crate) const CLIP: &str = "clip_vision_model";
/// The `model_type` of the SigLIP of Idefics3 and SmolVLM.
pub(crate) const IDEFICS3: &str = "idefics3_vision";

impl TowerConfig {
    /// Reads a config; `usual` is the `model_type` of one that names none.
    pub(crate) fn read(config: Reader<'_>, usual: &str) -> Result<Self, ModelError> {
        let kind: Option<String> = config.get("model_type")?;
        let named = kind.as_deref().unwrap_or(usual);
        let (class_token, [width, heads, patch], eps, act) = match named {
            IDEFICS3 | "idefics3" | "smolvlm" | "smolvlm_vision" if usual == IDEFICS3 => {
                // What pictures are scaled to stands in the processor's files.
                config.ignore(&[
                    "max_image_size",
                    "size",
                    "tie_word_embeddings",
                    "use_base_siglip",
                ]);
                (false, [1152, 16, 32], 1e-6, "gelu_pytorch_tanh")
            }
            SIGLIP if usual != IDEFICS3 => (false, [768, 12, 16], 1e-6, "gelu_pytorch_tanh"),
            CLIP if usual != IDEFICS3 => (true, [768, 12, 32], 1e-5, "quick_gelu"),
            other => {
                let known = match usual {
                    IDEFICS3 => "idefics3, idefics3_vision, smolvlm, smolvlm_vision".to_owned(),
                    _ => format!("{SIGLIP}, {CLIP}"),
                };
                return Err(config.unsupported("model_type", other, known));
            }
        };
        config.only("attention_dropout", 0.0)?;
        config.only("is_encoder_decoder", false)?;
        config.only("num_channels", 3)?;
        // The pooling head and the projection to the space of texts are no part of what a language model
        // is given; published files have the size of a vocabulary among the tower's keys.
        config.ignore(if class_token {
            &["projection_dim", "vocab_size"]
        } else {
            &["vision_use_head"]
        });
        let tower = Self {
            hidden_size: config.size("hidden_size", Some(width))?,
            intermediate_size: config.size("intermediate_size", Some(3072))?,
            num_hidden_layers: config.size("num_hidden_layers", Some(12))?,
            num_attention_heads: config.size("num_attention_heads", Some(heads))?,
            image_size: config.size("image_size", Some(224))?,
            patch_size: config.size("patch_size", Some(patch))?,
            layer_norm_eps: config.positive("layer_norm_eps")?.unwrap_or(eps),
            activation: activation(&config, "hidden_act", act)?,
            class_token,
        };
        if !tower.hidden_size.is_multiple_of(tower.num_attention_heads) {
            let supported = format!("divisors of {}", tower.hidden_size);
            let heads = tower.num_attention_heads;
            return Err(config.unsupported("num_attention_heads", heads, supported));
        }
        if tower.side() == 0 {
            let supported = format!("at most {}", tower.image_size);
            return Err(config.unsupported("patch_size", tower.patch_size, supported));
        }
        if tower.num_hidden_layers > MOST_LAYERS {
            let supported = format!("at most {MOST_LAYERS}");
            let layers = tower.num_hidden_layers;
            return Err(config.unsupported("num_hidden_layers", layers, supported));
        }
        config.finish()?;
        Ok(tower)
    }

    /// Patches along one side; what does not fill a patch is left out.
    pub(crate) fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

const NAMES: BlockNames = BlockNames {
    norm1: "layer_norm1",
    norm2: "layer_norm2",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    out: "self_attn.out_proj",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    scales: None,
};

/// A tower up to its last block.
#[derive(Debug)]
pub(crate) struct Tower {
    side: usize,
    patches: PatchEmbedding,
    class: Option<Arc<Weight>>,
    positions: Arc<Weight>,
    before: Option<Norm>,
    blocks: Vec<Block>,
    /// In the LLaVAs part of the checkpoint, but not of the features.
    post: Norm,
}

impl Tower {
    pub(crate) fn new(params: &Params, prefix: &str, config: &TowerConfig) -> TensorResult<Self> {
        let (width, side, eps) = (config.hidden_size, config.side(), config.layer_norm_eps);
        let at = |part: &str| format!("{prefix}{part}");
        let class = config.class_token;
        let patches = PatchEmbedding::new(
            params,
            &at("embeddings.patch_embedding"),
            width,
            config.patch_size,
            !class,
        )?;
        // As large as the patches themselves: with the usual 0.02 a fresh tower takes long to find
        // out where things are.
        let positions = params.get(
            &at("embeddings.position_embedding.weight"),
            &[side * side + usize::from(class), width],
            Init::Normal(0.5),
        )?;
        let (mut token, mut before) = (None, None);
        if class {
            token =
                Some(params.get(&at("embeddings.class_embedding"), &[width], Init::Normal(0.5))?);
            before = Some(Norm::new(params, &at("pre_layrnorm"), width, eps)?);
        }
        let shape = BlockShape {
            width,
            heads: config.num_attention_heads,
            mlp: Mlp::Plain { width: config.intermediate_size, activation: config.activation },
            qkv_bias: true,
            eps,
            names: &NAMES,
        };
        let blocks = (0..config.num_hidden_layers)
            .map(|i| Block::new(params, &at(&format!("encoder.layers.{i}.")), &shape))
            .collect::<TensorResult<_>>()?;
        Ok(Self {
            side,
            patches,
            class: token,
            positions,
            before,
            blocks,
            post: Norm::new(params, &at("post_layernorm"), width, eps)?,
        })
    }

    /// What comes after so many blocks, side by side: `[pictures * side * side, width * after.len()]` of
    /// flattened patches `[pictures * side * side, in]`. The class token is left out at the end.
    pub(crate) fn forward(
        &self,
        patches: &Tensor,
        after: &[usize],
        mode: Mode,
    ) -> TensorResult<Tensor> {
        let per_picture = self.side * self.side;
        let pictures = patches.dim(0)? / per_picture;
        let x = self.patches.forward(patches, mode)?;
        let width = x.dim(1)?;
        let mut x = x.reshape((pictures, per_picture, width))?;
        let mut tokens = per_picture;
        if let Some(class) = &self.class {
            let class = class.value(mode)?.reshape((1, 1, width))?;
            x = Tensor::cat(&[&class.broadcast_as((pictures, 1, width))?.contiguous()?, &x], 1)?;
            tokens += 1;
        }
        x = x.broadcast_add(&self.positions.value(mode)?)?.reshape((pictures * tokens, width))?;
        if let Some(norm) = &self.before {
            x = norm.forward(&x, mode)?;
        }
        let forest = Arc::new(Forest::full(pictures, tokens));
        let last = after.iter().copied().max().unwrap_or(0);
        let mut kept: Vec<Option<Tensor>> = vec![None; after.len()];
        for count in 0..=last {
            if count > 0
                && let Some(block) = self.blocks.get(count - 1)
            {
                x = block.forward(&x, &forest, mode)?;
            }
            for (state, _) in kept.iter_mut().zip(after).filter(|(_, wanted)| **wanted == count) {
                *state = Some(x.clone());
            }
        }
        let mut kept: Vec<Tensor> = kept.into_iter().flatten().collect();
        let x = if kept.len() == 1 { kept.remove(0) } else { Tensor::cat(&kept, 1)? };
        if tokens == per_picture {
            return Ok(x);
        }
        let width = x.dim(1)?;
        x.reshape((pictures, tokens, width))?
            .narrow(1, 1, per_picture)?
            .reshape((pictures * per_picture, width))
    }

    /// What comes after the last block and the norm behind it, `[pictures * rows * columns, width]`, of
    /// pictures of `rows` by `columns` patches through a tower without a class token. A patch has the
    /// position that lies at the same share of the tower's own height and width (fractional coordinates of
    /// NaViT, Dehghani et al. 2023). The reference divides in single precision, by which a patch of some sizes
    /// comes to have its neighbour's position; of published sizes none.
    pub(crate) fn forward_scaled(
        &self,
        patches: &Tensor,
        (rows, columns): (usize, usize),
        mode: Mode,
    ) -> TensorResult<Tensor> {
        let (side, per_picture) = (self.side, rows * columns);
        let place = |row, column| (row * side / rows * side + column * side / columns) as u32;
        let places: Vec<u32> = (0..per_picture).map(|i| place(i / columns, i % columns)).collect();
        let places = Tensor::from_vec(places, per_picture, patches.device())?;
        let positions = self.positions.value(mode)?.index_select(&places, 0)?;
        let x = self.patches.forward(patches, mode)?;
        let (tokens, width) = x.dims2()?;
        let pictures = tokens / per_picture;
        let mut x = x
            .reshape((pictures, per_picture, width))?
            .broadcast_add(&positions)?
            .reshape((tokens, width))?;
        let forest = Arc::new(Forest::full(pictures, per_picture));
        for block in &self.blocks {
            x = block.forward(&x, &forest, mode)?;
        }
        self.post.forward(&x, mode)
    }
}
