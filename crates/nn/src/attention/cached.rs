//! Attention of new tokens over cached ones: prefill and decoding. Not differentiable.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::Heads;
use super::chains::attend_chains;
use super::dense::masked;
use super::tiles::Node;
use crate::forest::{Forest, Parent};
use crate::host::with_slices;
use crate::simd::{Level, level};

/// Keys and values of one layer of one node.
#[derive(Debug, Clone)]
enum LayerKv {
    /// Keys `[kv_heads][head_dim][capacity]`, values `[capacity][kv_heads * head_dim]`.
    Host { keys: Vec<f32>, values: Vec<f32>, capacity: usize },
    /// Keys and values `[len, kv_heads * head_dim]` on another device; `None` while empty.
    Device(Option<(Tensor, Tensor)>),
}

/// Cached keys and values of a run of tokens, after those before it. A node owns only its own tokens:
/// a fork from any place of a node copies nothing.
#[derive(Debug)]
pub struct KvNode {
    parent: Option<KvPrefix>,
    past: usize,
    /// After each own token, where what follows it goes on.
    positions: Vec<u32>,
    layers: Vec<LayerKv>,
}

/// A node's first own tokens and all before them: what another node can go on from.
#[derive(Debug, Clone)]
pub struct KvPrefix {
    node: Arc<KvNode>,
    own: usize,
}

impl KvPrefix {
    /// All of a node.
    pub fn whole(node: Arc<KvNode>) -> Self {
        Self { own: node.len(), node }
    }

    /// The first `own` tokens of a node, or fewer where it has no more, and all before them.
    pub fn first(node: Arc<KvNode>, own: usize) -> Self {
        Self { own: own.min(node.len()), node }
    }

    /// Its tokens.
    pub fn total(&self) -> usize {
        self.node.past + self.own
    }

    /// Where what follows goes on.
    fn position(&self) -> u32 {
        match self.own {
            0 => self.node.parent.as_ref().map_or(0, Self::position),
            own => self.node.positions[own - 1],
        }
    }
}

impl KvNode {
    /// An empty node after `parent`, with room for about `capacity` tokens.
    pub fn new(parent: Option<KvPrefix>, layers: usize, capacity: usize, device: &Device) -> Self {
        let past = parent.as_ref().map_or(0, KvPrefix::total);
        let layer = if device.is_cpu() {
            LayerKv::Host { keys: Vec::new(), values: Vec::new(), capacity: capacity.max(1) }
        } else {
            LayerKv::Device(None)
        };
        Self { parent, past, positions: Vec::new(), layers: vec![layer; layers] }
    }

    /// Tokens up to and including this node.
    pub fn total(&self) -> usize {
        self.past + self.len()
    }

    /// Tokens of this node alone.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether this node has no tokens of its own.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Bytes held by this node alone.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| match layer {
                LayerKv::Host { keys, values, .. } => 4 * (keys.len() + values.len()),
                LayerKv::Device(None) => 0,
                LayerKv::Device(Some((k, v))) => {
                    (k.elem_count() + v.elem_count()) * k.dtype().size_in_bytes()
                }
            })
            .sum()
    }

    /// What a segment that continues this node comes after.
    pub fn after(&self) -> Parent {
        let before = || self.parent.as_ref().map_or(0, KvPrefix::position);
        let position = self.positions.last().copied().unwrap_or_else(before);
        Parent::Cached { tokens: self.total(), position }
    }

    /// Makes the tokens of segment `index` of `forest`, which a pass has appended to every layer, part of
    /// the node.
    pub fn commit(&mut self, forest: &Forest, index: usize) {
        let segment = &forest.segments()[index];
        let range = segment.range.clone();
        let following = forest.coordinates().iter().take(range.end).skip(range.start + 1);
        self.positions.extend(following.map(|at| at[0]));
        if !range.is_empty() {
            self.positions.push(segment.next);
        }
    }

    /// The nodes from the root down to this one, with how many tokens of each this one sees.
    fn chain(&self) -> Vec<(&KvNode, usize)> {
        let mut nodes = vec![(self, self.len())];
        let mut at = self;
        while let Some(KvPrefix { node, own }) = &at.parent {
            nodes.push((node, *own));
            at = node;
        }
        nodes.reverse();
        nodes
    }

    fn append_host(&mut self, layer: usize, heads: Heads, k: &[f32], v: &[f32]) -> Result<()> {
        let width = heads.kv_heads * heads.head_dim;
        let (len, new) = (self.len(), k.len() / width);
        let LayerKv::Host { keys, values, capacity } = &mut self.layers[layer] else {
            bail!("attention: this node's cache lives on another device");
        };
        if keys.is_empty() {
            *capacity = spread((*capacity).max(new));
            keys.resize(width * *capacity, 0.0);
            values.resize(width * *capacity, 0.0);
        } else if len + new > *capacity {
            let wider = spread((*capacity * 2).max(len + new));
            let mut moved = vec![0f32; width * wider];
            for row in 0..width {
                moved[row * wider..row * wider + len]
                    .copy_from_slice(&keys[row * *capacity..row * *capacity + len]);
            }
            *keys = moved;
            values.resize(width * wider, 0.0);
            *capacity = wider;
        }
        for (j, token) in k.chunks_exact(width).enumerate() {
            for (row, &x) in token.iter().enumerate() {
                keys[row * *capacity + len + j] = x;
            }
        }
        values[len * width..(len + new) * width].copy_from_slice(v);
        Ok(())
    }
}

