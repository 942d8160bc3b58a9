//! Figures about a step's completions, held as sums so that micro-batches can be merged.

use super::loss::PolicyLoss;
use super::ratio::{Inputs, Level, Terms};
use super::surrogate::Surrogate;
use super::tokens::{Advantages, Layout, PolicyTokens, host};

use candle_core::Tensor;

/// Figures under TRL's names, and verl's where TRL has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyMetrics {
    tokens: f64,
    ppo_kl: f64,
    approx_kl: f64,
    ratio: Option<f64>,
    clip: Option<ClipCounts>,
    clip_lower: Option<f64>,
    cispo: Option<(f64, f64)>,
    kl: Option<f64>,
    entropy: Option<f64>,
}

/// How often the clip took hold. The units are tokens, or completions where they have one ratio
/// and one advantage each.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ClipCounts {
    units: f64,
    low: f64,
    high: f64,
    low_min: f64,
    high_max: f64,
}

/// Whether each token was clipped, brought to units.
struct Units<'a> {
    layout: &'a Layout,
    completions: bool,
}

impl Units<'_> {
    fn count(&self) -> f64 {
        if self.completions { self.layout.completions as f64 } else { self.layout.tokens }
    }

    /// The number of units a flag is set for, and each completion's share of them.
    fn read(&self, flags: &[bool]) -> (f64, Vec<f64>) {
        let mut sums = vec![0.0; self.layout.completions];
        for (i, flag) in flags.iter().enumerate() {
            let sum = &mut sums[self.layout.host_segments[i] as usize];
            let inside = self.layout.host_weights[i] > 0.0;
            match (*flag && inside, self.completions) {
                (true, true) => *sum = 1.0,
                (true, false) => *sum += 1.0,
                (false, _) => {}
            }
        }
        let total = sums.iter().sum();
        if !self.completions {
            let counts = &self.layout.host_counts;
            let shares = sums.iter().zip(counts).filter(|(_, n)| **n > 0.0).map(|(s, n)| s / n);
            sums = shares.collect();
        }
        (total, sums)
    }
}

impl PolicyMetrics {
    pub(crate) fn of(
        layout: &Layout,
        inputs: &Inputs<'_>,
        terms: &Terms,
        settings: &PolicyLoss,
        tokens: &PolicyTokens<'_>,
    ) -> candle_core::Result<Self> {
        let clamp = |d: f64| settings.log_ratio_clamp.clamp_number(d);
        let (logps, old) = (host(inputs.logps)?, host(inputs.old_logps)?);
        let d: Vec<f64> = logps.iter().zip(&old).map(|(l, o)| clamp(l - o)).collect();
        let advantages = host(inputs.advantages)?;
        let mut metrics = Self {
            tokens: layout.tokens,
            ppo_kl: -layout.host_sum(&d),
            approx_kl: layout.host_sum(&d.iter().map(|d| 0.5 * d * d).collect::<Vec<_>>()),
            ..Self::default()
        };
        let ratio = terms.ratio.as_ref().map(host).transpose()?;
        metrics.ratio = ratio.as_ref().map(|ratio| layout.host_sum(ratio));
        let per_completion = matches!(tokens.advantages, Advantages::Completion(_));
        let of_level = |level| Units {
            layout,
            completions: per_completion && level != Level::Token && level != Level::SequenceToken,
        };
        // What is held against the range: a ratio, but for GMPO its logarithm.
        let measured = ratio.as_ref().unwrap_or(&d);
        let flags = |test: &dyn Fn(f64, f64) -> bool| -> Vec<bool> {
            measured.iter().zip(&advantages).map(|(r, a)| test(*r, *a)).collect()
        };
        if let Some(range) = settings.surrogate.range() {
            let (level, delta) = match settings.surrogate {
                Surrogate::Clip { importance_sampling_level, delta, .. } => {
                    (importance_sampling_level, delta.unwrap_or(f64::INFINITY))
                }
                _ => (Level::Token, f64::INFINITY),
            };
            let units = of_level(level);
            let (low, lows) = units.read(&flags(&|r, a| r.min(delta) < range.low && a < 0.0));
            let (high, highs) = units.read(&flags(&|r, a| r.min(delta) > range.high && a > 0.0));
            metrics.clip = Some(ClipCounts {
                units: units.count(),
                low,
                high,
                low_min: lows.into_iter().fold(f64::INFINITY, f64::min),
                high_max: highs.into_iter().fold(f64::NEG_INFINITY, f64::max),
            });
            if let Surrogate::Clip { clip_ratio_c: Some(c), .. } = settings.surrogate {
                let held = flags(&|r, a| r.min(delta).max(range.clamp_number(r)) > c && a < 0.0);
                let by_token = Units { layout, completions: false };
                metrics.clip_lower = Some(by_token.read(&held).0);
            }
        }
        if let Surrogate::Cispo { importance_sampling_level, epsilon_high, .. } = settings.surrogate
        {
            let units = of_level(importance_sampling_level);
            let (held, _) = units.read(&flags(&|r, a| r > epsilon_high && a > 0.0));
            metrics.cispo = Some((held, units.count()));
        }
        Ok(metrics)
    }

    pub(crate) fn note_kl(&mut self, layout: &Layout, kl: &Tensor) -> candle_core::Result<()> {
        self.kl = Some(layout.host_sum(&host(kl)?));
        Ok(())
    }

    pub(crate) fn note_entropy(
        &mut self,
        layout: &Layout,
        entropies: &Tensor,
    ) -> candle_core::Result<()> {
        self.entropy = Some(layout.host_sum(&host(entropies)?));
        Ok(())
    }

