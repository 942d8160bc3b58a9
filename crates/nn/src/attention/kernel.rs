//! One query against its keys, in the order in which the keys stand before it.
//!
//! Keys come in spans (cached nodes, the prompt, the own branch). All sums run over logical key
//! indices in a fixed pattern, so that the result does not depend on how the keys are cut into
//! spans: packed or separate, forked or not, a token's attention has the same bits.

use crate::simd::{Real, simd, soften};

/// Keys and values of consecutive logical tokens, for one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a, T> {
    /// Element (d, j) of the keys stands at `d * k_stride + j`.
    pub(super) keys: &'a [T],
    pub(super) k_stride: usize,
    /// Element (j, d) of the values stands at `j * v_stride + d`.
    pub(super) values: &'a [T],
    pub(super) v_stride: usize,
    pub(super) len: usize,
}

/// Keys per register block.
const BLOCK: usize = 64;
/// Partial sums of the softmax denominator.
const LANES: usize = 16;
/// Partial sums over keys of the weighted values; key j goes to chain j mod CHAINS.
pub(super) const CHAINS: usize = 4;
/// Value columns per register block: with all chains they fit the registers of AVX2.
const COLUMNS: usize = 16;

/// `out[j] = scale * sum_d query[d] * keys[d][j]`, one chain over d for each key.
#[inline(always)]
pub(super) fn products<T: Real>(query: &[T], keys: &[T], stride: usize, scale: T, out: &mut [T]) {
    let len = out.len();
    let mut j = 0;
    while j + BLOCK <= len {
        let mut acc = [T::default(); BLOCK];
        for (d, &q) in query.iter().enumerate() {
            let row = &keys[d * stride + j..d * stride + j + BLOCK];
            for l in 0..BLOCK {
                acc[l] = q.fma(row[l], acc[l]);
            }
        }
        for l in 0..BLOCK {
            out[j + l] = acc[l] * scale;
        }
        j += BLOCK;
    }
    while j < len {
        let width = LANES.min(len - j);
        let mut acc = [T::default(); LANES];
        // Lanes beyond the span are computed from whatever stands there, and left out, where
        // something stands there: a register is as fast as a lane.
        let whole = (query.len().max(1) - 1) * stride + j + LANES <= keys.len();
        for (d, &q) in query.iter().enumerate() {
            let at = d * stride + j;
            if whole {
                let row = &keys[at..at + LANES];
                for l in 0..LANES {
                    acc[l] = q.fma(row[l], acc[l]);
                }
            } else {
                for (acc, &key) in acc.iter_mut().zip(&keys[at..at + width]) {
                    *acc = q.fma(key, *acc);
                }
            }
        }
        for l in 0..width {
            out[j + l] = acc[l] * scale;
        }
        j += width;
    }
}

