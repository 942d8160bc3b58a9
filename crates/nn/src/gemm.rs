//! Matrix product with a fixed order of summation.
//!
//! Every output is one chain of fused multiply-adds over k in ascending order, starting at zero.
//! Tiling, packing, thread count and the number of rows change which registers do the work, never
//! the chain; so a row of the result has the same bits alone, in a batch and with any number of
//! threads. The `gemm` crate, which candle uses, changes its path with m and n; this one is the
//! product of every linear layer here, in training and in inference.

pub(crate) mod block;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "x86_64")]
pub(crate) mod lanes;
#[cfg(target_arch = "x86_64")]
mod many;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tile;

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

/// `a b` as a new matrix; a is `[m, k]`, b is `[k, n]`, the product is `[m, n]` row-major.
///
/// # Panics
/// When a slice is too short for its shape; callers have checked shapes.
pub fn product<T: Real>(m: usize, n: usize, k: usize, a: Mat<'_, T>, b: Mat<'_, T>) -> Vec<T> {
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == candle_core::DType::F32 && level() != Level::Base && m * n * k > 0 {
        check(m, n, k, &a, &b);
        // Not zeroed first: a pass over fresh memory costs as much as a small product.
        let mut c = Vec::<T>::with_capacity(m * n);
        tiles(level(), m, n, k, a, b, c.as_mut_ptr(), true);
        // SAFETY: every element was written.
        unsafe { c.set_len(m * n) }
        return c;
    }
    let mut c = vec![T::default(); m * n];
    gemm(m, n, k, a, b, &mut c, true);
    c
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
    check(m, n, k, &a, &b);
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == candle_core::DType::F32 && level() != Level::Base {
        return tiles(level(), m, n, k, a, b, c.as_mut_ptr(), !accumulate);
    }
    if !accumulate {
        c.fill(T::default());
    }
    let rows = m.div_ceil(rayon::current_num_threads().max(1) * 2).clamp(1, 64);
    c.par_chunks_mut(rows * n).enumerate().for_each(|(block, c)| {
        let a = Mat { data: &a.data[block * rows * a.row_stride..], ..a };
        portable(n, k, a, b, c);
    });
}

fn check<T>(m: usize, n: usize, k: usize, a: &Mat<'_, T>, b: &Mat<'_, T>) {
    let last = |mat: &Mat<'_, T>, rows: usize, cols: usize| {
        (rows - 1) * mat.row_stride + (cols - 1) * mat.col_stride
    };
    assert!(last(a, m, k) < a.data.len(), "left operand is too short");
    assert!(last(b, k, n) < b.data.len(), "right operand is too short");
}

/// Rows up to which reading b is what a product costs.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 96;

/// The product in f32 tiles of `level`; the chains start at zero where `first`, else in c.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments, reason = "a product's borders are numbers")]
fn tiles<T: Real>(
    level: Level,
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    c: *mut T,
    first: bool,
) {
    let (a, b) = (as_f32(a), as_f32(b));
    if n <= NARROW && m > FEW {
        return turned(level, m, n, k, a, b, c.cast(), first);
    }
    let c = pack::Out::new(c.cast());
    match (level, m <= FEW) {
        (Level::Avx512, true) => few::gemm::<lanes::Avx512>(m, n, k, a, b, c, first),
        (Level::Avx512, false) => many::gemm::<lanes::Avx512>(m, n, k, a, b, c, first),
        (_, true) => few::gemm::<lanes::Avx2>(m, n, k, a, b, c, first),
        (_, false) => many::gemm::<lanes::Avx2>(m, n, k, a, b, c, first),
    }
}

/// Columns up to which a product of many rows would leave most of a tile idle.
#[cfg(target_arch = "x86_64")]
const NARROW: usize = 16;

