//! The vision towers of Qwen2-VL (Wang et al. 2024, section 2.1) and Qwen2.5-VL (Bai et al. 2025, section
//! 2.1.1): pictures of any size as patches that reach over two frames, rotary positions of rows and
//! columns, attention within each step in time or within its windows, and squares of patches merged into
//! one visual token.
//!
//! Patches come square by square, so that those of a visual token lie together.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use savi_nn::attention::{Heads, tree};
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{RopeTable, layer_norm, linear, rms_norm, rope, swiglu};
use savi_nn::{Forest, Init, Params, Weight};

use super::config::{Blocks, VitConfig};

/// Added to the variance in norms.
const EPS: f64 = 1e-6;

#[derive(Debug)]
struct Norm {
    weight: Arc<Weight>,
    /// Without it the norm is an RMS norm.
    bias: Option<Arc<Weight>>,
}

impl Norm {
    fn new(params: &Params, name: &str, config: &VitConfig) -> Result<Self> {
        let width = &[config.width];
        let weight = params.get(&format!("{name}.weight"), width, Init::Constant(1.0))?;
        let bias = match config.blocks {
            Blocks::Plain => {
                Some(params.get(&format!("{name}.bias"), width, Init::Constant(0.0))?)
            }
            Blocks::Windowed { .. } => None,
        };
        Ok(Self { weight, bias })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let weight = self.weight.value(mode)?;
        match &self.bias {
            Some(bias) => layer_norm(x, &weight, &bias.value(mode)?, EPS),
            None => rms_norm(x, &weight, EPS),
        }
    }
}

#[derive(Debug)]
enum Mlp {
    Plain { up: Arc<Linear>, down: Arc<Linear> },
    Gated { gate: Arc<Linear>, up: Arc<Linear>, down: Arc<Linear> },
}

impl Mlp {
    fn new(params: &Params, name: &str, config: &VitConfig) -> Result<Self> {
        let (width, hidden) = (config.width, config.hidden);
        let inner = |part: &str| params.linear(&format!("{name}.{part}"), width, hidden, true);
        let outer = |part: &str| params.linear(&format!("{name}.{part}"), hidden, width, true);
        Ok(match config.blocks {
            Blocks::Plain => Self::Plain { up: inner("fc1")?, down: outer("fc2")? },
            Blocks::Windowed { .. } => Self::Gated {
                gate: inner("gate_proj")?,
                up: inner("up_proj")?,
                down: outer("down_proj")?,
            },
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Plain { up, down } => down.forward(&quick_gelu(&up.forward(x, mode)?)?, mode),
            Self::Gated { gate, up, down } => {
                down.forward(&swiglu(&gate.forward(x, mode)?, &up.forward(x, mode)?)?, mode)
            }
        }
    }
}

/// `x sigmoid(1.702 x)`.
fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    (x * 1.702)?.silu()? / 1.702
}

#[derive(Debug)]
struct Block {
    norm1: Norm,
    norm2: Norm,
    qkv: Arc<Linear>,
    out: Arc<Linear>,
    mlp: Mlp,
}

