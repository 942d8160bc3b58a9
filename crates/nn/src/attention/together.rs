//! The products of a tile of queries, in the tiles of the matrix product.

use super::kernel::{CHAINS, add_values, exponentiated, finish, scaled, scores_of};
use super::tiles::{Node, Use, Work};
use crate::gemm::pack::with_scratch;
use crate::gemm::tile::{Ahead, Kernel, Tile};

/// Keys between two passes over a tile's sums: their values stay in the second-level cache.
const KEYS: usize = 256;
/// Fewer keys than these go query by query.
const LEAST: usize = 16;

/// Attention of a tile; `cell(t, h)` is where a result goes. Uses come in an order in which a node stands after
/// those above it.
pub(super) fn attend_tile<'a, K: Kernel>(
    work: &Work<'_>,
    uses: &[Use],
    node: impl Fn(usize) -> Node<'a>,
    cell: impl Fn(usize, usize) -> &'a mut [f32],
) {
    let Work { group, dim, .. } = *work;
    let units = work.totals.len() * group;
    // An odd number of lines: rows a power of two apart would share the same few places of the first-level cache.
    let width = work.totals.iter().copied().max().unwrap_or(0).next_multiple_of(16) | 16;
    with_scratch(units * width, |scores| {
        for shared in uses {
            score::<K>(work, shared, node(shared.node), width, scores);
        }
        let factors: Vec<f32> = (0..units)
            .map(|unit| {
                let row = &mut scores[unit * width..unit * width + work.totals[unit / group]];
                exponentiated(row, work.cap)
            })
            .collect();
        with_scratch(units * CHAINS * dim, |sums| {
            sums.fill(0.0);
            for shared in uses {
                combine::<K>(work, shared, node(shared.node), width, scores, sums);
            }
            for (unit, sums) in sums.chunks_exact(CHAINS * dim).enumerate() {
                finish(sums, factors[unit], cell(unit / group, unit % group));
            }
        });
    });
}

/// Scores of the queries that see a node. Where they see different lengths of it, what a query does not see is
/// written too, and then written over or never read: nodes go from the root down.
fn score<K: Kernel>(
    work: &Work<'_>,
    shared: &Use,
    node: Node<'_>,
    width: usize,
    scores: &mut [f32],
) {
    let Work { group, dim, scale, .. } = *work;
    let reach = shared.seen.iter().copied().max().unwrap_or(0);
    let (u0, units) = (shared.tokens.start * group, shared.tokens.len() * group);
    let query = |unit: usize| (work.query)((u0 + unit) / group, (u0 + unit) % group);
    let strips = units.div_ceil(K::FEW);
    let height = units.div_ceil(strips);
    let unit_columns = K::columns(height);
    let whole = reach / unit_columns * unit_columns;
    if whole > 0 {
        with_scratch(strips * height * dim, |packed| {
            if units < strips * height {
                packed.fill(0.0);
            }
            for unit in 0..units {
                let strip = &mut packed[unit / height * height * dim..];
                for (d, &x) in query(unit).iter().enumerate() {
                    strip[d * height + unit % height] = x;
                }
            }
            for j in (0..whole).step_by(unit_columns) {
                // The next keys of all dimensions while these are multiplied.
                let next = node.keys.as_ptr().wrapping_add(j + unit_columns);
                let lines = unit_columns / K::WIDTH;
                let mut ahead =
                    Ahead { at: next, step: node.k_step, lines, left: lines, share: strips };
                for strip in 0..strips {
                    let first = u0 + strip * height;
                    let cell = &mut scores[first * width + node.first + j..];
                    let rows = height.min(units - strip * height);
                    let tile = Tile {
                        rows,
                        width: unit_columns,
                        steps: dim,
                        a: packed[strip * height * dim..].as_ptr(),
                        a_step: height,
                        b: node.keys[j..].as_ptr(),
                        b_step: node.k_step,
                        c: cell.as_mut_ptr(),
                        c_step: width,
                        first: true,
                    };
                    assert!((dim - 1) * node.k_step + j + unit_columns <= node.keys.len());
                    assert!((rows - 1) * width + unit_columns <= cell.len());
                    // SAFETY: the instructions were detected; a strip holds `dim` steps; the lengths of keys and
                    // scores were just checked.
                    unsafe { K::few(height, tile, &mut ahead) }
                }
            }
        });
    }
    for unit in 0..units {
        let at = (u0 + unit) * width + node.first;
        scaled(&mut scores[at..at + whole], scale);
        let seen = shared.seen[unit / group];
        if seen > whole {
            let keys = &node.keys[whole..];
            let rest = &mut scores[at + whole..at + seen];
            scores_of(query(unit), keys, node.k_step, scale, rest);
        }
    }
}

