//! Attention of queries over chains of runs of keys, those of one cache or of one pass.

use rayon::prelude::*;

use super::Heads;
use super::kernel::{Span, attend};
use super::tiles::{Node, Together, Work, tiled};
use super::tree::Out;
use crate::forest::Forest;
use crate::simd::Level;

/// What one query head of one token sees of a chain, the last `kept` of `total` tokens.
struct Seen<'a> {
    chain: &'a [(usize, usize)],
    total: usize,
    kept: usize,
}

/// Attention of the queries of a pass. Segment i of `forest` sees the runs of `chains[i]`, each with how many of its
/// tokens, the last one being what ends with the segment's own; `node(number, g)` is a run's key head.
pub(super) fn attend_chains<'n>(
    level: Level,
    q: &[f32],
    heads: Heads,
    forest: &Forest,
    chains: &[Vec<(usize, usize)>],
    node: impl Fn(usize, usize) -> Node<'n> + Sync,
) -> Vec<f32> {
    let Heads { heads, kv_heads, head_dim: dim, scale, window, softcap } = heads;
    let (cap, scale, group) = (softcap.map(|cap| cap as f32), scale as f32, heads / kv_heads);
    let mut out = vec![0f32; q.len()];
    let target = Out::new(&mut out);
    let query =
        |token: usize, h: usize| &q[(token * heads + h) * dim..(token * heads + h + 1) * dim];
    // SAFETY: each (token, head) is a cell of its own, and one task's.
    let cell = |token: usize, h: usize| unsafe { target.cell((token * heads + h) * dim, dim) };

    let (tiles, singles) = tiled(level, forest, chains, group, window);
    let jobs: Vec<_> = tiles
        .iter()
        .map(Job::Tile)
        .chain(singles.chunks(SINGLES).map(Job::Singles))
        .flat_map(|job| (0..kv_heads).map(move |g| (job, g)))
        .collect();
    jobs.into_par_iter().for_each(|(job, g)| match job {
        Job::Tile(tile) => {
            let work = Work {
                query: &|t, h| query(tile.tokens[t], g * group + h),
                group,
                dim,
                scale,
                cap,
                totals: &tile.totals,
            };
            let cell = |t: usize, h: usize| cell(tile.tokens[t], g * group + h);
            tile.attend(level, &work, |number| node(number, g), cell);
        }
        Job::Singles(tokens) => {
            let (mut scores, mut spans) = (Vec::new(), Vec::new());
            for &(token, index) in tokens {
                let segment = &forest.segments()[index];
                let after = segment.range.end - token - 1;
                let total = segment.offset + segment.range.len() - after;
                let kept = window.map_or(total, |window| window.min(total));
                Seen { chain: &chains[index], total, kept }.spans(|n| node(n, g), &mut spans);
                scores.resize(kept, 0.0);
                for h in g * group..(g + 1) * group {
                    attend(query(token, h), &spans, scale, cap, &mut scores, cell(token, h));
                }
            }
        }
    });
    out
}

/// Tokens of a task that go query by query.
const SINGLES: usize = 16;

#[derive(Clone, Copy)]
enum Job<'a> {
    Tile(&'a Together),
    Singles(&'a [(usize, usize)]),
}

impl Seen<'_> {
    fn spans<'a>(&self, node: impl Fn(usize) -> Node<'a>, spans: &mut Vec<Span<'a, f32>>) {
        spans.clear();
        let (mut hidden, mut left) = (self.total - self.kept, self.total);
        for &(number, len) in self.chain {
            let len = len.min(left);
            left -= len;
            let cut = hidden.min(len);
            hidden -= cut;
            if len > cut {
                let node = node(number);
                spans.push(Span {
                    keys: &node.keys[cut..],
                    k_stride: node.k_step,
                    values: &node.values[cut * node.v_step..],
                    v_stride: node.v_step,
                    len: len - cut,
                });
            }
        }
    }
}
