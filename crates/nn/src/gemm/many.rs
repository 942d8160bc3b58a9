//! Many rows: the product is bound by arithmetic; both operands are packed, b once for all rows.

use rayon::prelude::*;

use super::Mat;
use super::pack::{Out, pack_rows, panel, side_by_side, with_scratch};
use super::tile::{Kernel, Tile};

/// k is cut into even parts of this length at most: a panel of b and a strip of a stay in the first-level cache.
const STEPS: usize = 256;
/// Rows that one task takes, at most: their part of c stays in the second-level cache from part to part of k.
const ROWS: usize = 96;
/// Panels of b that a task packs side by side.
const SIDE: usize = 4;
/// Elements of b that are packed at a time.
const PACKED: usize = 1 << 22;

/// c = a b, or c += a b unless `first`.
pub(super) fn gemm<K: Kernel>(
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    c: Out,
    first: bool,
) {
    let unit = K::columns(K::MANY);
    let panels = n.div_ceil(unit);
    let threads = if m * n * k < 1 << 16 { 1 } else { rayon::current_num_threads().max(1) };
    let rows = m.div_ceil(threads * 4).next_multiple_of(K::MANY).clamp(K::MANY, ROWS);
    let part = k.div_ceil(k.div_ceil(STEPS));
    // All strips of some rows, from step `k0` on, over one panel of b.
    let tiles =
        |i0: usize, i1: usize, k0: usize, steps: usize, pa: &[f32], pb: &[f32], at: usize| {
            let j = at * unit;
            for (strip, i) in (i0..i1).step_by(K::MANY).enumerate() {
                let t = Tile {
                    rows: K::MANY.min(i1 - i),
                    width: unit.min(n - j),
                    steps,
                    a: pa[strip * K::MANY * steps..].as_ptr(),
                    a_step: K::MANY,
                    b: pb.as_ptr(),
                    b_step: unit,
                    c: c.at(i * n + j),
                    c_step: n,
                    first: first && k0 == 0,
                };
                // SAFETY: the instructions were detected; strips and panels hold `steps` steps; no other task
                // writes these rows and columns.
                unsafe { K::many(t) }
            }
        };
    let parts = || (0..k).step_by(part).map(|k0| (k0, part.min(k - k0)));
    if m <= ROWS {
        // All rows fit a task: it packs the panels that it needs, and the work is split by columns.
        let padded = m.next_multiple_of(K::MANY);
        for (k0, steps) in parts() {
            with_scratch(padded * steps, |pa| {
                pack_rows::<K>(a, 0, m, k0, steps, K::MANY, pa);
                let pa = &*pa;
                let run = |at: usize| {
                    with_scratch(steps * unit, |pb| {
                        let width = unit.min(n - at * unit);
                        panel::<K>(b, k0, steps, at * unit, width, unit, pb);
                        tiles(0, m, k0, steps, pa, pb, at);
                    });
                };
                if threads == 1 {
                    (0..panels).for_each(run);
                } else {
                    (0..panels).into_par_iter().for_each(run);
                }
            });
        }
        return;
    }
    let group = (PACKED / (k * unit)).max(1);
    for g0 in (0..panels).step_by(group) {
        let count = group.min(panels - g0);
        with_scratch(count * k * unit, |packed| {
            packed.par_chunks_mut(SIDE * k * unit).enumerate().for_each(|(at, out)| {
                side_by_side::<K>(b, k, (g0 + at * SIDE) * unit, n, out);
            });
            let packed = &*packed;
            (0..m.div_ceil(rows)).into_par_iter().for_each(|block| {
                let (i0, i1) = (block * rows, ((block + 1) * rows).min(m));
                for (k0, steps) in parts() {
                    with_scratch((i1 - i0).next_multiple_of(K::MANY) * steps, |pa| {
                        pack_rows::<K>(a, i0, i1, k0, steps, K::MANY, pa);
                        for (at, pb) in packed.chunks_exact(k * unit).enumerate() {
                            let pb = &pb[k0 * unit..(k0 + steps) * unit];
                            tiles(i0, i1, k0, steps, pa, pb, g0 + at);
                        }
                    });
                }
            });
        });
    }
}
