//! Pearson's chi-square test: whether counts are those of a distribution.

/// Cells that are expected less often are counted together, as the test is none for rare cells.
const FEWEST: f64 = 5.0;

/// How likely counts as far from `exact` as these are, or farther; an error where something came that cannot.
pub fn p_value(counts: &[u64], exact: &[f64]) -> Result<f64, String> {
    assert_eq!(counts.len(), exact.len());
    let total = counts.iter().sum::<u64>() as f64;
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let (mut rare_count, mut rare_expected) = (0.0, 0.0);
    for (cell, (&count, &probability)) in counts.iter().zip(exact).enumerate() {
        let (count, expected) = (count as f64, probability * total);
        if probability == 0.0 && count > 0.0 {
            return Err(format!("{cell} came {count} times and cannot"));
        }
        if expected < FEWEST {
            rare_count += count;
            rare_expected += expected;
        } else {
            cells.push((count, expected));
        }
    }
    if rare_expected >= FEWEST {
        cells.push((rare_count, rare_expected));
    } else if let Some(last) = cells.last_mut() {
        *last = (last.0 + rare_count, last.1 + rare_expected);
    }
    if cells.len() < 2 {
        return Ok(1.0);
    }
    let statistic: f64 =
        cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    Ok(upper_gamma((cells.len() - 1) as f64 / 2.0, statistic / 2.0))
}

/// The regularised upper incomplete gamma function Q(a, x): by the series of its complement, or by Lentz's continued
/// fraction (DLMF 8.11.4 and 8.9.2).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-16 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return 1.0 - scale * sum;
    }
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (f64::MAX, 1.0 / b);
    let mut value = d;
    for i in 1..10_000 {
        let i = f64::from(i);
        let step = -i * (i - a);
        b += 2.0;
        d = 1.0 / (step * d + b);
        c = b + step / c;
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    scale * value
}

/// Stirling's series, shifted to where it is exact to the last digits.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 15.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of chi-square from tables (NIST/SEMATECH handbook, 1.3.6.7.4).
    #[test]
    fn tails_are_those_of_tables() {
        for (df, quantile, tail) in [
            (1.0, 3.841, 0.05),
            (1.0, 10.828, 0.001),
            (2.0, 9.210, 0.01),
            (6.0, 12.592, 0.05),
            (10.0, 29.588, 0.001),
            (40.0, 55.758, 0.05),
            (100.0, 149.449, 0.001),
            (100.0, 77.929, 0.95),
        ] {
            let got = upper_gamma(df / 2.0, quantile / 2.0);
            assert!((got / tail - 1.0).abs() < 2e-3, "{df} {quantile}: {got}");
        }
    }

    #[test]
    fn rare_cells_are_counted_together() {
        let exact = [0.5, 0.46, 0.01, 0.01, 0.01, 0.01];
        assert!(p_value(&[50, 46, 1, 1, 1, 1], &exact).unwrap() > 0.999);
        assert!(p_value(&[50, 40, 10, 0, 0, 0], &exact).unwrap() > 0.01);
        assert!(p_value(&[30, 66, 1, 1, 1, 1], &exact).unwrap() < 1e-3);
        assert!(p_value(&[1, 1], &[1.0, 0.0]).is_err());
        assert_eq!(p_value(&[7, 0], &[1.0, 0.0]), Ok(1.0));
    }
}
