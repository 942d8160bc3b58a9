//! The decoder of all text families: one transformer, shaped by a [`DecoderConfig`].

mod mlp;
mod names;
mod qkv;

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use savi_nn::attention::{Heads, KvNode, cached, tree};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::{Linear, Mode};
use savi_nn::ops::{
    RopeTable, embedding, gathered_logps_at, gelu_tanh, linear_transposed, residual, rms_norm,
    rope, softcap,
};
use savi_nn::{Forest, Fresh, Init, Params, Weight, awake};

use self::mlp::GateUp;
pub(crate) use self::names::Names;
use self::qkv::Qkv;
use crate::rope::Rope;

/// Standard deviation of fresh embeddings, and the size of what a fresh block adds to them: as
/// small, or a token's own word would drown in the first block's noise.
const FRESH_SIZE: f64 = 0.1;

/// The shape of a decoder. What a family's `config.json` says is turned into this by the family's
/// own file in `families`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Entries of the embedding.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Layers in order.
    pub layers: Vec<LayerConfig>,
    /// Rotary positions that the layers name by number.
    pub ropes: Vec<Rope>,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Added to the norms' weights (Gemma stores them less one).
    pub norm_offset: f64,
    /// Of the MLP's gate.
    pub activation: Activation,
    /// Which projections have a bias.
    pub bias: Biases,
    /// Whether queries and keys are normalised head by head before they are rotated.
    pub head_norm: bool,
    /// Whether what attention and MLP give is normalised, too, before it is added.
    pub sandwich: bool,
    /// How projections are stored.
    pub projections: Projections,
    /// Whether the embedding is also the head.
    pub tied: bool,
    /// Factor on the embeddings.
    pub embed_scale: Option<f64>,
    /// Factor on the attention's scores.
    pub attention_scale: f64,
    /// Soft bound of the attention's scores.
    pub attention_softcap: Option<f64>,
    /// Soft bound of the logits.
    pub logit_softcap: Option<f64>,
    /// Names in checkpoints.
    pub(crate) names: &'static Names,
}

/// One layer's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Tokens that a token sees at most.
    pub window: Option<usize>,
    /// Its entry of [`DecoderConfig::ropes`].
    pub rope: usize,
}

/// Activation of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x sigmoid(1.702 x).
    QuickGelu,
}

impl Activation {
    /// Elementwise.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => gelu_tanh(x),
            Self::Relu => x.relu(),
            Self::QuickGelu => (x * 1.702)?.silu()? / 1.702,
        }
    }
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention's output.
    pub out: bool,
    /// The MLP.
    pub mlp: bool,
}

/// How the projections of a layer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// Each on its own.
    Separate,
    /// Queries, keys and values one after the other in one matrix; gate and up in another.
    Fused,
    /// Queries, keys and values in one matrix, by key head: its queries, its key, its value.
    Grouped,
}

#[derive(Debug)]
struct Norm {
    weight: Arc<Weight>,
    eps: f64,
    offset: f64,
}

impl Norm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let weight = self.weight.value(mode)?;
        let weight = if self.offset == 0.0 { weight } else { (weight + self.offset)? };
        rms_norm(x, &weight, self.eps)
    }

    /// Head by head.
    fn heads(&self, x: &Tensor, dim: usize, mode: Mode) -> Result<Tensor> {
        let shape = x.dims2()?;
        self.forward(&x.reshape((shape.0 * shape.1 / dim, dim))?, mode)?.reshape(shape)
    }
}

#[derive(Debug)]
struct Block {
    input_norm: Norm,
    qkv: Qkv,
    head_norms: Option<(Norm, Norm)>,
    o: Arc<Linear>,
    /// In a sandwich: of what attention gives, and of what the MLP gives.
    after: Option<(Norm, Norm)>,
    mlp_norm: Norm,
    gate_up: GateUp,
    down: Arc<Linear>,
    heads: Heads,
    rope: usize,
}

/// What the blocks of a pass have in common.
struct Pass<'a> {
    forest: &'a Arc<Forest>,
    tables: &'a [RopeTable],
    mode: Mode<'a>,
    /// The tokens that go on after attention, where not all of them do.
    tokens: Option<&'a Tensor>,
}

impl Pass<'_> {
    fn chosen<'x>(&self, x: &'x Tensor) -> Result<Cow<'x, Tensor>> {
        Ok(match self.tokens {
            None => Cow::Borrowed(x),
            Some(tokens) => Cow::Owned(x.index_select(tokens, 0)?),
        })
    }
}

/// A decoder without its assembly.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: DecoderConfig,
    /// What stands before the names of its weights.
    prefix: String,
    embedding: Arc<Weight>,
    head: Arc<Weight>,
    norm: Norm,
    blocks: Vec<Block>,
}

