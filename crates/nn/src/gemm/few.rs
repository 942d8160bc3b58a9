//! Few rows: the product is bound by reading b, which is therefore read once and in the order of memory.

use rayon::prelude::*;

use super::Mat;
use super::pack::{Out, pack_rows, panel, with_scratch};
use super::tile::{Ahead, Kernel, Tile};

/// Rows of b between two passes over the accumulators: that much of b and of c stays in the second-level cache.
const STEPS: usize = 48;
/// Most columns of a task: with its rows of c it stays in the second-level cache.
const COLUMNS: usize = 1024;
/// Elements of a panel of a transposed b, which has to stay in the first-level cache.
const PANEL: usize = 4096;

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
    // Strips of rows of one height, as even as they can be.
    let strips = m.div_ceil(K::FEW);
    let height = m.div_ceil(strips);
    let unit = K::columns(height);
    let threads = if m * n * k < 1 << 16 { 1 } else { rayon::current_num_threads().max(1) };
    let columns = n.div_ceil(threads).next_multiple_of(unit).min(COLUMNS / unit * unit);
    let tasks = n.div_ceil(columns);
    with_scratch(strips * height * k, |rows| {
        pack_rows::<K>(a, 0, m, 0, k, height, rows);
        let rows = &*rows;
        let run = |task: usize| {
            let range = task * columns..((task + 1) * columns).min(n);
            if b.col_stride == 1 && m == 1 {
                let t = Tile {
                    rows: 1,
                    width: range.len(),
                    steps: k,
                    a: rows.as_ptr(),
                    a_step: 1,
                    b: b.data[range.start..].as_ptr(),
                    b_step: b.row_stride,
                    c: c.at(range.start),
                    c_step: n,
                    first,
                };
                // SAFETY: the instructions were detected; rows holds k elements, b's rows reach to n, and the
                // columns of c are this task's own.
                unsafe { K::sweep(k, rows.as_ptr(), t) }
            } else if b.col_stride == 1 {
                straight::<K>(range, (m, n, k), height, rows, b, c, first);
            } else {
                turned::<K>(range, (m, n, k), height, rows, b, c, first);
            }
        };
        if threads == 1 || tasks == 1 {
            (0..tasks).for_each(run);
        } else {
            (0..tasks).into_par_iter().for_each(run);
        }
    });
}

/// b's rows are contiguous: tiles read them where they stand.
fn straight<K: Kernel>(
    range: std::ops::Range<usize>,
    (m, n, k): (usize, usize, usize),
    height: usize,
    rows: &[f32],
    b: Mat<'_, f32>,
    c: Out,
    first: bool,
) {
    let unit = K::columns(height);
    let lines = range.len().div_ceil(K::WIDTH);
    with_scratch(STEPS * unit, |edge| {
        for k0 in (0..k).step_by(STEPS) {
            let steps = STEPS.min(k - k0);
            let next =
                if k0 + steps < k { (k0 + steps) * b.row_stride + range.start } else { range.end };
            let mut ahead = Ahead {
                at: b.data.as_ptr().wrapping_add(next),
                step: b.row_stride,
                lines,
                left: lines,
                share: m.div_ceil(height),
            };
            for j in range.clone().step_by(unit) {
                let width = unit.min(range.end - j);
                let (from, b_step) = if width == unit {
                    (b.data[k0 * b.row_stride + j..].as_ptr(), b.row_stride)
                } else {
                    panel::<K>(b, k0, steps, j, width, unit, edge);
                    (edge.as_ptr(), unit)
                };
                for (strip, i) in (0..m).step_by(height).enumerate() {
                    let t = Tile {
                        rows: height.min(m - i),
                        width,
                        steps,
                        a: rows[(strip * k + k0) * height..].as_ptr(),
                        a_step: height,
                        b: from,
                        b_step,
                        c: c.at(i * n + j),
                        c_step: n,
                        first: first && k0 == 0,
                    };
                    // SAFETY: the instructions were detected; a strip holds k steps, b's rows hold `unit`
                    // columns from here, and the columns of c are this task's own.
                    unsafe { K::few(height, t, &mut ahead) }
                }
            }
        }
    });
}

/// b is stored by columns: panels are turned in registers on their way to the tiles.
fn turned<K: Kernel>(
    range: std::ops::Range<usize>,
    (m, n, k): (usize, usize, usize),
    height: usize,
    rows: &[f32],
    b: Mat<'_, f32>,
    c: Out,
    first: bool,
) {
    let unit = K::columns(height);
    let most = (PANEL / unit / K::WIDTH).max(1) * K::WIDTH;
    with_scratch(most * unit, |scratch| {
        for j in range.clone().step_by(unit) {
            let width = unit.min(range.end - j);
            for k0 in (0..k).step_by(most) {
                let steps = most.min(k - k0);
                panel::<K>(b, k0, steps, j, width, unit, scratch);
                // Turning has fetched what comes next.
                let at = scratch.as_ptr();
                let mut ahead = Ahead { at, step: 0, lines: 1, left: 1, share: usize::MAX };
                for (strip, i) in (0..m).step_by(height).enumerate() {
                    let t = Tile {
                        rows: height.min(m - i),
                        width,
                        steps,
                        a: rows[(strip * k + k0) * height..].as_ptr(),
                        a_step: height,
                        b: scratch.as_ptr(),
                        b_step: unit,
                        c: c.at(i * n + j),
                        c_step: n,
                        first: first && k0 == 0,
                    };
                    // SAFETY: as in `straight`, with the panel for b.
                    unsafe { K::few(height, t, &mut ahead) }
                }
            }
        }
    });
}