    /// Adds another micro-batch of the same step.
    pub fn merge(&mut self, other: &Self) {
        fn add(sum: &mut Option<f64>, more: Option<f64>) {
            if let Some(more) = more {
                *sum.get_or_insert(0.0) += more;
            }
        }
        self.tokens += other.tokens;
        self.ppo_kl += other.ppo_kl;
        self.approx_kl += other.approx_kl;
        add(&mut self.ratio, other.ratio);
        add(&mut self.clip_lower, other.clip_lower);
        add(&mut self.kl, other.kl);
        add(&mut self.entropy, other.entropy);
        self.cispo = match (self.cispo, other.cispo) {
            (Some((a, n)), Some((b, m))) => Some((a + b, n + m)),
            (one, another) => one.or(another),
        };
        self.clip = match (self.clip, other.clip) {
            (Some(a), Some(b)) => Some(ClipCounts {
                units: a.units + b.units,
                low: a.low + b.low,
                high: a.high + b.high,
                low_min: a.low_min.min(b.low_min),
                high_max: a.high_max.max(b.high_max),
            }),
            (one, another) => one.or(another),
        };
    }

    /// The sums as plain numbers, for another process to [read](Self::from_numbers): a 1 before what is there, a 0
    /// for what is not.
    pub fn numbers(&self) -> Vec<f64> {
        fn put<const N: usize>(numbers: &mut Vec<f64>, of: Option<[f64; N]>) {
            numbers.push(f64::from(of.is_some()));
            numbers.extend(of.into_iter().flatten());
        }
        let mut numbers = vec![self.tokens, self.ppo_kl, self.approx_kl];
        for number in [self.ratio, self.clip_lower, self.kl, self.entropy] {
            put(&mut numbers, number.map(|number| [number]));
        }
        put(&mut numbers, self.cispo.map(|(held, units)| [held, units]));
        put(&mut numbers, self.clip.map(|c| [c.units, c.low, c.high, c.low_min, c.high_max]));
        numbers
    }

    /// What [`numbers`](Self::numbers) gave; `None` where that is something else.
    pub fn from_numbers(numbers: &[f64]) -> Option<Self> {
        fn take<const N: usize>(rest: &mut &[f64]) -> Option<[f64; N]> {
            let (taken, after) = rest.split_first_chunk()?;
            *rest = after;
            Some(*taken)
        }
        /// What may be there.
        fn maybe<const N: usize>(rest: &mut &[f64]) -> Option<Option<[f64; N]>> {
            let [there] = take(rest)?;
            if there == 0.0 { Some(None) } else { take(rest).map(Some) }
        }
        let rest = &mut &*numbers;
        let [tokens, ppo_kl, approx_kl] = take(rest)?;
        let mut one = || Some(maybe(rest)?.map(|[number]| number));
        let (ratio, clip_lower, kl, entropy) = (one()?, one()?, one()?, one()?);
        let cispo = maybe(rest)?.map(|[held, units]| (held, units));
        let clip = maybe(rest)?.map(|[units, low, high, low_min, high_max]| ClipCounts {
            units,
            low,
            high,
            low_min,
            high_max,
        });
        let whole = Self { tokens, ppo_kl, approx_kl, ratio, clip, clip_lower, cispo, kl, entropy };
        rest.is_empty().then_some(whole)
    }

    /// The figures by name, those that apply: means over tokens, but `clip_ratio/*` of a ratio of
    /// whole completions over completions.
    ///
    /// `clip_ratio/low_min` and `high_max` are over completions. `kl` is the term of the loss,
    /// `val/ratio` the mean ratio, `policy/approxkl_avg` half the mean squared log-ratio (these two
    /// by the names of TRL's PPO, whose `policy/clipfrac_avg` is `clip_ratio/region_mean`),
    /// `actor/ppo_kl` the mean of `log pi_old - log pi` and `actor/pg_clipfrac_lower` the share
    /// held by the dual clip (verl).
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let tokens = self.tokens.max(1.0);
        let mut rows = Vec::new();
        if let Some(clip) = &self.clip {
            let units = clip.units.max(1.0);
            rows.extend([
                ("clip_ratio/low_mean", clip.low / units),
                ("clip_ratio/low_min", clip.low_min),
                ("clip_ratio/high_mean", clip.high / units),
                ("clip_ratio/high_max", clip.high_max),
                ("clip_ratio/region_mean", (clip.low + clip.high) / units),
            ]);
        }
        rows.extend(self.cispo.map(|(held, units)| ("cispo_clip_ratio", held / units.max(1.0))));
        rows.extend(self.clip_lower.map(|held| ("actor/pg_clipfrac_lower", held / tokens)));
        rows.extend(self.kl.map(|kl| ("kl", kl / tokens)));
        rows.extend(self.entropy.map(|entropy| ("entropy", entropy / tokens)));
        rows.extend(self.ratio.map(|ratio| ("val/ratio", ratio / tokens)));
        rows.push(("policy/approxkl_avg", self.approx_kl / tokens));
        rows.push(("actor/ppo_kl", self.ppo_kl / tokens));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back() {
        let counts = ClipCounts {
            units: 4.0,
            low: 1.0,
            high: 2.0,
            low_min: f64::INFINITY,
            high_max: f64::NEG_INFINITY,
        };
        for metrics in [
            PolicyMetrics { tokens: 3.0, ppo_kl: -0.5, ..PolicyMetrics::default() },
            PolicyMetrics { ratio: Some(1.5), clip: Some(counts), ..PolicyMetrics::default() },
            PolicyMetrics { cispo: Some((1.0, 2.0)), kl: Some(0.0), ..PolicyMetrics::default() },
        ] {
            let numbers = metrics.numbers();
            assert_eq!(PolicyMetrics::from_numbers(&numbers[1..]), None);
            assert_eq!(PolicyMetrics::from_numbers(&numbers), Some(metrics));
        }
    }
}