impl Decoder {
    pub(crate) fn new(params: &Params, prefix: &str, config: &DecoderConfig) -> Result<Self> {
        let (width, dim, names) = (config.hidden_size, config.head_dim, config.names);
        let vocab = [config.vocab_size, width];
        let embedding = params.get(
            &format!("{prefix}{}.weight", names.embedding),
            &vocab,
            Init::Normal(FRESH_SIZE),
        )?;
        let head = format!("{prefix}{}.weight", names.head);
        let head = if config.tied {
            params.alias(&head, &embedding)
        } else {
            params.get(&head, &vocab, Init::Normal(0.02))?
        };
        let norm = |name: String, width: usize| -> Result<Norm> {
            let weight = params.get(
                &format!("{name}.weight"),
                &[width],
                Init::Constant(1.0 - config.norm_offset),
            )?;
            Ok(Norm { weight, eps: config.rms_norm_eps, offset: config.norm_offset })
        };
        let mut blocks = Vec::with_capacity(config.layers.len());
        for (i, layer) in config.layers.iter().enumerate() {
            let at = |part: &str| format!("{prefix}{}.{i}.{part}", names.layers);
            let inputs = config.intermediate_size;
            let quiet = |name: String, inputs: usize, bias: bool| {
                let fresh = Fresh { like: &name, gain: FRESH_SIZE };
                params.linear_drawn(&name, fresh, inputs, width, bias)
            };
            let usual = Heads::new(config.num_attention_heads, config.num_key_value_heads, dim);
            blocks.push(Block {
                input_norm: norm(at(names.input_norm), width)?,
                qkv: Qkv::new(params, config, at)?,
                head_norms: if config.head_norm {
                    Some((norm(at(names.q_norm), dim)?, norm(at(names.k_norm), dim)?))
                } else {
                    None
                },
                o: quiet(at(names.o), config.num_attention_heads * dim, config.bias.out)?,
                after: if config.sandwich {
                    Some((
                        norm(at(names.attention_norm), width)?,
                        norm(at(names.after_mlp_norm), width)?,
                    ))
                } else {
                    None
                },
                mlp_norm: norm(
                    at(if config.sandwich { names.mlp_norm } else { names.attention_norm }),
                    width,
                )?,
                gate_up: GateUp::new(params, config, at)?,
                down: quiet(at(names.down), inputs, config.bias.mlp)?,
                heads: Heads {
                    scale: config.attention_scale,
                    window: layer.window,
                    softcap: config.attention_softcap,
                    ..usual
                },
                rope: layer.rope,
            });
        }
        let norm = norm(format!("{prefix}{}", names.norm), width)?;
        let (config, prefix) = (config.clone(), prefix.to_owned());
        Ok(Self { config, prefix, embedding, head, norm, blocks })
    }

    pub(crate) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether the weight or layer of this name is its own, rather than that of what sees.
    pub(crate) fn owns(&self, name: &str) -> bool {
        let names = self.config.names;
        name.strip_prefix(&self.prefix).is_some_and(|name| {
            [names.embedding, names.layers, names.norm, names.head]
                .iter()
                .filter_map(|part| name.strip_prefix(part))
                .any(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Whether this tensor of a checkpoint is the tied head, written a second time.
    pub(crate) fn repeats_head(&self, name: &str) -> bool {
        let head = format!("{}.weight", self.config.names.head);
        self.config.tied && name.ends_with(&head)
    }

    /// Embeddings `[ids, width]`.
    pub(crate) fn embed(&self, ids: &[u32], mode: Mode) -> Result<Tensor> {
        let table = self.embedding.value(mode)?;
        let rows = embedding(&table, ids)?;
        match self.config.embed_scale {
            None => Ok(rows),
            Some(scale) => rows * scale,
        }
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
        let x = match rows {
            None => self.run(embeds, forest, mode, &Tape::default(), None, None)?,
            Some(rows) if embeds.device().is_cpu() => {
                awake(|| self.run_cached(embeds, forest, mode, rows))?
            }
            Some(rows) => self.run_cached(embeds, forest, mode, rows)?,
        };
        self.norm.forward(&x, mode)
    }

    fn run_cached(
        &self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        rows: &mut [&mut KvNode],
    ) -> Result<Tensor> {
        let (tables, mut x) = (&self.tables(forest)?, embeds.clone());
        for layer in 0..self.blocks.len() {
            let pass = Pass { forest, tables, mode, tokens: None };
            x = self.block(layer, &x, &pass, Some(&mut *rows))?;
        }
        Ok(x)
    }

    /// The rows of [`forward`](Self::forward) of a whole pass that `tokens` name, `[tokens, width]`, in segments of as
    /// many blocks as `tape` wants. What the last block does after attention is done for these alone.
    pub(crate) fn forward_on<'a>(
        &'a self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        tape: &Tape<'a>,
        tokens: &[u32],
    ) -> Result<Tensor> {
        let tokens = Tensor::from_slice(tokens, tokens.len(), embeds.device())?;
        // Dropout's masks are made for all tokens of a pass.
        let noise = mode.train && forest.noise().is_some();
        let early = !noise && !self.blocks.is_empty() && tokens.dim(0)? < forest.len();
        let last = early.then_some(&tokens);
        let x = self.run(embeds, forest, mode, tape, last, None)?;
        let x = if early { x } else { x.index_select(&tokens, 0)? };
        self.norm.forward(&x, mode)
    }

    /// What every block gives, `[tokens, width]` each, before the final norm.
    pub(crate) fn blocks<'a>(
        &'a self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        tape: &Tape<'a>,
    ) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(self.blocks.len());
        self.run(embeds, forest, mode, tape, None, Some(&mut |x| all.push(x.clone())))?;
        Ok(all)
    }

    /// Runs all blocks, the last one for the tokens of `last` as far as that goes, in the segments of `tape`; `after`
    /// sees what every block gives: each is a segment then.
    fn run<'a>(
        &'a self,
        embeds: &Tensor,
        forest: &Arc<Forest>,
        mode: Mode,
        tape: &Tape<'a>,
        last: Option<&Tensor>,
        mut after: Option<&mut dyn FnMut(&Tensor)>,
    ) -> Result<Tensor> {
        let tables = Arc::new(self.tables(forest)?);
        let (train, adapter, layers) = (mode.train, mode.adapter, self.blocks.len());
        let span = if after.is_some() { 1 } else { tape.layers() };
        let mut x = embeds.clone();
        for first in (0..layers).step_by(span) {
            let (forest, tables, last) = (forest.clone(), tables.clone(), last.cloned());
            x = tape.segment(&x, move |x| {
                let noise = forest.noise().filter(|_| train);
                let (forest, tables, mode) = (&forest, &*tables, Mode { train, adapter, noise });
                let mut x = x.clone();
                for layer in first..layers.min(first + span) {
                    let tokens = last.as_ref().filter(|_| layer + 1 == layers);
                    x = self.block(layer, &x, &Pass { forest, tables, mode, tokens }, None)?;
                }
                Ok(x)
            })?;
            if let Some(after) = &mut after {
                after(&x);
            }
        }
        Ok(x)
    }

