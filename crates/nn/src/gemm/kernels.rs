//! Tiles in vector registers.

use std::arch::x86_64::*;

use super::tiled::Kernel;

/// Tiles of up to 12 x 32.
pub(super) struct Avx512;

impl Kernel for Avx512 {
    const MR: usize = 12;
    const NR: usize = 32;

    unsafe fn tile(
        rows: usize,
        width: usize,
        kc: usize,
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match rows {
                1 => wide::<1>(rows, width, kc, a, b, c, ldc),
                2 => wide::<2>(rows, width, kc, a, b, c, ldc),
                3 | 4 => wide::<4>(rows, width, kc, a, b, c, ldc),
                5..=8 => wide::<8>(rows, width, kc, a, b, c, ldc),
                _ => wide::<12>(rows, width, kc, a, b, c, ldc),
            }
        }
    }
}

/// `R` rows in registers, the first `rows` of them stored.
#[target_feature(enable = "avx512f")]
unsafe fn wide<const R: usize>(
    rows: usize,
    width: usize,
    kc: usize,
    a: &[f32],
    b: &[f32],
    c: *mut f32,
    ldc: usize,
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
            pa = pa.add(Avx512::MR);
            pb = pb.add(Avx512::NR);
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

/// Tiles of up to 6 x 16.
pub(super) struct Avx2;

impl Kernel for Avx2 {
    const MR: usize = 6;
    const NR: usize = 16;

    unsafe fn tile(
        rows: usize,
        width: usize,
        kc: usize,
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match rows {
                1 => narrow::<1>(rows, width, kc, a, b, c, ldc),
                2 => narrow::<2>(rows, width, kc, a, b, c, ldc),
                3 | 4 => narrow::<4>(rows, width, kc, a, b, c, ldc),
                _ => narrow::<6>(rows, width, kc, a, b, c, ldc),
            }
        }
    }
}

/// As [`wide`], in half the width.
#[target_feature(enable = "avx2,fma")]
unsafe fn narrow<const R: usize>(
    rows: usize,
    width: usize,
    kc: usize,
    a: &[f32],
    b: &[f32],
    c: *mut f32,
    ldc: usize,
) {
    // The sign bit of a lane says whether memory is touched.
    let lanes = |count: usize| {
        let count = _mm256_set1_epi32(count.min(8) as i32);
        _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
    };
    let (m0, m1) = (lanes(width), lanes(width.saturating_sub(8)));
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: as in `wide`.
    unsafe {
        for (i, row) in acc.iter_mut().enumerate() {
            if i < rows {
                let at = c.add(i * ldc);
                row[0] = _mm256_maskload_ps(at, m0);
                row[1] = _mm256_maskload_ps(at.wrapping_add(8), m1);
            }
        }
        let (mut pa, mut pb) = (a.as_ptr(), b.as_ptr());
        for _ in 0..kc {
            let b0 = _mm256_loadu_ps(pb);
            let b1 = _mm256_loadu_ps(pb.add(8));
            for (i, row) in acc.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*pa.add(i));
                row[0] = _mm256_fmadd_ps(x, b0, row[0]);
                row[1] = _mm256_fmadd_ps(x, b1, row[1]);
            }
            pa = pa.add(Avx2::MR);
            pb = pb.add(Avx2::NR);
        }
        for (i, row) in acc.iter().enumerate() {
            if i < rows {
                let at = c.add(i * ldc);
                _mm256_maskstore_ps(at, m0, row[0]);
                _mm256_maskstore_ps(at.wrapping_add(8), m1, row[1]);
            }
        }
    }
}
