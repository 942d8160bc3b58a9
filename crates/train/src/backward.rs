//! The backward passes of a step: its parts side by side, their gradients added up over parts and ranks.
//!
//! Among ranks, weights go into buckets, and a bucket is on its way as soon as all parts of this rank have given all its
//! gradients, while others are still computed. Which gradients are complete after which segment of a pass is seen in
//! the first step, and agreed upon. What comes later than was seen then is added at the end, so that sums never depend
//! on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use rayon::prelude::*;
use savi_nn::checkpoint::{Given, Tape};
use savi_nn::optim::{add_gradients, add_to};
use savi_nn::{Params, Weight};

use crate::ranks::{Pending, Ranks};
use crate::steps::part_size;
use crate::{OptimConfig, TrainError};

/// Elements that go on their way together at most, unless a weight has more.
const BUCKET: usize = 1 << 21;

/// After everything: the gradient is complete when the pass is over.
const END: usize = usize::MAX;

/// What a part's forward pass gives.
pub(crate) struct Passed<'t, R> {
    /// The part's share of the loss, a scalar, and what it was recorded on; nothing where nothing is learnt.
    pub(crate) loss: Option<(Tensor, Tape<'t>)>,
    /// What is told about it.
    pub(crate) told: R,
}

impl<R> Passed<'_, R> {
    /// Loss and gradients of the part without any others.
    pub(crate) fn alone(
        self,
        loss: impl FnOnce(&R) -> f64,
    ) -> Result<(f64, GradStore), TrainError> {
        Ok((loss(&self.told), back(self.loss)?))
    }
}

fn back(loss: Option<(Tensor, Tape<'_>)>) -> Result<GradStore, TrainError> {
    Ok(match loss {
        Some((loss, tape)) => tape.backward(&loss)?,
        None => GradStore::default(),
    })
}

/// The backward passes of a training.
pub(crate) struct Backward<'a> {
    ranks: &'a Ranks,
    weights: &'a [Arc<Weight>],
    buckets: Mutex<Option<Arc<Buckets>>>,
}

/// Which weights' gradients go together, in the order in which they go, and when each is complete.
struct Buckets {
    after: Vec<usize>,
    buckets: Vec<Vec<usize>>,
}

impl<'a> Backward<'a> {
    /// For these weights.
    pub(crate) fn new(ranks: &'a Ranks, weights: &'a [Arc<Weight>]) -> Self {
        Self { ranks, weights, buckets: Mutex::new(None) }
    }

