//! Matrix product with a fixed order of summation.
//!
//! Every output is one chain of fused multiply-adds over k in ascending order, starting at zero.
//! Tiling, packing, thread count and the number of rows change which registers do the work, never
//! the chain; so a row of the result has the same bits alone, in a batch and with any number of
//! threads. The `gemm` crate, which candle uses, changes its path with m and n; this one is the
//! product of every linear layer here, in training and in inference.

#[cfg(target_arch = "x86_64")]
mod kernels;
#[cfg(target_arch = "x86_64")]
mod tiled;

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
    if let Some(c) = as_f32_mut(c) {
        let a = Mat { data: as_f32(a.data), row_stride: a.row_stride, col_stride: a.col_stride };
        let b = Mat { data: as_f32(b.data), row_stride: b.row_stride, col_stride: b.col_stride };
        match level() {
            Level::Avx512 => return tiled::gemm::<kernels::Avx512>(m, n, k, a, b, c),
            Level::Avx2 => return tiled::gemm::<kernels::Avx2>(m, n, k, a, b, c),
            Level::Base => {}
        }
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
    /// The same chains without tiling, for f64 and for machines without AVX2.
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
                #[cfg(target_arch = "x86_64")]
                if matches!(level(), Level::Avx512 | Level::Avx2) {
                    // Machines that have the wider tiles have the narrower ones too.
                    let mut narrow_c = vec![0f32; m * n];
                    tiled::gemm::<kernels::Avx2>(m, n, k, am, bm, &mut narrow_c);
                    assert_eq!(c, narrow_c, "{m}x{n}x{k} {ta} {tb}");
                }
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