/// At least so many keys between the rows of a key matrix, and no power of two: those rows would share the same few
/// places of the first-level cache.
fn spread(capacity: usize) -> usize {
    if capacity < 64 { capacity } else { capacity.next_multiple_of(16) | 16 }
}

/// Appends the new tokens' keys and values to `rows` and attends over each row's whole chain.
/// Segment i of `forest` belongs to row i; call [`KvNode::commit`] after the last layer.
pub fn cached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    forest: &Forest,
    layer: usize,
    rows: &mut [&mut KvNode],
) -> Result<Tensor> {
    let fits = forest.segments().len() == rows.len()
        && forest.segments().iter().zip(rows.iter()).all(|(s, row)| s.offset == row.total());
    if !fits {
        bail!("attention: the pass does not continue the cached rows");
    }
    if !q.device().is_cpu() {
        return cached_device(q, k, v, heads, forest, layer, rows);
    }
    let dtype = q.dtype();
    let (q, k, v) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
    let out = with_slices::<f32, _>(&[&q, &k, &v], "cached-attention", |s| {
        let width = heads.kv_heads * heads.head_dim;
        for (segment, row) in forest.segments().iter().zip(rows.iter_mut()) {
            let range = segment.range.start * width..segment.range.end * width;
            row.append_host(layer, heads, &s[1][range.clone()], &s[2][range])?;
        }
        let rows: Vec<&KvNode> = rows.iter().map(|row| &**row).collect();
        host(level(), s[0], heads, forest, layer, &rows)
    })?;
    Tensor::from_vec(out, q.shape(), q.device())?.to_dtype(dtype)
}

fn host(
    level: Level,
    q: &[f32],
    heads: Heads,
    forest: &Forest,
    layer: usize,
    rows: &[&KvNode],
) -> Result<Vec<f32>> {
    let Heads { kv_heads, head_dim: dim, .. } = heads;
    // Every node once, and each row's chain as nodes and what it sees of them, itself with all that is new.
    let (mut nodes, mut numbers) = (Vec::new(), HashMap::new());
    let mut chains: Vec<Vec<(usize, usize)>> = Vec::with_capacity(rows.len());
    for (row, segment) in rows.iter().zip(forest.segments()) {
        let mut chain = Vec::new();
        for (node, len) in row.chain() {
            let LayerKv::Host { keys, values, capacity } = &node.layers[layer] else {
                bail!("attention: this node's cache lives on another device");
            };
            let number = *numbers.entry(std::ptr::from_ref(node)).or_insert_with(|| {
                nodes.push((keys.as_slice(), values.as_slice(), *capacity, node.past));
                nodes.len() - 1
            });
            chain.push((number, len));
        }
        if let Some((_, own)) = chain.last_mut() {
            *own += segment.range.len();
        }
        chains.push(chain);
    }
    // Nothing of an empty node is seen, and it has no memory.
    chains.iter_mut().for_each(|chain| chain.retain(|&(_, seen)| seen > 0));
    let node = |number: usize, g: usize| {
        let (keys, values, capacity, first) = nodes[number];
        let (keys, values) = (&keys[g * dim * capacity..], &values[g * dim..]);
        Node { keys, k_step: capacity, values, v_step: kv_heads * dim, first }
    };
    Ok(attend_chains(level, q, heads, forest, &chains, node))
}

fn cached_device(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    forest: &Forest,
    layer: usize,
    rows: &mut [&mut KvNode],
) -> Result<Tensor> {
    let mut outs = Vec::with_capacity(rows.len());
    for (segment, row) in forest.segments().iter().zip(rows.iter_mut()) {
        let (start, len) = (segment.range.start, segment.range.len());
        let (new_k, new_v) = (k.narrow(0, start, len)?, v.narrow(0, start, len)?);
        let LayerKv::Device(own) = &mut row.layers[layer] else {
            bail!("attention: this node's cache lives on the CPU");
        };
        *own = Some(match own.take() {
            None => (new_k.contiguous()?, new_v.contiguous()?),
            Some((k, v)) => (Tensor::cat(&[&k, &new_k], 0)?, Tensor::cat(&[&v, &new_v], 0)?),
        });
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let chain = row.chain();
        for (depth, &(node, seen)) in chain.iter().enumerate() {
            let seen = seen + if depth + 1 == chain.len() { len } else { 0 };
            if let LayerKv::Device(Some((k, v))) = &node.layers[layer] {
                keys.push(k.narrow(0, 0, seen)?);
                values.push(v.narrow(0, 0, seen)?);
            }
        }
        let (keys, values) = (Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?);
        let total = keys.dim(0)?;
        let mask: Vec<f32> = (0..len)
            .flat_map(|i| {
                let at = segment.offset + i;
                let first = heads.window.map_or(0, |window| (at + 1).saturating_sub(window));
                (0..total)
                    .map(move |j| if (first..=at).contains(&j) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (len, total), q.device())?;
        outs.push(masked(&q.narrow(0, start, len)?, &keys, &values, heads, &mask)?);
    }
    Tensor::cat(&outs, 0)
}

#[cfg(test)]
mod tests;
