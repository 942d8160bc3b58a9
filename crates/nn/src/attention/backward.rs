//! Gradients of a whole pass's attention, in blocks of queries and keys.
//!
//! A block holds some tokens' queries of one key head. Its weights are recomputed over all keys that it sees; then,
//! with P the weights, G the output's gradient and D the dot product of each query's output and gradient, part by part
//! of the keys: dS = P * (G V' - D), dQ += dS K, dK += dS' Q, dV += P' G (Dao et al., FlashAttention-2, section 3.1).
//! Nothing has more than a block's queries times the keys that they see.

mod blocks;

use std::ops::Range;

use rayon::prelude::*;

use self::blocks::{
    KEYS, Part, Queries, Tree, Visible, chunks, overlap, parts, seen, total, trees,
};
use super::Heads;
use super::kernel::exponentials;
use super::tree::Out;
use crate::Forest;
use crate::gemm::block::{Block, COLUMNS, ROWS, SLACK, transpose};
use crate::host::zeros;
use crate::simd::{Real, simd, soften};

/// What the backward pass reads: queries, keys, values, the output and its gradient.
pub(super) struct Given<'a, T> {
    pub(super) q: &'a [T],
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
    pub(super) out: &'a [T],
    pub(super) grad: &'a [T],
}

/// Gradients of q, k and v.
pub(super) fn backward<T: Real>(
    heads: Heads,
    forest: &Forest,
    given: &Given<'_, T>,
) -> [Vec<T>; 3] {
    let Heads { heads: all, kv_heads, head_dim: dim, .. } = heads;
    let group = all / kv_heads;
    let (mut dq, mut dk, mut dv) =
        (zeros::<T>(given.q.len()), zeros::<T>(given.k.len()), zeros::<T>(given.v.len()));
    let (out_q, out_k, out_v) = (Out::new(&mut dq), Out::new(&mut dk), Out::new(&mut dv));
    let trees = trees(forest, group);
    let jobs: Vec<(&Tree, usize)> =
        trees.iter().flat_map(|tree| (0..kv_heads).map(move |g| (tree, g))).collect();
    jobs.into_par_iter().for_each(|(tree, g)| {
        let keys = Keys::of(given, &tree.span, kv_heads, g, dim);
        let sums: Vec<[Vec<T>; 2]> = tree
            .shares
            .par_iter()
            .map(|blocks| {
                let mut task = Task::new(heads, forest, given, &keys, g);
                for queries in blocks {
                    task.block(queries, &out_q);
                }
                [task.grad_keys, task.grad_values]
            })
            .collect();
        for token in tree.segments.iter().cloned().flatten() {
            let (at, j) = ((token * kv_heads + g) * dim, (token - tree.span.start) * dim);
            // SAFETY: key head g of this tree's tokens belongs to this job alone.
            let cells = unsafe { [out_k.cell(at, dim), out_v.cell(at, dim)] };
            for (which, cell) in cells.into_iter().enumerate() {
                for share in &sums {
                    for (x, &y) in cell.iter_mut().zip(&share[which][j..j + dim]) {
                        *x += y;
                    }
                }
            }
        }
    });
    [dq, dk, dv]
}

/// Keys and values of a tree for one key head, as products read them.
struct Keys<T> {
    /// First token.
    start: usize,
    len: usize,
    /// `[token][dim]`.
    keys: Vec<T>,
    /// `[dim][token]`, rows `step` apart.
    keys_t: Vec<T>,
    values_t: Vec<T>,
    step: usize,
}

/// Room of a row of `len`, an odd number of lines: rows a power of two apart would share few places of the cache.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(16) | 16
}

impl<T: Real> Keys<T> {
    fn of(
        given: &Given<'_, T>,
        span: &Range<usize>,
        kv_heads: usize,
        g: usize,
        dim: usize,
    ) -> Self {
        let (len, step, row) = (span.len(), padded(span.len()), kv_heads * dim);
        let first = span.start * row + g * dim;
        let mut keys = zeros::<T>(len * dim + SLACK);
        for (j, to) in keys[..len * dim].chunks_exact_mut(dim).enumerate() {
            to.copy_from_slice(&given.k[first + j * row..first + j * row + dim]);
        }
        let turned = |from: &[T]| {
            let mut to = zeros::<T>(dim * step + SLACK);
            transpose(len, dim, &from[first..], row, &mut to, step);
            to
        };
        let (keys_t, values_t) = (turned(given.k), turned(given.v));
        Self { start: span.start, len, keys, keys_t, values_t, step }
    }
}

