//! The order of records.

use rand::seq::SliceRandom;

use crate::SamplingStrategy;

/// Which records each step takes: all of them, in a fresh order or as they come, again and again.
pub(crate) struct Order {
    records: usize,
    of_step: usize,
    seed: u64,
    strategy: SamplingStrategy,
    /// The order of an epoch, kept while steps stay in it.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// `of_step` of `records` records in each step; both at least 1.
    pub(crate) fn new(records: usize, of_step: usize, seed: u64) -> Self {
        Self { records, of_step, seed, strategy: SamplingStrategy::Random, epoch: None }
    }

    /// In this order.
    pub(crate) fn by(self, strategy: SamplingStrategy) -> Self {
        Self { strategy, ..self }
    }

    /// The places of a step's records.
    pub(crate) fn of_step(&mut self, step: u64) -> Vec<usize> {
        let first = step * self.of_step as u64;
        (first..first + self.of_step as u64).map(|at| self.at(at)).collect()
    }

    fn at(&mut self, at: u64) -> usize {
        let (epoch, place) = (at / self.records as u64, at % self.records as u64);
        if self.strategy == SamplingStrategy::Sequential {
            return place as usize;
        }
        let (records, seed) = (self.records, self.seed);
        let order = match self.epoch.take() {
            Some((number, order)) if number == epoch => order,
            _ => {
                let mut order: Vec<usize> = (0..records).collect();
                order.shuffle(&mut savi_nn::rng::stream(seed, &["order", &epoch.to_string()]));
                order
            }
        };
        let record = order[place as usize];
        self.epoch = Some((epoch, order));
        record
    }
}
