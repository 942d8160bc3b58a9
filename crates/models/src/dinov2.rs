//! DINOv2 (Oquab et al. 2024), with register tokens where a model has them (Darcet et al. 2024): a frozen
//! tower that is shown pictures and gives one vector for the whole, one for each register and one for
//! each patch.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor, bail};
use savi_nn::layers::Mode;
use savi_nn::ops::linear;
use savi_nn::{Forest, Init, Params, Weight, Weights};
use savi_schema::RgbImage;
use serde_json::Value;

use crate::ModelError;
use crate::families::{MOST_LAYERS, activation};
use crate::files::{close, read_directory, renamed};
use crate::interpolate::bicubic;
use crate::look::{Look, Usual, settings};
use crate::processing::{Normalise, Processors, Size};
use crate::reader::Reader;
use crate::visual::{Pixels, VisualKind};
use crate::vit::{Block, BlockNames, BlockShape, Mlp, Norm, PatchEmbedding};

/// Pictures that share a pass.
const BATCH: usize = 16;

/// The shape of a tower.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    width: usize,
    layers: usize,
    heads: usize,
    mlp: Mlp,
    qkv_bias: bool,
    eps: f64,
    /// Patches along one side of the pictures that it was trained on.
    side: usize,
    patch: usize,
    /// None in models of the first kind.
    registers: Option<usize>,
}

impl Config {
    fn parse(value: &Value) -> Result<Self, ModelError> {
        let config = Reader::new(value)?;
        let kind: String = config.require("model_type")?;
        let (patch, registers) = match kind.as_str() {
            "dinov2" => (14, None),
            "dinov2_with_registers" => (16, Some(config.size("num_register_tokens", Some(4))?)),
            other => {
                return Err(config.unsupported(
                    "model_type",
                    other,
                    "dinov2, dinov2_with_registers",
                ));
            }
        };
        for key in ["attention_probs_dropout_prob", "drop_path_rate", "hidden_dropout_prob"] {
            config.only(key, 0.0)?;
        }
        config.only("num_channels", 3)?;
        config.never("quantization_config")?;
        config.only("is_encoder_decoder", false)?;
        // Where a fresh model starts, what only training with masks has, and what backbones give.
        config.ignore(&[
            "apply_layernorm",
            "layerscale_value",
            "out_features",
            "out_indices",
            "reshape_hidden_states",
            "stage_names",
            "use_mask_token",
        ]);
        let width = config.size("hidden_size", Some(768))?;
        let heads = config.size("num_attention_heads", Some(12))?;
        if !width.is_multiple_of(heads) {
            let supported = format!("divisors of {width}");
            return Err(config.unsupported("num_attention_heads", heads, supported));
        }
        let layers = config.size("num_hidden_layers", Some(12))?;
        if layers > MOST_LAYERS {
            let supported = format!("at most {MOST_LAYERS}");
            return Err(config.unsupported("num_hidden_layers", layers, supported));
        }
        let ratio = config.positive("mlp_ratio")?.unwrap_or(4.0);
        let inner = (width as f64 * ratio) as usize;
        if !(1..=1 << 31).contains(&inner) {
            return Err(config.unsupported("mlp_ratio", ratio, "ratios of a width of at least 1"));
        }
        let act = activation(&config, "hidden_act", "gelu")?;
        let mlp = if config.get("use_swiglu_ffn")?.unwrap_or(false) {
            Mlp::Gated { width: (inner * 2 / 3).next_multiple_of(8) }
        } else {
            Mlp::Plain { width: inner, activation: act }
        };
        let image = config.size("image_size", Some(224))?;
        let patch = config.size("patch_size", Some(patch))?;
        if image < patch {
            let supported = format!("at most {image}, the image_size");
            return Err(config.unsupported("patch_size", patch, supported));
        }
        let parsed = Self {
            width,
            layers,
            heads,
            mlp,
            qkv_bias: config.get("qkv_bias")?.unwrap_or(true),
            eps: config.positive("layer_norm_eps")?.unwrap_or(1e-6),
            side: image / patch,
            patch,
            registers,
        };
        config.finish()?;
        Ok(parsed)
    }
}

const NAMES: BlockNames = BlockNames {
    norm1: "norm1",
    norm2: "norm2",
    q: "attention.attention.query",
    k: "attention.attention.key",
    v: "attention.attention.value",
    out: "attention.output.dense",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
};

const GATED: BlockNames = BlockNames { fc1: "mlp.weights_in", fc2: "mlp.weights_out", ..NAMES };

/// A DINOv2.
#[derive(Debug)]
pub struct Dinov2 {
    config: Config,
    look: Look,
    params: Params,
    patches: PatchEmbedding,
    class: Arc<Weight>,
    registers: Option<Arc<Weight>>,
    positions: Arc<Weight>,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Dinov2 {
    /// Reads a Hugging Face directory: `config.json`, safetensors, and `preprocessor_config.json` where
    /// there is one.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let files = read_directory(dir)?;
        let tensors = Weights::Checkpoint(Box::new(files.tensors));
        Self::new(&files.config, &files.processors, tensors, dtype, device)
    }

