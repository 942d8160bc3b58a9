//! Configs of InternViT, in the layout of transformers (`internvl_vision`) and in that of the model's
//! authors (`intern_vit_6b`).

use serde_json::Value;

use crate::ModelError;
use crate::decoder::Activation;
use crate::families::{MOST_LAYERS, activation};
use crate::reader::Reader;

/// Whose names and shapes a checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// transformers': queries, keys and values apart.
    Transformers,
    /// The authors': queries, keys and values in one matrix.
    Original,
}

/// The shape of an InternViT.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InternVitConfig {
    pub(crate) layout: Layout,
    /// Width.
    pub(crate) hidden_size: usize,
    /// Width of the MLP.
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// Side of the square input, in pixels.
    pub(crate) image_size: usize,
    /// Side of a patch, in pixels.
    pub(crate) patch_size: usize,
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: bool,
    /// Whether queries and keys are normalised over the whole width; what is added to their mean square.
    pub(crate) qk_norm: Option<f64>,
    /// RMSNorm in the blocks, else LayerNorm.
    pub(crate) rms_norm: bool,
    /// Added to the variance or mean square in norms.
    pub(crate) norm_eps: f64,
    /// Of the MLP.
    pub(crate) activation: Activation,
    /// Whether patches have learned positions.
    pub(crate) positions: bool,
    /// Whether there is a LayerNorm after the last block.
    pub(crate) last_norm: bool,
    /// Fresh scales of what a block adds.
    pub(crate) layer_scale: f64,
}

impl InternVitConfig {
    /// Reads transformers' layout.
    pub(crate) fn transformers(config: Reader<'_>) -> Result<Self, ModelError> {
        config.only("model_type", "internvl_vision".to_owned())?;
        config.only("use_mask_token", false)?;
        for dropout in ["hidden_dropout_prob", "projection_dropout", "dropout"] {
            config.only(dropout, 0.0)?;
        }
        // The authors' name of layer_scale_init_value, which converted files carry along.
        config.ignore(&["initializer_factor"]);
        let usual = Self::usual(&config, [1024, 4096, 24, 16], 448, "layer_norm")?;
        let tower = Self {
            qkv_bias: config.get("attention_bias")?.unwrap_or(false),
            // transformers leaves these norms at their own default, whatever layer_norm_eps says.
            qk_norm: config.get("use_qk_norm")?.unwrap_or(false).then_some(1e-6),
            positions: config.get("use_absolute_position_embeddings")?.unwrap_or(true),
            last_norm: !config.get("use_mean_pooling")?.unwrap_or(true),
            layer_scale: config.get("layer_scale_init_value")?.unwrap_or(0.1),
            ..usual
        };
        config.finish()?;
        Ok(tower)
    }

    /// Reads the authors' layout.
    pub(crate) fn original(config: Reader<'_>) -> Result<Self, ModelError> {
        config.only("model_type", "intern_vit_6b".to_owned())?;
        config.only("dropout", 0.0)?;
        config.only("use_moe", false)?;
        // Layers that are left out at random while a tower is pretrained; how attention is computed; and
        // settings of experts, which no tower without use_moe has.
        config.ignore(&[
            "capacity_factor",
            "drop_path_rate",
            "eval_capacity_factor",
            "laux_allreduce",
            "moe_coeff_ratio",
            "moe_intermediate_size",
            "moe_output_scale",
            "noisy_gate_policy",
            "num_experts",
            "num_routed_experts",
            "num_shared_experts",
            "shared_expert_intermediate_size",
            "use_flash_attn",
            "use_residual",
            "use_rts",
            "use_weighted_residual",
        ]);
        let usual = Self::usual(&config, [3200, 12_800, 48, 25], 224, "rms_norm")?;
        let tower = Self {
            layout: Layout::Original,
            qkv_bias: config.get("qkv_bias")?.unwrap_or(false),
            qk_norm: config.get("qk_normalization")?.unwrap_or(true).then_some(usual.norm_eps),
            layer_scale: config.get("initializer_factor")?.unwrap_or(0.1),
            ..usual
        };
        config.finish()?;
        Ok(tower)
    }

    /// What both layouts have, with their defaults of width, MLP, layers and heads.
    fn usual(
        config: &Reader<'_>,
        [width, inner, layers, heads]: [usize; 4],
        side: usize,
        norm: &str,
    ) -> Result<Self, ModelError> {
        config.only("attention_dropout", 0.0)?;
        config.only("is_encoder_decoder", false)?;
        config.only("num_channels", 3)?;
        let norm_type: Option<String> = config.get("norm_type")?;
        let rms_norm = match norm_type.as_deref().unwrap_or(norm) {
            "rms_norm" => true,
            "layer_norm" => false,
            other => return Err(config.unsupported("norm_type", other, "layer_norm, rms_norm")),
        };
        let tower = Self {
            layout: Layout::Transformers,
            hidden_size: config.size("hidden_size", Some(width))?,
            intermediate_size: config.size("intermediate_size", Some(inner))?,
            num_hidden_layers: config.size("num_hidden_layers", Some(layers))?,
            num_attention_heads: config.size("num_attention_heads", Some(heads))?,
            image_size: square(config, "image_size", side)?,
            patch_size: square(config, "patch_size", 14)?,
            qkv_bias: false,
            qk_norm: None,
            rms_norm,
            norm_eps: config.positive("layer_norm_eps")?.unwrap_or(1e-6),
            activation: activation(config, "hidden_act", "gelu")?,
            positions: true,
            last_norm: false,
            layer_scale: 0.1,
        };
        if !tower.hidden_size.is_multiple_of(tower.num_attention_heads) {
            let supported = format!("divisors of {}", tower.hidden_size);
            let heads = tower.num_attention_heads;
            return Err(config.unsupported("num_attention_heads", heads, supported));
        }
        if tower.num_hidden_layers > MOST_LAYERS {
            let supported = format!("at most {MOST_LAYERS}");
            return Err(config.unsupported(
                "num_hidden_layers",
                tower.num_hidden_layers,
                supported,
            ));
        }
        if tower.side() == 0 {
            let supported = format!("at most {}", tower.image_size);
            return Err(config.unsupported("patch_size", tower.patch_size, supported));
        }
        Ok(tower)
    }

    /// Patches along one side.
    pub(crate) fn side(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A side of a square: a number, or twice the same.
fn square(config: &Reader<'_>, key: &str, default: usize) -> Result<usize, ModelError> {
    match config.get::<Value>(key)? {
        Some(Value::Array(sides)) => {
            let side = sides.first().and_then(Value::as_u64).filter(|&side| side > 0);
            match side.and_then(|side| u32::try_from(side).ok()) {
                Some(side) if sides.len() == 2 && sides[0] == sides[1] => Ok(side as usize),
                _ => Err(config.unsupported(key, Value::Array(sides), "two equal sizes")),
            }
        }
        _ => config.size(key, Some(default)),
    }
}
