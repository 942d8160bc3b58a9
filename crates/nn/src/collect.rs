//! Gradients of parameters, summed where they arise.
//!
//! candle adds each gradient to a tensor of zeros that it makes first: four passes over memory as large as the model,
//! by one thread. While a thread collects, our operations write the gradient of a variable once, or go on from what
//! stands there, and give candle none.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Result, Tensor, TensorId};

use crate::host::by_dtype;
use crate::simd::Real;

thread_local! {
    /// One for each backward pass under way. A pass that waits for its parts may be given another's work by the pool,
    /// which begins and ends in between: the passes of a thread are a stack.
    static COLLECTORS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
}

type Sums = HashMap<TensorId, (Tensor, CpuStorage)>;

/// Runs `f`; gives what it gives and the sums that were collected meanwhile.
pub(crate) fn collecting<R>(f: impl FnOnce() -> Result<R>) -> Result<(R, GradStore)> {
    /// Takes the collector away also where `f` panics.
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            COLLECTORS.with_borrow_mut(Vec::pop);
        }
    }
    COLLECTORS.with_borrow_mut(|stack| stack.push(Sums::new()));
    let guard = Guard;
    let result = f()?;
    let sums = COLLECTORS
        .with_borrow_mut(|stack| stack.last_mut().map(std::mem::take))
        .unwrap_or_default();
    drop(guard);
    let mut grads = GradStore::default();
    for (id, sum) in sums {
        grads.insert_id(id, as_tensor(sum)?);
    }
    Ok((result, grads))
}

/// What was collected for `of` so far by the newest pass of this thread, which forgets it.
pub(crate) fn take(of: &Tensor) -> Result<Option<Tensor>> {
    let sum = COLLECTORS.with_borrow_mut(|stack| stack.last_mut()?.remove(&of.id()));
    sum.map(as_tensor).transpose()
}

fn as_tensor((of, sum): (Tensor, CpuStorage)) -> Result<Tensor> {
    by_dtype!(of.dtype(), "collect", T => {
        let data = <T as candle_core::WithDType>::cpu_storage_data(sum)?;
        Tensor::from_vec(data, of.shape(), of.device())
    })
}

/// The gradient of `of` from `sum`, which is given what earlier ones summed up to, if anything. None is left to
/// candle where it is collected, or where `of` is not tracked: `sum` is not called then.
pub(crate) fn gradient<T: Real>(
    of: &Tensor,
    sum: impl FnOnce(Option<Vec<T>>) -> Vec<T>,
) -> Result<Option<Tensor>> {
    if !of.track_op() {
        return Ok(None);
    }
    let depth = COLLECTORS.with_borrow(Vec::len);
    if !of.is_variable() || depth == 0 {
        return Ok(Some(Tensor::from_vec(sum(None), of.shape(), of.device())?));
    }
    let known = COLLECTORS.with_borrow_mut(|stack| stack[depth - 1].remove(&of.id()));
    let known = known.map(|(_, known)| T::cpu_storage_data(known)).transpose()?;
    // Others may collect on this thread while the sum is made: nothing is borrowed.
    let sum = T::to_cpu_storage_owned(sum(known));
    COLLECTORS.with_borrow_mut(|stack| stack[depth - 1].insert(of.id(), (of.clone(), sum)));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};
    use rayon::prelude::*;

    use super::*;
    use crate::check;
    use crate::checkpoint::Tape;
    use crate::ops::{linear, linear_transposed, rms_norm};

    /// A weight that is used three times, twice by ours and once by candle's, a norm, and passes side by side that
    /// wait for each other's parts.
    #[test]
    fn sums_are_those_of_candle() -> Result<()> {
        let var = |shape: &[usize], name: &str| {
            Var::from_tensor(&check::normal(shape, name, DType::F32)?)
        };
        let (w, norm) = (var(&[48, 48], "w")?, var(&[48], "norm")?);
        let loss = |i: usize| -> Result<Tensor> {
            let x = check::normal(&[300, 48], &format!("x{i}"), DType::F32)?;
            let x = rms_norm(&linear(&x, &w)?, &norm, 1e-6)?;
            let x = (linear_transposed(&x, &w)? * 0.1)?.tanh()?;
            x.matmul(&w)?.sqr()?.mean_all()
        };
        let both: Vec<Result<[GradStore; 2]>> = (0..8usize)
            .into_par_iter()
            .map(|i| Ok([Tape::new(false).backward(&loss(i)?)?, loss(i)?.backward()?]))
            .collect();
        for both in both {
            let [ours, candles] = both?;
            for var in [&w, &norm] {
                let (got, want) = (ours.get(var).expect("got"), candles.get(var).expect("want"));
                check::close(got, want, 1e-5)?;
            }
        }
        assert_eq!(COLLECTORS.with_borrow(Vec::len), 0);
        Ok(())
    }
}
