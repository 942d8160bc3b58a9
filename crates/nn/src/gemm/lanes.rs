//! The vectors of two instruction sets, as far as the tiles need them.

use std::arch::x86_64::*;

/// Vectors of f32.
///
/// # Safety
/// Every function needs the instructions of its set, and pointers that hold what is read or written.
/// All are inlined into functions that are compiled for the set.
pub(crate) trait Lanes {
    type V: Copy;
    type Mask: Copy;
    /// Elements of a vector.
    const WIDTH: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn store(at: *mut f32, x: Self::V);
    /// The first `count` lanes; all where it is larger.
    unsafe fn mask(count: usize) -> Self::Mask;
    /// Zero where the mask is off, whose memory is not touched.
    unsafe fn load_some(at: *const f32, mask: Self::Mask) -> Self::V;
    unsafe fn store_some(at: *mut f32, mask: Self::Mask, x: Self::V);
    unsafe fn splat(at: *const f32) -> Self::V;
    /// `a b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// A square of `WIDTH` rows that are `from_step` apart, turned.
    unsafe fn turn(from: *const f32, from_step: usize, to: *mut f32, to_step: usize);
}

/// AVX-512.
pub(crate) struct Avx512;

impl Lanes for Avx512 {
    type V = __m512;
    type Mask = __mmask16;
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the trait's promise, here and below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(at, x) }
    }
    #[inline(always)]
    unsafe fn mask(count: usize) -> __mmask16 {
        if count >= 16 { 0xffff } else { ((1u32 << count) - 1) as __mmask16 }
    }
    #[inline(always)]
    unsafe fn load_some(at: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_ps(mask, at) }
    }
    #[inline(always)]
    unsafe fn store_some(at: *mut f32, mask: __mmask16, x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(at, mask, x) }
    }
    #[inline(always)]
    unsafe fn splat(at: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(*at) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn turn(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: as above.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm512_loadu_ps(from.add(i * from_step));
            }
            // Pairs of rows, then fours: within each quarter of a vector, a 4 x 4 square.
            let mut s = r;
            for i in (0..16).step_by(4) {
                let (a, b) =
                    (_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i], r[i + 1]));
                let (c, d) = (
                    _mm512_unpacklo_ps(r[i + 2], r[i + 3]),
                    _mm512_unpackhi_ps(r[i + 2], r[i + 3]),
                );
                let pairs = |x, y, high: bool| {
                    let (x, y) = (_mm512_castps_pd(x), _mm512_castps_pd(y));
                    _mm512_castpd_ps(if high {
                        _mm512_unpackhi_pd(x, y)
                    } else {
                        _mm512_unpacklo_pd(x, y)
                    })
                };
                s[i] = pairs(a, c, false);
                s[i + 1] = pairs(a, c, true);
                s[i + 2] = pairs(b, d, false);
                s[i + 3] = pairs(b, d, true);
            }
            // Then the quarters of the four groups.
            for i in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(s[i], s[i + 4]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(s[i], s[i + 4]);
                let even2 = _mm512_shuffle_f32x4::<0x88>(s[i + 8], s[i + 12]);
                let odd2 = _mm512_shuffle_f32x4::<0xdd>(s[i + 8], s[i + 12]);
                let out = [
                    _mm512_shuffle_f32x4::<0x88>(even, even2),
                    _mm512_shuffle_f32x4::<0x88>(odd, odd2),
                    _mm512_shuffle_f32x4::<0xdd>(even, even2),
                    _mm512_shuffle_f32x4::<0xdd>(odd, odd2),
                ];
                for (quarter, x) in out.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * quarter + i) * to_step), x);
                }
            }
        }
    }
}

/// AVX2 with FMA.
pub(crate) struct Avx2;

impl Lanes for Avx2 {
    type V = __m256;
    type Mask = __m256i;
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the trait's promise, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, x: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(at, x) }
    }
    #[inline(always)]
    unsafe fn mask(count: usize) -> __m256i {
        // SAFETY: as above. The sign bit of a lane says whether memory is touched.
        unsafe {
            let count = _mm256_set1_epi32(count.min(8) as i32);
            _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
        }
    }
    #[inline(always)]
    unsafe fn load_some(at: *const f32, mask: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_maskload_ps(at, mask) }
    }
    #[inline(always)]
    unsafe fn store_some(at: *mut f32, mask: __m256i, x: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_maskstore_ps(at, mask, x) }
    }
    #[inline(always)]
    unsafe fn splat(at: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_broadcast_ss(&*at) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn turn(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        // SAFETY: as above.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm256_loadu_ps(from.add(i * from_step));
            }
            let mut s = r;
            for i in [0, 4] {
                let (a, b) =
                    (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
                let (c, d) = (
                    _mm256_unpacklo_ps(r[i + 2], r[i + 3]),
                    _mm256_unpackhi_ps(r[i + 2], r[i + 3]),
                );
                s[i] = _mm256_shuffle_ps::<0x44>(a, c);
                s[i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                s[i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                s[i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(s[i], s[i + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(s[i], s[i + 4]);
                _mm256_storeu_ps(to.add(i * to_step), low);
                _mm256_storeu_ps(to.add((4 + i) * to_step), high);
            }
        }
    }
}