/// Adds the weighted values of a node to its queries' sums, `[units][CHAINS][dim]`.
fn combine<K: Kernel>(
    work: &Work<'_>,
    shared: &Use,
    node: Node<'_>,
    width: usize,
    weights: &[f32],
    sums: &mut [f32],
) {
    let Work { group, dim, .. } = *work;
    let (u0, units) = (shared.tokens.start * group, shared.tokens.len() * group);
    let columns = K::columns(K::MANY);
    // What all of them see goes together, as far as whole tiles reach.
    let common = shared.seen.iter().copied().min().unwrap_or(0);
    let common = if common < LEAST || units < 2 || dim % columns != 0 { 0 } else { common };
    let padded = units.next_multiple_of(K::WIDTH);
    if common > 0 {
        with_scratch(KEYS * padded + K::MANY, |turned| {
            for j0 in (0..common).step_by(KEYS) {
                let keys = KEYS.min(common - j0);
                turn::<K>(weights, u0, units, width, node.first + j0, keys, padded, turned);
                for unit in (0..units).step_by(K::MANY) {
                    for column in (0..dim).step_by(columns) {
                        for chain in 0..CHAINS {
                            let lead = (CHAINS + chain - (node.first + j0) % CHAINS) % CHAINS;
                            if lead >= keys {
                                continue;
                            }
                            let steps = (keys - lead).div_ceil(CHAINS);
                            let from = (j0 + lead) * node.v_step + column;
                            let cell = ((u0 + unit) * CHAINS + chain) * dim + column;
                            let rows = K::MANY.min(units - unit);
                            let last = (steps - 1) * CHAINS;
                            assert!(from + last * node.v_step + columns <= node.values.len());
                            assert!(cell + (rows - 1) * CHAINS * dim + columns <= sums.len());
                            assert!((lead + last) * padded + unit + K::MANY <= turned.len());
                            let tile = Tile {
                                rows,
                                width: columns,
                                steps,
                                a: turned[lead * padded + unit..].as_ptr(),
                                a_step: CHAINS * padded,
                                b: node.values[from..].as_ptr(),
                                b_step: CHAINS * node.v_step,
                                c: sums[cell..].as_mut_ptr(),
                                c_step: CHAINS * dim,
                                first: false,
                            };
                            // SAFETY: the instructions were detected, and the lengths just checked.
                            unsafe { K::many(tile) }
                        }
                    }
                }
            }
        });
    }
    for unit in 0..units {
        let seen = shared.seen[unit / group];
        if seen > common {
            let at = (u0 + unit) * width + node.first;
            let sums = &mut sums[(u0 + unit) * CHAINS * dim..(u0 + unit + 1) * CHAINS * dim];
            add_values(
                &weights[at + common..at + seen],
                &node.values[common * node.v_step..],
                node.v_step,
                node.first + common,
                sums,
            );
        }
    }
}

/// Weights `[units][width]` of `keys` keys as `[keys][padded]`.
#[allow(clippy::too_many_arguments, reason = "a turned part has this many borders")]
fn turn<K: Kernel>(
    weights: &[f32],
    u0: usize,
    units: usize,
    width: usize,
    first: usize,
    keys: usize,
    padded: usize,
    out: &mut [f32],
) {
    let square = K::WIDTH;
    for unit in (0..units).step_by(square) {
        let mut j = 0;
        if unit + square <= units {
            while j + square <= keys {
                let at = (u0 + unit) * width + first + j;
                let from = &weights[at..at + (square - 1) * width + square];
                let to = &mut out[j * padded + unit..(j + square - 1) * padded + unit + square];
                // SAFETY: the instructions were detected; both slices hold the square.
                unsafe { K::turned(from.as_ptr(), width, to.as_mut_ptr(), padded) }
                j += square;
            }
        }
        for u in unit..units.min(unit + square) {
            let row = &weights[(u0 + u) * width + first..];
            for j in j..keys {
                out[j * padded + u] = row[j];
            }
        }
    }
}