    fn tables(&self, forest: &Forest) -> Result<Vec<RopeTable>> {
        self.config.ropes.iter().map(|rope| rope.table(forest)).collect()
    }

    fn block(
        &self,
        layer: usize,
        x: &Tensor,
        pass: &Pass<'_>,
        rows: Option<&mut [&mut KvNode]>,
    ) -> Result<Tensor> {
        let (block, mode) = (&self.blocks[layer], pass.mode);
        let y = self.attend(layer, x, pass, rows)?;
        let x = residual(&*pass.chosen(x)?, y)?;
        let y = block.gate_up.forward(&block.mlp_norm.forward(&x, mode)?, &self.config, mode)?;
        let mut y = block.down.forward(&y, mode)?;
        if let Some((_, norm)) = &block.after {
            y = norm.forward(&y, mode)?;
        }
        residual(&x, y)
    }

    /// What a block's attention adds to `x`. Its own tensors end here, before the wide ones of the MLP begin.
    fn attend(
        &self,
        layer: usize,
        x: &Tensor,
        pass: &Pass<'_>,
        rows: Option<&mut [&mut KvNode]>,
    ) -> Result<Tensor> {
        let (block, dim) = (&self.blocks[layer], self.config.head_dim);
        let &Pass { forest, tables, mode, .. } = pass;
        let (mut q, mut k, v) =
            block.qkv.forward(&block.input_norm.forward(x, mode)?, &self.config, mode)?;
        if let Some((of_q, of_k)) = &block.head_norms {
            q = of_q.heads(&q, dim, mode)?;
            k = of_k.heads(&k, dim, mode)?;
        }
        let (q, k) = (rope(&q, &tables[block.rope])?, rope(&k, &tables[block.rope])?);
        let y = match rows {
            None => tree(&q, &k, &v, block.heads, forest)?,
            Some(rows) => cached(&q, &k, &v, block.heads, forest, layer, rows)?,
        };
        let y = block.o.forward(&*pass.chosen(&y)?, mode)?;
        match &block.after {
            Some((norm, _)) => norm.forward(&y, mode),
            None => Ok(y),
        }
    }

    /// Logits `[rows, vocab]`.
    pub(crate) fn logits(&self, hidden: &Tensor, mode: Mode) -> Result<Tensor> {
        softcap(&linear_transposed(hidden, &self.head.value(mode)?)?, self.config.logit_softcap)
    }

    /// Log-probability of `targets[i]` after row i at a temperature, `[rows]`.
    pub(crate) fn logps(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        temperature: f64,
        mode: Mode,
    ) -> Result<Tensor> {
        let (head, cap) = (self.head.value(mode)?, self.config.logit_softcap);
        gathered_logps_at(hidden, &head, targets, cap, temperature)
    }
}
