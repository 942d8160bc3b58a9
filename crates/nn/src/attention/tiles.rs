//! Queries that share their past, over it together.
//!
//! Rows that decode after one prefix, tokens of one prefill and the query heads of one key head read the same
//! keys and values. A tile takes up to [`UNITS`] such queries of one key head; a cached node's keys and values are
//! read once for all of its queries, as matrix products: scores are queries times keys, and each of the chains of
//! the weighted sum is a product of every fourth weight with every fourth value. The order of summation of a query
//! is that of [`attend`](super::kernel::attend), so its bits are those it has alone.

use std::ops::Range;

use super::kernel::{CHAINS, add_values, exponentiated, finish, scaled, scores_of};
use crate::forest::Forest;
use crate::gemm::lanes::{Avx2, Avx512};
use crate::gemm::pack::with_scratch;
use crate::gemm::tile::{Ahead, Kernel, Tile};
use crate::simd::Level;

/// Queries of a tile, at most.
const UNITS: usize = 48;
/// Keys between two passes over a tile's sums: their values stay in the second-level cache.
const KEYS: usize = 256;
/// Fewer keys than these go query by query.
const LEAST: usize = 16;

/// One layer's keys and values of a cached node, for one key head.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    /// `[dim][k_step]`.
    pub(super) keys: &'a [f32],
    pub(super) k_step: usize,
    /// Rows `v_step` apart.
    pub(super) values: &'a [f32],
    pub(super) v_step: usize,
    /// Logical index of its first token.
    pub(super) first: usize,
}

/// A node and the tokens of a tile that see it.
struct Use {
    node: usize,
    tokens: Range<usize>,
    /// How many of the node's tokens each of them sees.
    seen: Vec<usize>,
}

/// What a tile computes with, besides its nodes.
pub(super) struct Work<'a> {
    /// Query `h` of token `t` of the tile.
    pub(super) query: &'a (dyn Fn(usize, usize) -> &'a [f32] + 'a),
    /// Query heads of the key head.
    pub(super) group: usize,
    pub(super) dim: usize,
    pub(super) scale: f32,
    pub(super) cap: Option<f32>,
    /// Tokens that each token of the tile sees, itself among them.
    pub(super) totals: &'a [usize],
}

/// Attention of a tile; `cell(t, h)` is where a result goes. Uses come in an order in which a node stands after
/// those above it.
fn attend_tile<'a, K: Kernel>(
    work: &Work<'_>,
    uses: &[Use],
    node: impl Fn(usize) -> Node<'a>,
    cell: impl Fn(usize, usize) -> &'a mut [f32],
) {
    let Work { group, dim, .. } = *work;
    let units = work.totals.len() * group;
    let width = work.totals.iter().copied().max().unwrap_or(0);
    with_scratch(units * width, |scores| {
        for shared in uses {
            score::<K>(work, shared, node(shared.node), width, scores);
        }
        let factors: Vec<f32> = (0..units)
            .map(|unit| {
                let row = &mut scores[unit * width..unit * width + work.totals[unit / group]];
                exponentiated(row, work.cap)
            })
            .collect();
        with_scratch(units * CHAINS * dim, |sums| {
            sums.fill(0.0);
            for shared in uses {
                combine::<K>(work, shared, node(shared.node), width, scores, sums);
            }
            for (unit, sums) in sums.chunks_exact(CHAINS * dim).enumerate() {
                finish(sums, factors[unit], cell(unit / group, unit % group));
            }
        });
    });
}

/// Tokens that go together, and what of their chains they have in common.
pub(super) struct Together {
    /// Tokens of the pass.
    pub(super) tokens: Vec<usize>,
    pub(super) totals: Vec<usize>,
    uses: Vec<Use>,
}

/// Scores of a tile, at most: its scratch is bounded however long the past is.
const SCORES: usize = 1 << 20;

