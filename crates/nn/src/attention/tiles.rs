//! Queries that share their past, over it together.
//!
//! Rows that decode after one prefix, tokens of one prefill and the query heads of one key head read the same
//! keys and values. A tile takes up to [`UNITS`] such queries of one key head; a cached node's keys and values are
//! read once for all of its queries, as matrix products: scores are queries times keys, and each of the chains of
//! the weighted sum is a product of every fourth weight with every fourth value. The order of summation of a query
//! is that of [`attend`](super::kernel::attend), so its bits are those it has alone.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::together::attend_tile;
use crate::forest::Forest;
#[cfg(target_arch = "x86_64")]
use crate::gemm::lanes::{Avx2, Avx512};
use crate::simd::Level;

/// Queries of a tile, at most.
const UNITS: usize = 48;

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
pub(super) struct Use {
    pub(super) node: usize,
    pub(super) tokens: Range<usize>,
    /// How many of the node's tokens each of them sees.
    pub(super) seen: Vec<usize>,
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
        #[cfg(target_arch = "x86_64")]
        match level {
            Level::Avx512 => attend_tile::<Avx512>(work, &self.uses, node, cell),
            _ => attend_tile::<Avx2>(work, &self.uses, node, cell),
        }
        // Elsewhere every token goes alone.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (level, work, node, cell);
    }
}
