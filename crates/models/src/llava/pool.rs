//! Fewer tokens of a grid: bilinear scaling, and pooling of squares.

use candle_core::{Result, Tensor, bail};

use super::config::PoolMode;

/// Bilinear scaling of grids of tokens from `from` to `to` rows and columns, corners not aligned and
/// nothing smoothed. `place` is the row of `tokens` of grid, row and column.
pub(crate) fn bilinear(
    tokens: &Tensor,
    grids: usize,
    from: [usize; 2],
    to: [usize; 2],
    place: impl Fn(usize, usize, usize) -> usize,
) -> Result<Tensor> {
    let [rows, columns] = [taps(from[0], to[0]), taps(from[1], to[1])];
    let mut total: Option<Tensor> = None;
    for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut index = Vec::with_capacity(grids * to[0] * to[1]);
        let mut weight = Vec::with_capacity(grids * to[0] * to[1]);
        for grid in 0..grids {
            for y in &rows {
                for x in &columns {
                    index.push(place(grid, y[a].0, x[b].0) as u32);
                    weight.push(y[a].1 * x[b].1);
                }
            }
        }
        let device = tokens.device();
        let count = index.len();
        let index = Tensor::from_vec(index, count, device)?;
        let weight = Tensor::from_vec(weight, (count, 1), device)?.to_dtype(tokens.dtype())?;
        let part = tokens.index_select(&index, 0)?.broadcast_mul(&weight)?;
        total = Some(match total {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    match total {
        Some(total) => Ok(total),
        None => bail!("pooling has no taps"),
    }
}

/// For each of `out` places the two of `side` between which it lies, and their shares.
fn taps(side: usize, out: usize) -> Vec<[(usize, f32); 2]> {
    let place = |i: usize| {
        let at = ((i as f32 + 0.5) * (side as f32 / out as f32) - 0.5).max(0.0);
        let low = (at as usize).min(side - 1);
        let part = at - low as f32;
        [(low, 1.0 - part), ((low + 1).min(side - 1), part)]
    };
    (0..out).map(place).collect()
}

/// The tokens of each place within squares of `stride`, of `grids` grids of `side` by `side` tokens: what
/// does not fill a square at the right and the bottom is left out.
fn squares(tokens: &Tensor, grids: usize, side: usize, stride: usize) -> Result<Vec<Tensor>> {
    let out = side / stride;
    let mut parts = Vec::with_capacity(stride * stride);
    for (a, b) in (0..stride).flat_map(|a| (0..stride).map(move |b| (a, b))) {
        let mut index = Vec::with_capacity(grids * out * out);
        for grid in 0..grids {
            for y in 0..out {
                let row = (grid * side + y * stride + a) * side + b;
                index.extend((0..out).map(|x| (row + x * stride) as u32));
            }
        }
        let count = index.len();
        let index = Tensor::from_vec(index, count, tokens.device())?;
        parts.push(tokens.index_select(&index, 0)?);
    }
    Ok(parts)
}

/// One token of each square. `convolve` is applied to the tokens of a square, `[squares, width * stride *
/// stride]`, channel by channel.
pub(crate) fn pool(
    tokens: &Tensor,
    grids: usize,
    side: usize,
    stride: usize,
    mode: PoolMode,
    convolve: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let parts = squares(tokens, grids, side, stride)?;
    if mode == PoolMode::Conv {
        let stacked = Tensor::stack(&parts, 2)?;
        let (count, width, area) = stacked.dims3()?;
        return convolve(&stacked.reshape((count, width * area))?);
    }
    let count = parts.len();
    let mut parts = parts.into_iter();
    let Some(mut total) = parts.next() else { bail!("pooling has no places") };
    for part in parts {
        total = if mode == PoolMode::Max { total.maximum(&part)? } else { (total + part)? };
    }
    if mode == PoolMode::Max { Ok(total) } else { total / count as f64 }
}