impl Block {
    fn new(params: &Params, name: &str, config: &VitConfig) -> Result<Self> {
        let (at, width) = (|part: &str| format!("{name}.{part}"), config.width);
        Ok(Self {
            norm1: Norm::new(params, &at("norm1"), config)?,
            norm2: Norm::new(params, &at("norm2"), config)?,
            qkv: params.linear(&at("attn.qkv"), width, 3 * width, true)?,
            out: params.linear(&at("attn.proj"), width, width, true)?,
            mlp: Mlp::new(params, &at("mlp"), config)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        table: &RopeTable,
        heads: Heads,
        forest: &Arc<Forest>,
        mode: Mode,
    ) -> Result<Tensor> {
        let width = x.dim(1)?;
        let qkv = self.qkv.forward(&self.norm1.forward(x, mode)?, mode)?;
        let part = |i: usize| qkv.narrow(1, i * width, width)?.contiguous();
        let (q, k) = (turned(&part(0)?, table)?, turned(&part(1)?, table)?);
        let seen = tree(&q, &k, &part(2)?, heads, forest)?;
        let x = (x + self.out.forward(&seen, mode)?)?;
        let y = self.mlp.forward(&self.norm2.forward(&x, mode)?, mode)?;
        x + y
    }
}

/// Rotates in single precision at least, as the reference does.
fn turned(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    match x.dtype() {
        DType::BF16 => rope(&x.to_dtype(DType::F32)?, table)?.to_dtype(DType::BF16),
        _ => rope(x, table),
    }
}

/// A tower and the merger behind it.
#[derive(Debug)]
pub(crate) struct QwenVit {
    config: VitConfig,
    patches: Arc<Weight>,
    blocks: Vec<Block>,
    norm: Norm,
    merge_1: Arc<Linear>,
    merge_2: Arc<Linear>,
}

impl QwenVit {
    pub(crate) fn new(params: &Params, prefix: &str, config: &VitConfig) -> Result<Self> {
        let at = |part: &str| format!("{prefix}{part}");
        let VitConfig { width, patch, temporal, merge, .. } = *config;
        let merged = width * merge * merge;
        let kernel = [width, 3, temporal, patch, patch];
        let scale = 1.0 / ((3 * temporal * patch * patch) as f64).sqrt();
        let patches =
            params.get_patch_matrix(&at("patch_embed.proj.weight"), kernel, Init::Normal(scale))?;
        let mut blocks = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            blocks.push(Block::new(params, &at(&format!("blocks.{i}")), config)?);
        }
        Ok(Self {
            config: config.clone(),
            patches,
            blocks,
            norm: Norm::new(params, &at("merger.ln_q"), config)?,
            merge_1: params.linear(&at("merger.mlp.0"), merged, merged, true)?,
            merge_2: params.linear(&at("merger.mlp.2"), merged, config.out, true)?,
        })
    }

    /// Visual tokens `[patches / merge^2, out]` of flattened patches `[patches, in]`, whose `grids` are
    /// steps in time, rows and columns.
    pub(crate) fn forward(
        &self,
        patches: &Tensor,
        grids: &[[usize; 3]],
        mode: Mode,
    ) -> Result<Tensor> {
        let VitConfig { width, heads, merge, .. } = self.config;
        let layout = Layout::new(grids, &self.config)?;
        let (units, square) = (layout.order.len(), merge * merge);
        let (count, inputs) = patches.dims2()?;
        if count != units * square {
            bail!("{count} patches do not fill grids {grids:?}");
        }
        let index = |order: &[u32]| Tensor::from_slice(order, units, patches.device());
        let moved = self.config.blocks != Blocks::Plain;
        let patches = if moved {
            let squares = patches.reshape((units, square * inputs))?;
            squares.index_select(&index(&layout.order)?, 0)?.reshape((count, inputs))?
        } else {
            patches.clone()
        };
        let head_dim = width / heads;
        let table = RopeTable::of_angles(&layout.angles, head_dim / 2, head_dim, 1.0);
        let heads = Heads::new(heads, heads, head_dim);
        let mut x = linear(&patches, &self.patches.value(mode)?)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let whole = match &self.config.blocks {
                Blocks::Plain => true,
                Blocks::Windowed { full, .. } => full.contains(&i),
            };
            let forest = if whole { &layout.steps } else { &layout.windows };
            x = block.forward(&x, &table, heads, forest, mode)?;
        }
        let merged = self.norm.forward(&x, mode)?.reshape((units, square * width))?;
        let merged = self.merge_1.forward(&merged, mode)?.gelu_erf()?;
        let merged = self.merge_2.forward(&merged, mode)?;
        if moved { merged.index_select(&index(&layout.back())?, 0) } else { Ok(merged) }
    }
}

/// Where the patches of a pass stand.
struct Layout {
    /// The squares of patches in the order in which they pass: window by window, step by step.
    order: Vec<u32>,
    /// Angles of the patches in that order, `[patches, head_dim / 2]`.
    angles: Vec<f32>,
    /// Attention within each step in time.
    steps: Arc<Forest>,
    /// Attention within each window.
    windows: Arc<Forest>,
}

impl Layout {
    fn new(grids: &[[usize; 3]], config: &VitConfig) -> Result<Self> {
        let merge = config.merge;
        let square = merge * merge;
        // A half of a head's pairs turn with the row, the others with the column.
        let half = config.width / config.heads / 2;
        let powers =
            (0..half / 2).map(|i| (config.theta as f32).powf((2 * i) as f32 / half as f32));
        let inverse: Vec<f32> = powers.map(|power| 1.0 / power).collect();
        let (mut order, mut angles) = (Vec::new(), Vec::new());
        let (mut steps, mut windows) = (Vec::new(), Vec::new());
        let mut first = 0;
        for &[times, rows, columns] in grids {
            if !rows.is_multiple_of(merge) || !columns.is_multiple_of(merge) {
                bail!("{rows} x {columns} patches do not make squares of {merge} x {merge}");
            }
            let (high, wide) = (rows / merge, columns / merge);
            let side = match config.blocks {
                Blocks::Plain => high.max(wide).max(1),
                Blocks::Windowed { side, .. } => side,
            };
            for _ in 0..times {
                for top in (0..high).step_by(side) {
                    for left in (0..wide).step_by(side) {
                        let (bottom, right) = ((top + side).min(high), (left + side).min(wide));
                        windows.push((bottom - top) * (right - left) * square);
                        for (y, x) in cells(top..bottom, left..right) {
                            order.push((first + y * wide + x) as u32);
                            for (row, column) in cells(0..merge, 0..merge) {
                                for at in [y * merge + row, x * merge + column] {
                                    angles.extend(inverse.iter().map(|f| at as f32 * f));
                                }
                            }
                        }
                    }
                }
                first += high * wide;
                steps.push(rows * columns);
            }
        }
        let (steps, windows) = (Forest::full_of(steps), Forest::full_of(windows));
        Ok(Self { order, angles, steps: Arc::new(steps), windows: Arc::new(windows) })
    }

    /// Where each square has gone.
    fn back(&self) -> Vec<u32> {
        let mut back = vec![0; self.order.len()];
        for (at, &square) in self.order.iter().enumerate() {
            back[square as usize] = at as u32;
        }
        back
    }
}

/// Rows and columns, row by row.
fn cells(
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
) -> impl Iterator<Item = (usize, usize)> {
    rows.flat_map(move |row| columns.clone().map(move |column| (row, column)))
}