/// Turns scores into `exp(score - max)` and gives one over their sum.
#[inline(always)]
pub(super) fn exponentials<T: Real>(scores: &mut [T]) -> T {
    let lowest = T::of(f64::NEG_INFINITY);
    let mut top = [lowest; LANES];
    let mut sums = [T::default(); LANES];
    let whole = scores.len() / LANES * LANES;
    let (blocks, rest) = scores.split_at_mut(whole);
    // What is missing in the last block weighs nothing.
    let mut last = [lowest; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in blocks.chunks_exact(LANES).chain([last.as_slice()]) {
        for l in 0..LANES {
            top[l] = top[l].larger(chunk[l]);
        }
    }
    let mut max = top[0];
    for &t in &top[1..] {
        max = max.larger(t);
    }
    for chunk in blocks.chunks_exact_mut(LANES).chain([last.as_mut_slice()]) {
        for l in 0..LANES {
            let e = Real::exp(chunk[l] - max);
            chunk[l] = e;
            sums[l] += e;
        }
    }
    rest.copy_from_slice(&last[..rest.len()]);
    let mut sum = sums[0];
    for &s in &sums[1..] {
        sum += s;
    }
    T::of(1.0) / sum
}

/// Adds `weights[j] * rows[j]` into the chains, `width` columns of each; `first` is the logical
/// index of the span's start.
#[inline(always)]
fn gather<T: Real>(
    weights: &[T],
    rows: &[T],
    stride: usize,
    column: usize,
    first: usize,
    acc: &mut [[T; COLUMNS]; CHAINS],
    width: usize,
) {
    let add = |chain: &mut [T; COLUMNS], j: usize| {
        let row = &rows[j * stride + column..j * stride + column + width];
        for (sum, &x) in chain.iter_mut().zip(row) {
            *sum = weights[j].fma(x, *sum);
        }
    };
    // To the next key of chain 0 one by one; then all chains at once, which keeps them in
    // registers.
    let lead = ((CHAINS - first % CHAINS) % CHAINS).min(weights.len());
    for j in 0..lead {
        add(&mut acc[(first + j) % CHAINS], j);
    }
    let mut j = lead;
    if width == COLUMNS {
        let mut chains = *acc;
        while j + CHAINS <= weights.len() {
            for (c, chain) in chains.iter_mut().enumerate() {
                let at = (j + c) * stride + column;
                let (w, row) = (weights[j + c], &rows[at..at + COLUMNS]);
                for l in 0..COLUMNS {
                    chain[l] = w.fma(row[l], chain[l]);
                }
            }
            j += CHAINS;
        }
        *acc = chains;
    }
    while j < weights.len() {
        add(&mut acc[(first + j) % CHAINS], j);
        j += 1;
    }
}

/// `out[d] = factor * sum_j weights[j] * rows_j[d]` over all spans; `rows` picks a span's matrix.
#[inline(always)]
pub(super) fn combine<'a, T: Real>(
    weights: &[T],
    spans: impl Iterator<Item = (&'a [T], usize, usize)> + Clone,
    factor: T,
    out: &mut [T],
) {
    let mut column = 0;
    while column < out.len() {
        let width = COLUMNS.min(out.len() - column);
        let mut acc = [[T::default(); COLUMNS]; CHAINS];
        let mut first = 0;
        for (rows, stride, len) in spans.clone() {
            gather(&weights[first..first + len], rows, stride, column, first, &mut acc, width);
            first += len;
        }
        for l in 0..width {
            out[column + l] = ((acc[0][l] + acc[1][l]) + (acc[2][l] + acc[3][l])) * factor;
        }
        column += width;
    }
}

simd! {
    /// Softmax attention of one query over `spans`; `scores` has room for all keys.
    pub(super) fn attend<T>(query: &[T], spans: &[Span<'_, T>], scale: T, cap: Option<T>, scores: &mut [T], out: &mut [T]) {
        let mut first = 0;
        for span in spans {
            products(query, span.keys, span.k_stride, scale, &mut scores[first..first + span.len]);
            first += span.len;
        }
        if let Some(cap) = cap {
            soften(scores, cap);
        }
        let inverse = exponentials(scores);
        combine(scores, spans.iter().map(|s| (s.values, s.v_stride, s.len)), inverse, out);
    }
}

simd! {
    /// [`products`] for a tile's query.
    pub(super) fn scores_of<T>(query: &[T], keys: &[T], stride: usize, scale: T, out: &mut [T]) {
        products(query, keys, stride, scale, out);
    }
}

simd! {
    /// Times the scale, what a tile has left without it.
    pub(super) fn scaled<T>(scores: &mut [T], scale: T) {
        for score in scores {
            *score *= scale;
        }
    }
}

/// A tile's scores of one query as weights, and one over their sum.
pub(super) fn exponentiated<T: Real>(scores: &mut [T], cap: Option<T>) -> T {
    let mut factor = [T::default()];
    weights_of(scores, cap, &mut factor);
    factor[0]
}

simd! {
    fn weights_of<T>(scores: &mut [T], cap: Option<T>, factor: &mut [T]) {
        if let Some(cap) = cap {
            soften(scores, cap);
        }
        factor[0] = exponentials(scores);
    }
}

simd! {
    /// Adds weighted values to sums `[CHAINS][dim]` that are kept between spans; `first` is the logical index
    /// of the first weight.
    pub(super) fn add_values<T>(weights: &[T], rows: &[T], stride: usize, first: usize, sums: &mut [T]) {
        let dim = sums.len() / CHAINS;
        let mut column = 0;
        while column < dim {
            let width = COLUMNS.min(dim - column);
            let mut acc = [[T::default(); COLUMNS]; CHAINS];
            for (c, acc) in acc.iter_mut().enumerate() {
                let at = c * dim + column;
                acc[..width].copy_from_slice(&sums[at..at + width]);
            }
            gather(weights, rows, stride, column, first, &mut acc, width);
            for (c, acc) in acc.iter().enumerate() {
                let at = c * dim + column;
                sums[at..at + width].copy_from_slice(&acc[..width]);
            }
            column += width;
        }
    }
}

simd! {
    /// The chains' sum times `factor`.
    pub(super) fn finish<T>(sums: &[T], factor: T, out: &mut [T]) {
        let dim = out.len();
        for (d, out) in out.iter_mut().enumerate() {
            let chain = |c: usize| sums[c * dim + d];
            *out = ((chain(0) + chain(1)) + (chain(2) + chain(3))) * factor;
        }
    }
}
