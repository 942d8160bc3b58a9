//! Products of a size that one task makes by itself, in the tiles of the matrix product.

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, Lanes};
#[cfg(target_arch = "x86_64")]
use super::tile::{Kernel, Tile};
use crate::simd::{Level, Real, level, simd};

/// Elements that have to stand behind the last one of either operand: tiles read whole vectors.
pub(crate) const SLACK: usize = 32;
/// Rows and columns that every instruction set's tiles divide.
pub(crate) const ROWS: usize = 12;
pub(crate) const COLUMNS: usize = 32;

/// `c[i][j] = sum_p a[p][i] b[p][j]`, one chain over p in ascending order for each.
pub(crate) struct Block<'a, T> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) steps: usize,
    /// A step's rows stand side by side, steps `a_step` apart.
    pub(crate) a: &'a [T],
    pub(crate) a_step: usize,
    /// A step's columns stand side by side, steps `b_step` apart.
    pub(crate) b: &'a [T],
    pub(crate) b_step: usize,
    pub(crate) c: &'a mut [T],
    pub(crate) c_step: usize,
    /// Whether the chains start at zero; else they go on from c.
    pub(crate) first: bool,
}

impl<T: Real> Block<'_, T> {
    /// Computes c.
    ///
    /// # Panics
    /// When a slice is too short, [`SLACK`] of both operands included.
    pub(crate) fn run(self) {
        self.run_at(level());
    }

    /// [`run`](Self::run) in the tiles of `level`, which this machine has.
    fn run_at(self, level: Level) {
        let Self { rows, columns, steps, a, a_step, b, b_step, c, c_step, first } = self;
        if rows == 0 || columns == 0 {
            return;
        }
        let last = steps.saturating_sub(1);
        assert!(last * a_step + rows + SLACK <= a.len(), "left operand is too short");
        assert!(last * b_step + columns + SLACK <= b.len(), "right operand is too short");
        assert!((rows - 1) * c_step + columns <= c.len(), "output is too short");
        #[cfg(target_arch = "x86_64")]
        if T::DTYPE == candle_core::DType::F32 && level != Level::Base {
            let whole = Tile {
                rows,
                width: columns,
                steps,
                a: a.as_ptr().cast(),
                a_step,
                b: b.as_ptr().cast(),
                b_step,
                c: c.as_mut_ptr().cast(),
                c_step,
                first,
            };
            // SAFETY: the type is f32, the instructions were detected, and the lengths just checked.
            return unsafe {
                match level {
                    Level::Avx512 => tiles::<Avx512>(whole),
                    _ => tiles::<Avx2>(whole),
                }
            };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = level;
        let k = Steps { steps, a_step, b_step };
        for i in 0..rows {
            portable(&k, &a[i..], b, &mut c[i * c_step..i * c_step + columns], first);
        }
    }
}

/// # Safety
/// As for [`Kernel::many`], for all rows and columns, with [`SLACK`] behind what is read.
#[cfg(target_arch = "x86_64")]
unsafe fn tiles<K: Kernel>(whole: Tile) {
    let unit = K::columns(K::MANY);
    for i in (0..whole.rows).step_by(K::MANY) {
        for j in (0..whole.width).step_by(unit) {
            let tile = Tile {
                rows: K::MANY.min(whole.rows - i),
                width: unit.min(whole.width - j),
                a: whole.a.wrapping_add(i),
                b: whole.b.wrapping_add(j),
                c: whole.c.wrapping_add(i * whole.c_step + j),
                ..whole
            };
            // SAFETY: the caller's promise.
            unsafe { K::many(tile) }
        }
    }
}

/// How far steps reach.
struct Steps {
    steps: usize,
    a_step: usize,
    b_step: usize,
}

simd! {
    /// One row of the product.
    fn portable<T>(k: &Steps, a: &[T], b: &[T], c: &mut [T], first: bool) {
        for (j, c) in c.chunks_mut(COLUMNS).enumerate() {
            let mut acc = [T::default(); COLUMNS];
            if !first {
                acc[..c.len()].copy_from_slice(c);
            }
            for p in 0..k.steps {
                let x = a[p * k.a_step];
                let at = p * k.b_step + j * COLUMNS;
                // Columns beyond the row are computed and left out.
                for (acc, &y) in acc.iter_mut().zip(&b[at..at + COLUMNS]) {
                    *acc = x.fma(y, *acc);
                }
            }
            c.copy_from_slice(&acc[..c.len()]);
        }
    }
}