/// The product by way of its transpose, whose rows are few: the same chains.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments, reason = "a product's borders are numbers")]
fn turned(
    level: Level,
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, f32>,
    b: Mat<'_, f32>,
    c: *mut f32,
    first: bool,
) {
    pack::with_scratch(m * n, |across| {
        if !first {
            // SAFETY: c is a whole product that was computed before.
            let c = unsafe { std::slice::from_raw_parts(c, m * n) };
            block::transpose(m, n, c, n, across, m);
        }
        tiles(level, n, m, k, b.transposed(), a.transposed(), across.as_mut_ptr(), first);
        for (j, row) in across.chunks_exact(m).enumerate() {
            for (i, &x) in row.iter().enumerate() {
                // SAFETY: the cell lies in c, which may not have been written before.
                unsafe { c.add(i * n + j).write(x) }
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
fn as_f32<T: Real>(mat: Mat<'_, T>) -> Mat<'_, f32> {
    assert_eq!(T::DTYPE, candle_core::DType::F32);
    // SAFETY: `Real` is implemented for f32 and f64 only, and the type was just checked to be f32.
    let data = unsafe { std::slice::from_raw_parts(mat.data.as_ptr().cast(), mat.data.len()) };
    Mat { data, row_stride: mat.row_stride, col_stride: mat.col_stride }
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

    /// Shapes on both sides of every border: of strips, of tiles, of parts of k, of few and many rows.
    const SHAPES: [(usize, usize, usize); 25] = [
        (1, 1, 1),
        (1, 33, 300),
        (1, 2100, 19),
        (2, 5, 7),
        (2, 130, 97),
        (3, 128, 49),
        (4, 97, 48),
        (5, 300, 40),
        (6, 65, 100),
        (7, 48, 129),
        (8, 145, 96),
        (9, 64, 30),
        (13, 64, 257),
        (16, 50, 130),
        (16, 1100, 50),
        (17, 96, 47),
        (24, 47, 33),
        (25, 70, 65),
        (95, 33, 321),
        (97, 31, 64),
        (200, 100, 513),
        (203, 29, 641),
        (97, 1, 40),
        (300, 8, 130),
        (130, 13, 517),
    ];

    fn draw(rng: &mut impl Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn equals_the_chain_bit_for_bit_at_any_shape_and_layout() {
        let mut rng = crate::rng::stream(1, &["gemm"]);
        for (m, n, k) in SHAPES {
            let (a, b) = (draw(&mut rng, m * k), draw(&mut rng, k * n));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let am =
                    if ta { Mat::row_major(&a, m).transposed() } else { Mat::row_major(&a, k) };
                let bm =
                    if tb { Mat::row_major(&b, k).transposed() } else { Mat::row_major(&b, n) };
                let want = chain(m, n, k, am, bm);
                let case = format!("{m}x{n}x{k} {ta} {tb}");
                assert_eq!(product(m, n, k, am, bm), want, "{case}");
                let mut c = vec![7f32; m * n];
                gemm(m, n, k, am, bm, &mut c, false);
                assert_eq!(c, want, "{case}");
                let mut portable_c = vec![0f32; m * n];
                portable(n, k, am, bm, &mut portable_c);
                assert_eq!(portable_c, want, "{case}");
                #[cfg(target_arch = "x86_64")]
                if matches!(level(), Level::Avx512 | Level::Avx2) {
                    // Machines that have the wider tiles have the narrower ones too.
                    let mut narrow = vec![7f32; m * n];
                    tiles(Level::Avx2, m, n, k, am, bm, narrow.as_mut_ptr(), true);
                    assert_eq!(narrow, want, "{case} in AVX2");
                }
            }
        }
    }

    #[test]
    fn chains_go_on_from_what_stands_in_the_output() {
        let mut rng = crate::rng::stream(3, &["gemm"]);
        for (m, n, k) in SHAPES {
            let (a, b) = (draw(&mut rng, m * k), draw(&mut rng, k * n));
            for turned in [false, true] {
                let all =
                    if turned { Mat::row_major(&b, k).transposed() } else { Mat::row_major(&b, n) };
                let half = k / 2;
                let rows = |from: usize| Mat { data: &a[from..], row_stride: k, col_stride: 1 };
                let mut c = vec![0f32; m * n];
                gemm(m, n, half, rows(0), all, &mut c, true);
                let below = Mat { data: &b[half * all.row_stride..], ..all };
                gemm(m, n, k - half, rows(half), below, &mut c, true);
                assert_eq!(c, chain(m, n, k, rows(0), all), "{m}x{n}x{k} {turned}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let mut rng = crate::rng::stream(4, &["gemm"]);
        for (m, n, k) in SHAPES {
            let (a, b) = (draw(&mut rng, m * k), draw(&mut rng, k * n));
            for b in [Mat::row_major(&b, n), Mat::row_major(&b, k).transposed()] {
                let of = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    pool.unwrap().install(|| product(m, n, k, Mat::row_major(&a, k), b))
                };
                let one = of(1);
                assert_eq!(of(2), one);
                assert_eq!(of(3), one);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let mut rng = crate::rng::stream(2, &["gemm"]);
        let (m, n, k) = (150, 192, 320);
        let (a, b) = (draw(&mut rng, m * k), draw(&mut rng, k * n));
        let b = Mat::row_major(&b, n);
        let all = product(m, n, k, Mat::row_major(&a, k), b);
        for (first, rows) in [(0, 1), (7, 1), (149, 1), (3, 2), (5, 16), (20, 24), (60, 40)] {
            let few = Mat::row_major(&a[first * k..(first + rows) * k], k);
            assert_eq!(product(rows, n, k, few, b), all[first * n..(first + rows) * n]);
        }
    }
}
