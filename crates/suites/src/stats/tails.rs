//! Tails and quantiles of the distributions that tests and intervals need, in f64.
//!
//! Goldens hold them to scipy's, to eleven digits.

/// Chance that a standard normal variable lies above `x`.
pub(super) fn normal(x: f64) -> f64 {
    let tail = 0.5 * gamma(0.5, 0.5 * x * x);
    if x >= 0.0 { tail } else { 1.0 - tail }
}

/// Chance that a chi-square variable with `df` degrees of freedom lies above `x`.
pub(super) fn chi_square(x: f64, df: f64) -> f64 {
    gamma(0.5 * df, 0.5 * x)
}

/// Chance that a variable with Student's t distribution of `df` degrees of freedom lies above `x`.
pub(super) fn student_t(x: f64, df: f64) -> f64 {
    if x.is_infinite() {
        return if x > 0.0 { 0.0 } else { 1.0 };
    }
    let square = x * x;
    // DLMF 8.17.4 keeps the digits of both arguments.
    let tail = 0.5 * beta(0.5 * df, 0.5, df / (df + square), square / (df + square));
    if x >= 0.0 { tail } else { 1.0 - tail }
}

/// The value that a variable with Student's t distribution exceeds with chance `tail`, below 1/2.
pub(super) fn student_t_quantile(tail: f64, df: f64) -> f64 {
    let mut high = 1.0;
    while student_t(high, df) > tail {
        high *= 2.0;
    }
    bisect(0.0, high, |x| student_t(x, df) > tail)
}

/// Chance of `k` heads or fewer among `n` throws of a fair coin (DLMF 8.17.5).
pub(super) fn fair_coin(k: u64, n: u64) -> f64 {
    if k >= n { 1.0 } else { beta((n - k) as f64, (k + 1) as f64, 0.5, 0.5) }
}

/// Chance that a variable with the noncentral t distribution lies above `x`: the normal tail at
/// `x s - shift`, averaged over `s`, a chi variable over the root of its `df` degrees of freedom.
pub(super) fn noncentral_t(x: f64, df: f64, shift: f64) -> f64 {
    /// Simpson's rule on so many steps leaves errors below 1e-11; the worst are those of one degree of freedom.
    const STEPS: usize = 3200;
    let spread = 10.0 / (2.0 * df).sqrt();
    let (low, high) = ((1.0 - spread).max(0.0), 1.0 + spread);
    let width = (high - low) / STEPS as f64;
    let scale = std::f64::consts::LN_2 + 0.5 * df * (0.5 * df).ln() - ln_gamma(0.5 * df);
    let curve = |s: f64| {
        let density = scale + (df - 1.0) * s.max(f64::MIN_POSITIVE).ln() - 0.5 * df * s * s;
        density.exp() * normal(x * s - shift)
    };
    let sum: f64 = (0..=STEPS)
        .map(|step| {
            let weight = if step == 0 || step == STEPS { 1 } else { 2 + 2 * (step % 2) };
            weight as f64 * curve(low + step as f64 * width)
        })
        .sum();
    (sum * width / 3.0).clamp(0.0, 1.0)
}

/// Where `below` turns from true to false between `low` and `high`, to the last digit.
pub(super) fn bisect(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The regularised upper incomplete gamma function Q(a, x): by the series of its complement (DLMF 8.11.4)
/// or by the continued fraction (8.9.2).
fn gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x.is_infinite() {
        return 0.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return 1.0 - scale * sum;
    }
    let steps = (1..10_000).map(|i| {
        let i = f64::from(i);
        (i * (a - i), x + 2.0 * i + 1.0 - a)
    });
    scale / continued_fraction(x + 1.0 - a, steps)
}

/// The regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22);
/// `y` is 1 - x.
fn beta(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if y <= 0.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta(b, a, y, x);
    }
    let scale = a * x.ln() + b * y.ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    let steps = (1..10_000).map(|i| {
        let m = f64::from(i / 2);
        let above = if i % 2 == 1 {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        } else {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        };
        (above, 1.0)
    });
    scale.exp() / (a * continued_fraction(1.0, steps))
}

/// The value of `first + a1 / (b1 + a2 / (b2 + ...))` by Lentz's method.
fn continued_fraction(first: f64, steps: impl Iterator<Item = (f64, f64)>) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value == 0.0 { TINY } else { value };
    let mut value = away(first);
    let (mut c, mut d) = (value, 0.0);
    for (above, below) in steps {
        d = 1.0 / away(below + above * d);
        c = away(below + above / c);
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// Stirling's series (DLMF 5.11.1), shifted to where four terms are exact to the last digits.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 15.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let square = x * x;
    let terms =
        1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square;
    shift + (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + terms / x
}
