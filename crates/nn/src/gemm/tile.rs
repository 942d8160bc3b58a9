//! Tiles whose chains stay in registers, for every number of rows, and the sweep of a single row.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::lanes::{Avx2, Avx512, Lanes};

/// Where a tile reads and writes.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Rows and columns of c that exist.
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Steps of k.
    pub(crate) steps: usize,
    /// A step's rows one after the other, steps `a_step` apart. `R` of them are read, also where fewer exist.
    pub(crate) a: *const f32,
    pub(crate) a_step: usize,
    /// Rows of the tile's whole width, `b_step` apart.
    pub(crate) b: *const f32,
    pub(crate) b_step: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_step: usize,
    /// Whether the chains start here, at zero.
    pub(crate) first: bool,
}

/// What is read next, fetched while a tile computes. Several rows go side by side: each is a stream for the
/// hardware, which stops at the end of a page, and one stream would wait there.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) at: *const f32,
    pub(crate) step: usize,
    /// Lines of a row, and those left of these rows.
    pub(crate) lines: usize,
    pub(crate) left: usize,
    /// Steps of k that share a fetch: the strips of rows that pass over the same b. All of them where there is
    /// nothing to fetch.
    pub(crate) share: usize,
}

impl Ahead {
    #[inline(always)]
    fn fetch<const V: usize>(&mut self, width: usize) {
        for v in 0..V {
            fetch(self.at.wrapping_add(v * self.step));
        }
        self.at = self.at.wrapping_add(width);
        self.left -= 1;
        if self.left == 0 {
            self.left = self.lines;
            self.at = self.at.wrapping_add(V * self.step).wrapping_sub(self.lines * width);
        }
    }
}

/// Brings a line into the second-level cache.
#[inline(always)]
pub(crate) fn fetch(at: *const f32) {
    // SAFETY: a prefetch touches nothing, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// One instruction set's tiles.
pub(crate) trait Kernel: Lanes {
    /// Most rows of a tile for few rows.
    const FEW: usize;
    /// Rows of a tile for many rows.
    const MANY: usize;

    /// Columns of a tile of `rows` rows: as many as registers hold.
    fn columns(rows: usize) -> usize;

    /// The tile of `R = rows` rows, which fetches what is ahead.
    ///
    /// # Safety
    /// The machine has the instructions; pointers hold what [`Tile`] says; nobody else writes these cells of c.
    unsafe fn few(rows: usize, tile: Tile, ahead: &mut Ahead);

    /// The tile of `MANY` rows.
    ///
    /// # Safety
    /// As for `few`.
    unsafe fn many(tile: Tile);

    /// One row: `k` rows of b from column `range.start` to `range.end`, in the order of memory.
    ///
    /// # Safety
    /// As for `few`; a holds k elements.
    unsafe fn sweep(k: usize, a: *const f32, tile: Tile);

    /// [`Lanes::turn`].
    ///
    /// # Safety
    /// As there.
    unsafe fn turned(from: *const f32, from_step: usize, to: *mut f32, to_step: usize);
}

#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize, const AHEAD: bool>(
    t: Tile,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller's promise; masks leave out what does not exist of c.
    unsafe {
        let mut masks = [L::mask(0); V];
        for (v, mask) in masks.iter_mut().enumerate() {
            *mask = L::mask(t.width.saturating_sub(v * L::WIDTH));
        }
        let mut acc = [[L::zero(); V]; R];
        if !t.first {
            for (i, row) in acc.iter_mut().enumerate() {
                if i < t.rows {
                    for v in 0..V {
                        let at = t.c.add(i * t.c_step).wrapping_add(v * L::WIDTH);
                        row[v] = L::load_some(at, masks[v]);
                    }
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        let mut step = 0;
        while step < t.steps {
            let mut end = t.steps;
            if AHEAD {
                ahead.fetch::<V>(L::WIDTH);
                end = end.min(step.saturating_add(ahead.share));
            }
            while step < end {
                let mut columns = [L::zero(); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = L::load(b.add(v * L::WIDTH));
                }
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = L::splat(a.add(i));
                    for v in 0..V {
                        row[v] = L::fma(x, columns[v], row[v]);
                    }
                }
                a = a.wrapping_add(t.a_step);
                b = b.wrapping_add(t.b_step);
                step += 1;
            }
        }
        for (i, row) in acc.iter().enumerate() {
            if i < t.rows {
                for v in 0..V {
                    let at = t.c.add(i * t.c_step).wrapping_add(v * L::WIDTH);
                    L::store_some(at, masks[v], row[v]);
                }
            }
        }
    }
}

/// Rows of b that a sweep takes side by side, and how many rows ahead it fetches.
const SIDE: usize = 8;

#[inline(always)]
unsafe fn sweep<L: Lanes>(k: usize, a: *const f32, t: Tile) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        let whole = k / SIDE * SIDE;
        for p in (0..whole).step_by(SIDE) {
            rows::<L, SIDE>(p, a, t);
        }
        for p in whole..k {
            rows::<L, 1>(p, a, t);
        }
    }
}