/// `to[j][i] = from[i][j]`: rows of `from` stand `from_step` apart, those of `to` `to_step`.
///
/// # Panics
/// When a slice is too short.
pub(crate) fn transpose<T: Real>(
    rows: usize,
    columns: usize,
    from: &[T],
    from_step: usize,
    to: &mut [T],
    to_step: usize,
) {
    transpose_at(level(), rows, columns, from, from_step, to, to_step);
}

fn transpose_at<T: Real>(
    level: Level,
    rows: usize,
    columns: usize,
    from: &[T],
    from_step: usize,
    to: &mut [T],
    to_step: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_step + columns <= from.len(), "too little to transpose");
    assert!((columns - 1) * to_step + rows <= to.len(), "too little room to transpose");
    // What whole squares cover.
    #[allow(unused_mut, reason = "only some machines have squares")]
    let (mut whole_rows, mut whole_columns) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if T::DTYPE == candle_core::DType::F32 && level != Level::Base {
        let side = if level == Level::Avx512 { Avx512::WIDTH } else { Avx2::WIDTH };
        (whole_rows, whole_columns) = (rows / side * side, columns / side * side);
        for i in (0..whole_rows).step_by(side) {
            for j in (0..whole_columns).step_by(side) {
                let from = from[i * from_step + j..].as_ptr().cast();
                let to = to[j * to_step + i..].as_mut_ptr().cast();
                // SAFETY: the type is f32, the instructions were detected, and both hold the square.
                unsafe {
                    match level {
                        Level::Avx512 => Avx512::turned(from, from_step, to, to_step),
                        _ => Avx2::turned(from, from_step, to, to_step),
                    }
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = level;
    for i in 0..rows {
        let done = if i < whole_rows { whole_columns } else { 0 };
        for j in done..columns {
            to[j * to_step + i] = from[i * from_step + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    fn draw<T: Real>(rng: &mut impl Rng, len: usize) -> Vec<T> {
        (0..len).map(|_| T::of(rng.random_range(-1.0..1.0))).collect()
    }

    /// Those that this machine has: one with the wider vectors has the narrower ones, too.
    fn levels() -> Vec<Level> {
        let mut levels = vec![Level::Base, level()];
        if level() == Level::Avx512 {
            levels.push(Level::Avx2);
        }
        levels
    }

    fn chains<T: Real + std::fmt::Debug>() {
        let mut rng = crate::rng::stream(4, &["block"]);
        for (rows, columns, steps) in
            [(1, 1, 1), (12, 32, 64), (13, 33, 7), (5, 40, 0), (30, 64, 100), (96, 17, 3)]
        {
            let (a_step, b_step, c_step) = (rows + 3, columns + 5, columns + 2);
            let a = draw::<T>(&mut rng, steps * a_step + rows + SLACK);
            let b = draw::<T>(&mut rng, steps * b_step + columns + SLACK);
            for first in [true, false] {
                let known = draw::<T>(&mut rng, rows * c_step);
                let mut want = known.clone();
                for i in 0..rows {
                    for j in 0..columns {
                        let cell = &mut want[i * c_step + j];
                        if first {
                            *cell = T::default();
                        }
                        for p in 0..steps {
                            *cell = a[p * a_step + i].fma(b[p * b_step + j], *cell);
                        }
                    }
                }
                for level in levels() {
                    let (mut c, a, b) = (known.clone(), &a[..], &b[..]);
                    let c_all = &mut c[..];
                    Block { rows, columns, steps, a, a_step, b, b_step, c: c_all, c_step, first }
                        .run_at(level);
                    assert_eq!(c, want, "{rows} x {columns} x {steps}, {level:?}");
                }
            }
        }
    }

    #[test]
    fn equals_the_chain_bit_for_bit_and_leaves_what_lies_beyond() {
        chains::<f32>();
        chains::<f64>();
    }

    #[test]
    fn transposes_every_shape() {
        let mut rng = crate::rng::stream(5, &["block"]);
        for (rows, columns) in [(1, 1), (16, 16), (17, 33), (3, 40), (48, 5), (64, 64)] {
            let from = draw::<f32>(&mut rng, rows * (columns + 1));
            for level in levels() {
                let mut to = vec![7.0; columns * (rows + 2)];
                transpose_at(level, rows, columns, &from, columns + 1, &mut to, rows + 2);
                for (j, to) in to.chunks_exact(rows + 2).enumerate() {
                    for i in 0..rows {
                        assert_eq!(to[i], from[i * (columns + 1) + j], "{level:?}");
                    }
                    assert!(to[rows..].iter().all(|&x| x == 7.0), "{level:?}");
                }
            }
        }
    }
}
