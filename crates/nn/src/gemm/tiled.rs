//! The product in tiles that stay in registers, both operands packed. Which registers is the
//! [`Kernel`]'s part.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Mat;

/// A tile's chains in the registers of one instruction set.
pub(super) trait Kernel {
    /// Rows of a packed strip of a.
    const MR: usize;
    /// Columns of a packed panel of b.
    const NR: usize;

    /// Adds the chains of `rows` rows and `width` columns to c, whose rows are `ldc` apart.
    ///
    /// # Safety
    /// The machine has the instructions; `a` holds `kc * MR` and `b` `kc * NR` elements; nobody
    /// else writes these rows and columns of c, and they lie inside of it.
    unsafe fn tile(
        rows: usize,
        width: usize,
        kc: usize,
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        ldc: usize,
    );
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// k is cut here so that a packed panel of b (KC x NR) stays in the first-level cache.
const KC: usize = 256;
/// Rows that one task takes.
const MC: usize = 96;

#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: tasks write disjoint rows or disjoint columns of the output.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

pub(super) fn gemm<K: Kernel>(
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    c: &mut [f32],
) {
    let panels = n.div_ceil(K::NR);
    let blocks = m.div_ceil(MC);
    let out = Out(c.as_mut_ptr());
    let work = m * n * k;
    for k0 in (0..k).step_by(KC) {
        let kc = KC.min(k - k0);
        // Few rows: every panel is used once or twice, so each task packs what it needs and
        // the work is split by columns. Many rows: pack b once and split by rows and columns.
        let split = if work < 1 << 16 { 1 } else { rayon::current_num_threads() };
        if blocks == 1 || split == 1 {
            let chunk = panels.div_ceil(split * 2).max(1);
            let tasks = panels.div_ceil(chunk);
            let run = |task: usize| {
                let range = task * chunk..((task + 1) * chunk).min(panels);
                with_scratch(kc * K::NR + m.div_ceil(K::MR) * K::MR * kc, |scratch| {
                    let (pb, pa) = scratch.split_at_mut(kc * K::NR);
                    pack_a::<K>(a, 0, m, k0, kc, pa);
                    for panel in range {
                        pack_b::<K>(b, k0, kc, panel * K::NR, n, pb);
                        tile_rows::<K>(0, m, n, kc, pa, pb, panel, out);
                    }
                });
            };
            if split == 1 {
                (0..tasks).for_each(run);
            } else {
                (0..tasks).into_par_iter().for_each(run);
            }
            continue;
        }
        let mut packed = vec![0f32; 0];
        packed.reserve_exact(panels * kc * K::NR);
        #[allow(clippy::uninit_vec, reason = "every element is written by the packing below")]
        // SAFETY: capacity was reserved; pack_b writes all kc * NR elements of each panel.
        unsafe {
            packed.set_len(panels * kc * K::NR);
        }
        packed
            .par_chunks_mut(kc * K::NR)
            .enumerate()
            .for_each(|(panel, pb)| pack_b::<K>(b, k0, kc, panel * K::NR, n, pb));
        (0..blocks).into_par_iter().for_each(|block| {
            let (i0, i1) = (block * MC, ((block + 1) * MC).min(m));
            with_scratch((i1 - i0).div_ceil(K::MR) * K::MR * kc, |pa| {
                pack_a::<K>(a, i0, i1, k0, kc, pa);
                for panel in 0..panels {
                    let pb = &packed[panel * kc * K::NR..(panel + 1) * kc * K::NR];
                    tile_rows::<K>(i0, i1, n, kc, pa, pb, panel, out);
                }
            });
        });
    }
}

fn with_scratch(len: usize, f: impl FnOnce(&mut [f32])) {
    // Taken out of the cell: rayon may run another product on this thread while f waits.
    let mut scratch = SCRATCH.with(|cell| std::mem::take(&mut *cell.borrow_mut()));
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    f(&mut scratch[..len]);
    SCRATCH.with(|cell| *cell.borrow_mut() = scratch);
}

/// b's columns j0.. as `[kc][NR]`, zero beyond n.
fn pack_b<K: Kernel>(b: Mat<'_, f32>, k0: usize, kc: usize, j0: usize, n: usize, out: &mut [f32]) {
    let width = K::NR.min(n - j0);
    if b.col_stride == 1 {
        for (p, row) in out.chunks_exact_mut(K::NR).enumerate().take(kc) {
            let at = (k0 + p) * b.row_stride + j0;
            row[..width].copy_from_slice(&b.data[at..at + width]);
            row[width..].fill(0.0);
        }
        return;
    }
    if width < K::NR {
        out.fill(0.0);
    }
    for l in 0..width {
        let at = k0 * b.row_stride + (j0 + l) * b.col_stride;
        for p in 0..kc {
            out[p * K::NR + l] = b.data[at + p * b.row_stride];
        }
    }
}

/// a's rows i0..i1 as `[rows / MR][kc][MR]`, zero beyond i1.
fn pack_a<K: Kernel>(a: Mat<'_, f32>, i0: usize, i1: usize, k0: usize, kc: usize, out: &mut [f32]) {
    for (strip, out) in out.chunks_exact_mut(K::MR * kc).enumerate() {
        let first = i0 + strip * K::MR;
        let rows = K::MR.min(i1 - first);
        if rows < K::MR {
            out.fill(0.0);
        }
        if a.row_stride == 1 {
            for p in 0..kc {
                let at = first + (k0 + p) * a.col_stride;
                out[p * K::MR..p * K::MR + rows].copy_from_slice(&a.data[at..at + rows]);
            }
            continue;
        }
        for r in 0..rows {
            let at = (first + r) * a.row_stride + k0 * a.col_stride;
            for p in 0..kc {
                out[p * K::MR + r] = a.data[at + p * a.col_stride];
            }
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "a kernel's borders are numbers")]
fn tile_rows<K: Kernel>(
    i0: usize,
    i1: usize,
    n: usize,
    kc: usize,
    pa: &[f32],
    pb: &[f32],
    panel: usize,
    out: Out,
) {
    let j0 = panel * K::NR;
    let width = K::NR.min(n - j0);
    for (strip, i) in (i0..i1).step_by(K::MR).enumerate() {
        let rows = K::MR.min(i1 - i);
        let a = &pa[strip * K::MR * kc..(strip + 1) * K::MR * kc];
        // SAFETY: the features were detected by the caller; a holds kc * MR and pb kc * NR
        // elements; rows i..i+rows and columns j0..j0+width lie inside the output, and no
        // other task writes them.
        unsafe { K::tile(rows, width, kc, a, pb, out.0.add(i * n + j0), n) }
    }
}