    /// The tower that `config` describes.
    pub fn new(
        config: &Value,
        processors: &Processors,
        source: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = Config::parse(config)?;
        // As transformers' `BitImageProcessor` has it where the file is silent.
        let usual =
            Usual { size: Size::Shortest(224), crop: Some(224), normalise: Normalise::CLIP };
        let look = match settings(processors, VisualKind::Image)? {
            // As the published models have it.
            None => Look::usual(&Usual {
                size: Size::Shortest(256),
                normalise: Normalise::IMAGENET,
                ..usual
            }),
            Some(file) => {
                let look = Look::read(&file, &usual, VisualKind::Image)?;
                file.finish()?;
                look
            }
        };
        // A classifier has the tower under a name of its own.
        let params = Params::new(renamed(source, &[("dinov2.", "")]), dtype, device);
        let width = config.width;
        let token = |name: &str, count: usize| {
            params.get(&format!("embeddings.{name}"), &[1, count, width], Init::Normal(0.02))
        };
        let class = token("cls_token", 1)?;
        let registers = config.registers.map(|n| token("register_tokens", n)).transpose()?;
        let positions = token("position_embeddings", config.side * config.side + 1)?;
        let name = "embeddings.patch_embeddings.projection";
        let patches = PatchEmbedding::new(&params, name, width, config.patch, true)?;
        let names = if matches!(config.mlp, Mlp::Gated { .. }) { &GATED } else { &NAMES };
        let Config { heads, mlp, qkv_bias, eps, .. } = config;
        let shape = BlockShape { width, heads, mlp, qkv_bias, eps, names };
        let blocks = (0..config.layers)
            .map(|i| Block::new(&params, &format!("encoder.layer.{i}."), &shape))
            .collect::<TensorResult<_>>()?;
        let norm = Norm::new(&params, "layernorm", width, eps)?;
        close(&params, |name| name == "embeddings.mask_token" || name.starts_with("classifier."))?;
        Ok(Self { config, look, params, patches, class, registers, positions, blocks, norm })
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Width of the vectors.
    pub fn width(&self) -> usize {
        self.config.width
    }

    /// Vectors before those of the patches: of the whole picture, and of registers.
    pub fn before_patches(&self) -> usize {
        1 + self.config.registers.unwrap_or(0)
    }

    /// Pictures as the tower takes them, scaled, cropped and normalised; they come out in one size. F32 on
    /// the CPU.
    pub fn pixels(&self, images: &[RgbImage]) -> Result<Pixels, ModelError> {
        let prepared =
            images.iter().map(|image| self.look.prepare(image)).collect::<Result<Vec<_>, _>>()?;
        let size = images.first().map_or((0, 0), |image| (image.width, image.height));
        let images = self.look.normalise.tensor(&prepared)?;
        let (_, _, height, width) = images.dims4()?;
        let mut pixels = Pixels::cut(VisualKind::Image, &images, self.config.patch, size)?;
        // The tower tells squares from other pictures before patches are cut.
        pixels.size = (width as u32, height as u32);
        Ok(pixels)
    }

    /// Vectors of pictures, `[pictures * tokens, width]`: of each the whole, the registers, and the patches
    /// row by row.
    pub fn encode(&self, pixels: &Pixels, mode: Mode) -> TensorResult<Tensor> {
        let Some(&[_, rows, columns]) = pixels.grids.first() else { bail!("no pictures") };
        let pictures = pixels.grids.len();
        let patches =
            pixels.patches.to_dtype(self.params.dtype())?.to_device(self.params.device())?;
        let width = self.config.width;
        let x = self.patches.forward(&patches, mode)?.reshape((pictures, rows * columns, width))?;
        let positions = self.positions(rows, columns, pixels.size, mode)?;
        let of_class = positions.narrow(0, 0, 1)?.unsqueeze(0)?;
        let of_patches = positions.narrow(0, 1, rows * columns)?;
        let each = |x: Tensor| {
            let count = x.dim(1)?;
            x.broadcast_as((pictures, count, width))?.contiguous()
        };
        let mut parts = vec![each((self.class.value(mode)? + of_class)?)?];
        if let Some(registers) = &self.registers {
            parts.push(each(registers.value(mode)?)?);
        }
        parts.push(x.broadcast_add(&of_patches)?);
        let x = Tensor::cat(&parts, 1)?;
        let tokens = x.dim(1)?;
        let forest = Arc::new(Forest::full(pictures, tokens));
        let mut x = x.reshape((pictures * tokens, width))?;
        for block in &self.blocks {
            x = block.forward(&x, &forest, mode)?;
        }
        self.norm.forward(&x, mode)
    }

    /// The vectors `[tokens, width]` of each picture.
    pub fn features(&self, images: &[RgbImage]) -> Result<Vec<Tensor>, ModelError> {
        let mut all = Vec::with_capacity(images.len());
        for images in images.chunks(BATCH) {
            let x = self.encode(&self.pixels(images)?, Mode::INFER)?;
            let tokens = x.dim(0)? / images.len();
            for i in 0..images.len() {
                all.push(x.narrow(0, i * tokens, tokens)?);
            }
        }
        Ok(all)
    }

    /// Positions of the class and of `rows` by `columns` patches: as they were learned, or those of the
    /// learned square scaled. Registers have none.
    fn positions(
        &self,
        rows: usize,
        columns: usize,
        (width, height): (u32, u32),
        mode: Mode,
    ) -> TensorResult<Tensor> {
        let learned = self.positions.value(mode)?.squeeze(0)?;
        let side = self.config.side;
        if rows * columns == side * side && width == height {
            return Ok(learned);
        }
        let matrix = bicubic(side, (rows, columns), self.config.registers.is_some());
        let matrix = Tensor::from_vec(matrix, (rows * columns, side * side), learned.device())?;
        let patches = learned.narrow(0, 1, side * side)?.to_dtype(DType::F32)?;
        let scaled = linear(&matrix, &patches)?.to_dtype(learned.dtype())?;
        Tensor::cat(&[&learned.narrow(0, 0, 1)?, &scaled], 0)
    }
}