/// A task's sums and scratch.
struct Task<'a, T> {
    heads: Heads,
    forest: &'a Forest,
    given: &'a Given<'a, T>,
    keys: &'a Keys<T>,
    g: usize,
    grad_keys: Vec<T>,
    grad_values: Vec<T>,
    /// The block's queries and gradients, `[unit][dim]` and `[dim][unit]`.
    queries: [Vec<T>; 2],
    grads: [Vec<T>; 2],
    /// `[unit][dim]`.
    grad_queries: Vec<T>,
    /// `[unit][key]`: weights, and the slopes of capped scores.
    weights: Vec<T>,
    slopes: Vec<T>,
    /// A part's gradients of scores, `[unit][key]` and `[key][unit]`.
    scores: [Vec<T>; 2],
}

/// Room of a part's row.
const PART: usize = KEYS + 16;

impl<'a, T: Real> Task<'a, T> {
    fn new(
        heads: Heads,
        forest: &'a Forest,
        given: &'a Given<'a, T>,
        keys: &'a Keys<T>,
        g: usize,
    ) -> Self {
        let sums = || zeros::<T>(keys.len * heads.head_dim);
        let pair = || [Vec::new(), Vec::new()];
        let (grad_keys, grad_values) = (sums(), sums());
        let (queries, grads, scores) = (pair(), pair(), pair());
        let (grad_queries, weights, slopes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            heads,
            forest,
            given,
            keys,
            g,
            grad_keys,
            grad_values,
            queries,
            grads,
            grad_queries,
            weights,
            slopes,
            scores,
        }
    }

    /// Adds what one block's queries give.
    fn block(&mut self, queries: &Queries, out: &Out<T>) {
        let Heads { heads, kv_heads, head_dim: dim, scale, window, softcap } = self.heads;
        let (group, tokens) = (heads / kv_heads, &queries.tokens);
        let (scale, cap) = (T::of(scale), softcap.map(T::of));
        let units = tokens.len() * group;
        let first = self.g * group;
        let place =
            |unit: usize| ((tokens.start + unit / group) * heads + first + unit % group) * dim;
        let step = padded(units);
        let sources = [(self.given.q, &mut self.queries), (self.given.grad, &mut self.grads)];
        for (source, [rows, turned]) in sources {
            rows.resize(units * dim + SLACK, T::default());
            turned.resize(dim * step + SLACK, T::default());
            for (unit, row) in rows[..units * dim].chunks_exact_mut(dim).enumerate() {
                row.copy_from_slice(&source[place(unit)..place(unit) + dim]);
            }
            transpose(units, dim, rows, dim, turned, step);
        }
        let ranges = seen(self.forest, queries);
        let (reach, causal) = (total(&ranges), self.forest.segments()[queries.segment].causal);
        let visible = (0..units).map(|unit| {
            let later = tokens.len() - 1 - unit / group;
            let end = if causal { reach - later } else { reach };
            window.map_or(0, |window| end.saturating_sub(window))..end
        });
        let visible = Visible(visible.collect());
        let all = visible.hull(0..units);
        let parts = parts(&ranges, &all);
        let width = padded(reach);
        self.weights.resize(units * width + SLACK, T::default());
        for part in &parts {
            let weights = &mut self.weights[part.at.start..];
            let turned = &self.queries[1];
            self.keys.times(&self.keys.keys_t, dim, turned, step, part, &visible, weights, width);
        }
        if cap.is_some() {
            self.slopes.resize(units * width, T::default());
        }
        let mut means = Vec::with_capacity(units);
        for (unit, seen) in visible.0.iter().enumerate() {
            let row = unit * width;
            let slopes =
                if cap.is_some() { &mut self.slopes[row..][seen.clone()] } else { &mut [] };
            self.weights[row..][all.start..seen.start].fill(T::default());
            self.weights[row..][seen.end..all.end].fill(T::default());
            weigh(&mut self.weights[row..][seen.clone()], scale, cap, slopes);
            let at = place(unit);
            let grad = &self.grads[0][unit * dim..(unit + 1) * dim];
            let mut mean = T::default();
            dot(&self.given.out[at..at + dim], grad, &mut mean);
            means.push(mean);
        }
        self.grad_queries.clear();
        self.grad_queries.resize(units * dim, T::default());
        for part in &parts {
            self.part(part, &visible, width, &means, step);
        }
        for unit in 0..units {
            // SAFETY: the query heads of key head g belong to this job, these tokens to this share.
            let cell = unsafe { out.cell(place(unit), dim) };
            cell.copy_from_slice(&self.grad_queries[unit * dim..(unit + 1) * dim]);
        }
    }

