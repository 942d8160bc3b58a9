//! Operands in the order in which tiles read them.

use std::cell::RefCell;

use super::Mat;
use super::tile::{Kernel, fetch};

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Elements of a line of the cache.
const LINE: usize = 16;

/// Runs `f` with scratch of this thread, from the start of a line on: a vector that lies across two lines is read
/// twice. What stands in it is of no use to anyone.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out of the cell: rayon may run another product on this thread while f waits.
    let mut scratch = SCRATCH.with(|cell| cell.borrow_mut().pop()).unwrap_or_default();
    if scratch.len() < len + LINE {
        scratch.resize(len + LINE, 0.0);
    }
    let start = scratch.as_ptr().align_offset(4 * LINE).min(LINE);
    let result = f(&mut scratch[start..start + len]);
    SCRATCH.with(|cell| cell.borrow_mut().push(scratch));
    result
}

/// The output, shared by tasks.
#[derive(Clone, Copy)]
pub(super) struct Out(*mut f32);

// SAFETY: tasks write disjoint rows or disjoint columns of the output.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub(super) fn new(c: *mut f32) -> Self {
        Self(c)
    }

    pub(super) fn at(self, cell: usize) -> *mut f32 {
        self.0.wrapping_add(cell)
    }
}

/// b's columns `j..j + width` as `[steps][unit]`, zero beyond them.
pub(super) fn panel<K: Kernel>(
    b: Mat<'_, f32>,
    k0: usize,
    steps: usize,
    j: usize,
    width: usize,
    unit: usize,
    out: &mut [f32],
) {
    if b.col_stride == 1 && width == unit {
        for (p, row) in out.chunks_exact_mut(unit).enumerate().take(steps) {
            let at = (k0 + p) * b.row_stride + j;
            let from = b.data[at..at + unit].chunks_exact(K::WIDTH);
            for (to, from) in row.chunks_exact_mut(K::WIDTH).zip(from) {
                // Of a length that the compiler knows: these are single moves.
                to[..K::WIDTH].copy_from_slice(&from[..K::WIDTH]);
            }
        }
        return;
    }
    if b.col_stride == 1 {
        for (p, row) in out.chunks_exact_mut(unit).enumerate().take(steps) {
            let at = (k0 + p) * b.row_stride + j;
            row[..width].copy_from_slice(&b.data[at..at + width]);
            row[width..].fill(0.0);
        }
        return;
    }
    if width < unit {
        out[..steps * unit].fill(0.0);
    }
    let square = K::WIDTH;
    let at = |p: usize, l: usize| (k0 + p) * b.row_stride + (j + l) * b.col_stride;
    for l0 in (0..width).step_by(square) {
        let mut p = 0;
        if b.row_stride == 1 && l0 + square <= width {
            while p + square <= steps {
                let from = &b.data[at(p, l0)..=at(p + square - 1, l0 + square - 1)];
                let to = &mut out[p * unit + l0..(p + square - 1) * unit + l0 + square];
                // Turning is slow enough to fetch as much of the next panel meanwhile, in the order of memory.
                let squares = (k0 + p) / square * (unit / square) + l0 / square;
                let next = (j + unit) * b.col_stride + squares * square * square;
                for line in 0..square {
                    fetch(b.data.as_ptr().wrapping_add(next + line * square));
                }
                // SAFETY: the instructions were detected; both slices hold the square.
                unsafe { K::turned(from.as_ptr(), b.col_stride, to.as_mut_ptr(), unit) }
                p += square;
            }
        }
        for l in l0..width.min(l0 + square) {
            for p in p..steps {
                out[p * unit + l] = b.data[at(p, l)];
            }
        }
    }
}

/// Steps of neighbouring panels that are packed in turn: reads stay close in memory.
const NEAR: usize = 16;

/// All steps of the panels of b from column `j` on, one after the other; those beyond column `n` are zero.
pub(super) fn side_by_side<K: Kernel>(
    b: Mat<'_, f32>,
    k: usize,
    j: usize,
    n: usize,
    out: &mut [f32],
) {
    let unit = K::columns(K::MANY);
    let near = if b.col_stride == 1 { NEAR } else { k };
    for k0 in (0..k).step_by(near) {
        let steps = near.min(k - k0);
        for (at, out) in out.chunks_exact_mut(k * unit).enumerate() {
            let j = j + at * unit;
            panel::<K>(b, k0, steps, j, unit.min(n - j), unit, &mut out[k0 * unit..]);
        }
    }
}

/// a's rows `i0..i1`, steps `k0..k0 + steps`, as `[strips][steps][height]`, zero beyond i1.
pub(super) fn pack_rows<K: Kernel>(
    a: Mat<'_, f32>,
    i0: usize,
    i1: usize,
    k0: usize,
    steps: usize,
    height: usize,
    out: &mut [f32],
) {
    for (strip, out) in out.chunks_exact_mut(height * steps).enumerate() {
        let first = i0 + strip * height;
        let rows = height.min(i1 - first);
        if rows < height {
            out.fill(0.0);
        }
        if a.row_stride == 1 {
            for p in 0..steps {
                let at = first + (k0 + p) * a.col_stride;
                out[p * height..p * height + rows].copy_from_slice(&a.data[at..at + rows]);
            }
            continue;
        }
        let done = turned_rows::<K>(a, first, rows, k0, steps, height, out);
        for r in 0..rows {
            let at = (first + r) * a.row_stride + k0 * a.col_stride;
            for p in done..steps {
                out[p * height + r] = a.data[at + p * a.col_stride];
            }
        }
    }
}

/// Packs a strip of contiguous rows in squares, as far as whole squares stand there; gives the steps that are done.
fn turned_rows<K: Kernel>(
    a: Mat<'_, f32>,
    first: usize,
    rows: usize,
    k0: usize,
    steps: usize,
    height: usize,
    out: &mut [f32],
) -> usize {
    let square = K::WIDTH;
    // A square has rows beyond the strip, too.
    let stands = |p: usize| {
        let last = (first + square - 1) * a.row_stride + k0 + p + square;
        p + square <= steps && last <= a.data.len()
    };
    if a.col_stride != 1 || rows < height || height > square {
        return 0;
    }
    let mut p = 0;
    let mut turned = [0f32; LINE * LINE];
    while stands(p) {
        let from = &a.data[first * a.row_stride + k0 + p..];
        // SAFETY: the instructions were detected; `stands` has checked what is read, and the square fits.
        unsafe { K::turned(from.as_ptr(), a.row_stride, turned.as_mut_ptr(), square) }
        for (i, from) in turned.chunks_exact(square).enumerate().take(square) {
            let at = (p + i) * height;
            // Rows beyond the strip are written over by the next step.
            if at + square <= out.len() {
                out[at..at + K::WIDTH].copy_from_slice(&from[..K::WIDTH]);
            } else {
                out[at..at + height].copy_from_slice(&from[..height]);
            }
        }
        p += square;
    }
    p
}