/// Tiles of a pass whose segments have these chains of nodes with what is seen of each, and the tokens, with
/// their segments, that go alone: a window cuts what they see at a place of their own.
pub(super) fn tiled(
    level: Level,
    forest: &Forest,
    chains: &[Vec<(usize, usize)>],
    group: usize,
    window: Option<usize>,
) -> (Vec<Together>, Vec<(usize, usize)>) {
    let (mut tiles, mut alone) = (Vec::<Together>::new(), Vec::new());
    let mut order: Vec<usize> = (0..chains.len()).collect();
    order.sort_by(|&a, &b| chains[a].cmp(&chains[b]));
    // The uses that the last token has made, from the root down.
    let mut open: Vec<usize> = Vec::new();
    let narrow = level == Level::Base;
    for index in order {
        let segment = &forest.segments()[index];
        for (i, token) in segment.range.clone().enumerate() {
            let total = segment.offset + i + 1;
            if narrow || window.is_some_and(|window| window < total) {
                alone.push((token, index));
                continue;
            }
            let fits = tiles.last().is_some_and(|tile| {
                let tokens = tile.tokens.len() + 1;
                let longest = tile.totals.iter().fold(total, |a, &b| a.max(b));
                tokens * group <= UNITS && tokens * group * longest <= SCORES
            });
            if !fits {
                tiles.push(Together { tokens: Vec::new(), totals: Vec::new(), uses: Vec::new() });
                open.clear();
            }
            let Some(tile) = tiles.last_mut() else { continue };
            let t = tile.tokens.len();
            tile.tokens.push(token);
            tile.totals.push(total);
            let mut left = total;
            for (depth, &(node, seen)) in chains[index].iter().enumerate() {
                let seen = seen.min(left);
                left -= seen;
                let known = open.get(depth).is_some_and(|&at| tile.uses[at].node == node);
                if !known {
                    open.truncate(depth);
                    open.push(tile.uses.len());
                    tile.uses.push(Use { node, tokens: t..t, seen: Vec::new() });
                }
                let shared = &mut tile.uses[open[depth]];
                shared.tokens.end = t + 1;
                shared.seen.push(seen);
            }
            open.truncate(chains[index].len());
        }
    }
    (tiles, alone)
}

impl Together {
    /// How many tokens share each read of this node.
    #[cfg(test)]
    pub(super) fn readers(&self, node: usize) -> Vec<usize> {
        self.uses.iter().filter(|shared| shared.node == node).map(|s| s.tokens.len()).collect()
    }

    /// Attention in the tiles of `level`, which this machine has.
    pub(super) fn attend<'a>(
        &self,
        level: Level,
        work: &Work<'_>,
        node: impl Fn(usize) -> Node<'a>,
        cell: impl Fn(usize, usize) -> &'a mut [f32],
    ) {
        match level {
            Level::Avx512 => attend_tile::<Avx512>(work, &self.uses, node, cell),
            _ => attend_tile::<Avx2>(work, &self.uses, node, cell),
        }
    }
}

/// Scores of the queries that see a node. Where they see different lengths of it, what a query does not see is
/// written too, and then written over or never read: nodes go from the root down.
fn score<K: Kernel>(
    work: &Work<'_>,
    shared: &Use,
    node: Node<'_>,
    width: usize,
    scores: &mut [f32],
) {
    let Work { group, dim, scale, .. } = *work;
    let reach = shared.seen.iter().copied().max().unwrap_or(0);
    let (u0, units) = (shared.tokens.start * group, shared.tokens.len() * group);
    let query = |unit: usize| (work.query)((u0 + unit) / group, (u0 + unit) % group);
    let strips = units.div_ceil(K::FEW);
    let height = units.div_ceil(strips);
    let unit_columns = K::columns(height);
    let whole = reach / unit_columns * unit_columns;
    if whole > 0 {
        with_scratch(strips * height * dim, |packed| {
            if units < strips * height {
                packed.fill(0.0);
            }
            for unit in 0..units {
                let strip = &mut packed[unit / height * height * dim..];
                for (d, &x) in query(unit).iter().enumerate() {
                    strip[d * height + unit % height] = x;
                }
            }
            for j in (0..whole).step_by(unit_columns) {
                // The next keys of all dimensions while these are multiplied.
                let next = node.keys.as_ptr().wrapping_add(j + unit_columns);
                let lines = unit_columns / K::WIDTH;
                let mut ahead =
                    Ahead { at: next, step: node.k_step, lines, left: lines, share: strips };
                for strip in 0..strips {
                    let first = u0 + strip * height;
                    let cell = &mut scores[first * width + node.first + j..];
                    let rows = height.min(units - strip * height);
                    let tile = Tile {
                        rows,
                        width: unit_columns,
                        steps: dim,
                        a: packed[strip * height * dim..].as_ptr(),
                        a_step: height,
                        b: node.keys[j..].as_ptr(),
                        b_step: node.k_step,
                        c: cell.as_mut_ptr(),
                        c_step: width,
                        first: true,
                    };
                    assert!((dim - 1) * node.k_step + j + unit_columns <= node.keys.len());
                    assert!((rows - 1) * width + unit_columns <= cell.len());
                    // SAFETY: the instructions were detected; a strip holds `dim` steps; the lengths of keys and
                    // scores were just checked.
                    unsafe { K::few(height, tile, &mut ahead) }
                }
            }
        });
    }
    for unit in 0..units {
        let at = (u0 + unit) * width + node.first;
        scaled(&mut scores[at..at + whole], scale);
        let seen = shared.seen[unit / group];
        if seen > whole {
            let keys = &node.keys[whole..];
            let rest = &mut scores[at + whole..at + seen];
            scores_of(query(unit), keys, node.k_step, scale, rest);
        }
    }
}

