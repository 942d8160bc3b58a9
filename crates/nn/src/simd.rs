//! Scalar type of the CPU kernels and compile-time multiversioning.
//!
//! A kernel body is written once over [`Real`] with an explicit order of operations; `simd!`
//! compiles it for AVX-512, AVX2 and the baseline and picks one at run time. The order of the
//! floating-point operations is in the source, not in the vector width, so all versions give the
//! same bits on machines with fused multiply-add.

use std::sync::OnceLock;

/// f32 or f64: what the CPU kernels compute with.
pub trait Real:
    candle_core::WithDType
    + Copy
    + Send
    + Sync
    + Default
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + 'static
{
    /// The constant `x`.
    fn of(x: f64) -> Self;
    /// This value as f64.
    fn f64(self) -> f64;
    /// `self * a + b`, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
    /// e to the power of this value, as a branch-free form that vectorises (f32: at most 2 ulp).
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent, as vectorisable as [`exp`](Real::exp).
    #[inline(always)]
    fn tanh(self) -> Self {
        Self::of(1.0) - Self::of(2.0) / (Real::exp(self + self) + Self::of(1.0))
    }
    /// The larger of both.
    fn larger(self, other: Self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        // exp(x) = 2^n * exp(r), r = x - n ln 2 in two parts, degree-6 polynomial on |r| <= ln2/2.
        let x = if self > 88.0 { 88.0 } else { self };
        let x = if x < -87.0 { -87.0 } else { x };
        // 1.5 * 2^23 has room for n in its lowest bits alone, where it stands as an integer too: a conversion, which
        // saturates, would be made lane by lane.
        let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
        let n = shifted - 12_582_912.0;
        let r = n.mul_add(-0.693_145_75, x);
        let r = n.mul_add(-1.428_606_8e-6, r);
        let p = r.mul_add(0.001_388_889, 0.008_333_334);
        let p = p.mul_add(r, 0.041_666_668);
        let p = p.mul_add(r, 0.166_666_67);
        let p = p.mul_add(r, 0.5);
        let p = p.mul_add(r, 1.0);
        let p = p.mul_add(r, 1.0);
        let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        let y = p * scale;
        if self < -87.0 { 0.0 } else { y }
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// `cap tanh(x / cap)` in place.
#[inline(always)]
pub(crate) fn soften<T: Real>(values: &mut [T], cap: T) {
    let inverse = T::of(1.0) / cap;
    for x in values {
        *x = cap * Real::tanh(*x * inverse);
    }
}

/// Vector instructions of this machine that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F/DQ/BW/VL.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What every machine has.
    Base,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

/// What this machine has.
pub fn level() -> Level {
    *LEVEL.get_or_init(detect)
}

/// Uses AVX2 where there is more, to measure it. Gives whether that was still possible: before the first kernel.
#[doc(hidden)]
pub fn at_most_avx2() -> bool {
    let narrower = if detect() == Level::Base { Level::Base } else { Level::Avx2 };
    LEVEL.set(narrower).is_ok()
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Base
}

/// Defines a function whose body is compiled for every [`Level`] and chosen at run time.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$t:ident>($($arg:ident : $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take slices and strides")]
        $vis fn $name<$t: $crate::simd::Real>($($arg: $ty),*) {
            #[inline(always)]
            fn body<$t: $crate::simd::Real>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
                fn wide<$t: $crate::simd::Real>($($arg: $ty),*) {
                    body::<$t>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn narrow<$t: $crate::simd::Real>($($arg: $ty),*) {
                    body::<$t>($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` has detected the features that the function is compiled for.
                    $crate::simd::Level::Avx512 => return unsafe { wide::<$t>($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { narrow::<$t>($($arg),*) },
                    $crate::simd::Level::Base => {}
                }
            }
            body::<$t>($($arg),*)
        }
    };
}
pub(crate) use simd;

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn tanh_is_within_a_few_epsilon_of_one() {
        for i in -400..=400 {
            let x = i as f32 * 0.05;
            let exact = f64::from(x).tanh();
            assert!((f64::from(Real::tanh(x)) - exact).abs() < 3e-7, "tanh({x})");
            assert!((Real::tanh(f64::from(x)) - exact).abs() < 1e-15, "tanh({x})");
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let mut x = -86.9f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * exact;
            let got = f64::from(Real::exp(x));
            assert!((got - exact).abs() <= 2.0 * ulp, "exp({x}) = {got}, exact {exact}");
            x += 0.0371;
        }
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(0.0f32), 1.0);
        assert!(Real::exp(f32::NAN).is_nan());
    }
}