    /// What the keys of a part get and give.
    fn part(&mut self, part: &Part, visible: &Visible, width: usize, means: &[T], step: usize) {
        let (dim, scale) = (self.heads.head_dim, T::of(self.heads.scale));
        let (units, keys) = (means.len(), part.at.len());
        let [scores, turned] = &mut self.scores;
        scores.resize(units * PART + SLACK, T::default());
        turned.resize(keys.max(1) * step + SLACK, T::default());
        let (values_t, grads) = (&self.keys.values_t, &self.grads[1]);
        self.keys.times(values_t, dim, grads, step, part, visible, scores, PART);
        for (unit, seen) in visible.0.iter().enumerate() {
            let row = &mut scores[unit * PART..unit * PART + keys];
            let seen = overlap(seen, &part.at);
            let (from, to) = (seen.start - part.at.start, seen.end - part.at.start);
            row[..from].fill(T::default());
            row[to..].fill(T::default());
            let at = unit * width;
            slope(&mut row[from..to], &self.weights[at..][seen.clone()], means[unit], scale);
            if self.heads.softcap.is_some() {
                for (x, &slope) in row[from..to].iter_mut().zip(&self.slopes[at..][seen]) {
                    *x *= slope;
                }
            }
        }
        transpose(units, keys, scores, PART, turned, step);
        for rows in chunks(0..units, ROWS) {
            let seen = overlap(&visible.hull(rows.clone()), &part.at);
            let (from, token) =
                (seen.start - part.at.start, part.token + seen.start - part.at.start);
            if seen.is_empty() {
                continue;
            }
            Block {
                rows: rows.len(),
                columns: dim,
                steps: seen.len(),
                a: &turned[from * step + rows.start..],
                a_step: step,
                b: &self.keys.keys[(token - self.keys.start) * dim..],
                b_step: dim,
                c: &mut self.grad_queries[rows.start * dim..],
                c_step: dim,
                first: false,
            }
            .run();
        }
        for rows in chunks(part.at.clone(), ROWS) {
            let within = visible.units(&rows);
            let from = rows.start - part.at.start;
            let cell = (part.token + from - self.keys.start) * dim;
            let of_scores = (&scores[within.start * PART + from..], PART);
            let of_weights = (&self.weights[within.start * width + rows.start..], width);
            for ((a, a_step), b, c) in [
                (of_scores, &self.queries[0], &mut self.grad_keys),
                (of_weights, &self.grads[0], &mut self.grad_values),
            ] {
                Block {
                    rows: rows.len(),
                    columns: dim,
                    steps: within.len(),
                    a,
                    a_step,
                    b: &b[within.start * dim..],
                    b_step: dim,
                    c: &mut c[cell..],
                    c_step: dim,
                    first: false,
                }
                .run();
            }
        }
    }
}

impl<T: Real> Keys<T> {
    /// Products of a block's units, `[dim][unit]`, with a part's keys or values, `[dim][token]`, where any are seen.
    #[allow(clippy::too_many_arguments, reason = "a product's borders are numbers")]
    fn times(
        &self,
        turned: &[T],
        dim: usize,
        units: &[T],
        unit_step: usize,
        part: &Part,
        visible: &Visible,
        out: &mut [T],
        out_step: usize,
    ) {
        for columns in chunks(part.at.clone(), COLUMNS) {
            let from = columns.start - part.at.start;
            let within = visible.units(&columns);
            Block {
                rows: within.len(),
                columns: columns.len(),
                steps: dim,
                a: &units[within.start..],
                a_step: unit_step,
                b: &turned[part.token + from - self.start..],
                b_step: self.step,
                c: &mut out[within.start * out_step + from..],
                c_step: out_step,
                first: true,
            }
            .run();
        }
    }
}

/// Partial sums of a dot product.
const LANES: usize = 16;

simd! {
    /// Adds the dot product of two rows to `sum`.
    fn dot<T>(a: &[T], b: &[T], sum: &mut T) {
        let mut lanes = [T::default(); LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((lane, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
                *lane = x.fma(y, *lane);
            }
        }
        for lane in lanes {
            *sum += lane;
        }
    }
}

simd! {
    /// Turns a query's products with its keys into weights; `slopes` are those of capped scores.
    fn weigh<T>(row: &mut [T], scale: T, cap: Option<T>, slopes: &mut [T]) {
        for x in row.iter_mut() {
            *x *= scale;
        }
        if let Some(cap) = cap {
            soften(row, cap);
            let inverse = T::of(1.0) / cap;
            for (slope, &x) in slopes.iter_mut().zip(row.iter()) {
                *slope = T::of(1.0) - (x * inverse) * (x * inverse);
            }
        }
        let inverse = exponentials(row);
        for x in row {
            *x *= inverse;
        }
    }
}

simd! {
    /// Turns gradients of a query's weights into those of its scores.
    fn slope<T>(row: &mut [T], weights: &[T], mean: T, scale: T) {
        for (x, &weight) in row.iter_mut().zip(weights) {
            *x = weight * (*x - mean) * scale;
        }
    }
}
