//! Matrix product with a fixed order of summation.
//!
//! Every output is one chain of fused multiply-adds over k in ascending order, starting at zero.
//! Tiling, packing, thread count and the number of rows change which registers do the work, never
//! the chain; so a row of the result has the same bits alone, in a batch and with any number of
//! threads. The `gemm` crate, which candle uses, changes its path with m and n; this one is the
//! product of every linear layer here, in training and in inference.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::simd::{Level, Real, level, simd};

/// A matrix in a slice: element (i, j) stands at `i * row_stride + j * col_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Step to the next row.
    pub row_stride: usize,
    /// Step to the next column.
    pub col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Rows one after the other.
    pub fn row_major(data: &'a [T], columns: usize) -> Self {
        Self { data, row_stride: columns, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// `c = a b`, or `c += a b` when `accumulate`; a is `[m, k]`, b is `[k, n]`, c is `[m, n]` row-major.
///
/// # Panics
/// When a slice is too short for its shape; callers have checked shapes.
pub fn gemm<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: &mut [T],
    accumulate: bool,
) {
    assert_eq!(c.len(), m * n, "output has the wrong size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            c.fill(T::default());
        }
        return;
    }
    let last = |mat: &Mat<'_, T>, rows: usize, cols: usize| {
        (rows - 1) * mat.row_stride + (cols - 1) * mat.col_stride
    };
    assert!(last(&a, m, k) < a.data.len(), "left operand is too short");
    assert!(last(&b, k, n) < b.data.len(), "right operand is too short");
    if !accumulate {
        c.fill(T::default());
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(c) = as_f32_mut(c)
        && level() == Level::Avx512
    {
        let a = Mat { data: as_f32(a.data), row_stride: a.row_stride, col_stride: a.col_stride };
        let b = Mat { data: as_f32(b.data), row_stride: b.row_stride, col_stride: b.col_stride };
        return wide::gemm(m, n, k, a, b, c);
    }
    let rows = m.div_ceil(rayon::current_num_threads().max(1) * 2).clamp(1, 64);
    c.par_chunks_mut(rows * n).enumerate().for_each(|(block, c)| {
        let a = Mat { data: &a.data[block * rows * a.row_stride..], ..a };
        portable(n, k, a, b, c);
    });
}

#[cfg(target_arch = "x86_64")]
fn as_f32<T: Real>(x: &[T]) -> &[f32] {
    assert_eq!(T::DTYPE, candle_core::DType::F32);
    // SAFETY: `Real` is implemented for f32 and f64 only, and the type was just checked to be f32.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

#[cfg(target_arch = "x86_64")]
fn as_f32_mut<T: Real>(x: &mut [T]) -> Option<&mut [f32]> {
    if T::DTYPE != candle_core::DType::F32 {
        return None;
    }
    // SAFETY: as in `as_f32`.
    Some(unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) })
}