#[inline(always)]
unsafe fn rows<L: Lanes, const U: usize>(p: usize, a: *const f32, t: Tile) {
    // SAFETY: the caller's promise; the mask leaves out what lies beyond the columns.
    unsafe {
        let first = t.first && p == 0;
        let mut x = [L::zero(); U];
        for (u, x) in x.iter_mut().enumerate() {
            *x = L::splat(a.add(p + u));
        }
        let b = t.b.wrapping_add(p * t.b_step);
        let mut j = 0;
        while j + L::WIDTH <= t.width {
            let mut acc = if first { L::zero() } else { L::load(t.c.add(j)) };
            for (u, &x) in x.iter().enumerate() {
                let row = b.wrapping_add(u * t.b_step + j);
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(SIDE * t.b_step).cast());
                acc = L::fma(x, L::load(row), acc);
            }
            L::store(t.c.add(j), acc);
            j += L::WIDTH;
        }
        if j < t.width {
            let mask = L::mask(t.width - j);
            let mut acc = if first { L::zero() } else { L::load_some(t.c.add(j), mask) };
            for (u, &x) in x.iter().enumerate() {
                acc = L::fma(x, L::load_some(b.wrapping_add(u * t.b_step + j), mask), acc);
            }
            L::store_some(t.c.add(j), mask, acc);
        }
    }
}

/// The tiles of one instruction set: rows to vectors of columns.
macro_rules! kernel {
    ($set:ident, $feature:literal, few $few:literal, many $many:literal x $wide:literal,
     $($rows:literal x $vectors:literal),+) => {
        impl Kernel for $set {
            const FEW: usize = $few;
            const MANY: usize = $many;

            fn columns(rows: usize) -> usize {
                Self::WIDTH * match rows { $($rows => $vectors,)+ _ => $wide }
            }

            unsafe fn few(rows: usize, t: Tile, ahead: &mut Ahead) {
                #[target_feature(enable = $feature)]
                unsafe fn compiled<const R: usize, const V: usize>(t: Tile, ahead: &mut Ahead) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { tile::<$set, R, V, true>(t, ahead) }
                }
                // SAFETY: the caller's promise, passed on.
                unsafe {
                    match rows {
                        $($rows => compiled::<$rows, $vectors>(t, ahead),)+
                        _ => unreachable!("no tile has {rows} rows"),
                    }
                }
            }

            unsafe fn many(t: Tile) {
                #[target_feature(enable = $feature)]
                unsafe fn compiled(t: Tile) {
                    let mut none = Ahead { at: t.b, step: 0, lines: 1, left: 1, share: 1 };
                    // SAFETY: the caller's promise, passed on.
                    unsafe { tile::<$set, $many, $wide, false>(t, &mut none) }
                }
                // SAFETY: the caller's promise, passed on.
                unsafe { compiled(t) }
            }

            unsafe fn sweep(k: usize, a: *const f32, t: Tile) {
                #[target_feature(enable = $feature)]
                unsafe fn compiled(k: usize, a: *const f32, t: Tile) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { sweep::<$set>(k, a, t) }
                }
                // SAFETY: the caller's promise, passed on.
                unsafe { compiled(k, a, t) }
            }

            unsafe fn turned(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
                #[target_feature(enable = $feature)]
                unsafe fn compiled(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
                    // SAFETY: the caller's promise, passed on.
                    unsafe { <$set as Lanes>::turn(from, from_step, to, to_step) }
                }
                // SAFETY: the caller's promise, passed on.
                unsafe { compiled(from, from_step, to, to_step) }
            }
        }
    };
}

kernel!(Avx512, "avx512f", few 8, many 12 x 2,
    1 x 2, 2 x 8, 3 x 8, 4 x 6, 5 x 4, 6 x 4, 7 x 3, 8 x 3);
kernel!(Avx2, "avx2,fma", few 6, many 6 x 2,
    1 x 8, 2 x 4, 3 x 4, 4 x 3, 5 x 2, 6 x 2);