/// Adds the weighted values of a node to its queries' sums, `[units][CHAINS][dim]`.
fn combine<K: Kernel>(
    work: &Work<'_>,
    shared: &Use,
    node: Node<'_>,
    width: usize,
    weights: &[f32],
    sums: &mut [f32],
) {
    let Work { group, dim, .. } = *work;
    let (u0, units) = (shared.tokens.start * group, shared.tokens.len() * group);
    let columns = K::columns(K::MANY);
    // What all of them see goes together, as far as whole tiles reach.
    let common = shared.seen.iter().copied().min().unwrap_or(0);
    let common = if common < LEAST || units < 2 || dim % columns != 0 { 0 } else { common };
    let padded = units.next_multiple_of(K::WIDTH);
    if common > 0 {
        with_scratch(KEYS * padded + K::MANY, |turned| {
            for j0 in (0..common).step_by(KEYS) {
                let keys = KEYS.min(common - j0);
                turn::<K>(weights, u0, units, width, node.first + j0, keys, padded, turned);
                for unit in (0..units).step_by(K::MANY) {
                    for column in (0..dim).step_by(columns) {
                        for chain in 0..CHAINS {
                            let lead = (CHAINS + chain - (node.first + j0) % CHAINS) % CHAINS;
                            if lead >= keys {
                                continue;
                            }
                            let steps = (keys - lead).div_ceil(CHAINS);
                            let from = (j0 + lead) * node.v_step + column;
                            let cell = ((u0 + unit) * CHAINS + chain) * dim + column;
                            let rows = K::MANY.min(units - unit);
                            let last = (steps - 1) * CHAINS;
                            assert!(from + last * node.v_step + columns <= node.values.len());
                            assert!(cell + (rows - 1) * CHAINS * dim + columns <= sums.len());
                            assert!((lead + last) * padded + unit + K::MANY <= turned.len());
                            let tile = Tile {
                                rows,
                                width: columns,
                                steps,
                                a: turned[lead * padded + unit..].as_ptr(),
                                a_step: CHAINS * padded,
                                b: node.values[from..].as_ptr(),
                                b_step: CHAINS * node.v_step,
                                c: sums[cell..].as_mut_ptr(),
                                c_step: CHAINS * dim,
                                first: false,
                            };
                            // SAFETY: the instructions were detected, and the lengths just checked.
                            unsafe { K::many(tile) }
                        }
                    }
                }
            }
        });
    }
    for unit in 0..units {
        let seen = shared.seen[unit / group];
        if seen > common {
            let at = (u0 + unit) * width + node.first;
            let sums = &mut sums[(u0 + unit) * CHAINS * dim..(u0 + unit + 1) * CHAINS * dim];
            add_values(
                &weights[at + common..at + seen],
                &node.values[common * node.v_step..],
                node.v_step,
                node.first + common,
                sums,
            );
        }
    }
}

/// Weights `[units][width]` of `keys` keys as `[keys][padded]`.
#[allow(clippy::too_many_arguments, reason = "a turned part has this many borders")]
fn turn<K: Kernel>(
    weights: &[f32],
    u0: usize,
    units: usize,
    width: usize,
    first: usize,
    keys: usize,
    padded: usize,
    out: &mut [f32],
) {
    let square = K::WIDTH;
    for unit in (0..units).step_by(square) {
        let mut j = 0;
        if unit + square <= units {
            while j + square <= keys {
                let at = (u0 + unit) * width + first + j;
                let from = &weights[at..at + (square - 1) * width + square];
                let to = &mut out[j * padded + unit..(j + square - 1) * padded + unit + square];
                // SAFETY: the instructions were detected; both slices hold the square.
                unsafe { K::turned(from.as_ptr(), width, to.as_mut_ptr(), padded) }
                j += square;
            }
        }
        for u in unit..units.min(unit + square) {
            let row = &weights[(u0 + u) * width + first..];
            for j in j..keys {
                out[j * padded + u] = row[j];
            }
        }
    }
}
