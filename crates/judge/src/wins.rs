//! Who wins against whom among candidates of one prompt, and how often each wins: general preferences, which need
//! not follow from scores.
//!
//! A candidate's win rate is the mean of its chances against the others, the estimate of `r_t(x, y)`, the rate at which
//! `y` wins against the policy that drew them all (Direct Nash Optimization, arXiv 2404.03715, algorithm 2).

use serde::{Deserialize, Serialize};

/// Chances of candidates against each other: row `i`, column `j` is how likely `i` beats `j`. The two of a pair add up to
/// 1, and a candidate against itself has 1/2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wins(Vec<Vec<f64>>);

impl Wins {
    /// Nobody is known to be better.
    pub fn even(candidates: usize) -> Self {
        Self(vec![vec![0.5; candidates]; candidates])
    }

    /// Whoever has the higher score wins; equals draw.
    pub fn of_scores(scores: &[f64]) -> Self {
        let mut wins = Self::even(scores.len());
        for (i, j) in duels(scores.len()) {
            let chance = match scores[i].total_cmp(&scores[j]) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            wins.set(i, j, chance);
        }
        wins
    }

    /// Says how likely `i` beats `j`; places beyond the candidates are passed over.
    pub fn set(&mut self, i: usize, j: usize, chance: f64) {
        for (row, column, chance) in [(i, j, chance), (j, i, 1.0 - chance)] {
            if let Some(cell) = self.0.get_mut(row).and_then(|row| row.get_mut(column)) {
                *cell = chance;
            }
        }
    }

    /// How likely `i` beats `j`; 1/2 beyond the candidates.
    pub fn chance(&self, i: usize, j: usize) -> f64 {
        self.0.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0.5)
    }

    /// Each candidate's mean chance against the others, from 0 to 1; 1/2 where there is no other.
    pub fn rates(&self) -> Vec<f64> {
        let others = self.0.len().saturating_sub(1);
        let rate = |(i, row): (usize, &Vec<f64>)| match others {
            0 => 0.5,
            _ => (row.iter().sum::<f64>() - row[i]) / others as f64,
        };
        self.0.iter().enumerate().map(rate).collect()
    }
}

/// All pairs of different candidates, each once: the earlier one first.
pub fn duels(candidates: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..candidates).flat_map(move |i| (i + 1..candidates).map(move |j| (i, j)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_hand() {
        assert_eq!(Wins::of_scores(&[5.0, 2.0, 5.0]).rates(), [0.75, 0.0, 0.75]);
        assert_eq!(Wins::of_scores(&[1.0]).rates(), [0.5]);
        assert_eq!(Wins::even(0).rates(), Vec::<f64>::new());
        assert_eq!(duels(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn preferences_may_go_round() {
        // Rock, paper, scissors: no scores say this, and nobody is ahead.
        let mut wins = Wins::even(3);
        for (i, j) in [(0, 2), (1, 0), (2, 1)] {
            wins.set(i, j, 1.0);
        }
        assert_eq!(wins.rates(), [0.5; 3]);
        assert_eq!([wins.chance(0, 2), wins.chance(2, 0), wins.chance(7, 0)], [1.0, 0.0, 0.5]);
        wins.set(9, 0, 1.0);
        assert_eq!(wins.rates(), [0.5; 3]);
    }

    #[test]
    fn rates_have_the_mean_of_one_half() {
        let mut wins = Wins::even(4);
        for (place, (i, j)) in duels(4).enumerate() {
            wins.set(i, j, place as f64 / 5.0);
        }
        let mean = wins.rates().iter().sum::<f64>() / 4.0;
        assert!((mean - 0.5).abs() < 1e-12);
    }
}
