//! Operands in the order in which tiles read them.

use std::cell::RefCell;

use super::Mat;
use super::tile::{Kernel, fetch};

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with scratch of this thread. What stands in it is of no use to anyone.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out of the cell: rayon may run another product on this thread while f waits.
    let mut scratch = SCRATCH.with(|cell| cell.borrow_mut().pop()).unwrap_or_default();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = f(&mut scratch[..len]);
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

/// a's rows `i0..i1`, steps `k0..k0 + steps`, as `[strips][steps][height]`, zero beyond i1.
pub(super) fn pack_rows(
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
        for r in 0..rows {
            let at = (first + r) * a.row_stride + k0 * a.col_stride;
            for p in 0..steps {
                out[p * height + r] = a.data[at + p * a.col_stride];
            }
        }
    }
}