    /// The ranks that add up their gradients.
    pub(crate) fn ranks(&self) -> &'a Ranks {
        self.ranks
    }

    /// Runs `forward` on this rank's share of a step, in parts of micro-batches of `size`, and goes back. Gives the
    /// gradients of the whole step, and what was told of this rank's parts, in order.
    pub(crate) fn learn<'t, T: Sync, R: Send>(
        &self,
        params: &Params,
        optim: &OptimConfig,
        (own, size): (&[T], usize),
        forward: impl Fn(&[T], Tape<'t>) -> Result<Passed<'t, R>, TrainError> + Send + Sync,
    ) -> Result<(GradStore, Vec<R>), TrainError> {
        let size = part_size(params, size);
        if self.ranks.is_alone() {
            let parts = in_order(params, own, size, |_, part| {
                let Passed { loss, told } = forward(part, optim.tape())?;
                Ok((back(loss)?, told))
            })?;
            let mut all = GradStore::default();
            let mut told = Vec::with_capacity(parts.len());
            for (grads, part) in parts {
                add_gradients(&mut all, grads)?;
                told.push(part);
            }
            return Ok((all, told));
        }
        let (buckets, known) = match &*lock(&self.buckets) {
            Some(buckets) => (buckets.clone(), true),
            None => (Arc::new(Buckets::new(vec![END; self.weights.len()], self.weights)), false),
        };
        let journey = Journey::new(self, &buckets, own.len().div_ceil(size))?;
        let parts = in_order(params, own, size, |number, part| {
            let Passed { loss, told } = forward(part, optim.tape().in_segments())?;
            let (after, rest) = match (loss, known) {
                (Some((loss, tape)), true) => (Vec::new(), journey.send(number, &loss, tape)?),
                (Some((loss, tape)), false) => journey.watch(&loss, tape)?,
                (None, _) => (Vec::new(), GradStore::default()),
            };
            Ok((after, journey.end(number, &rest)?, told))
        })?;
        let (mut after, mut late, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for (seen, rest, part) in parts {
            after.push(seen);
            late.extend(rest);
            told.push(part);
        }
        if !known {
            self.agree(&after)?;
        }
        Ok((journey.arrive(&late)?, told))
    }

    /// Takes up when gradients were complete in any rank's parts.
    fn agree(&self, own: &[Vec<usize>]) -> Result<(), TrainError> {
        let latest = |all: &[Vec<usize>]| -> Vec<usize> {
            let of = |at: usize| all.iter().filter_map(move |after| after.get(at)).copied().max();
            (0..self.weights.len()).map(|at| of(at).unwrap_or(0)).collect()
        };
        let all = self.ranks.gather(latest(own))?;
        *lock(&self.buckets) = Some(Arc::new(Buckets::new(latest(&all), self.weights)));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` on parts with their numbers, on the CPU side by side; the results come in order.
fn in_order<T: Sync, R: Send>(
    params: &Params,
    items: &[T],
    size: usize,
    f: impl Fn(usize, &[T]) -> Result<R, TrainError> + Send + Sync,
) -> Result<Vec<R>, TrainError> {
    if params.device().is_cpu() {
        items.par_chunks(size).enumerate().map(|(at, part)| f(at, part)).collect()
    } else {
        items.chunks(size).enumerate().map(|(at, part)| f(at, part)).collect()
    }
}

impl Buckets {
    /// Weights whose gradients are complete early go first.
    fn new(after: Vec<usize>, weights: &[Arc<Weight>]) -> Self {
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by_key(|&at| after[at]);
        let mut buckets: Vec<Vec<usize>> = Vec::new();
        let mut elements = 0;
        for at in order {
            let more = weights[at].elements();
            match buckets.last_mut() {
                Some(bucket) if after[bucket[0]] == after[at] && elements + more <= BUCKET => {
                    bucket.push(at);
                }
                _ => {
                    elements = 0;
                    buckets.push(vec![at]);
                }
            }
            elements += more;
        }
        Self { after, buckets }
    }
}

/// The gradients of one step on their way.
struct Journey<'a> {
    ranks: &'a Ranks,
    weights: &'a [Arc<Weight>],
    buckets: &'a Buckets,
    state: Mutex<State>,
}

struct State {
    /// What each part has given to each weight: nothing yet, that there is no gradient, or one.
    given: Vec<Vec<Option<Option<Tensor>>>>,
    /// The buckets that are on their way.
    sent: Vec<Pending>,
}

impl<'a> Journey<'a> {
    fn new(of: &Backward<'a>, buckets: &'a Buckets, parts: usize) -> Result<Self, TrainError> {
        let (ranks, weights) = (of.ranks, of.weights);
        let state = State { given: vec![vec![None; parts]; weights.len()], sent: Vec::new() };
        let journey = Self { ranks, weights, buckets, state: Mutex::new(state) };
        // A rank without parts has nothing to wait for.
        journey.give(0, Vec::new())?;
        Ok(journey)
    }

    /// Goes back and sends gradients as they are complete; gives the rest.
    fn send(&self, part: usize, loss: &Tensor, tape: Tape<'_>) -> Result<GradStore, TrainError> {
        let mut failed = Ok(());
        let rest = tape.backward_telling(loss, |at, given| {
            let due = (0..self.weights.len()).filter(|&weight| self.buckets.after[weight] == at);
            let taken =
                due.map(|weight| Ok((weight, given.take(&self.weights[weight].tensor(true))?)));
            let taken = taken.collect::<candle_core::Result<Vec<_>>>()?;
            if failed.is_ok() {
                failed = self.give(part, taken);
            }
            Ok(())
        })?;
        failed?;
        Ok(rest)
    }

    /// Goes back and looks after which segment each gradient is complete; gives that, and the gradients.
    fn watch(&self, loss: &Tensor, tape: Tape<'_>) -> Result<(Vec<usize>, GradStore), TrainError> {
        let mut after = vec![0; self.weights.len()];
        let mut all = GradStore::default();
        let rest = tape.backward_telling(loss, |at, given: &mut Given<'_>| {
            for (weight, after) in self.weights.iter().zip(&mut after) {
                let value = weight.tensor(true);
                if let Some(grad) = given.take(&value)? {
                    *after = at;
                    let sum = match all.remove(&value) {
                        Some(before) => (before + grad)?,
                        None => grad,
                    };
                    all.insert(&value, sum);
                }
            }
            Ok(())
        })?;
        for (weight, after) in self.weights.iter().zip(&mut after) {
            if rest.get(&weight.tensor(true)).is_some() {
                *after = END;
            }
        }
        add_gradients(&mut all, rest)?;
        Ok((after, all))
    }

    /// Gives what a part has not given before its pass was over; gives back what came too late.
    fn end(&self, part: usize, rest: &GradStore) -> Result<Vec<(usize, Tensor)>, TrainError> {
        let (mut due, mut late) = (Vec::new(), Vec::new());
        let awaited: Vec<bool> =
            lock(&self.state).given.iter().map(|given| given[part].is_none()).collect();
        for (weight, awaited) in awaited.into_iter().enumerate() {
            match (rest.get(&self.weights[weight].tensor(true)), awaited) {
                (grad, true) => due.push((weight, grad.cloned())),
                (Some(grad), false) => late.push((weight, grad.clone())),
                (None, false) => {}
            }
        }
        self.give(part, due)?;
        Ok(late)
    }

    /// Notes gradients of a part, and sends the buckets that are complete, in their order.
    fn give(&self, part: usize, taken: Vec<(usize, Option<Tensor>)>) -> Result<(), TrainError> {
        let mut state = lock(&self.state);
        for (weight, grad) in taken {
            state.given[weight][part] = Some(grad);
        }
        while let Some(bucket) = self.buckets.buckets.get(state.sent.len()) {
            let is_complete =
                |&weight: &usize| state.given[weight].iter().all(|given| given.is_some());
            if !bucket.iter().all(is_complete) {
                break;
            }
            let take = |&weight: &usize| -> (usize, Vec<Tensor>) {
                let given =
                    state.given[weight].iter_mut().filter_map(|given| given.as_mut()?.take());
                (self.weights[weight].elements(), given.collect())
            };
            let grads = bucket.iter().map(take).collect();
            state.sent.push(self.ranks.start_sum(move || flat(grads))?);
        }
        Ok(())
    }

    /// The gradients of all ranks. A weight to which no part of any rank has given one has none.
    fn arrive(self, late: &[(usize, Tensor)]) -> Result<GradStore, TrainError> {
        let mut own: Vec<usize> = late.iter().map(|&(weight, _)| weight).collect();
        own.dedup();
        let mut again = self.ranks.gather(own)?.concat();
        again.sort_unstable();
        again.dedup();
        let of = |&weight: &usize| -> (usize, Vec<Tensor>) {
            let own = late.iter().filter(|(of, _)| *of == weight);
            (self.weights[weight].elements(), own.map(|(_, grad)| grad.clone()).collect())
        };
        let grads = again.iter().map(of).collect();
        let last = (!again.is_empty()).then(|| self.ranks.start_sum(move || flat(grads)));
        let mut all = GradStore::default();
        let sent = std::mem::take(&mut lock(&self.state).sent);
        for (bucket, pending) in self.buckets.buckets.iter().zip(sent) {
            add_gradients(&mut all, self.parted(bucket, &pending.wait()?)?)?;
        }
        if let Some(last) = last {
            add_gradients(&mut all, self.parted(&again, &last?.wait()?)?)?;
        }
        Ok(all)
    }

    /// The gradients of weights from what [`flat`] has made of them.
    fn parted(&self, weights: &[usize], values: &[f32]) -> Result<GradStore, TrainError> {
        let mut grads = GradStore::default();
        let (given, mut values) = values.split_at(weights.len());
        for (&weight, &given) in weights.iter().zip(given) {
            let weight = &self.weights[weight];
            let (own, rest) = values.split_at(weight.elements());
            values = rest;
            if given > 0.0 {
                let value = weight.tensor(true);
                let grad = Tensor::from_slice(own, value.shape(), value.device())?;
                grads.insert(&value, grad);
            }
        }
        Ok(grads)
    }
}

/// How many gradients there are of each weight, then their sums, weight after weight. It is made by the thread that
/// sends it.
fn flat(grads: Vec<(usize, Vec<Tensor>)>) -> Result<Vec<f32>, String> {
    let mut values: Vec<f32> = grads.iter().map(|(_, grads)| grads.len() as f32).collect();
    for (elements, grads) in grads {
        let start = values.len();
        values.resize(start + elements, 0.0);
        for grad in grads {
            add_to(&mut values[start..], &grad).map_err(|error| error.to_string())?;
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use candle_core::{DType, Device, Var};
    use savi_nn::check::normal;
    use savi_nn::ops::linear;
    use savi_nn::{Init, Weights};

    use super::*;
    use crate::ranks::Wire;

    /// The first of two ranks that always give the same; counts sums.
    struct Twin(Arc<AtomicUsize>);

    impl Wire for Twin {
        fn rank(&self) -> usize {
            0
        }

        fn size(&self) -> usize {
            2
        }

        fn sum(&mut self, values: &mut [f32]) -> Result<(), String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            values.iter_mut().for_each(|value| *value *= 2.0);
            Ok(())
        }

        fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, String> {
            Ok(vec![own.to_vec(); 2])
        }
    }

    /// Three layers, of which the last one's weight is the first one's as well, and a weight that a step may pass over.
    #[test]
    fn gradients_travel_before_the_pass_is_over() {
        let sums = Arc::new(AtomicUsize::new(0));
        let counted = sums.clone();
        let ranks = Ranks::over(None, move || Ok(Twin(counted))).unwrap();
        let params = Params::new(Weights::Random(1), DType::F32, &Device::Cpu);
        let get = |name: &str| params.get(name, &[6, 6], Init::Normal(0.3)).unwrap();
        let [tied, middle, spare] = ["tied", "middle", "spare"].map(get);
        params.set_trains(|_| true);
        let weights = params.trainable();
        let start = Var::from_tensor(&normal(&[4, 6], "x", DType::F32).unwrap()).unwrap();
        let optim = OptimConfig { gradient_checkpointing: true, ..OptimConfig::default() };
        let backward = Backward::new(&ranks, &weights);
        let learn = |backward: &Backward<'_>, waits: bool, spares: bool| {
            let runs = AtomicUsize::new(0);
            let (grads, told) = backward
                .learn(&params, &optim, (&[1.0, 2.0], 2), |part, tape: Tape<'_>| {
                    let (runs, sums) = (&runs, &sums);
                    let before = sums.load(Ordering::SeqCst);
                    let run = |weight: &Arc<Weight>| {
                        let weight = weight.tensor(true);
                        move |x: &Tensor| linear(x, &weight)?.tanh()
                    };
                    let first = run(&tied);
                    let mut x = (start.as_tensor() * part[0])?;
                    x = tape.segment(&x, move |x| {
                        // Run again in the last of two parts, it waits for the layer behind it and for the weight
                        // that the first step passed over.
                        if waits && runs.fetch_add(1, Ordering::SeqCst) == 3 {
                            let begun = Instant::now();
                            while sums.load(Ordering::SeqCst) < before + 2 {
                                assert!(begun.elapsed() < Duration::from_secs(20), "none travels");
                                std::thread::yield_now();
                            }
                        }
                        first(x)
                    })?;
                    x = tape.segment(&x, run(&middle))?;
                    x = tape.segment(&x, run(&tied))?;
                    if spares {
                        x = tape.segment(&x, run(&spare))?;
                    }
                    let loss = x.sqr()?.sum_all()?;
                    Ok(Passed { loss: Some((loss, tape)), told: part[0] })
                })
                .unwrap();
            assert_eq!(told, [1.0, 2.0]);
            grads
        };
        let alone = Backward::new(Ranks::alone(), &weights);
        for (waits, spares) in [(false, false), (true, false), (true, true), (true, false)] {
            let (got, want) = (learn(&backward, waits, spares), learn(&alone, false, spares));
            for weight in &weights {
                let value = weight.tensor(true);
                match (got.get(&value), want.get(&value)) {
                    (Some(got), Some(want)) => {
                        savi_nn::check::close(got, &(want * 2.0).unwrap(), 1e-6).unwrap();
                    }
                    (None, None) => assert_eq!((weight.name(), spares), ("spare", false)),
                    other => panic!("{}: {other:?}", weight.name()),
                }
            }
        }
    }
}
