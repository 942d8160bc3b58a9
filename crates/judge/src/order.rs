//! The seeded order in which candidates are shown to a judge, and the way back.
//!
//! Judges favour places. Candidates are therefore shown in an order that depends on the seed and
//! the names of the record only, and what the judge says is put back into the order of drawing.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// A generator that depends on `seed` and `names` only: one stream per stage, record and sample.
pub fn seeded_rng(seed: u64, names: &[&str]) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for name in names {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// An order of `n` candidates: entry `k` is the candidate shown at place `k`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order(Vec<usize>);

impl Order {
    /// A random order that depends on `seed` and `names` only.
    pub fn shuffled(n: usize, seed: u64, names: &[&str]) -> Self {
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(&mut seeded_rng(seed, names));
        Self(order)
    }

    /// The order of drawing.
    pub fn identity(n: usize) -> Self {
        Self((0..n).collect())
    }

    /// Which candidate is shown at each place.
    pub fn candidates(&self) -> &[usize] {
        &self.0
    }

    /// At which place each candidate is shown.
    pub fn places(&self) -> Vec<usize> {
        let mut places = vec![0; self.0.len()];
        for (place, &candidate) in self.0.iter().enumerate() {
            places[candidate] = place;
        }
        places
    }

    /// `items` in the order of showing; `None` when their number is another.
    pub fn show<T: Clone>(&self, items: &[T]) -> Option<Vec<T>> {
        (items.len() == self.0.len()).then(|| self.0.iter().map(|&i| items[i].clone()).collect())
    }

    /// What belongs to each place, put back to its candidate; `None` when their number is another.
    pub fn restore<T: Clone>(&self, shown: &[T]) -> Option<Vec<T>> {
        (shown.len() == self.0.len())
            .then(|| self.places().into_iter().map(|place| shown[place].clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_order_comes_equally_often() {
        // 6 orders of 3, 6,000 draws: the chi-square statistic with 5 degrees of freedom exceeds
        // 25.7 with probability 1e-4; the draws are fixed by their seeds.
        let mut counts = std::collections::BTreeMap::new();
        for draw in 0..6000u64 {
            let order = Order::shuffled(3, draw, &["judge", "clip"]);
            *counts.entry(order.candidates().to_vec()).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        let chi: f64 = counts.values().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 25.7, "{chi}");
    }

    #[test]
    fn names_and_seed_decide() {
        let order = |seed, names: &[&str]| Order::shuffled(10, seed, names);
        assert_eq!(order(1, &["a", "b"]), order(1, &["a", "b"]));
        assert_ne!(order(1, &["a", "b"]), order(2, &["a", "b"]));
        assert_ne!(order(1, &["ab", "c"]), order(1, &["a", "bc"]));
    }

    proptest! {
        #[test]
        fn restore_undoes_show(n in 0usize..30, seed in any::<u64>()) {
            let items: Vec<usize> = (0..n).collect();
            let order = Order::shuffled(n, seed, &["x"]);
            let shown = order.show(&items).unwrap();
            prop_assert_eq!(order.restore(&shown), Some(items));
            prop_assert_eq!(order.restore(&vec![0; n + 1]), None);
        }
    }
}