simd! {
    /// The same chains without tiling, for f64 and for machines without AVX-512.
    fn portable<T>(n: usize, k: usize, a: Mat<'_, T>, b: Mat<'_, T>, c: &mut [T]) {
        const LANES: usize = 32;
        let m = c.len() / n;
        let mut panel = vec![T::default(); k * LANES];
        let mut j = 0;
        while j < n {
            let width = LANES.min(n - j);
            for p in 0..k {
                for l in 0..width {
                    panel[p * LANES + l] = b.data[p * b.row_stride + (j + l) * b.col_stride];
                }
            }
            for i in 0..m {
                let mut acc = [T::default(); LANES];
                acc[..width].copy_from_slice(&c[i * n + j..i * n + j + width]);
                for p in 0..k {
                    let x = a.data[i * a.row_stride + p * a.col_stride];
                    let row = &panel[p * LANES..(p + 1) * LANES];
                    for l in 0..LANES {
                        acc[l] = x.fma(row[l], acc[l]);
                    }
                }
                c[i * n + j..i * n + j + width].copy_from_slice(&acc[..width]);
            }
            j += width;
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! AVX-512: tiles of up to 12 x 32 in registers, both operands packed.

    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::{Mat, SCRATCH};

    const MR: usize = 12;
    const NR: usize = 32;
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

    pub(super) fn gemm(
        m: usize,
        n: usize,
        k: usize,
        a: Mat<'_, f32>,
        b: Mat<'_, f32>,
        c: &mut [f32],
    ) {
        let panels = n.div_ceil(NR);
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
                    with_scratch(kc * NR + m.div_ceil(MR) * MR * kc, |scratch| {
                        let (pb, pa) = scratch.split_at_mut(kc * NR);
                        pack_a(a, 0, m, k0, kc, pa);
                        for panel in range {
                            pack_b(b, k0, kc, panel * NR, n, pb);
                            tile_rows(0, m, n, kc, pa, pb, panel, out);
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
            packed.reserve_exact(panels * kc * NR);
            #[allow(clippy::uninit_vec, reason = "every element is written by the packing below")]
            // SAFETY: capacity was reserved; pack_b writes all kc * NR elements of each panel.
            unsafe {
                packed.set_len(panels * kc * NR);
            }
            packed
                .par_chunks_mut(kc * NR)
                .enumerate()
                .for_each(|(panel, pb)| pack_b(b, k0, kc, panel * NR, n, pb));
            (0..blocks).into_par_iter().for_each(|block| {
                let (i0, i1) = (block * MC, ((block + 1) * MC).min(m));
                with_scratch((i1 - i0).div_ceil(MR) * MR * kc, |pa| {
                    pack_a(a, i0, i1, k0, kc, pa);
                    for panel in 0..panels {
                        let pb = &packed[panel * kc * NR..(panel + 1) * kc * NR];
                        tile_rows(i0, i1, n, kc, pa, pb, panel, out);
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
    fn pack_b(b: Mat<'_, f32>, k0: usize, kc: usize, j0: usize, n: usize, out: &mut [f32]) {
        let width = NR.min(n - j0);
        if b.col_stride == 1 {
            for (p, row) in out.chunks_exact_mut(NR).enumerate().take(kc) {
                let at = (k0 + p) * b.row_stride + j0;
                row[..width].copy_from_slice(&b.data[at..at + width]);
                row[width..].fill(0.0);
            }
            return;
        }
        if width < NR {
            out.fill(0.0);
        }
        for l in 0..width {
            let at = k0 * b.row_stride + (j0 + l) * b.col_stride;
            for p in 0..kc {
                out[p * NR + l] = b.data[at + p * b.row_stride];
            }
        }
    }

    /// a's rows i0..i1 as `[rows / MR][kc][MR]`, zero beyond i1.
    fn pack_a(a: Mat<'_, f32>, i0: usize, i1: usize, k0: usize, kc: usize, out: &mut [f32]) {
        for (strip, out) in out.chunks_exact_mut(MR * kc).enumerate() {
            let first = i0 + strip * MR;
            let rows = MR.min(i1 - first);
            if rows < MR {
                out.fill(0.0);
            }
            if a.row_stride == 1 {
                for p in 0..kc {
                    let at = first + (k0 + p) * a.col_stride;
                    out[p * MR..p * MR + rows].copy_from_slice(&a.data[at..at + rows]);
                }
                continue;
            }
            for r in 0..rows {
                let at = (first + r) * a.row_stride + k0 * a.col_stride;
                for p in 0..kc {
                    out[p * MR + r] = a.data[at + p * a.col_stride];
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a kernel's borders are numbers")]
    fn tile_rows(
        i0: usize,
        i1: usize,
        n: usize,
        kc: usize,
        pa: &[f32],
        pb: &[f32],
        panel: usize,
        out: Out,
    ) {
        let j0 = panel * NR;
        let width = NR.min(n - j0);
        for (strip, i) in (i0..i1).step_by(MR).enumerate() {
            let rows = MR.min(i1 - i);
            let a = &pa[strip * MR * kc..(strip + 1) * MR * kc];
            // SAFETY: the features were detected by the caller; a holds kc * MR and pb kc * NR
            // elements; rows i..i+rows and columns j0..j0+width lie inside the output, and no
            // other task writes them.
            unsafe {
                let c = out.0.add(i * n + j0);
                match rows {
                    1 => tile::<1>(kc, a, pb, c, n, rows, width),
                    2 => tile::<2>(kc, a, pb, c, n, rows, width),
                    3 | 4 => tile::<4>(kc, a, pb, c, n, rows, width),
                    5..=8 => tile::<8>(kc, a, pb, c, n, rows, width),
                    _ => tile::<MR>(kc, a, pb, c, n, rows, width),
                }
            }
        }
    }

    /// Adds one tile's chain to c: `R` rows in registers, the first `rows` of them stored.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const R: usize>(
        kc: usize,
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        ldc: usize,
        rows: usize,
        width: usize,
    ) {
        let lanes = |count: usize| -> __mmask16 {
            if count >= 16 { 0xffff } else { ((1u32 << count) - 1) as __mmask16 }
        };
        let (m0, m1) = (lanes(width), lanes(width.saturating_sub(16)));
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        // SAFETY: masked loads and stores touch only the `width` columns of the `rows` rows that
        // the caller owns; a and b hold kc steps of MR and NR elements.
        unsafe {
            for (i, row) in acc.iter_mut().enumerate() {
                if i < rows {
                    let at = c.add(i * ldc);
                    row[0] = _mm512_maskz_loadu_ps(m0, at);
                    row[1] = _mm512_maskz_loadu_ps(m1, at.wrapping_add(16));
                }
            }
            let (mut pa, mut pb) = (a.as_ptr(), b.as_ptr());
            for _ in 0..kc {
                let b0 = _mm512_loadu_ps(pb);
                let b1 = _mm512_loadu_ps(pb.add(16));
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*pa.add(i));
                    row[0] = _mm512_fmadd_ps(x, b0, row[0]);
                    row[1] = _mm512_fmadd_ps(x, b1, row[1]);
                }
                pa = pa.add(MR);
                pb = pb.add(NR);
            }
            for (i, row) in acc.iter().enumerate() {
                if i < rows {
                    let at = c.add(i * ldc);
                    _mm512_mask_storeu_ps(at, m0, row[0]);
                    _mm512_mask_storeu_ps(at.wrapping_add(16), m1, row[1]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    fn chain(m: usize, n: usize, k: usize, a: Mat<'_, f32>, b: Mat<'_, f32>) -> Vec<f32> {
        let mut c = vec![0f32; m * n];
        for i in 0..m {
            for j in 0..n {
                for p in 0..k {
                    c[i * n + j] = a.data[i * a.row_stride + p * a.col_stride]
                        .mul_add(b.data[p * b.row_stride + j * b.col_stride], c[i * n + j]);
                }
            }
        }
        c
    }

    #[test]
    fn equals_the_chain_bit_for_bit_at_any_shape_and_layout() {
        let mut rng = crate::rng::stream(1, &["gemm"]);
        for (m, n, k) in [
            (1, 1, 1),
            (1, 33, 300),
            (2, 5, 7),
            (13, 64, 257),
            (97, 31, 64),
            (200, 100, 513),
            (5, 300, 40),
        ] {
            let a: Vec<f32> = (0..m * k).map(|_| rng.random_range(-1.0..1.0)).collect();
            let b: Vec<f32> = (0..k * n).map(|_| rng.random_range(-1.0..1.0)).collect();
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let am =
                    if ta { Mat::row_major(&a, m).transposed() } else { Mat::row_major(&a, k) };
                let bm =
                    if tb { Mat::row_major(&b, k).transposed() } else { Mat::row_major(&b, n) };
                let mut c = vec![0f32; m * n];
                gemm(m, n, k, am, bm, &mut c, false);
                assert_eq!(c, chain(m, n, k, am, bm), "{m}x{n}x{k} {ta} {tb}");
                let mut portable_c = vec![0f32; m * n];
                portable(n, k, am, bm, &mut portable_c);
                assert_eq!(c, portable_c);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let mut rng = crate::rng::stream(2, &["gemm"]);
        let (m, n, k) = (150, 192, 320);
        let a: Vec<f32> = (0..m * k).map(|_| rng.random_range(-1.0..1.0)).collect();
        let b: Vec<f32> = (0..k * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut all = vec![0f32; m * n];
        gemm(m, n, k, Mat::row_major(&a, k), Mat::row_major(&b, n), &mut all, false);
        for i in [0, 7, 149] {
            let mut one = vec![0f32; n];
            gemm(
                1,
                n,
                k,
                Mat::row_major(&a[i * k..(i + 1) * k], k),
                Mat::row_major(&b, n),
                &mut one,
                false,
            );
            assert_eq!(one, all[i * n..(i + 1) * n]);
        }
    }
}
