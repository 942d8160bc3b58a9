//! Bicubic scaling of learned positions as a matrix (Keys 1981), with the factors of PyTorch's
//! `interpolate`: a = -0.75, or -0.5 where it smooths what it makes smaller.

/// The matrix `[rows * columns, side * side]` that scales a square grid, row by row.
pub(crate) fn bicubic(side: usize, (rows, columns): (usize, usize), smooth: bool) -> Vec<f32> {
    let [down, across] = [rows, columns].map(|out| weights(side, out, smooth));
    let mut matrix = Vec::with_capacity(rows * columns * side * side);
    for row in &down {
        for column in &across {
            for y in row {
                matrix.extend(column.iter().map(|x| (y * x) as f32));
            }
        }
    }
    matrix
}

/// The shares of `side` places in each of `out`.
fn weights(side: usize, out: usize, smooth: bool) -> Vec<Vec<f64>> {
    let scale = side as f64 / out as f64;
    let last = side as i64 - 1;
    let row = |i: usize| {
        let mut row = vec![0.0; side];
        let center = scale * (i as f64 + 0.5);
        if !smooth {
            let low = (center - 0.5).floor();
            for tap in -1..=2i64 {
                let place = low as i64 + tap;
                let share = cubic(center - 0.5 - place as f64, -0.75);
                row[place.clamp(0, last) as usize] += share;
            }
            return row;
        }
        let stretch = scale.max(1.0);
        let from = ((center - 2.0 * stretch + 0.5) as i64).max(0) as usize;
        let to = ((center + 2.0 * stretch + 0.5) as i64).clamp(0, last + 1) as usize;
        for (place, share) in row.iter_mut().enumerate().take(to).skip(from) {
            *share = cubic((place as f64 - center + 0.5) / stretch, -0.5);
        }
        let total: f64 = row.iter().sum();
        row.iter().map(|share| share / total).collect()
    };
    (0..out).map(row).collect()
}

/// The cubic convolution kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_and_the_same_size_changes_nothing() {
        for smooth in [false, true] {
            for (side, out) in [(3, 3), (4, 7), (7, 4), (16, 3), (1, 5)] {
                for row in weights(side, out, smooth) {
                    assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                }
            }
            let same = bicubic(2, (2, 2), smooth);
            let want = (0..16).map(|i| f32::from(u8::from(i % 5 == 0)));
            assert!(same.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-7));
        }
    }
}
